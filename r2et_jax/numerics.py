"""Elementary functions whose derivatives keep their precision where JAX's lose it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.types import Array


@jax.custom_jvp
def sigmoid(u: Array) -> Array:
    """σ(u) = 1/(1 + e^{−u}), whose derivative is σ(u)σ(−u) to full precision.

    The usual form p(1 − p) rounds to zero from u ≈ 17 on in float32; this one keeps
    its relative precision until it underflows near |u| ≈ 88.
    """
    return jax.nn.sigmoid(u)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    p = sigmoid(u)
    return p, p * sigmoid(-u) * du


@jax.custom_jvp
def softplus(u: Array) -> Array:
    """log(1 + e^u), with σ(u) as its derivative."""
    return jnp.maximum(u, 0) + jnp.log1p(jnp.exp(-jnp.abs(u)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    return softplus(u), sigmoid(u) * du


def magnitude(v: Array) -> Array:
    """|v| with the derivative sign(v), which is 0 at v = 0; that of `jnp.abs` is 1."""
    return v * jax.lax.stop_gradient(jnp.sign(v))


def over_channels(values: Array, channels: int) -> Array:
    """Sums of every `channels` neighbouring values; the values themselves for 1.

    Args:
      values: values of the features [n], such as those of a flat image with the
        channels innermost.
      channels: neighbours that belong together, a divisor of n.

    Returns:
      [n / channels], such as one sum for each pixel.

    Raises:
      ValueError: if channels is below 1 or no divisor of n.
    """
    check_count("channels", channels)
    if channels == 1:
        return values
    if values.ndim != 1 or values.size % channels:
        raise ValueError(
            f"{channels} channels need an input of one axis whose length they divide, "
            f"got shape {values.shape}"
        )
    return jnp.sum(values.reshape(-1, channels), axis=1)


def safe_norm(v: Array) -> Array:
    """‖v‖₂ over all axes, with the subgradient 0 at v = 0.

    The vector is scaled by its largest entry first: squares of the gradients of
    saturated models underflow in float32. The norm of a vector with NaN or ∞ is NaN.
    """
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
    safe = jnp.where(scale > 0, scale, 1)
    squares = jnp.sum((v / safe) ** 2)
    zero = squares == 0  # not `squares > 0`: that would turn NaN into a norm of 0
    root = jnp.sqrt(jnp.where(zero, 1, squares))
    return safe * jnp.where(zero, 0, root)


def unit_sum(values: Array) -> Array:
    """Nonnegative values over their sum; all zeros stay zero.

    A derivative at all zeros is that of the identity: finite, and zero for values
    that are a `magnitude`. Where a value is not finite, an entry of the result is NaN.
    """
    scale = jax.lax.stop_gradient(jnp.max(values))
    scaled = values / jnp.where(scale > 0, scale, 1)
    total = jnp.sum(scaled)
    return scaled / jnp.where(total > 0, total, 1)


def unit_l2(v: Array) -> Array:
    """v/‖v‖₂ over all axes; the zero vector stays zero. Entries with NaN stay NaN."""
    # A constant: the result does not depend on it, and its square would underflow.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(v)))
    scaled = v / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(scaled**2)
    return scaled * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))


def pareto_mask(values: np.ndarray, *, maximize: Sequence[bool]) -> np.ndarray:
    """Which points no other point dominates.

    A point is dominated if another is at least as good in every objective and better
    in one; equal points do not dominate each other. O(m²).

    Args:
      values: [m, d]; a point that is not finite is never optimal.
      maximize: [d], whether more is better.

    Returns:
      bool [m].

    Raises:
      ValueError: if the shapes do not fit.

    Example:
      >>> pareto_mask(np.array([[0, 1], [1, 0], [0, 0]]), maximize=(True, True))
      array([ True,  True, False])
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != len(maximize):
        raise ValueError(
            f"values must be [m, d] with d = {len(maximize)}, the length of maximize, "
            f"got shape {values.shape}"
        )
    values = np.where(np.asarray(maximize), values, -values)
    finite = np.isfinite(values).all(axis=1)
    at_least = (values[:, None] >= values[None]).all(axis=2)
    better = (values[:, None] > values[None]).any(axis=2)
    dominated = (at_least & better & finite[:, None]).any(axis=0)
    return finite & ~dominated
