"""Frobenius norm of the Hessian: exact in chunks, or by random probes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count
from r2et_jax.curvature.products import input_gradient
from r2et_jax.numerics import safe_norm
from r2et_jax.types import Array, ScoreFn


def safe_sqrt(value: Array, /) -> Array:
    """Square root with value and gradient 0 where `value` ≤ 0; NaN stays NaN.

    Example:
      >>> float(safe_sqrt(jnp.float32(9.0))), float(jax.grad(safe_sqrt)(0.0))
      (3.0, 0.0)
    """
    value = jnp.asarray(value)
    is_zero = value <= 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, value)))


def _map_chunks(
    function: Callable[[Array], Array], count: int, chunk_size: int
) -> Array:
    """Stack the scalars function(0) … function(count − 1), a chunk at a time."""
    num_chunks = -(-count // chunk_size)
    if num_chunks == 1:
        return jax.vmap(function)(jnp.arange(count))
    # Chunks of equal size need the least padding.
    size = -(-count // num_chunks)
    indices = jnp.arange(num_chunks * size).reshape(num_chunks, size)
    # Without remat, reverse mode would store the intermediates of every chunk: n².
    chunk = jax.checkpoint(jax.vmap(function), prevent_cse=False)
    return jax.lax.map(chunk, indices).reshape(-1)[:count]


def frobenius_norm(score: ScoreFn, *, chunk_size: int = 64) -> Callable[..., Array]:
    """Exact Frobenius norm of the Hessian, without ever holding the Hessian.

    ‖H‖_F = (Σᵢ ‖H eᵢ‖₂²)^½ with n Hessian-vector products, `chunk_size` at a time.
    Memory is O(chunk_size · activations), for the gradient in the parameters too: it
    computes each chunk once more.

    Args:
      score: `score(params, x, target, /) -> scalar`.
      chunk_size: rows of H held at once, at least 1. Under `vmap` the memory is
        multiplied by the batch.

    Returns:
      `fn(params, x, target, /) -> ‖H‖_F`, a scalar; x of any shape. Differentiable in
      params and x, with gradient 0 where H = 0. The same value for every chunk size
      up to rounding.

    Raises:
      ValueError: if chunk_size is not an integer of at least 1.

    Example:
      >>> score = lambda params, x, target: jnp.prod(x)
      >>> round(float(frobenius_norm(score)(None, jnp.array([2.0, 3.0]), 0)), 4)
      1.4142

    Source: R2ET (arXiv 2212.14106), method Exact-H; Dombrowski et al., Towards
    robust explanations for deep neural networks, 2022.
    """
    check_count("chunk_size", chunk_size)

    def norm(params, x, target, /):
        _, tangent = jax.linearize(input_gradient(score, params, target), x)
        coordinates = jnp.arange(x.size).reshape(x.shape)

        def row_norm(index):
            # An index beyond the end (padding) gives the zero vector.
            return safe_norm(tangent((coordinates == index).astype(x.dtype)))

        return safe_norm(_map_chunks(row_norm, x.size, chunk_size))

    return norm


def frobenius_norm_squared_hutchinson(
    score: ScoreFn, *, num_samples: int, chunk_size: int = 64
) -> Callable[..., Array]:
    """Unbiased estimate of the SQUARED Frobenius norm of the Hessian.

    ‖H‖_F² = E‖H r‖₂² for Rademacher r (entries ±1 with equal chance); the mean over
    `num_samples` probes. Its variance is at most 2‖H‖_F⁴/num_samples. The square root
    of the estimate is biased (too low), so that none is taken here.

    Args:
      score: `score(params, x, target, /) -> scalar`.
      num_samples: probes, at least 1.
      chunk_size: probes held at once, at least 1.

    Returns:
      `fn(params, x, target, /, *, key) -> estimate of ‖H‖_F²`, a scalar ≥ 0; x of any
      shape. The probes depend on the key alone, not on chunk_size.

    Raises:
      ValueError: if num_samples or chunk_size is not an integer of at least 1.

    Example:
      >>> score = lambda params, x, target: jnp.sum(x**2)
      >>> estimate = frobenius_norm_squared_hutchinson(score, num_samples=1)
      >>> float(estimate(None, jnp.ones(3), 0, key=jax.random.key(0)))
      12.0

    Source: Hutchinson, A stochastic estimator of the trace, 1990, applied to H².
    """
    check_count("num_samples", num_samples)
    check_count("chunk_size", chunk_size)

    def norm_squared(params, x, target, /, *, key):
        _, tangent = jax.linearize(input_gradient(score, params, target), x)

        def probe(index):
            signs = jax.random.rademacher(
                jax.random.fold_in(key, index), x.shape, x.dtype
            )
            return jnp.sum(jnp.square(tangent(signs)))

        return jnp.mean(_map_chunks(probe, num_samples, chunk_size))

    return norm_squared
