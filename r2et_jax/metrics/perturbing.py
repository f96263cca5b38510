"""Whether attributions say what the score does when features are changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_ndim, check_same_shape
from r2et_jax.execution import map_batched
from r2et_jax.metrics.agreement import pearson
from r2et_jax.metrics.faithfulness import Baseline, as_sizes
from r2et_jax.ranking import ranks
from r2et_jax.types import Array, ScoreFn

# Perturbed inputs of one example that are evaluated at once.
_AT_ONCE = 256


class Curves(NamedTuple):
    """The score while features are taken away, and while they are put in.

    Attributes:
      shares: share of the features that were taken away, or put in [s], from 0 to 1.
      deletion: the score without the top ones [s]; falls at once if faithful.
      insertion: the score of the top ones alone [s]; rises at once if faithful.
      deletion_auc: area under `deletion`, in units of the score. Low is faithful.
      insertion_auc: area under `insertion`. High is faithful.
    """

    shares: Array
    deletion: Array
    insertion: Array
    deletion_auc: Array
    insertion_auc: Array


def infidelity(
    score: ScoreFn,
    perturb: Callable[[Array, Array], Array],
    *,
    num_samples: int = 100,
    normalize: bool = False,
) -> Callable[..., Array]:
    """How far attributions are from predicting the fall of the score.

        INFD = E (Σᵢ (xᵢ − x′ᵢ) Iᵢ − (s(x) − s(x′)))²,   x′ = perturb(x, key)

    The attributions are slopes, signed and in units of the score over those of x, as
    the gradient is. Those that are multiplied by the input, as Integrated Gradients,
    are to be divided by x less its baseline first.

    Args:
      score: scalar that is explained.
      perturb: `perturb(x, key) -> x′`, one random input [n], such as
        `lambda x, key: x + sigma * jax.random.normal(key, x.shape)`.
      num_samples: draws, at least 1.
      normalize: scale the attributions by the factor that makes the value least, which
        leaves their direction to be judged; then maps over their sum serve too.

    Returns:
      `measure(params, x, target, attributions, /, *, key) -> scalar`, for one example:
      batch it with `jax.vmap`. Low is faithful. Captum's `infidelity`, also with
      `normalize`; Quantus' `Infidelity` draws patches and divides by their number.

    Raises:
      ValueError: if num_samples < 1; when traced, for attributions of another shape
        than x.

    Example:
      >>> score = lambda w, x, target: w @ x
      >>> noise = lambda x, key: x + jax.random.normal(key, x.shape)
      >>> measure = infidelity(score, noise)
      >>> w, x = jnp.array([3.0, -1.0]), jnp.ones(2)
      >>> print(f"{measure(w, x, 0, w, key=jax.random.key(0)):.3f}")
      0.000

    Source: Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations",
    definition 1.
    """
    check_count("num_samples", num_samples)

    def measure(params, x, target, attributions, /, *, key):
        check_same_shape("attributions", attributions, "x", x)
        clean = score(params, x, target)

        def drawn(key):
            perturbed = perturb(x, key)
            told = jnp.sum((x - perturbed) * attributions)
            return told, clean - score(params, perturbed, target)

        keys = jax.random.split(key, num_samples)
        told, fall = map_batched(drawn, (keys,), batch_size=_AT_ONCE)
        if normalize:
            square = jnp.sum(told**2)
            told = told * (jnp.sum(told * fall) / jnp.where(square > 0, square, 1))
        return jnp.mean((told - fall) ** 2)

    return measure


def faithfulness_correlation(
    score: ScoreFn, baseline: Baseline, *, subset_size: int, num_runs: int = 100
) -> Callable[..., Array]:
    """Whether sets of features with more attribution cost the score more.

        Pearson's r over random sets S of Σ_{i∈S} Iᵢ and s(x) − s(x without S)

    Args:
      score: scalar that is explained, such as `score.probability(apply)`.
      baseline: what replaces removed features, see `metrics.faithfulness`; of several
        draws the mean score counts.
      subset_size: |S|, in 1…n−1.
      num_runs: sets, at least 2.

    Returns:
      `measure(params, x [n], target, attributions, /, *, key) -> scalar` in [−1, 1],
      for one example: batch it with `jax.vmap`. Attributions [n/C] of flat images,
      channels innermost, remove the C channels of a pixel together. High is faithful;
      nan where all sums or all scores are equal. Quantus' `FaithfulnessCorrelation` of
      probabilities, `softmax=True`, and the attributions as they are.

    Raises:
      ValueError: if num_runs < 2; when traced, for shapes that do not fit and a
        subset_size outside 1…n−1.

    Example:
      >>> from r2et_jax.metrics import constant_baseline
      >>> score = lambda w, x, target: w @ x
      >>> measure = faithfulness_correlation(score, constant_baseline(0.0),
      ...                                    subset_size=2)
      >>> w, x = jnp.array([3.0, -1.0, 0.5]), jnp.ones(3)
      >>> print(f"{measure(w, x, 0, w * x, key=jax.random.key(0)):.2f}")
      1.00

    Source: Bhatt et al. 2020, "Evaluating and aggregating feature-based model
    explanations", definition 3.
    """
    check_count("num_runs", num_runs, minimum=2)

    def measure(params, x, target, attributions, /, *, key):
        channels = _channels(x, attributions)
        n = attributions.shape[0]
        if not 1 <= subset_size < n:
            raise ValueError(
                f"subset_size must lie in 1…n−1 = 1…{n - 1}, got {subset_size}"
            )
        set_key, baseline_key = jax.random.split(key)
        lots = jax.random.uniform(set_key, (num_runs, n), x.dtype)
        removed = jnp.argsort(jnp.argsort(lots, axis=1), axis=1) < subset_size
        clean = score(params, x, target)

        def fall(removed):
            kept = jnp.repeat(~removed, channels)
            return clean - _mean_score(
                score, params, target, baseline(x, kept, baseline_key)
            )

        falls = map_batched(fall, (removed,), batch_size=_AT_ONCE)
        return pearson(jnp.where(removed, attributions, 0).sum(axis=1), falls)

    return measure


def deletion_insertion(
    score: ScoreFn, baseline: Baseline, *, sizes: Sequence[int] | None = None
) -> Callable[..., Curves]:
    """The score while the top features are taken away, and while they are put in.

        deletion(j/n) = s(x without its top j),   insertion(j/n) = s(top j alone)

    Areas are taken by the trapezoidal rule over shares from 0 to 1.

    Args:
      score: scalar that is explained; published for `score.probability(apply)`.
      baseline: what stands where a feature is not, see `metrics.faithfulness`; of
        several draws the mean score counts. Published are zeros for the deletion and a
        blurred image, `constant_baseline(blurred)`, for the insertion.
      sizes: the j, in 1…n, besides 0 and n; by default all.

    Returns:
      `measure(params, x [n], target, saliency, /, *, key) -> Curves`, for one example:
      batch it with `jax.vmap`. Equal saliencies are taken in order of their indices. A
      saliency [n/C] of flat images, channels innermost, takes the C channels of a pixel
      together. All nan if the saliency is not finite. Quantus' `PixelFlipping` is
      `deletion` but for the point at 0, and its area is in steps, not in shares.

    Raises:
      ValueError: when traced, for shapes that do not fit, or a size outside 1…n.

    Example:
      >>> from r2et_jax.metrics import constant_baseline
      >>> score = lambda w, x, target: w @ x
      >>> measure = deletion_insertion(score, constant_baseline(0.0))
      >>> w, x = jnp.array([3.0, 0.0, 1.0]), jnp.ones(3)
      >>> curves = measure(w, x, 0, w, key=jax.random.key(0))
      >>> print(curves.deletion, curves.insertion)
      [4. 1. 0. 0.] [0. 3. 4. 4.]

    Source: Petsiuk et al. 2018, "RISE: Randomized input sampling for explanation of
    black-box models", section 4.2.
    """

    def measure(params, x, target, saliency, /, *, key):
        channels = _channels(x, saliency)
        n = saliency.shape[0]
        given = range(1, n + 1) if sizes is None else as_sizes("sizes", sizes, n)
        every = jnp.asarray(sorted({0, *given, n}), jnp.int32)
        place = ranks(saliency)

        def both(size):
            kept = jnp.repeat(place >= size, channels)
            return tuple(
                _mean_score(score, params, target, baseline(x, mask, key))
                for mask in (kept, ~kept)
            )

        curves = map_batched(both, (every,), batch_size=_AT_ONCE)
        known = jnp.all(jnp.isfinite(saliency))
        deletion, insertion = (jnp.where(known, c, jnp.nan) for c in curves)
        shares = every.astype(deletion.dtype) / n
        areas = (jnp.trapezoid(curve, shares) for curve in (deletion, insertion))
        return Curves(shares, deletion, insertion, *areas)

    return measure


def _channels(x: Array, attributions: Array) -> int:
    """Neighbouring features of x that share one attribution."""
    check_ndim("x", x, 1)
    check_ndim("attributions", attributions, 1)
    if x.shape[0] % attributions.shape[0]:
        raise ValueError(
            "x must have as many entries as the attributions, or a multiple, got "
            f"shapes {x.shape} and {attributions.shape}"
        )
    return x.shape[0] // attributions.shape[0]


def _mean_score(score, params, target, inputs):
    return jnp.mean(jax.vmap(lambda x: score(params, x, target))(inputs))
