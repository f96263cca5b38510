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

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.certificates.agreement import layers_check
from r2et_jax.certificates.intervals import (
    OneHiddenLayer,
    preactivations,
    slope_bounds,
    unit_reach,
)
from r2et_jax.checks import check_k
from r2et_jax.numerics import magnitude
from r2et_jax.ranking.thickness_bounds import RowNorms
from r2et_jax.ranking.topk import descending_order
from r2et_jax.types import ApplyFn, Array, Params

# Points between which the range of φ″ is compared with the differences of φ′.
_NUM_ENDS = 61


def row_curvature(
    apply: ApplyFn,
    layers: Callable[[Params], OneHiddenLayer],
    bends: Callable[[Array, Array], tuple[Array, Array]],
    *,
    k: int,
) -> Callable[..., tuple[Array, RowNorms]]:
    """Bounds on ‖H_i‖, ‖H_i − H_j‖ and ‖H_i + H_j‖ over l2 balls.

    Args:
      apply: the model, `apply(params, x) -> logits [1]`, of which the Hessian is.
      layers: `layers(params)`, its weights, as `models.MLP.layers`.
      bends: `bends(low, high) -> (smallest, largest)` φ″ over intervals, as
        `models.bends.bend_range` gives it.
      k: size of the top set, in 1…n−1.

    Returns:
      `run(params, x [n], epsilon, /) -> (g [n], RowNorms)`: ∇z at x, and bounds over
      the ball of radius ε ≥ 0 around it (ε = 0: the norms at x), up to rounding.
      O(knh²) operations.

    Raises:
      ValueError: when traced, for k out of range, a network that `layers` refuses,
        layers that are not the model's, and bends that are not those of its slopes.

    Example:
      >>> import jax
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.models.bends import bend_range
      >>> model = MLP(hidden=(3,), activation="softplus")
      >>> params = model.init(jax.random.key(0), jnp.zeros(5))
      >>> run = row_curvature(model.apply, model.layers, bend_range("softplus"), k=2)
      >>> run(params, jnp.ones(5), 0.1)[1].sums.shape
      (2, 3)

    Source: ours.
    """
    check_layers = layers_check(apply, layers)

    def run(params, x, epsilon, /):
        check_k(k, x.size)
        check_layers(params, x)
        network = layers(params)
        _check_bends(network, bends)
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


def _check_bends(network: OneHiddenLayer, bends) -> None:
    """Raise unless φ″ lies in its range: the mean of it over an interval must."""
    with jax.ensure_compile_time_eval():
        ends = jnp.asarray(np.linspace(-6, 6, _NUM_ENDS), network.weight.dtype)
        low, high = ends[:-1], ends[1:]
        least, most = bends(low, high)
        slope_low, slope_high = (network.slopes(t, t)[0] for t in (low, high))
        mean = (slope_high - slope_low) / (high - low)
        # Rounding of the slopes, over the width.
        slack = 64 * jnp.finfo(ends.dtype).eps * (1 + jnp.abs(slope_low)) * _NUM_ENDS
        wrong = ~((mean >= least - slack) & (mean <= most + slack))
        if jnp.any(wrong):
            at = int(jnp.argmax(wrong))
            raise ValueError(
                "bends must give the range of the second derivative of the layers' "
                f"activation, got {float(least[at]):.4g} … {float(most[at]):.4g} over "
                f"[{float(low[at]):.4g}, {float(high[at]):.4g}], where its mean is "
                f"{float(mean[at]):.4g}: check the activation and its rho"
            )
