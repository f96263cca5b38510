"""Hessian-vector products of a score, and the norm along the sign of its gradient."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_positive, check_same_shape
from r2et_jax.numerics import safe_norm
from r2et_jax.types import Array, Params, ScoreFn


def input_gradient(
    score: ScoreFn, params: Params, target: Array
) -> Callable[[Array], Array]:
    """Return the map x ↦ ∇ₓ s(x) at fixed parameters and target."""
    return lambda x: jax.grad(score, argnums=1)(params, x, target)


def hvp(score: ScoreFn) -> Callable[..., Array]:
    """Exact Hessian-vector product H v with H = ∇ₓ² s, forward over reverse.

    H v = d/dt ∇ₓ s(x + t v) at t = 0: about four forward passes, memory O(n).

    Args:
      score: `score(params, x, target, /) -> scalar`.

    Returns:
      `fn(params, x, target, v, /) -> H v`; x, v and the result have one shape, which
      is any.

    Raises:
      ValueError: when traced, if v and x differ in shape.

    Example:
      >>> score = lambda params, x, target: params * jnp.sum(x**3)
      >>> hvp(score)(2.0, jnp.array([1.0, 2.0]), 0, jnp.array([1.0, -1.0])).tolist()
      [12.0, -24.0]

    Source: Pearlmutter, Fast exact multiplication by the Hessian, 1994.
    """

    def product(params, x, target, v, /):
        check_same_shape("v", v, "x", x)
        gradient = input_gradient(score, params, target)
        return jax.jvp(gradient, (x,), (v.astype(x.dtype),))[1]

    return product


def sign_direction(gradient: Array, /) -> Array:
    """Unit vector along the signs of a gradient, a constant for differentiation.

    v = sign(g) / ‖sign(g)‖₂, and 0 for g = 0.

    Args:
      gradient: g, array of any shape.

    Returns:
      v of g's shape, with no derivative.

    Example:
      >>> sign_direction(jnp.array([0.3, -7.0, 0.0, 1.0, -1.0])).tolist()
      [0.5, -0.5, 0.0, 0.5, -0.5]

    Source: Moosavi-Dezfooli et al., CURE, 2019; R2ET (arXiv 2212.14106).
    """
    signs = jnp.sign(jax.lax.stop_gradient(gradient))
    return signs / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(signs)), 1.0))


def directional_norm(
    score: ScoreFn, *, tau: Array | float | None = None
) -> Callable[..., Array]:
    """Curvature along the sign of the gradient: the penalty of Est-H and of R2ET.

    ‖H v‖₂ with v = sign(g)/‖sign(g)‖₂, g = ∇ₓ s, H = ∇ₓ² s; a lower bound of the
    largest |eigenvalue| of H. The signs are constants for differentiation. Cost:
    about four forward passes in either form.

    The published form (∇ₓ s(x + τ v) − ∇ₓ s(x)) / τ in place of H v has, for a smooth
    score, the error τ/2·‖∇³s[v, v]‖ from truncation and about ulp(‖∇s‖ + ‖H‖‖x‖)/τ from
    rounding: in float32 τ below 1e-4 loses most digits. For a piecewise-linear network
    it sees the kinks between x and x + τ v, of which the exact product sees none.

    Args:
      score: `score(params, x, target, /) -> scalar`.
      tau: None for the exact product; τ > 0 for the published forward difference, a
        number or a traced scalar; published values lie in 1e-6 … 1e-1.

    Returns:
      `fn(params, x, target, /) -> scalar ≥ 0`, differentiable in params and x with
      gradient 0 where the norm is 0.

    Raises:
      ValueError: if τ is neither None nor positive and finite.

    Example:
      >>> score = lambda params, x, target: params * jnp.sum(x**2)
      >>> penalty = directional_norm(score)
      >>> round(float(penalty(3.0, jnp.array([1.0, -2.0]), 0)), 4)
      6.0

    Source: R2ET (arXiv 2212.14106); Moosavi-Dezfooli et al., CURE, 2019.
    """
    if tau is not None:
        check_positive("tau", tau)

    def norm(params, x, target, /):
        gradient = input_gradient(score, params, target)
        if tau is None:
            # One linearisation gives g and the tangent map, so that the pass which
            # finds v is not repeated for H v.
            g, tangent = jax.linearize(gradient, x)
            return safe_norm(tangent(sign_direction(g)))
        g, step = gradient(x), jnp.asarray(tau, x.dtype)
        return safe_norm(gradient(x + step * sign_direction(g)) - g) / step

    return norm
