"""The thickness of the top-k set, smoothed, by Monte Carlo: the direct form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from r2et_jax import ranking, saliency, score
from r2et_jax.checks import check_count, check_k, check_positive
from r2et_jax.objectives.penalties import Penalty, ranked_maps
from r2et_jax.types import ApplyFn, Array


def segment_points(
    x: Array, *, num_draws: int, num_points: int, sigma: float, key: Array
) -> Array:
    """Points (1 − t)x + t x_s of the segments to draws x_s ~ N(x, σ²I).

    Args:
      x: one input [n].
      num_draws: draws x_s, at least 1.
      num_points: points t on each segment, at least 1: one drawn uniformly from each
        of as many equal parts of [0, 1].
      sigma: σ > 0, in units of x.
      key: random key.

    Returns:
      Points [num_draws · num_points, n], those of one draw together.
    """
    noise_key, time_key = jax.random.split(key)
    noise = sigma * jax.random.normal(noise_key, (num_draws, 1, x.size), x.dtype)
    parts = jnp.arange(num_points, dtype=x.dtype)[None, :, None]
    shape = (num_draws, num_points, 1)
    times = (parts + jax.random.uniform(time_key, shape, x.dtype)) / num_points
    return (x[None, None] + times * noise).reshape(-1, x.size)


def negative_thickness(
    apply: ApplyFn,
    *,
    k: int,
    num_draws: int = 2,
    num_points: int = 1,
    sigma: float = math.sqrt(0.5),
    temperature: float = 0.3,
    channels: int = 1,
) -> Penalty:
    """−mean sigmoid(h_ij(x_t)/θ) over all pairs of T × Tᶜ, draws and points t.

    The smoothed Monte-Carlo form of the top-k thickness E ∫ 1[h_ij(x_t) ≥ 0] dt, to
    which its negative tends as θ → 0. The gaps are of maps of unit sum over n features,
    whose mean is 1/n: θ = temperature/n.

    Args:
      apply: the model; of a piecewise-linear one with one logit the map is piecewise
        constant, and this form counts the pieces.
      k: size of the top set T of the clean map.
      num_draws, num_points, sigma: as in `segment_points`; few, as the draws are new
        in every step. The default variance is that of SmoothGrad on standardised
        columns.
      temperature: width of the step in units of the mean saliency, above zero.
      channels: as in `penalties.ranked_maps`.

    Returns:
      `penalty(params, x, target, /, *, reference=None, key)`; x of one axis. Memory is
      O(kn) for each of the points: the gaps are between k and all features.

    Raises:
      ValueError: for an argument out of range; when traced, for k out of range.

    Source: R2ET (arXiv 2212.14106), definition of top-k thickness.
    """
    check_count("num_draws", num_draws)
    check_count("num_points", num_points)
    check_positive("sigma", sigma)
    check_positive("temperature", temperature)
    explain = saliency.of_pixels(channels)(score.log_odds(apply))
    maps = ranked_maps(apply, channels=channels)

    def penalty(params, x, target, /, *, reference=None, key):
        ranked = maps(params, x, target, reference=reference)[1]
        check_k(k, ranked.size)
        places = ranking.ranks(ranked)
        # One-hot rows in place of a gather, whose transpose is a slow scatter.
        wanted = jnp.arange(k, dtype=places.dtype)
        inside = (places[None, :] == wanted[:, None]).astype(x.dtype)
        outside = (places >= k).astype(x.dtype)
        points = segment_points(
            x, num_draws=num_draws, num_points=num_points, sigma=sigma, key=key
        )
        values = jax.vmap(lambda point: explain(params, point, target))(points)
        scaled = values * (ranked.size / temperature)

        # Computed once more for the derivative: faster on CPU than to store it.
        @jax.checkpoint
        def count(leading, other):
            above = jax.nn.sigmoid(leading[:, :, None] - other[:, None, :])
            return jnp.sum(above * outside[None, None])

        pairs = len(points) * k * (ranked.size - k)
        return -count(scaled @ inside.T, scaled) / pairs

    return penalty
