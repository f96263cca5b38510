"""Largest absolute eigenvalue of a symmetric operator, by Lanczos."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_positive
from r2et_jax.curvature.products import input_gradient
from r2et_jax.numerics import safe_norm, unit_l2
from r2et_jax.types import Array, ScoreFn


class Eigenvalue(NamedTuple):
    """An estimate of the largest |eigenvalue|, and how far it can be trusted.

    Attributes:
      value: |uᵀ A u| for the unit Ritz vector u; never above the largest
        |eigenvalue|, up to rounding.
      residual: ‖A u − (uᵀ A u) u‖₂: some eigenvalue of A lies this close to uᵀ A u.
      num_steps: steps taken before the Krylov space was exhausted, int32.
      converged: whether residual ≤ tolerance · value.
    """

    value: Array
    residual: Array
    num_steps: Array
    converged: Array


def _ritz_vector(
    matvec: Callable[[Array], Array], start: Array, num_steps: int
) -> tuple[Array, Array]:
    """Return the unit Ritz vector of largest |Ritz value|, and the steps taken."""
    size, dtype = start.size, start.dtype
    roundoff = 10 * jnp.finfo(dtype).eps * math.sqrt(size)

    def step(carry, index):
        basis, q, scale = carry
        basis = basis.at[index].set(q)
        product = matvec(q)
        alpha = q @ product
        # Full reorthogonalisation, twice: once loses digits near convergence. Rows
        # that are not filled yet are zero.
        rest = product - basis.T @ (basis @ product)
        rest = rest - basis.T @ (basis @ rest)
        beta = safe_norm(rest)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
        # An exhausted Krylov space goes on with q = 0: the tridiagonal matrix gets
        # zero rows, and its eigenvalues zeros, which are never the largest.
        exhausted = beta <= roundoff * scale
        beta = jnp.where(exhausted, 0.0, beta)
        following = jnp.where(exhausted, 0.0, unit_l2(rest))
        return (basis, following, scale), (alpha, beta, jnp.any(q != 0))

    carry = (jnp.zeros((num_steps, size), dtype), unit_l2(start), jnp.zeros((), dtype))
    (basis, _, _), (alphas, betas, alive) = jax.lax.scan(
        step, carry, jnp.arange(num_steps)
    )
    off_diagonal = jnp.diag(betas[:-1], 1)
    tridiagonal = jnp.diag(alphas) + off_diagonal + off_diagonal.T
    values, vectors = jnp.linalg.eigh(tridiagonal)
    return unit_l2(vectors[:, jnp.argmax(jnp.abs(values))] @ basis), jnp.sum(alive)


def largest_eigenvalue(
    matvec: Callable[[Array], Array],
    example: Array | jax.ShapeDtypeStruct,
    *,
    num_steps: int = 8,
    tolerance: float = 1e-3,
    key: Array,
) -> Eigenvalue:
    """Largest |eigenvalue| of a symmetric operator by reorthogonalised Lanczos.

    From a Gaussian start q₁, an orthonormal basis Q of span{q₁, A q₁, …} and the
    tridiagonal T = Qᵀ A Q; y is the eigenvector of T with the largest |eigenvalue|,
    u = Q y the Ritz vector, |uᵀ A u| the estimate. Input Hessians have eigenvalues
    in nearly ± pairs (of equal size and opposite sign), between which plain power
    iteration never decides; Lanczos separates them.

    Derivatives with respect to whatever `matvec` closes over: u is a constant, and
    d|λ| = sign(λ) uᵀ (dA) u, exact for a unit eigenvector since 2λ uᵀdu = 0. Before
    convergence it is the derivative of the Rayleigh quotient at fixed u. The loop
    is not differentiated, so that the backward pass costs one product.

    Args:
      matvec: v ↦ A v, linear and symmetric, for v of example's shape and dtype.
      example: any array (or `jax.ShapeDtypeStruct`) of that shape and dtype.
      num_steps: most products in the loop, at least 1; cut to the dimension, where
        the result is exact. One more product gives value and residual.
      tolerance: relative residual that counts as converged, > 0.
      key: PRNG key of the start.

    Returns:
      An `Eigenvalue`. The zero operator gives value 0, converged, gradient 0.

    Raises:
      ValueError: if num_steps < 1 or tolerance ≤ 0.

    Example:
      >>> spectrum = jnp.array([-5.0, 5.0, 1.0, 0.0])
      >>> top = largest_eigenvalue(lambda v: spectrum * v, spectrum,
      ...                          key=jax.random.key(0))
      >>> round(float(top.value), 3), bool(top.converged), int(top.num_steps)
      (5.0, True, 4)

    Source: Lanczos 1950; Golub and Van Loan, Matrix Computations, section 10.3;
    Hellmann–Feynman for the derivative.
    """
    check_count("num_steps", num_steps)
    check_positive("tolerance", tolerance)
    shape, dtype = example.shape, example.dtype
    size = math.prod(shape)

    def flat_matvec(vector):
        return matvec(vector.reshape(shape)).reshape(size)

    start = jax.random.normal(key, (size,), dtype)
    # Cut the derivative where it enters the loop, not where it leaves: the loop is
    # then never linearised, which halves the tracing and, without jit, the memory.
    converted, constants = jax.closure_convert(flat_matvec, start)
    constants = jax.lax.stop_gradient(constants)
    u, steps = _ritz_vector(
        lambda vector: converted(vector, *constants), start, min(num_steps, size)
    )
    u = jax.lax.stop_gradient(u)
    product = flat_matvec(u)
    quotient = u @ product
    # Not jnp.abs, whose derivative at 0 is 1 in JAX: a zero operator has gradient 0.
    value = quotient * jax.lax.stop_gradient(jnp.sign(quotient))
    residual = jax.lax.stop_gradient(safe_norm(product - quotient * u))
    converged = residual <= tolerance * jax.lax.stop_gradient(value)
    return Eigenvalue(value, residual, steps, converged)


def spectral_norm(score: ScoreFn, *, num_steps: int = 8) -> Callable[..., Array]:
    """Largest |eigenvalue| of the Hessian of a smooth score: SSR for smooth networks.

    |λ|_max(H) = ‖H‖₂ with H = ∇ₓ² s, by `largest_eigenvalue`. Cost: num_steps + 1
    Hessian-vector products from one linearisation. For a piecewise-linear network use
    `piecewise_linear_spectral_norm`, which is exact.

    Args:
      score: `score(params, x, target, /) -> scalar`.
      num_steps: Lanczos steps, at least 1.

    Returns:
      `fn(params, x, target, /, *, key) -> scalar`, an estimate from below; x of any
      shape. For residual and convergence call `largest_eigenvalue` with
      `lambda v: hvp(score)(params, x, target, v)` and x.

    Raises:
      ValueError: if num_steps < 1.

    Example:
      >>> norm = spectral_norm(lambda params, x, target: params * jnp.sum(x**2))
      >>> round(float(norm(-3.0, jnp.ones(4), 0, key=jax.random.key(0))), 4)
      6.0

    Source: Singla et al., Understanding impacts of high-order loss approximations and
    features in deep learning interpretation, 2019; Wang et al., Smoothed geometry for
    robust attribution, 2020 (SSR).
    """
    check_count("num_steps", num_steps)

    def norm(params, x, target, /, *, key):
        _, tangent = jax.linearize(input_gradient(score, params, target), x)
        return largest_eigenvalue(tangent, x, num_steps=num_steps, key=key).value

    return norm
