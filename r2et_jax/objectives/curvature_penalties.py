"""Penalties of the size of a score's Hessian: whole, its largest eigenvalue, relative.

Every factory returns a `Penalty`, see `objectives.penalties`. None of them ranks, so
that the reference has no part in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import curvature, score
from r2et_jax.curvature.logit_space import composite_spectral_norm, output_hessian
from r2et_jax.curvature.norms import safe_sqrt
from r2et_jax.curvature.products import sign_direction
from r2et_jax.numerics import safe_norm
from r2et_jax.objectives.linearity import is_piecewise_linear
from r2et_jax.objectives.penalties import Penalty
from r2et_jax.types import ApplyFn, Array


class Split(NamedTuple):
    """A model as outer ∘ inner, with few values between a wide input and the logits.

    Attributes:
      inner: `inner(params, x) -> e [d]`, such as a pair's embedding of its first input.
      outer: `outer(params, e) -> logits [C]`.
    """

    inner: ApplyFn
    outer: ApplyFn


def _between(
    apply: ApplyFn, split: Split | None
) -> tuple[ApplyFn, Callable[..., Array]]:
    """The inner map, and `middle(params, e, target)`, ∇² of p_c in its values."""
    if split is None:

        def of_logits(params, logits, target):
            del params
            return output_hessian("probability", logits, target)

        return apply, of_logits
    return split.inner, jax.hessian(score.probability(split.outer), argnums=1)


def frobenius_curvature(
    apply: ApplyFn, *, split: Split | None = None, chunk_size: int = 64
) -> Penalty:
    """‖H‖_F of the probability, exact: Exact-H.

    With n Hessian-vector products; for a piecewise-linear network with C logits, where
    H = Jᵀ M J with J = ∂z/∂x and M = ∇_z² p_c,

      ‖H‖_F² = tr(G M G M),  G = J Jᵀ,

    with C reverse passes. Of a network that is piecewise linear up to d values e, and
    smooth after them, likewise, with J = ∂e/∂x and M = ∇_e² p_c.

    Args:
      apply: the model.
      split: the same model in two parts; the whole network by default.
      chunk_size: products that are held at once, see `curvature.frobenius_norm`.

    Source: R2ET (arXiv 2212.14106), Exact-H; Dombrowski et al. 2022.
    """
    dense = curvature.frobenius_norm(score.probability(apply), chunk_size=chunk_size)
    inner, middle_of = _between(apply, split)

    def penalty(params, x, target, /, *, reference=None):
        del reference
        if not is_piecewise_linear(inner, params, x):
            return dense(params, x, target)
        values, pull = jax.vjp(lambda point: inner(params, point), x)
        middle = middle_of(params, values, target)
        rows = jax.vmap(lambda cotangent: pull(cotangent)[0])(
            jnp.eye(values.size, dtype=values.dtype)
        ).reshape(values.size, x.size)
        product = rows @ rows.T @ middle
        return safe_sqrt(jnp.sum(product * product.T))

    return penalty


def squared_curvature(apply: ApplyFn, *, num_samples: int = 4) -> Penalty:
    """‖H‖_F² of the probability, the SQUARE, estimated without bias by Hutchinson.

    mean ‖Hv‖² over random v with entries ±1. The root of the estimate, which would be
    biased, is not taken: one weight means something else here than in Exact-H.

    Args:
      apply: the model.
      num_samples: probes v of each example in each step.

    Returns:
      `penalty(params, x, target, /, *, reference=None, key)`.

    Source: Hutchinson 1990, see `curvature.frobenius_norm_squared_hutchinson`.
    """
    estimate = curvature.frobenius_norm_squared_hutchinson(
        score.probability(apply), num_samples=num_samples
    )

    def penalty(params, x, target, /, *, reference=None, key):
        del reference
        return estimate(params, x, target, key=key)

    return penalty


def spectral_curvature(
    apply: ApplyFn, *, split: Split | None = None, num_steps: int = 8
) -> Penalty:
    """|λ|_max(H) of the probability: SSR.

    Exact for a piecewise-linear network, from its logits' C × C matrix, and for one
    that is piecewise linear up to d values, from a d × d matrix; else by Lanczos from a
    fixed generic start, an estimate from below.

    Args:
      apply: the model.
      split: the same model in two parts; the whole network by default.
      num_steps: Lanczos steps for a smooth network.

    Source: Wang et al., Smoothed geometry for robust attribution, 2020 (SSR).
    """
    inner, middle_of = _between(apply, split)
    exact = composite_spectral_norm(inner, middle_of)
    lanczos = curvature.spectral_norm(score.probability(apply), num_steps=num_steps)

    def penalty(params, x, target, /, *, reference=None):
        del reference
        if is_piecewise_linear(inner, params, x):
            return exact(params, x, target)
        return lanczos(params, x, target, key=jax.random.key(0))

    return penalty


def relative_curvature(apply: ApplyFn) -> Penalty:
    """‖∇²u·v‖₂/‖∇u‖₂ of the log-odds u, v along the sign of ∇u.

    Free of the logits' scale; 0 where ∇u = 0.

    Args:
      apply: a smooth model.

    Raises:
      ValueError: when traced, for a piecewise-linear model, whose log-odds have no
        curvature of the network.

    Source: ours, after R2ET (arXiv 2212.14106).
    """
    log_odds = score.log_odds(apply)

    def penalty(params, x, target, /, *, reference=None):
        del reference
        require_smooth("relative_curvature", apply, params, x)
        gradient = jax.grad(log_odds, argnums=1)
        g, tangent = jax.linearize(lambda point: gradient(params, point, target), x)
        size = safe_norm(g)
        bent = safe_norm(tangent(sign_direction(g)))
        return jnp.where(size > 0, bent / jnp.where(size > 0, size, 1), 0)

    return penalty


def require_smooth(name: str, apply: ApplyFn, params, x) -> None:
    """Raise unless the network has curvature of its own."""
    if is_piecewise_linear(apply, params, x):
        raise ValueError(
            f"{name} needs a smooth model, got a piecewise-linear one, whose logits "
            "have zero curvature: use an activation such as softplus"
        )
