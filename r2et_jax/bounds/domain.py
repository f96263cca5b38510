"""Sets of inputs around a centre, known by their support function."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count, check_in, check_nonnegative
from r2et_jax.threat import ThreatModel, project
from r2et_jax.threat.definition import NORMS
from r2et_jax.threat.geometry import movable_features
from r2et_jax.types import Array

# Newton's steps to the multiplier of a ball cut by a box; any number is sound.
_MULTIPLIER_STEPS = 4
# Of that of the ball alone, the most that they go to.
_MOST_MULTIPLIER = 64.0


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["center", "epsilon", "low", "high", "normals", "cuts"],
    meta_fields=["norm", "is_even"],
)
@dataclasses.dataclass(frozen=True)
class Domain:
    """Inputs x + δ: an l2 ball or a box, or both, cut by slabs.

    Build it with `ball`, `box` or `of_threat`, and cut it with `with_slabs`.

    Attributes:
      center: x, of any shape; n entries.
      epsilon: radius of the l2 ball; None for a box alone.
      low, high: the least and the largest δ of each coordinate [n], 0 where it stays.
      normals: unit normals v of slabs a ≤ vᵀδ ≤ b, [s, n], or None.
      cuts: (a, b) [s, 2], or None.
      norm: "l2", "box" or "l2 in box".
      is_even: whether the set holds −δ with every δ, as a ball does.
    """

    center: Array
    epsilon: Array | None
    low: Array
    high: Array
    normals: Array | None
    cuts: Array | None
    norm: str
    is_even: bool = False

    @property
    def size(self) -> int:
        return self.low.shape[0]

    def support(self, coefficients: Array) -> Array:
        """max of aᵀδ over the set, for a along the first axis.

        An upper bound of it for a ball cut by a box (by weak duality) and for more than
        one slab (the least over the slabs); exact otherwise.

        Args:
          coefficients: a [n, ...].

        Returns:
          [...]
        """
        if self.norm == "l2":
            reach = self.epsilon * _length(self._moving(coefficients))
        else:
            reach = _box_support(self.low, self.high, coefficients)
        if self.norm == "l2 in box":
            reach = jnp.minimum(reach, self._cut_ball(coefficients))
        if self.normals is None:
            return reach
        for normal, (low, high) in zip(self.normals, self.cuts, strict=True):
            # fmin: a slab that cuts nothing off a box has the support NaN or ∞.
            reach = jnp.fmin(reach, self._slab(coefficients, normal, low, high))
        return reach

    def _moving(self, coefficients: Array) -> Array:
        moves = _column(self.low < self.high, coefficients)
        return jnp.where(moves, coefficients, 0)

    def _cut_ball(self, coefficients: Array) -> Array:
        """The least over μ > 0 of max_δ aᵀδ + (ε² − ‖δ‖²)/(2μ), δ in the box.

        δ is μa cut by the box, and ‖δ‖² is concave in μ² and reaches ε² at the least:
        Newton's steps from below stay below. The first sees which coordinates have no
        room at all, so that it is enough for inputs on the faces of the box.
        """
        a = self._moving(coefficients)
        low, high = _column(self.low, a), _column(self.high, a)
        length = jnp.maximum(_length(a), jnp.finfo(a.dtype).tiny)
        # Without a box it is this; a multiplier's own derivative adds nothing.
        start = jax.lax.stop_gradient(self.epsilon / length)
        most, still = _MOST_MULTIPLIER * start, jax.lax.stop_gradient(a)

        def nearer(_, mu):
            moved = mu * still
            delta = jnp.clip(moved, low, high)
            lengths = jnp.sum(delta**2, axis=0)
            free = jnp.sum(jnp.where(delta == moved, moved**2, 0), axis=0)
            room = jnp.maximum(self.epsilon**2 - lengths, 0) + free
            growth = jnp.sqrt(room / jnp.where(free > 0, free, 1))
            growth = jnp.where(free > 0, jnp.maximum(growth, 1), jnp.inf)
            return jnp.minimum(mu * growth, most)

        mu = jax.lax.fori_loop(0, _MULTIPLIER_STEPS, nearer, start)
        mu = jax.lax.stop_gradient(mu)
        delta = jnp.clip(mu * a, low, high)
        over = jnp.sum(a * delta - delta**2 / (2 * mu), axis=0)
        best = over + self.epsilon**2 / (2 * mu)
        return jnp.fmin(best, self.epsilon * length) + self._rounding(length)

    def _rounding(self, length: Array) -> Array:
        """What the terms of aᵀδ may lose where they cancel, of a of that length."""
        return 4 * (self.size + 8) * jnp.finfo(length.dtype).eps * self.epsilon * length

    def _slab(self, coefficients: Array, normal: Array, low: Array, high: Array):
        """max of aᵀδ over the l2 ball and a ≤ vᵀδ ≤ b; over the slab for a box."""
        a = self._moving(coefficients)
        along = jnp.tensordot(normal, a, 1)
        if self.norm == "box":
            # aᵀδ = m·vᵀδ + (a − m v)ᵀδ for any m; here that of the projection on v.
            rest = a - _column(normal, a) * along
            moved = jnp.maximum(along * low, along * high)
            return moved + _box_support(self.low, self.high, rest)
        across = _length(a - _column(normal, a) * along)
        epsilon = self.epsilon
        length = jnp.maximum(jnp.hypot(along, across), jnp.finfo(a.dtype).tiny)
        place = jnp.clip(epsilon * along / length, low, high)
        room = jnp.sqrt(jnp.maximum(epsilon**2 - place**2, 0))
        return along * place + across * room + self._rounding(length)


def _length(a: Array) -> Array:
    """‖a‖₂ along the first axis, without overflow or underflow."""
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(a), axis=0))
    safe = jnp.where(scale > 0, scale, 1)
    squares = jnp.sum((a / safe) ** 2, axis=0)
    zero = squares == 0
    return safe * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _box_support(low: Array, high: Array, a: Array) -> Array:
    return jnp.sum(jnp.maximum(a * _column(low, a), a * _column(high, a)), axis=0)


def _column(vector: Array, like: Array) -> Array:
    """A vector [n] to multiply arrays [n, ...]."""
    return vector.reshape(-1, *(1,) * (like.ndim - 1))


def ball(
    center: Array, epsilon: Array | float, *, norm: str = "l2", movable=None
) -> Domain:
    """The ball ‖δ‖ ≤ ε around an input, over the coordinates that may move.

    Args:
      center: x [*shape], a float array, n entries.
      epsilon: ε ≥ 0, in units of x; may be traced.
      norm: "l2" or "linf".
      movable: boolean, of the shape of x; the others stay. None for all.

    Returns:
      `Domain`.

    Raises:
      ValueError: for a center that is no float array, another norm, ε < 0, or a mask of
        another shape.

    Example:
      >>> ball(jnp.zeros(2), 0.5).support(jnp.array([3.0, 4.0]))
      Array(2.5, dtype=float32)
    """
    check_in("norm", norm, NORMS)
    center = _checked_center(center)
    if not isinstance(epsilon, jax.core.Tracer):
        check_nonnegative("epsilon", float(epsilon))
    epsilon = jnp.asarray(epsilon, center.dtype)
    reach = jnp.broadcast_to(epsilon, (center.size,))
    if movable is not None:
        movable = jnp.asarray(movable)
        if movable.dtype != bool or movable.shape != center.shape:
            raise ValueError(
                f"movable must be a boolean mask of shape {center.shape}, got shape "
                f"{movable.shape} of {movable.dtype}"
            )
        reach = jnp.where(movable.reshape(-1), reach, 0)
    name = "l2" if norm == "l2" else "box"
    kept = epsilon if norm == "l2" else None
    return Domain(center, kept, -reach, reach, None, None, name, is_even=True)


def box(lower: Array, upper: Array, *, center: Array | None = None) -> Domain:
    """The box lower ≤ x′ ≤ upper.

    Args:
      lower, upper: float arrays of one shape [*shape], n entries.
      center: the input [*shape] that bounds are expanded around; the middle by default.

    Returns:
      `Domain`.

    Raises:
      ValueError: for arrays of different shapes, or lower > upper where that is known.

    Example:
      >>> box(jnp.zeros(2), jnp.ones(2)).support(jnp.array([1.0, -2.0]))
      Array(1.5, dtype=float32)
    """
    lower, upper = _checked_center(lower), _checked_center(upper)
    if lower.shape != upper.shape:
        raise ValueError(
            f"lower and upper must have one shape, got {lower.shape} and {upper.shape}"
        )
    known = not any(isinstance(a, jax.core.Tracer) for a in (lower, upper))
    if known and not bool(jnp.all(lower <= upper)):
        raise ValueError(f"lower must not exceed upper, got {lower} and {upper}")
    middle = lower + (upper - lower) / 2 if center is None else _checked_center(center)
    # The distances round: outward, so that both corners are inside.
    unit = jnp.finfo(middle.dtype).eps
    low, high = lower - middle, upper - middle
    low = jnp.where(lower == upper, low, low - unit * jnp.abs(low))
    high = jnp.where(lower == upper, high, high + unit * jnp.abs(high))
    low, high = low.reshape(-1), high.reshape(-1)
    return Domain(middle, None, low, high, None, None, "box")


def of_threat(threat: ThreatModel, x: Array) -> Domain:
    """The inputs that a threat model admits around x, or a set that contains them.

    The ball, the box and the features that may not move are kept. One-hot simplices and
    the rule for the prediction only remove inputs, and are left out.

    Args:
      threat: the threat model.
      x: clean input [n].

    Returns:
      `Domain` around x, or around x moved inside where the threat model clips.

    Raises:
      ValueError: as `threat.project` does.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> around = of_threat(threat_model("linf", 0.5), jnp.zeros(2))
      >>> around.support(jnp.array([1.0, -2.0]))
      Array(1.5, dtype=float32)
    """
    center = project(threat, x, x)
    whole = ball(
        center, threat.epsilon, norm=threat.norm, movable=movable_features(threat, x)
    )
    if threat.lower is None and threat.upper is None:
        return whole
    unit = 4 * jnp.finfo(center.dtype).eps
    low, high = whole.low, whole.high
    if threat.lower is not None:
        edge = threat.lower.astype(center.dtype)
        # Admitted inputs may be outside of the box by rounding.
        room = edge - center - unit * (jnp.abs(edge) + jnp.abs(center))
        low = jnp.maximum(low, jnp.minimum(room, 0))
    if threat.upper is not None:
        edge = threat.upper.astype(center.dtype)
        room = edge - center + unit * (jnp.abs(edge) + jnp.abs(center))
        high = jnp.minimum(high, jnp.maximum(room, 0))
    name = "l2 in box" if whole.norm == "l2" else "box"
    return dataclasses.replace(whole, low=low, high=high, norm=name, is_even=False)


def with_slabs(domain: Domain, normals: Array, low: Array, high: Array) -> Domain:
    """The part of a domain where lowᵢ ≤ vᵢᵀδ ≤ highᵢ, δ from the centre.

    Args:
      domain: the set that is cut.
      normals: vᵢ [s, n], of any length but 0; the bounds are scaled with them.
      low, high: [s].

    Returns:
      `Domain` with these slabs alone. Its support function is the closed form for one
      slab of a ball, and an upper bound of it otherwise.

    Raises:
      ValueError: for arrays of other shapes.

    Example:
      >>> half = with_slabs(ball(jnp.zeros(2), 1.0), jnp.array([[1.0, 0.0]]),
      ...                   jnp.array([-1.0]), jnp.array([0.0]))
      >>> half.support(jnp.array([1.0, 0.0]))
      Array(0., dtype=float32)
    """
    dtype = domain.low.dtype
    normals, low, high = (jnp.asarray(a, dtype) for a in (normals, low, high))
    count = normals.shape[0] if normals.ndim else 0
    check_count("number of slabs", count)
    shapes = normals.shape, low.shape, high.shape
    if shapes != ((count, domain.size), (count,), (count,)):
        raise ValueError(
            f"slabs need normals [s, {domain.size}] and bounds [s], got {shapes}"
        )
    moving = jnp.where(domain.low < domain.high, normals, 0)
    length = _length(moving.T)
    safe = jnp.where(length > 0, length, 1)
    cuts = jnp.stack([low / safe, high / safe], axis=-1)
    # A slab that no coordinate moves across cuts nothing off.
    cuts = jnp.where(length[:, None] > 0, cuts, jnp.array([-1, 1], dtype) * jnp.inf)
    normals = moving / safe[:, None]
    return dataclasses.replace(domain, normals=normals, cuts=cuts, is_even=False)


def _checked_center(value: Array) -> Array:
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"a set of inputs needs a float array, got {np.asarray(value).dtype}"
        )
    return jnp.asarray(value)
