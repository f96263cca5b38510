"""What `bound` returns: affine bounds of an array over a domain."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r2et_jax.bounds.domain import Domain
from r2et_jax.types import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["center", "linear", "noise", "box", "size", "low", "high", "domain"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Affine:
    """y(δ) = c + Aᵀδ + Bᵀη ± b for some η ∈ [−1, 1]^m, for every δ of the domain.

    The noise η is shared by all entries, and by all outputs of one call of `bound`, so
    that a difference of two entries is bounded as one expression, see `combined`. It is
    a pytree: batches of it come from `vmap`, and every method takes one example's.

    Attributes:
      center: c [*shape].
      linear: A [n, *shape].
      noise: B [m, *shape].
      box: b ≥ 0 [*shape], each entry's own: rounding, and symbols that were reduced.
      size: scale of the entries' rounding [*shape].
      low, high: bounds of the entries known besides [*shape], such as by intervals.
      domain: where δ is from.
    """

    center: Array
    linear: Array
    noise: Array
    box: Array
    size: Array
    low: Array
    high: Array
    domain: Domain

    @property
    def shape(self) -> tuple[int, ...]:
        return self.center.shape

    def lower(self) -> Array:
        """Lower bounds of the entries [*shape]; −∞ where nothing is known."""
        return self.interval()[0]

    def upper(self) -> Array:
        """Upper bounds of the entries [*shape]; ∞ where nothing is known."""
        return self.interval()[1]

    def interval(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the entries, both [*shape]."""
        noise = self.box + jnp.sum(jnp.abs(self.noise), axis=0)
        down = up = self.domain.support(self.linear) + noise
        if not self.domain.is_even:
            down = self.domain.support(-self.linear) + noise
        info = jnp.finfo(self.center.dtype)
        count = self.noise.shape[0] + self.linear.shape[0] + 8
        gamma = 2 * count * info.eps
        slack = 4 * info.eps * jnp.abs(self.center)
        low = self.center - down - gamma * jnp.abs(down) - slack
        high = self.center + up + gamma * jnp.abs(up) + slack
        low, high = jnp.fmax(low, self.low), jnp.fmin(high, self.high)
        return (
            jnp.where(jnp.isnan(low), -jnp.inf, low),
            jnp.where(jnp.isnan(high), jnp.inf, high),
        )

    def combined(self, indices: Array, weights: Array) -> Affine:
        """Sums Σ_r weights[q, r]·y[indices[q, r]] of flattened entries, as one value.

        Args:
          indices: which entries, of the flattened array [q, r].
          weights: their weights [q, r].

        Returns:
          `Affine` of shape [q]; its lower bound is that of the whole expression, in
          which what the entries share cancels. Memory is q·r·(n + m) floats: chunk over
          q for many.

        Raises:
          ValueError: for arrays of other shapes.

        Example:
          >>> from r2et_jax.bounds import ball, bound
          >>> square = bound(lambda x: x**2, ball(jnp.ones(2), 0.1))
          >>> pair = jnp.array([[0, 1]]), jnp.array([[1.0, -1.0]])
          >>> gap = square.combined(*pair)
          >>> bool(gap.upper()[0] < square.upper()[0] - square.lower()[1])
          True
        """
        indices, weights = jnp.asarray(indices), jnp.asarray(weights)
        if indices.ndim != 2 or indices.shape != weights.shape:
            raise ValueError(
                "indices and weights must have one shape [q, r], got "
                f"{indices.shape} and {weights.shape}"
            )
        weights = weights.astype(self.center.dtype)

        def summed(x, factors):
            return jnp.sum(x.reshape(-1)[indices] * factors, axis=-1)

        rows = jax.vmap(lambda row: summed(row, weights))
        absolute = jnp.abs(weights)
        info = jnp.finfo(self.center.dtype)
        gamma = 2 * (indices.shape[1] + 2) * info.eps
        size = summed(self.size, absolute)
        box = summed(self.box, absolute) * (1 + gamma) + gamma * size + 2 * info.tiny
        ends = []
        for least, most in ((self.low, self.high), (self.high, self.low)):
            pair = (end.reshape(-1)[indices] for end in (least, most))
            chosen = jnp.where(weights >= 0, *pair)
            ends.append(jnp.sum(jnp.where(weights == 0, 0, weights * chosen), axis=-1))
        return Affine(
            center=summed(self.center, weights),
            linear=rows(self.linear),
            noise=rows(self.noise),
            box=box,
            size=size,
            low=ends[0] - gamma * size - 2 * info.tiny,
            high=ends[1] + gamma * size + 2 * info.tiny,
            domain=self.domain,
        )
