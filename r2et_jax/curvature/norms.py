"""Frobenius norm of the Hessian: exact in chunks, by random probes, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_ndim
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


def gram_frobenius_norm_squared(
    weights: Array,
    coefficients: Array,
    gradient: Array | None = None,
    rank_one_coefficient: Array | float | None = None,
) -> Array:
    """Closed form of the SQUARED Frobenius norm for one hidden layer.

    For H = Wᵀ diag(c) W + r g gᵀ and G = W Wᵀ,

      ‖H‖_F² = cᵀ(G ∘ G)c + 2r Σ_h c_h (W_h · g)² + r² (g · g)².

    A logit z = bᵀφ(Wx + a) + skipᵀx has c_h = b_h φ″(W_h·x + a_h) and
    g = Wᵀ(b ∘ φ′) + skip. A score s = ψ(z) of that logit (its probability, its
    log-probability) has coefficients ψ′(z)·c and rank_one_coefficient ψ″(z). Under
    `vmap` over examples G is computed once, and an example costs O(h² + hn).

    Args:
      weights: W [h, n].
      coefficients: c [h], of any sign.
      gradient: g [n], or None for no rank-one term.
      rank_one_coefficient: r, a scalar of any sign; None exactly if gradient is.

    Returns:
      ‖H‖_F², a scalar; rounding below zero is cut off. Take a root with `safe_sqrt`.

    Raises:
      ValueError: for wrong shapes, or if only one of gradient and
        rank_one_coefficient is given.

    Example:
      >>> weights, c = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([1.0, -1.0])
      >>> float(gram_frobenius_norm_squared(weights, c))
      3.0
      >>> float(gram_frobenius_norm_squared(weights, c, jnp.array([0.0, 1.0]), 1.0))
      2.0

    Source: ours; G ∘ G as in ‖Wᵀ diag(c) W‖_F² = tr(diag(c) G diag(c) G).
    """
    check_ndim("weights", weights, 2)
    num_hidden, num_features = weights.shape
    if coefficients.shape != (num_hidden,):
        raise ValueError(
            f"coefficients must have shape ({num_hidden},) for weights "
            f"{weights.shape}, got {coefficients.shape}"
        )
    if (gradient is None) != (rank_one_coefficient is None):
        raise ValueError(
            "gradient and rank_one_coefficient must be given together, got gradient "
            f"{gradient!r} and rank_one_coefficient {rank_one_coefficient!r}"
        )
    gram = weights @ weights.T
    total = coefficients @ (jnp.square(gram) @ coefficients)
    if gradient is not None:
        if gradient.shape != (num_features,):
            raise ValueError(
                f"gradient must have shape ({num_features},) for weights "
                f"{weights.shape}, got {gradient.shape}"
            )
        cross = coefficients @ jnp.square(weights @ gradient)
        rank_one = rank_one_coefficient * (gradient @ gradient)
        total = total + 2 * rank_one_coefficient * cross + jnp.square(rank_one)
    return jnp.maximum(total, 0.0)
