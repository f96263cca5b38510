"""Robust top-k explanations in JAX: audit, attack, certify and train them.

    import r2et_jax as r2

    subject = r2.subject(model, params)  # a Flax Linen module, or apply(params, x)
    print(r2.audit(subject, x, k=8))  # can its top features be trusted?
    print(r2.harden(model, params, data, k=8))  # train it until they can

Submodules and the names that a user needs first are loaded when they are asked for, so
that the import itself takes no time. `audit` and `subject` are modules that can be
called, see `r2et_jax._callable`.
"""

import importlib

_SUBMODULES = (
    "adapters",
    "attacks",
    "audit",
    "bounds",
    "certificates",
    "curvature",
    "datasets",
    "metrics",
    "models",
    "objectives",
    "plots",
    "programs",
    "ranking",
    "saliency",
    "saved",
    "score",
    "subject",
    "threat",
    "training",
)
# What a user needs first -> the module that it is of. With `audit` and `subject` these
# are fifteen.
_NAMES = {
    "attack": "attacks",
    "cache": "execution",
    "certify": "certificates",
    "explain": "subject",
    "gradient": "saliency",
    "harden": "audit",
    "integrated_gradients": "saliency",
    "objective": "objectives",
    "precision_at_k": "metrics",
    "smooth_grad": "saliency",
    "thickness": "metrics",
    "threat_model": "threat",
    "train": "training",
}
__all__ = [*_SUBMODULES, *_NAMES]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        module = importlib.import_module(f"{__name__}.{_NAMES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
