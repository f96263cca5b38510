"""What `bound` returns: affine bounds of an array over a domain."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from r2et_jax.bounds.domain import Domain
from r2et_jax.types import Array

# Values of a block of rows in `Affine.separations`, which stay in a core's cache.
_BLOCK = 2**17
# Rows of a block that are added one by one, at most.
_UNROLLED = 16


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

    def separations(self, features: Array, signs: Array) -> Array:
        """Lower bounds of s_i y_i − |y_j| for some entries i and all j, flattened.

        Each is the lower of the two with t = ±1, s_i y_i − t y_j, as `combined` bounds
        it; all pairs in one pass over the coefficients.

        Args:
          features: which entries i [k].
          signs: s_i in {−1, 0, 1} [k].

        Returns:
          [k, N] for N entries; that of a pair (i, i) says nothing.

        Example:
          >>> from r2et_jax.bounds import ball, bound
          >>> square = bound(lambda x: x**2, ball(jnp.array([3.0, 1.0]), 0.1))
          >>> separations = square.separations(jnp.array([0]), jnp.array([1.0]))
          >>> bool(separations[0, 1] > 7)
          True
        """
        features = jnp.asarray(features)
        info = jnp.finfo(self.center.dtype)
        signs = jnp.asarray(signs, self.center.dtype)[:, None]
        center, box, size, low, high = (
            leaf.reshape(-1)
            for leaf in (self.center, self.box, self.size, self.low, self.high)
        )
        linear, noise = (
            rows.reshape(rows.shape[0], center.size)
            for rows in (self.linear, self.noise)
        )
        leading = [signs * leaf[features][:, None] for leaf in (center, box, size)]
        boxes, sizes = jnp.abs(leading[1]) + box, jnp.abs(leading[2]) + size
        least = jnp.where(signs >= 0, signs * low[features][:, None], -jnp.inf)
        least = jnp.where(signs < 0, signs * high[features][:, None], least)
        least = jnp.where(signs == 0, 0, least)
        count = noise.shape[0] + linear.shape[0] + 8
        gamma, pairs = 2 * count * info.eps, 8 * info.eps
        boxes = boxes * (1 + pairs) + pairs * sizes + 2 * info.tiny
        spread = self._pair_sums(noise, features, signs, jnp.abs)
        made = []
        for t, among, end in (
            (1, spread[0], -high),
            (-1, spread[1], low),
        ):
            middle = leading[0] - t * center
            reach = self._pair_reach(linear, features, signs, t) + boxes + among
            lower = middle - reach - gamma * jnp.abs(reach)
            lower = lower - 4 * info.eps * jnp.abs(middle)
            known = least + end - pairs * sizes - 2 * info.tiny
            lower = jnp.fmax(lower, known)
            made.append(jnp.where(jnp.isnan(lower), -jnp.inf, lower))
        return jnp.minimum(*made)

    def _pair_reach(self, linear, features, signs, t) -> Array:
        """How far s_i y_i − t y_j may fall by δ [k, N]."""
        if self.domain.norm == "l2" and self.domain.normals is None:
            moves = (self.domain.low < self.domain.high)[:, None]
            rows = jnp.where(moves, linear, 0)
            scale = jnp.max(jnp.abs(rows))
            safe = jnp.where(scale > 0, scale, 1)
            squares = self._pair_sums(rows / safe, features, signs, jnp.square)
            info = jnp.finfo(self.center.dtype)
            # What underflows in a square.
            lost = linear.shape[0] * jnp.sqrt(info.tiny)
            length = scale * (jnp.sqrt(squares[0 if t == 1 else 1]) + lost)
            return self.domain.epsilon * length

        def of(both):
            feature, sign = both
            return self.domain.support(t * linear - sign * linear[:, feature, None])

        return jax.lax.map(of, (features, signs[:, 0]))

    @staticmethod
    def _pair_sums(rows, features, signs, f) -> tuple[Array, Array]:
        """Σ_r f(s_i B_ri − B_rj) and Σ_r f(s_i B_ri + B_rj), both [k, N]."""
        k, count = features.shape[0], rows.shape[1]
        each = max(_BLOCK // max(k * count, 1), _UNROLLED)
        blocks = max(-(-rows.shape[0] // each), 1)
        each = -(-rows.shape[0] // blocks)
        padded = jnp.pad(rows, ((0, blocks * each - rows.shape[0]), (0, 0)))

        def add(totals, block):
            leading = (signs * block[:, features].T).T[:, :, None]
            other = block[:, None, :]
            if each > _UNROLLED:
                sums = (
                    jnp.sum(f(leading - other), axis=0),
                    jnp.sum(f(leading + other), axis=0),
                )
                return (totals[0] + sums[0], totals[1] + sums[1]), None
            # Row by row: of few, large rows a reduction is ten times as slow.
            for mine, theirs in zip(leading, other, strict=True):
                totals = totals[0] + f(mine - theirs), totals[1] + f(mine + theirs)
            return totals, None

        zero = jnp.zeros((k, count), rows.dtype)
        if blocks == 1:
            return add((zero, zero), padded)[0]
        blocked = padded.reshape(blocks, each, count)
        return jax.lax.scan(add, (zero, zero), blocked)[0]
