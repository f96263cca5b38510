"""How often each feature is among the top k of a map under Gaussian noise: counts.

The base map is 1 on the top k of the explanation and 0 elsewhere, and the smoothed map
its mean over x + δ, δ ~ N(0, σ²I): whatever the model, that mean moves slowly with x,
see `smoothed_certificate`. Draw i of an input has a key of its own and a place of its
own in the compiled program, so that counts do not depend on where drawing was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import (
    check_count,
    check_finite,
    check_k,
    check_key,
    check_positive,
)
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, example_keys, kept
from r2et_jax.ranking import top_k_mask
from r2et_jax.score import check_takes, predicted_class
from r2et_jax.subject import Form, Subject
from r2et_jax.types import Array

# Draws at a time: input values of all of them, and the most that are worth it.
_VALUES = 2**15
_MOST_DRAWS = 256
_IN_CACHE = 64


class SmoothedCounts(NamedTuple):
    """Counts of m inputs, to be gone on with or certified.

    Attributes:
      counts: draws in which each feature was among the top k, integers [m, n].
      num_samples: draws of each input.
      num_nonfinite: of these the ones whose map had NaN or an infinity, integers [m].
        They are counted like any other: NaN comes last.
      x: the inputs [m, ...].
      k: size of the top set of the base map.
      sigma: standard deviation of the noise, in units of x.
      key: the random key, as raw data.
    """

    counts: np.ndarray
    num_samples: int
    num_nonfinite: np.ndarray
    x: np.ndarray
    k: int
    sigma: float
    key: np.ndarray


def smoothed_counts(
    explain: Subject | Callable[[Array], Array],
    x: Array,
    *,
    k: int,
    sigma: float,
    num_samples: int,
    key: Array,
    state: SmoothedCounts | None = None,
) -> SmoothedCounts:
    """In how many draws x + δ, δ ~ N(0, σ²I), each feature is among the top k.

        m̂_i = #{draws with i ∈ T(x + δ)} / num_samples

    estimates the smoothed map, which `smoothed_certificate` makes statements of. Memory
    is that of one chunk of draws of one input.

    Args:
      explain: any subject, a black box too, explained for the class that is predicted
        at x; or a function `x -> map [n]` of one input.
      x: inputs [m, ...].
      k: size of the top set of the base map, in 1…n−1; k/n is the published share τ.
      sigma: standard deviation of the noise, in units of x.
      num_samples: draws of each input, those of `state` among them.
      key: random key; input i's draws depend on it, on i and on their own number alone.
      state: earlier counts of the same inputs, k, sigma and key, to go on from: the
        result is bit by bit that of one run. To choose the number of draws by looking
        at certificates on the way voids their confidence.

    Returns:
      `SmoothedCounts`, NumPy arrays.

    Raises:
      ValueError: for numbers out of range, inputs that are not finite, a state of other
        inputs, settings or key, or of more draws.

    Example:
      >>> key = jax.random.key(0)
      >>> options = {"k": 1, "sigma": 0.5, "key": key}
      >>> counted = smoothed_counts(jnp.abs, jnp.array([[4.0, 1.0, 0.0]]),
      ...                           num_samples=100, **options)
      >>> counted.counts.tolist()
      [[100, 0, 0]]

    Source: Levine et al. 2019, "Certifiably robust interpretation in deep learning".
    """
    check_positive("sigma", sigma)
    check_count("num_samples", num_samples)
    check_key(key)
    x = np.asarray(x)
    if x.ndim < 2 or not len(x) or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            "x must be a batch of inputs [m, ...] of floats, got shape "
            f"{x.shape} of dtype {x.dtype}"
        )
    check_finite("x", x)
    is_subject = isinstance(explain, Subject)
    if not is_subject and not callable(explain):
        raise ValueError(
            f"explain must be a subject or a function, x -> map [n], got {explain!r}"
        )
    if is_subject:
        check_takes(explain, x)
    raw = np.asarray(_raw(key))
    first = 0
    if state is not None:
        _check_state(state, x, k, sigma, raw, num_samples)
        first = state.num_samples
    params, context = (explain.params, explain.context) if is_subject else ((), None)
    run = _counting(explain.form if is_subject else explain, k)
    draws = np.array([first, num_samples], np.int32)
    shared = params, np.asarray(sigma, x.dtype), draws
    counts, broken = run(shared, (x, example_keys(key, len(x)), context))
    if state is not None:
        counts, broken = counts + state.counts, broken + state.num_nonfinite
    return SmoothedCounts(counts, int(num_samples), broken, x, k, float(sigma), raw)


def _raw(key: Array) -> Array:
    typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(key) if typed else key


def _check_state(state, x, k, sigma, raw, num_samples) -> None:
    same = {
        "inputs": np.array_equal(state.x, x),
        "k": state.k == k,
        "sigma": state.sigma == float(sigma),
        "key": np.array_equal(state.key, raw),
    }
    other = [name for name, equal in same.items() if not equal]
    if other:
        raise ValueError(f"the state must be of the same {other[0]}, got another one")
    if num_samples < state.num_samples:
        raise ValueError(
            f"num_samples must be at least the {state.num_samples} draws of the state, "
            f"got {num_samples}"
        )


@kept
def _counting(explain: Form | Callable, k: int):
    """The compiled count of draws first…last−1 of a batch."""

    def count(params, sigma, draws, x, key):
        if isinstance(explain, Form):
            target = predicted_class(explain.apply(params, x))
            saliency = explain.saliency()

            def values(moved):
                return saliency(params, moved, target).ravel()
        else:

            def values(moved):
                return explain(moved).ravel()

        num_features = jax.eval_shape(values, x).size
        check_k(k, num_features)
        # Always the same: a draw has one place in one program, however many are asked.
        size = min(max(_VALUES // x.size, 1), _MOST_DRAWS)

        def draw(index):
            noise = jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype)
            saliency = values(x + sigma * noise)
            asked = (index >= draws[0]) & (index < draws[1])
            broken = asked & ~jnp.all(jnp.isfinite(saliency))
            return top_k_mask(saliency, k=k) & asked, broken

        def add(chunk, total):
            indices = chunk * size + jnp.arange(size, dtype=draws.dtype)
            masks, broken = jax.vmap(draw)(indices)
            counts, bad = total
            counts = counts + jnp.sum(masks, axis=0, dtype=jnp.int32)
            return counts, bad + jnp.sum(broken, dtype=jnp.int32)

        zeros = jnp.zeros(num_features, jnp.int32), jnp.zeros((), jnp.int32)
        last = (draws[1] + size - 1) // size
        return jax.lax.fori_loop(draws[0] // size, last, add, zeros)

    def chunk(shared: Any, batched: Any):
        params, sigma, draws = shared

        def each(both):
            x, key, context = both
            return count(in_context(params, context), sigma, draws, x, key)

        return jax.lax.map(each, batched)

    return compile_chunked(chunk, in_cache=_IN_CACHE)
