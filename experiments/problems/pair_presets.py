"""The protocol of training, selection and evaluation for images and graphs.

Three kinds: "image" and "graph", pairs of them, and "single", images by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.problems import presets as protocols

# Methods where none is named; closed forms for small tables are left out.
_METHODS = (
    "vanilla", "wd", "sp", "est_h", "exact_h", "ssr", "at", "rat", "logit_h", "r2et_nh",
    "r2et", "r2et_mm_nh", "r2et_mm", "r2et_nh+logit_h",
)  # fmt: skip
# Neither a graph's normalisation nor that of a ResNet-9's channels is piecewise linear:
# the Frobenius norm is estimated there.
_ESTIMATED = {"exact_h": "hutchinson_h"}
_SMOKE = ("vanilla", "wd", "r2et_nh", "r2et")
# Penalties that fall as 1/n: a mean over gaps of a saliency that sums to 1.
_SHARES = frozenset({"gap", "mm_gap", "mm_gap_k", "adv_gap", "anchored_gap"})
# Features of the tables for which the weights were chosen.
TABULAR_FEATURES = 32

# Four weights on images, and two beside another penalty: curvature in units of pixels.
_CURVATURE = (0.03, 0.3, 3.0, 30.0), (0.3, 3.0)
_OF_IMAGES = {
    "l2": ((0.1, 0.3, 1.0, 3.0), (0.1, 0.4)),
    "curvature": _CURVATURE,
    "curvature_fd": _CURVATURE,
    "frobenius": _CURVATURE,
    "spectral": _CURVATURE,
    "logit_curvature": ((0.03, 0.1, 0.3, 1.0), (0.1, 0.3)),
    # A sum over the features.
    "adv_hinge": ((1e-4, 5e-4, 2e-3, 1e-2), (5e-4, 5e-3)),
}

# What differs from the tabular preset.
_CHANGES = {
    ("smoke", "image"): {
        "pretrain_epochs": 10, "epochs": 10, "eval_every": 5, "learning_rate": 3e-3,
        "num_valid": 40, "num_test": 40, "strongest_budget": 1800,
    },
    ("standard", "image"): {
        "pretrain_epochs": 20, "epochs": 8, "eval_every": 4, "batch_size": 64,
        "num_train": 4000, "num_valid": 100, "num_test": 100,
        "strongest_budget": 3500,
    },
    ("paper", "image"): {
        "pretrain_epochs": 100, "epochs": 100, "eval_every": 10, "batch_size": 64,
        "num_test": 500,
    },
    # Two settings at a time: second derivatives of a ResNet-9 fill an accelerator.
    ("smoke", "single"): {
        "pretrain_epochs": 2, "epochs": 2, "eval_every": 1, "batch_size": 32,
        "learning_rate": 1e-3, "num_train": 256, "num_valid": 8, "num_test": 8,
        "strongest_budget": 1100, "max_models": 2,
    },
    ("standard", "single"): {
        "pretrain_epochs": 20, "epochs": 8, "eval_every": 4, "batch_size": 128,
        "num_train": 10_000, "num_valid": 100, "num_test": 100,
        "strongest_budget": 3500, "max_models": 2,
    },
    ("paper", "single"): {
        "pretrain_epochs": 100, "epochs": 100, "eval_every": 10, "batch_size": 128,
        "num_test": 500, "max_models": 2,
    },
    # One setting at a time: dense graphs have nothing to share, and the settings of the
    # one seed go to all cores.
    ("smoke", "graph"): {
        "pretrain_epochs": 6, "epochs": 4, "eval_every": 2, "learning_rate": 5e-3,
        "num_valid": 16, "num_test": 16, "strongest_budget": 1800, "max_models": 1,
    },
    ("standard", "graph"): {
        "pretrain_epochs": 20, "epochs": 10, "eval_every": 2, "batch_size": 64,
        "learning_rate": 3e-3, "num_valid": 48, "num_test": 48,
        "strongest_budget": 3500, "max_models": 1,
    },
    ("paper", "graph"): {
        "pretrain_epochs": 10, "epochs": 10, "eval_every": 2, "batch_size": 32,
        "num_test": 500, "max_models": 1,
    },
}  # fmt: skip


def methods(preset: str, kind: str) -> tuple[str, ...]:
    """The methods that are trained where none is named."""
    names = _SMOKE if preset == "smoke" else _METHODS
    if kind == "image":
        return names
    return tuple(_ESTIMATED.get(name, name) for name in names)


def protocol(preset: str, kind: str, num_features: int) -> protocols.Protocol:
    """A preset's protocol for images and graphs.

    Every tuned method tries four settings: every third weight of the tabular grid or
    those of images, two of each of two penalties. Weights of mean gaps grow with n, as
    the gaps fall.

    Args:
      preset: "smoke", "standard" or "paper".
      kind: "image", "graph" or "single".
      num_features: features that are ranked.
    """
    tabular = protocols.PRESETS[preset]
    if preset == "smoke":
        grid, paired = tabular.grid, tabular.paired
    else:
        grid = {term: weights[1::3] for term, weights in tabular.grid.items()}
        paired = {term: weights[::2] for term, weights in tabular.paired.items()}
    grid, paired = _scaled(grid, num_features), _scaled(paired, num_features)
    if kind != "graph" and preset != "smoke":
        grid |= {term: alone for term, (alone, _) in _OF_IMAGES.items()}
        paired |= {term: beside for term, (_, beside) in _OF_IMAGES.items()}
    return tabular._replace(grid=grid, paired=paired, **_CHANGES[preset, kind])


def budgets(
    kind: str, *, small: bool, norm: str = "l2"
) -> Mapping[str, tuple[float, ...]]:
    """The budgets of the attacks by preset, l2 or l∞ of images and l∞ of graphs.

    Args:
      kind: "image", "graph" or "single".
      small: whether the images are smaller than those of the published models.
      norm: of the budgets of images.
    """
    if kind == "graph" or norm == "linf":
        grid = (0.005, 0.01, 0.02)
    else:
        grid = (0.05, 0.1, 0.2) if small else (0.05, 0.1, 0.25)
    return {"smoke": grid[1:], "standard": grid, "paper": grid}


def _scaled(
    grid: Mapping[str, tuple[float, ...]], num_features: int
) -> dict[str, tuple[float, ...]]:
    factor = num_features / TABULAR_FEATURES
    return {
        term: tuple(float(f"{factor * weight:.2g}") for weight in weights)
        if term in _SHARES
        else weights
        for term, weights in grid.items()
    }
