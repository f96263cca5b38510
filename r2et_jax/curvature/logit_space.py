"""Largest eigenvalue of the Hessian of a piecewise-linear network, in logit space."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in, check_ndim
from r2et_jax.numerics import sigmoid, unit_l2
from r2et_jax.score import of_class
from r2et_jax.types import ApplyFn, Array

OUTPUT_KINDS = ("loss", "log_probability", "probability", "log_odds", "logit")


def _softmax_covariance(probabilities: Array) -> Array:
    """diag p − p pᵀ, with p_i(1 − p_i) as Σ_{j≠i} p_i p_j, which cannot cancel."""
    size = probabilities.size
    products = jnp.outer(probabilities, probabilities)
    products = jnp.where(jnp.eye(size, dtype=bool), 0.0, products)
    return jnp.diag(jnp.sum(products, axis=1)) - products


def _binary_output_hessian(kind: str, logit: Array, target: Array) -> Array:
    """ψ″(z) for a score ψ of the one logit z."""
    slope = sigmoid(logit) * sigmoid(-logit)
    if kind == "loss":
        return slope
    if kind == "log_probability":
        return -slope
    if kind == "probability":
        # σ(−z) − σ(z) = −tanh(z/2).
        return jnp.where(target == 1, -1.0, 1.0) * slope * jnp.tanh(logit / 2)
    return 0 * logit


def output_hessian(kind: str, logits: Array, target: Array) -> Array:
    """Hessian of a score with respect to the logits, M = ∇_z² s.

    With p = softmax(z), S = diag p − p pᵀ and c the target,

      loss −log p_c: S;  log_probability: −S;  logit z_c: 0;
      probability p_c: p_c[(e_c − p)(e_c − p)ᵀ − S];
      log_odds log p_c − log(1 − p_c): −(diag q − q qᵀ), q = softmax over j ≠ c.

    A single logit z means the two-class logits [0, z]: target 1 has p = σ(z),
    target 0 has σ(−z). Saturation does not cancel: no 1 − p is formed.

    Args:
      kind: one of `OUTPUT_KINDS`.
      logits: z [C].
      target: class index in 0 … max(C, 2) − 1, integer scalar.

    Returns:
      M [C, C], symmetric.

    Raises:
      ValueError: for an unknown kind, logits that are not a vector, or a target that
        is no class; a traced one out of range gives NaN.

    Example:
      >>> output_hessian("loss", jnp.zeros(2), 0).tolist()
      [[0.25, -0.25], [-0.25, 0.25]]
      >>> output_hessian("loss", jnp.zeros(1), 0).tolist()
      [[0.25]]

    Source: R2ET (arXiv 2212.14106), method SSR; the forms other than the loss's
    are ours.
    """
    check_in("kind", kind, OUTPUT_KINDS)
    check_ndim("logits", logits, 1)
    logits = of_class(logits, target)
    num_classes = logits.size
    if num_classes == 1:
        return _binary_output_hessian(kind, logits, target)[:, None]
    if kind == "logit":
        return jnp.outer(0 * logits, 0 * logits)  # zeros, or NaN
    # Both in one integer type, whichever the caller's index has.
    index = jnp.arange(num_classes, dtype=jnp.int32)
    is_target = index == jnp.asarray(target, jnp.int32)
    if kind == "log_odds":
        return -_softmax_covariance(
            jax.nn.softmax(jnp.where(is_target, -jnp.inf, logits))
        )
    probabilities = jax.nn.softmax(logits)
    covariance = _softmax_covariance(probabilities)
    if kind == "loss":
        return covariance
    if kind == "log_probability":
        return -covariance
    others = jnp.where(is_target, 0.0, probabilities)
    difference = jnp.where(is_target, jnp.sum(others), -others)
    probability = jnp.sum(jnp.where(is_target, probabilities, 0.0))
    return probability * (jnp.outer(difference, difference) - covariance)


@jax.custom_batching.custom_vmap
def _eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors; on CPU of one matrix after the other.

    LAPACK on a batch waits, inside one of XLA's threads, for others of them: two
    programs at a time can so wait for each other for ever (seen with jaxlib 0.10).
    """
    return tuple(jnp.linalg.eigh(matrix, symmetrize_input=False))


@_eigh.def_vmap
def _eigh_of_batch(axis_size, in_batched, matrices):
    del axis_size, in_batched
    if jax.default_backend() == "cpu":
        decomposed = jax.lax.map(_eigh, matrices)
    else:
        decomposed = tuple(jnp.linalg.eigh(matrices, symmetrize_input=False))
    return decomposed, (True, True)


def _top_eigenvector(jacobian: Array, middle: Array) -> Array:
    """Unit u [n] with the largest |λ| of H = Jᵀ M J, for J [C, n] and M [C, C]."""
    if jacobian.shape[0] == 1:
        return unit_l2(jacobian[0])
    squares, rotation = _eigh(jacobian @ jacobian.T)
    root = (rotation * jnp.sqrt(jnp.maximum(squares, 0.0))) @ rotation.T
    small = root @ middle @ root
    values, vectors = _eigh((small + small.T) / 2)
    y = vectors[:, jnp.argmax(jnp.abs(values))]
    # Jᵀ M G^½ y has length |λ| and solves H u = λ u; no inverse of G is needed.
    return unit_l2(jacobian.T @ (middle @ (root @ y)))


def piecewise_linear_spectral_norm(
    apply: ApplyFn, *, kind: str = "probability"
) -> Callable[..., Array]:
    """Largest |eigenvalue| of the Hessian of a piecewise-linear network (SSR).

    Between its kinks such a network has ∇ₓ² z = 0, hence with J = ∂z/∂x [C, n],
    M = ∇_z² s and G = J Jᵀ

      H = Jᵀ M J,   |λ|_max(H) = |λ|_max(G^½ M G^½),

    a C × C problem, after C reverse passes. For a network that is not piecewise
    linear this is the Gauss–Newton part alone: use `spectral_norm` there.

    The unit eigenvector u is found without derivatives, and the returned value is
    |aᵀ M a| with a = J u, one forward-mode tangent. By Hellmann–Feynman its
    derivative in the parameters at fixed u is that of |λ|, and it is finite where
    eigenvalues coincide (one of the subgradients there).

    Args:
      apply: `apply(params, x, /) -> logits [C]`; C = 1 is one binary logit.
      kind: the score: one of `OUTPUT_KINDS`. "logit" gives 0.

    Returns:
      `fn(params, x, target, /) -> scalar ≥ 0`; x of any shape.

    Raises:
      ValueError: for an unknown kind; when traced, if the logits are not a vector.

    Example:
      >>> apply = lambda params, x: params @ x
      >>> norm = piecewise_linear_spectral_norm(apply, kind="loss")
      >>> params = jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> round(float(norm(params, jnp.zeros(2), 0)), 4)
      2.0

    Source: Wang et al., Smoothed geometry for robust attribution, 2020 (SSR);
    R2ET (arXiv 2212.14106).
    """
    check_in("kind", kind, OUTPUT_KINDS)

    def middle(params, logits, target):
        del params
        return output_hessian(kind, logits, target)

    return composite_spectral_norm(apply, middle)


def composite_spectral_norm(
    inner: ApplyFn, middle: Callable[..., Array]
) -> Callable[..., Array]:
    """Largest |eigenvalue| of Jᵀ M J for a piecewise-linear inner map of few values.

    As `piecewise_linear_spectral_norm`, for a score s(e(x)) with e piecewise linear,
    J = ∂e/∂x [d, n] and M = ∇_e² s: an embedding with a smooth head, such as a Siamese
    network's.

    Args:
      inner: `inner(params, x, /) -> e [d]`.
      middle: `middle(params, e, target) -> M [d, d]`, symmetric.

    Returns:
      `fn(params, x, target, /) -> scalar ≥ 0`; x of any shape.

    Example:
      >>> square = lambda params, e, target: 2 * jnp.eye(2)  # of s = ‖e‖²
      >>> norm = composite_spectral_norm(lambda params, x: params @ x, square)
      >>> float(norm(jnp.diag(jnp.array([1.0, 3.0])), jnp.zeros(2), 0))
      18.0
    """

    def norm(params, x, target, /):
        frozen_params, frozen_x = jax.lax.stop_gradient((params, x))
        values, pull = jax.vjp(lambda point: inner(frozen_params, point), frozen_x)
        rows = jax.vmap(lambda cotangent: pull(cotangent)[0])(
            jnp.eye(values.size, dtype=values.dtype)
        )
        u = _top_eigenvector(
            rows.reshape(values.size, x.size), middle(frozen_params, values, target)
        )
        u = jax.lax.stop_gradient(u).reshape(x.shape)
        values, along = jax.jvp(lambda point: inner(params, point), (x,), (u,))
        quotient = along @ middle(params, values, target) @ along
        # Not jnp.abs, whose derivative at 0 is 1 in JAX.
        return quotient * jax.lax.stop_gradient(jnp.sign(quotient))

    return norm
