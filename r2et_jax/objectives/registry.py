"""Training objectives by name: cross-entropy plus a weighted sum of penalties.

`objective("r2et", apply, k=8)` builds a loss; names joined by `+` sum their
penalties, as in `wd+r2et_nh`. To add a method, add its penalty to `_TERMS`, its name
to `METHODS` and a line to `DESCRIPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in, check_positive
from r2et_jax.objectives import (
    adversarial,
    curvature_penalties,
    gradient_penalties,
    penalties,
    ratios,
)
from r2et_jax.score import cross_entropy, predicted_class
from r2et_jax.types import ApplyFn, Array, LossFn


class Setting(NamedTuple):
    """What the penalties of one objective share.

    Attributes:
      k: size of the top set.
      k_prime: pairs of the forms that take the smallest gaps.
      surrogate: smooth stand-in of the model, for attacks inside a penalty.
      epsilon: radius of perturbations inside a penalty, l2, in units of x.
    """

    k: int
    k_prime: int
    surrogate: ApplyFn
    epsilon: float


class Term(NamedTuple):
    """A named penalty.

    Attributes:
      build: `build(apply, setting) -> penalty`; None for a penalty of the parameters
        alone.
      on_params: `on_params(params) -> scalar`, or None.
      of_label: whether the penalty takes the label for its class; else the prediction.
    """

    build: Callable[[ApplyFn, Setting], penalties.Penalty] | None = None
    on_params: Callable[[Any], Array] | None = None
    of_label: bool = False


class Method(NamedTuple):
    """A method of training.

    Attributes:
      terms: names of its penalties, each with a weight of its own.
      smooth: whether its model has softplus in place of a piecewise-linear
        activation.
    """

    terms: tuple[str, ...]
    smooth: bool = False


def _inner(setting: Setting) -> adversarial.InnerAttack:
    return adversarial.InnerAttack(setting.surrogate, setting.epsilon)


_TERMS: dict[str, Term] = {
    "l2": Term(on_params=penalties.squared_weights),
    "gap": Term(lambda apply, s: penalties.mean_gap(apply, k=s.k)),
    "exp_gap": Term(lambda apply, s: penalties.exponential_gap(apply, k=s.k)),
    "mm_gap": Term(
        lambda apply, s: penalties.smallest_pairs(apply, k=s.k, k_prime=s.k_prime)
    ),
    "mm_exp_gap": Term(
        lambda apply, s: penalties.exponential_smallest(apply, k=s.k, k_prime=s.k_prime)
    ),
    "anchored_gap": Term(
        lambda apply, s: penalties.anchored_pairs(apply, k=s.k, k_prime=s.k_prime)
    ),
    "curvature": Term(lambda apply, s: penalties.directional_curvature(apply)),
    "curvature_fd": Term(
        lambda apply, s: penalties.directional_curvature(apply, tau=1e-1)
    ),
    "frobenius": Term(lambda apply, s: curvature_penalties.frobenius_curvature(apply)),
    "spectral": Term(lambda apply, s: curvature_penalties.spectral_curvature(apply)),
    "logit_curvature": Term(
        lambda apply, s: curvature_penalties.relative_curvature(apply)
    ),
    "radius": Term(
        lambda apply, s: ratios.mean_radius(apply, k=s.k, k_prime=s.k_prime)
    ),
    "radius_hinge": Term(
        lambda apply, s: ratios.radius_hinge(
            apply, k=s.k, k_prime=s.k_prime, margin=s.epsilon
        )
    ),
    "cross_lipschitz": Term(lambda apply, s: gradient_penalties.cross_lipschitz(apply)),
    "gradient_change": Term(
        lambda apply, s: gradient_penalties.gradient_change(apply, step=s.epsilon),
        of_label=True,
    ),
    "ig_change": Term(
        lambda apply, s: gradient_penalties.attribution_change(
            apply, epsilon=s.epsilon
        ),
        of_label=True,
    ),
    "adv_loss": Term(
        lambda apply, s: adversarial.adversarial_loss(apply, _inner(s), k=s.k),
        of_label=True,
    ),
    "adv_gap": Term(
        lambda apply, s: adversarial.adversarial_gap(apply, _inner(s), k=s.k)
    ),
    "adv_hinge": Term(
        lambda apply, s: adversarial.adversarial_hinge(apply, _inner(s), k=s.k)
    ),
}

METHODS: dict[str, Method] = {
    "vanilla": Method(()),
    "wd": Method(("l2",)),
    "sp": Method((), smooth=True),
    "est_h": Method(("curvature",)),
    "est_h_fd": Method(("curvature_fd",)),
    "exact_h": Method(("frobenius",)),
    "ssr": Method(("spectral",)),
    "logit_h": Method(("logit_curvature",), smooth=True),
    "cl": Method(("cross_lipschitz",)),
    "cure": Method(("gradient_change",)),
    "ig_norm": Method(("ig_change",)),
    "at": Method(("adv_loss",)),
    "adv_gap": Method(("adv_gap",)),
    "rat": Method(("adv_hinge",)),
    "r2et": Method(("gap", "curvature")),
    "r2et_nh": Method(("gap",)),
    "r2et_exp": Method(("exp_gap", "curvature")),
    "r2et_mm": Method(("mm_gap", "curvature")),
    "r2et_mm_nh": Method(("mm_gap",)),
    "r2et_mm_exp": Method(("mm_exp_gap", "curvature")),
    "r2et_anchored": Method(("anchored_gap", "curvature")),
    "ratio": Method(("radius",)),
    "ratio_hinge": Method(("radius_hinge",), smooth=True),
}
NAMES = tuple(METHODS)
DESCRIPTIONS = {
    "vanilla": "cross-entropy alone",
    "wd": "coupled L2 of the weight matrices",
    "sp": "softplus activations, no penalty",
    "est_h": "‖Hv‖₂ of the probability, v the sign of its gradient, exact product",
    "est_h_fd": "the same by a finite difference of step .1",
    "exact_h": "‖H‖_F of the probability, exact",
    "ssr": "largest |eigenvalue| of the probability's Hessian",
    "logit_h": "‖∇²u v‖₂/‖∇u‖₂ of the log-odds u, softplus activations",
    "cl": "‖∇z_a − ∇z_b‖₂², mean over pairs of classes (cross-Lipschitz)",
    "cure": "‖∇ℓ(x + εz) − ∇ℓ(x)‖₂² along the sign z of the loss's gradient (CURE)",
    "ig_norm": "largest ‖IG(x, x′)‖₁ of the loss over the ball, 3 steps (IG-NORM)",
    "at": "cross-entropy at an input that 3 steps on the mean gap found",
    "adv_gap": "−mean gap at an input that 3 steps on the mean gap found",
    "rat": "hinge on the clean top-k set at an input that 3 steps on the smooth "
    "P@k found",
    "r2et": "−mean gap + ‖Hv‖₂",
    "r2et_nh": "−mean gap",
    "r2et_exp": "mean exp(−gap/θ) + ‖Hv‖₂",
    "r2et_mm": "−mean of the k′ smallest gaps + ‖Hv‖₂",
    "r2et_mm_nh": "−mean of the k′ smallest gaps",
    "r2et_mm_exp": "mean exp(−gap/θ) of the k′ smallest gaps + ‖Hv‖₂",
    "r2et_anchored": "−mean gap of 2k′ pairs with the first feature outside + ‖Hv‖₂",
    "ratio": "−mean gap/slope of the k′ border pairs, of the probability",
    "ratio_hinge": "relu(ε − gap/slope) of the k′ border pairs, of the log-odds, "
    "softplus activations",
}


class Objective(NamedTuple):
    """A loss with named weights.

    Attributes:
      loss: `loss(params, x [B, n], y [B], weights [W], /, *, reference=None)`.
      terms: names of the penalties, in the order of the weights.
    """

    loss: LossFn
    terms: tuple[str, ...]


def method(name: str) -> Method:
    """The method of that name, or the sum of several joined by `+`.

    Raises:
      ValueError: for an unknown name, with the known ones, or a repeated penalty.
    """
    parts = name.split("+")
    for part in parts:
        check_in("method", part, NAMES)
    terms = tuple(term for part in parts for term in METHODS[part].terms)
    if len(set(terms)) != len(terms):
        raise ValueError(f"method {name!r} names a penalty twice: {terms}")
    return Method(terms, any(METHODS[part].smooth for part in parts))


def objective(
    name: str,
    apply: ApplyFn,
    *,
    k: int,
    k_prime: int | None = None,
    surrogate: ApplyFn | None = None,
    epsilon: float = 1.0,
) -> Objective:
    """Cross-entropy plus the penalties of a method, as means over the batch.

    Args:
      name: a name of `NAMES`, or several joined by `+`.
      apply: model of one example.
      k: size of the top set.
      k_prime: pairs of the forms that take the smallest gaps; k by default.
      surrogate: smooth stand-in with the same parameters, through which attacks inside
        `at`, `adv_gap` and `rat` go; the model itself by default, which hides its
        ranking from them if it is piecewise linear.
      epsilon: radius of the l2 ball of those attacks and of `ig_norm`, the step of
        `cure`, the margin of `ratio_hinge`; 1 suits standardised columns.

    Returns:
      `Objective`. Its loss takes one weight for each of `terms`, as an array, so that
      a grid of weights shares one compiled program; `reference` are the parameters
      of the model whose ranking is kept, or None for the model being trained.

    Raises:
      ValueError: for an unknown or repeated name or epsilon ≤ 0; when the loss is
        traced, for k or k_prime out of range, another number of weights, or a
        piecewise-linear model with `logit_h` or `ratio_hinge`.

    Example:
      >>> from r2et_jax.models import MLP
      >>> objective("r2et", MLP().apply, k=8).terms
      ('gap', 'curvature')

    Source: R2ET (arXiv 2212.14106), section 4.
    """
    terms = method(name).terms
    check_positive("epsilon", epsilon)
    setting = Setting(
        k,
        k if k_prime is None else k_prime,
        apply if surrogate is None else surrogate,
        epsilon,
    )
    built = [
        _TERMS[term].build(apply, setting) if _TERMS[term].build else None
        for term in terms
    ]

    def loss(params, x, y, weights, /, *, reference=None):
        if jnp.shape(weights) != (len(terms),):
            raise ValueError(
                f"{name} takes one weight for each of its penalties {terms}, got "
                f"weights of shape {jnp.shape(weights)}"
            )
        logits = jax.vmap(apply, (None, 0))(params, x)
        total = jnp.mean(jax.vmap(cross_entropy)(logits, y))
        target = predicted_class(jax.lax.stop_gradient(logits))
        for i, (term, penalty) in enumerate(zip(terms, built, strict=True)):
            if penalty is None:
                value = _TERMS[term].on_params(params)
            else:
                each = jax.vmap(penalty, (None, None, 0, 0))
                about = y if _TERMS[term].of_label else target
                value = jnp.mean(each(params, reference, x, about))
            total += weights[i] * value
        return total

    return Objective(loss, terms)
