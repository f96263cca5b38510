"""Training objectives by name: cross-entropy plus a weighted sum of penalties.

`objective("r2et", apply, k=8)` builds a loss; names joined by `+` sum their
penalties, as in `wd+r2et_nh`. To add a method, add its penalty to `_TERMS` and its
name to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in
from r2et_jax.objectives import penalties
from r2et_jax.score import cross_entropy, predicted_class
from r2et_jax.types import ApplyFn, Array, LossFn


class Term(NamedTuple):
    """A named penalty.

    Attributes:
      build: `build(apply, *, k, k_prime) -> penalty`; None for a penalty of the
        parameters alone.
      on_params: `on_params(params) -> scalar`, or None.
    """

    build: Callable[..., penalties.Penalty] | None = None
    on_params: Callable[[Any], Array] | None = None


class Method(NamedTuple):
    """A method of training.

    Attributes:
      terms: names of its penalties, each with a weight of its own.
      smooth: whether its model has softplus in place of a piecewise-linear
        activation.
    """

    terms: tuple[str, ...]
    smooth: bool = False


_TERMS: dict[str, Term] = {
    "l2": Term(on_params=penalties.squared_weights),
    "gap": Term(lambda apply, *, k, k_prime: penalties.mean_gap(apply, k=k)),
    "exp_gap": Term(lambda apply, *, k, k_prime: penalties.exponential_gap(apply, k=k)),
    "mm_gap": Term(
        lambda apply, *, k, k_prime: penalties.smallest_pairs(
            apply, k=k, k_prime=k_prime
        )
    ),
    "curvature": Term(
        lambda apply, *, k, k_prime: penalties.directional_curvature(apply)
    ),
    "curvature_fd": Term(
        lambda apply, *, k, k_prime: penalties.directional_curvature(apply, tau=1e-1)
    ),
}

METHODS: dict[str, Method] = {
    "vanilla": Method(()),
    "wd": Method(("l2",)),
    "sp": Method((), smooth=True),
    "est_h": Method(("curvature",)),
    "est_h_fd": Method(("curvature_fd",)),
    "r2et": Method(("gap", "curvature")),
    "r2et_nh": Method(("gap",)),
    "r2et_exp": Method(("exp_gap", "curvature")),
    "r2et_mm": Method(("mm_gap", "curvature")),
    "r2et_mm_nh": Method(("mm_gap",)),
}
NAMES = tuple(METHODS)


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
    name: str, apply: ApplyFn, *, k: int, k_prime: int | None = None
) -> Objective:
    """Cross-entropy plus the penalties of a method, as means over the batch.

    Args:
      name: a name of `NAMES`, or several joined by `+`.
      apply: model of one example.
      k: size of the top set.
      k_prime: pairs of the forms that take the smallest gaps; k by default.

    Returns:
      `Objective`. Its loss takes one weight for each of `terms`, as an array, so that
      a grid of weights shares one compiled program; `reference` are the parameters
      of the model whose ranking is kept, or None for the model being trained.

    Raises:
      ValueError: for an unknown or repeated name; when the loss is traced, for k or
        k_prime out of range or another number of weights.

    Example:
      >>> from r2et_jax.models import MLP
      >>> objective("r2et", MLP().apply, k=8).terms
      ('gap', 'curvature')

    Source: R2ET (arXiv 2212.14106), section 4.
    """
    terms = method(name).terms
    built = [
        _TERMS[term].build(apply, k=k, k_prime=k if k_prime is None else k_prime)
        if _TERMS[term].build
        else None
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
                value = jnp.mean(each(params, reference, x, target))
            total += weights[i] * value
        return total

    return Objective(loss, terms)
