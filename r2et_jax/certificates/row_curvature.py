"""Bounds on the rows of the Hessian of a network with one hidden layer, over a ball.

z(x) = bᵀφ(Wᵀx + a) + skipᵀx has the rows H_i = Σ_h b_h W_ih φ″_h w_h, w_h the
weights of unit h. Over the l2 ball φ″ of every unit stays in a known interval. The
square of the norm of a combination of rows with coefficients c is
Σ_hl c_h c_l φ″_h φ″_l (w_h · w_l), each term of which is bounded by itself: exact as
the radius goes to zero. For two classes the log-odds are ±z, of which |g| and all
these norms are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from r2et_jax.certificates.intervals import (
    OneHiddenLayer,
    preactivations,
    slope_bounds,
    unit_reach,
)
from r2et_jax.checks import check_k
from r2et_jax.numerics import magnitude
from r2et_jax.ranking import RowNorms, descending_order
from r2et_jax.types import Array, Params


def row_curvature(
    layers: Callable[[Params], OneHiddenLayer],
    bends: Callable[[Array, Array], tuple[Array, Array]],
    *,
    k: int,
) -> Callable[..., tuple[Array, RowNorms]]:
    """Bounds on ‖H_i‖, ‖H_i − H_j‖ and ‖H_i + H_j‖ over l2 balls.

    Args:
      layers: `layers(params)`, the weights, as `models.MLP.layers`.
      bends: `bends(low, high) -> (smallest, largest)` φ″ over intervals, as
        `models.bend_range` gives it.
      k: size of the top set, in 1…n−1.

    Returns:
      `run(params, x [n], epsilon, /) -> (g [n], RowNorms)`: ∇z at x, and bounds over
      the ball of radius ε ≥ 0 around it (ε = 0: the norms at x), up to rounding.
      O(knh²) operations.

    Raises:
      ValueError: when traced, for k out of range or a network that `layers` refuses.

    Example:
      >>> import jax
      >>> from r2et_jax.models import MLP, bend_range
      >>> model = MLP(hidden=(3,), activation="softplus")
      >>> params = model.init(jax.random.key(0), jnp.zeros(5))
      >>> run = row_curvature(model.layers, bend_range("softplus"), k=2)
      >>> run(params, jnp.ones(5), 0.1)[1].sums.shape
      (2, 3)

    Source: ours.
    """

    def run(params, x, epsilon, /):
        check_k(k, x.size)
        network = layers(params)
        still = jnp.zeros_like(network.bias)
        slopes, _ = slope_bounds(network, x, still)
        gradient = network.weight @ (network.out * slopes) + network.skip
        center = preactivations(network, x)
        reach = epsilon * unit_reach(network)
        low, high = bends(center - reach, center + reach)
        corners = jnp.stack(
            [a[:, None] * b[None, :] for a in (low, high) for b in (low, high)]
        )
        most, least = jnp.max(corners, axis=0), jnp.min(corners, axis=0)
        gram = network.weight.T @ network.weight
        middle, spread = gram * (most + least) / 2, magnitude(gram) * (most - least) / 2

        def norm(rows):
            c = rows * network.out
            size = jnp.abs(c)
            square = jnp.sum((c @ middle) * c + (size @ spread) * size, axis=-1)
            return jnp.sqrt(jnp.maximum(square, 0))

        rows = network.weight[descending_order(jnp.abs(gradient))]
        top, rest = rows[:k, None], rows[None, k:]
        return gradient, RowNorms(norm(rows), norm(top - rest), norm(top + rest))

    return run
