"""Penalties of gradients, their differences and their integrals.

Every factory returns a `Penalty`, see `objectives.penalties`; none of them ranks.
`gradient_change` and `attribution_change` are of the loss, whose class is the label.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r2et_jax import score
from r2et_jax.checks import check_count, check_positive
from r2et_jax.curvature.products import sign_direction
from r2et_jax.numerics import magnitude, unit_l2
from r2et_jax.objectives.penalties import Penalty
from r2et_jax.objectives.perturb import ascend
from r2et_jax.types import ApplyFn


def cross_lipschitz(apply: ApplyFn) -> Penalty:
    """Mean over pairs of classes of ‖∇z_a − ∇z_b‖₂²: cross-Lipschitz regularisation.

    2/(C(C−1)) Σ_{a<b} ‖∇z_a − ∇z_b‖² = 2/(C−1) Σ_a ‖∇z_a − mean ∇z‖². One logit z
    stands for the pair [0, z] and gives ‖∇z‖².

    Source: Hein and Andriushchenko, Formal guarantees on the robustness of a
    classifier against adversarial manipulation, 2017.
    """

    def penalty(params, x, target, /, *, reference=None):
        del reference, target
        rows = jax.jacrev(apply, argnums=1)(params, x)
        num_logits = rows.shape[0]
        if num_logits == 1:
            return jnp.sum(rows**2)
        spread = rows - jnp.mean(rows, axis=0)
        return 2 / (num_logits - 1) * jnp.sum(spread**2)

    return penalty


def gradient_change(apply: ApplyFn, *, step: float = 1.0) -> Penalty:
    """‖∇ℓ(x + h z) − ∇ℓ(x)‖₂² with z = sign(∇ℓ)/‖sign(∇ℓ)‖₂: CURE.

    The direction z is a constant for differentiation.

    Args:
      apply: the model.
      step: h > 0 in units of x; that of a perturbation, not of a derivative.

    Raises:
      ValueError: if step ≤ 0.

    Source: Moosavi-Dezfooli et al., Robustness via curvature regularization, and vice
    versa, 2019, equation 4.
    """
    check_positive("step", step)
    gradient = jax.grad(score.loss(apply), argnums=1)

    def penalty(params, x, label, /, *, reference=None):
        del reference
        g = gradient(params, x, label)
        moved = x + step * sign_direction(g)
        return jnp.sum((gradient(params, moved, label) - g) ** 2)

    return penalty


def attribution_change(
    apply: ApplyFn,
    *,
    epsilon: float,
    num_steps: int = 3,
    step_size: float = 0.5,
    num_points: int = 8,
) -> Penalty:
    """max ‖IG(x, x′)‖₁ of the loss over the ball ‖x′ − x‖₂ ≤ ε: IG-NORM.

    IG(x, x′) = (x′ − x) ⊙ ∫₀¹ ∇ℓ(x + t(x′ − x)) dt, by the midpoint rule. The norm has
    a kink at x′ = x; the search starts at x + ε∇ℓ/‖∇ℓ‖, its maximum to first order,
    and takes normalised steps of ascent inside the ball. x′ is a constant for
    differentiation.

    Args:
      apply: the model.
      epsilon: radius ε > 0 of the l2 ball. (The published ball is l∞.)
      num_steps: steps of ascent, at least 1.
      step_size: their length in units of ε.
      num_points: points of the rule, at least 1.

    Raises:
      ValueError: for an argument out of range.

    Source: Chen et al., Robust attribution regularization, 2019, IG-NORM.
    """
    check_positive("epsilon", epsilon)
    check_count("num_steps", num_steps)
    check_positive("step_size", step_size)
    check_count("num_points", num_points)
    gradient = jax.grad(score.loss(apply), argnums=1)

    def norm(delta, params, x, label):
        times = (jnp.arange(num_points, dtype=x.dtype) + 0.5) / num_points
        slopes = jax.vmap(lambda t: gradient(params, x + t * delta, label))(times)
        return jnp.sum(magnitude(delta * jnp.mean(slopes, axis=0)))

    def penalty(params, x, label, /, *, reference=None):
        del reference
        fixed = jax.lax.stop_gradient((params, x))
        start = epsilon * unit_l2(gradient(*fixed, label))
        delta = ascend(
            lambda delta: norm(delta, *fixed, label),
            start,
            epsilon=epsilon,
            num_steps=num_steps,
            step_size=step_size,
        )
        return norm(delta, params, x, label)

    return penalty
