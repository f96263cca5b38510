"""The threat model: what an adversary may do to an input.

One object serves attacks, metrics and certificates. It is a pytree: the budget and
the bounds are traced data, so that a grid of budgets shares one compiled program; the
norm and the rules are static.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_in, check_nonnegative
from r2et_jax.numerics import unit_l2
from r2et_jax.types import Array

NORMS = ("l2", "linf")
GROUP_RULES = ("free", "simplex", "frozen")
PREDICTION_RULES = ("free", "same_class", "penalized")
ABSENT_RULES = ("free", "frozen")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["epsilon", "lower", "upper", "movable", "penalty"],
    meta_fields=["norm", "groups", "prediction", "absent"],
)
@dataclasses.dataclass(frozen=True)
class ThreatModel:
    """Perturbed inputs x′ that an adversary may choose around a clean input x.

    Build it with `threat_model`, which checks its arguments.

    Attributes:
      epsilon: budget ε ≥ 0 on ‖x′ − x‖, in units of x.
      lower, upper: box [n] that contains x′, or None.
      movable: boolean [n], the features that may change, or None for all.
      penalty: weight of the change of prediction under the rule `penalized`.
      norm: "l2" or "linf".
      groups: one-hot groups that stay on their simplex, as tuples of indices.
      prediction: "free", "same_class" (x′ counts only where the predicted class
        stays) or "penalized" (the attack's objective pays for changing it).
      absent: "free", or "frozen": features that are zero at the clean input stay so.
    """

    epsilon: Array
    lower: Array | None
    upper: Array | None
    movable: Array | None
    penalty: Array
    norm: str
    groups: tuple[tuple[int, ...], ...]
    prediction: str
    absent: str = "free"


def threat_model(
    norm: str = "l2",
    epsilon: float = 1.0,
    *,
    lower: Array | float | None = None,
    upper: Array | float | None = None,
    frozen: Sequence[int] = (),
    groups: Sequence[Sequence[int]] = (),
    group_rule: str = "free",
    absent: str = "free",
    prediction: str = "free",
    penalty: float = 1.0,
    num_features: int | None = None,
) -> ThreatModel:
    """Build a threat model; by default the l2 ball of radius 1, the published one.

    Args:
      norm: "l2" or "linf".
      epsilon: budget ε ≥ 0, in units of x.
      lower, upper: box that contains x′: numbers or arrays [n]. A clean input
        outside of it is itself moved inside by `project`, except for frozen features.
      frozen: indices of features that may not change.
      groups: one-hot groups, as sequences of indices.
      group_rule: "free" treats the groups as real numbers, "simplex" keeps each one
        nonnegative with its clean sum, "frozen" forbids to change them.
      absent: "frozen" keeps at zero what is exactly zero at the clean input, as the
        absent edges of a sparse graph, whose upper triangle is x.
      prediction: "free", "same_class" or "penalized", see `ThreatModel`.
      penalty: weight ≥ 0 under "penalized".
      num_features: n, needed where `frozen` or frozen groups are given; the indices
        of groups are checked against it.

    Returns:
      `ThreatModel`.

    Raises:
      ValueError: for an unknown name, a negative budget, indices outside 0…n−1,
        groups that are empty, overlap or are half frozen (as simplices of one-hot
        groups are by `absent`), or lower > upper.

    Example:
      >>> threat = threat_model("l2", 0.5, lower=0.0, upper=1.0)
      >>> project(threat, jnp.array([2.0, 0.0]), jnp.array([0.9, 0.0]))
      Array([1., 0.], dtype=float32)
    """
    check_in("norm", norm, NORMS)
    check_in("group rule", group_rule, GROUP_RULES)
    check_in("prediction rule", prediction, PREDICTION_RULES)
    check_in("rule for absent features", absent, ABSENT_RULES)
    check_nonnegative("epsilon", epsilon)
    check_nonnegative("penalty", penalty)
    members = tuple(tuple(int(i) for i in group) for group in groups)
    if () in members:
        raise ValueError(f"one-hot groups must not be empty, got {members}")
    flat = [i for group in members for i in group]
    if len(flat) != len(set(flat)):
        raise ValueError(f"one-hot groups must not overlap, got {members}")
    fixed = {int(i) for i in frozen}
    if group_rule == "frozen":
        fixed |= set(flat)
    kept = members if group_rule == "simplex" else ()
    for group in kept:
        if 0 < len(fixed & set(group)) < len(group):
            raise ValueError(
                f"the one-hot group {group} is half frozen: freeze all of it or none"
            )
    kept = tuple(group for group in kept if not fixed & set(group))
    if kept and absent == "frozen":
        raise ValueError(
            "absent='frozen' would freeze all of a one-hot group but one: choose "
            "group_rule 'frozen', got 'simplex'"
        )
    last = "n−1" if num_features is None else num_features - 1
    wrong = [i for i in sorted(fixed | set(flat)) if i < 0]
    if num_features is not None:
        wrong += [i for i in sorted(fixed | set(flat)) if i >= num_features]
    if wrong:
        raise ValueError(f"feature indices must lie in 0…{last}, got {wrong}")
    movable = None
    if fixed:
        if num_features is None:
            raise ValueError("num_features is needed where features are frozen")
        movable = np.ones(num_features, bool)
        movable[sorted(fixed)] = False
        movable = jnp.asarray(movable)
    bounds = -np.inf if lower is None else lower, np.inf if upper is None else upper
    if not np.all(np.less_equal(*bounds)):  # NaN included
        raise ValueError(f"lower must not exceed upper, got {lower} and {upper}")
    # `float` is float32, and float64 where JAX has it enabled.
    return ThreatModel(
        epsilon=jnp.asarray(epsilon, float),
        lower=None if lower is None else jnp.asarray(lower, float),
        upper=None if upper is None else jnp.asarray(upper, float),
        movable=movable,
        penalty=jnp.asarray(penalty, float),
        norm=norm,
        groups=kept,
        prediction=prediction,
        absent=absent,
    )


def with_epsilon(threat: ThreatModel, epsilon: float) -> ThreatModel:
    """The same threat model at another budget."""
    check_nonnegative("epsilon", epsilon)
    dtype = threat.epsilon.dtype
    return dataclasses.replace(threat, epsilon=jnp.asarray(epsilon, dtype))


def movable_features(threat: ThreatModel, clean: Array) -> Array | None:
    """Which features may change around a clean input: boolean [n], or None for all.

    Args:
      threat: the threat model.
      clean: x [n]; under `absent="frozen"` its zeros may not change.
    """
    if threat.absent == "free":
        return threat.movable
    present = clean != 0
    return present if threat.movable is None else threat.movable & present


def distance(threat: ThreatModel, perturbed: Array, clean: Array) -> Array:
    """‖x′ − x‖ in the norm of the threat model (scalar)."""
    delta = perturbed - clean
    if threat.norm == "linf":
        return jnp.max(jnp.abs(delta))
    scale = jnp.max(jnp.abs(delta))
    safe = jnp.where(scale > 0, scale, 1)
    return safe * jnp.sqrt(jnp.sum((delta / safe) ** 2))


def project(threat: ThreatModel, perturbed: Array, clean: Array) -> Array:
    """The admissible input nearest to `perturbed` in Euclidean distance.

    The set is the ball around the clean input, the box, the frozen features and the
    simplices of the one-hot groups together. A ball alone has a closed form. The l2
    ball with other constraints C: the projection is P_C(x + s(x′ − x)) for the
    largest s ∈ [0, 1] that stays in the ball, found by halving, since its distance
    from x never falls as s grows, and at s = ε/‖x′ − x‖ is at most ε. The l∞ ball is
    itself a box. An admissible x′ stays where it is.

    Args:
      threat: the threat model.
      perturbed: proposed x′ [n].
      clean: x [n]; where it violates the box or a simplex, it is first moved onto
        them, and the ball is taken around the moved point.

    Returns:
      Admissible x′ [n].
    """
    threat = _at(threat, clean)
    if threat.movable is not None:
        perturbed = jnp.where(threat.movable, perturbed, clean)
    center = _center(threat, clean)
    if threat.norm == "linf":
        low, high = center - threat.epsilon, center + threat.epsilon
        return _project_box_groups(threat, perturbed, clean, low, high)
    length = distance(threat, perturbed, center)
    outside = length > threat.epsilon
    share = jnp.where(outside, threat.epsilon / jnp.where(outside, length, 1), 1)
    if not _is_constrained(threat):
        return jnp.where(outside, center + share * (perturbed - center), perturbed)

    def at(s):
        return _project_box_groups(threat, center + s * (perturbed - center), clean)

    def halve(_, bounds):
        low, high = bounds
        # The geometric mean, for a small relative error however far x′ is.
        middle = jnp.sqrt(low * high)
        inside = distance(threat, at(middle), center) <= threat.epsilon
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    nearest = _project_box_groups(threat, perturbed, clean)
    fits = distance(threat, nearest, center) <= threat.epsilon
    bounds = (share, jnp.ones_like(share))
    low, _ = jax.lax.fori_loop(0, _num_halvings(clean.dtype), halve, bounds)
    return jnp.where(fits, nearest, at(low))


def _num_halvings(dtype) -> int:
    """Halvings of an interval that exhaust the float type: 30 in float32."""
    return jnp.finfo(dtype).nmant + 7


def _at(threat: ThreatModel, clean: Array) -> ThreatModel:
    """The threat model at one input: in its float type, with what may move there."""
    cast = {
        name: getattr(threat, name).astype(clean.dtype)
        for name in ("epsilon", "lower", "upper")
        if getattr(threat, name) is not None
    }
    movable = movable_features(threat, clean)
    return dataclasses.replace(threat, **cast, movable=movable, absent="free")


def _is_constrained(threat: ThreatModel) -> bool:
    return threat.lower is not None or threat.upper is not None or bool(threat.groups)


def _center(threat: ThreatModel, clean: Array) -> Array:
    """The clean input, moved onto the box and the simplices where it violates them."""
    if not _is_constrained(threat):
        return clean
    return _project_box_groups(threat, clean, clean)


def _project_box_groups(threat, x, clean, low=-jnp.inf, high=jnp.inf):
    """Projection onto box ∩ simplices ∩ [low, high], exact: it separates."""
    low = jnp.broadcast_to(jnp.asarray(low, x.dtype), x.shape)
    high = jnp.broadcast_to(jnp.asarray(high, x.dtype), x.shape)
    if threat.lower is not None or threat.upper is not None:
        low = jnp.clip(low, threat.lower, threat.upper)
        high = jnp.clip(high, threat.lower, threat.upper)
    if threat.movable is not None:
        low = jnp.where(threat.movable, low, clean)
        high = jnp.where(threat.movable, high, clean)
    projected = jnp.clip(x, low, high)
    for group in threat.groups:
        index = np.array(group)
        floor = jnp.maximum(low[index], 0)
        values = project_bounded_simplex(
            x[index],
            jnp.minimum(floor, high[index]),
            high[index],
            total=jnp.sum(clean[index]),
        )
        projected = projected.at[index].set(values)
    return projected


def project_bounded_simplex(
    values: Array, low: Array, high: Array, *, total: Array | float
) -> Array:
    """The nearest point with low ≤ z ≤ high and Σ z = total.

    z = clip(y − τ, low, high), where τ is found by halving: Σ z falls in τ.

    Args:
      values: y [g].
      low, high: bounds [g]; an infinite upper bound is allowed.
      total: the sum; must lie between Σ low and Σ high.

    Returns:
      z [g].
    """
    high = jnp.minimum(high, jnp.maximum(total - jnp.sum(low) + low, low))
    tau_low = jnp.min(values - high)
    tau_high = jnp.max(values - low)

    def halve(_, bounds):
        a, b = bounds
        middle = (a + b) / 2
        above = jnp.sum(jnp.clip(values - middle, low, high)) >= total
        return jnp.where(above, middle, a), jnp.where(above, b, middle)

    steps = _num_halvings(values.dtype)
    a, b = jax.lax.fori_loop(0, steps, halve, (tau_low, tau_high))
    z = jnp.clip(values - (a + b) / 2, low, high)
    # What rounding left of the sum goes to the entries in proportion to their room:
    # for y far outside of narrow bounds none may lie strictly between them.
    rest = total - jnp.sum(z)
    room = jnp.where(rest > 0, high - z, z - low)
    whole = jnp.sum(room)
    return jnp.clip(z + room * (rest / jnp.where(whole > 0, whole, 1)), low, high)


def contains(
    threat: ThreatModel, perturbed: Array, clean: Array, *, tolerance: float = 1e-5
) -> Array:
    """Whether x′ is admissible up to `tolerance` in every constraint (boolean).

    The admissible set is that of `project`: around a clean input that violates the
    box or a simplex, the ball is taken around the moved point.
    """
    threat = _at(threat, clean)
    movable = True if threat.movable is None else threat.movable
    length = distance(threat, perturbed, _center(threat, clean))
    inside = length <= threat.epsilon + tolerance
    if threat.lower is not None:
        above = perturbed >= threat.lower - tolerance
        inside &= jnp.all(jnp.where(movable, above, True))
    if threat.upper is not None:
        below = perturbed <= threat.upper + tolerance
        inside &= jnp.all(jnp.where(movable, below, True))
    stays = jnp.abs(perturbed - clean) <= tolerance
    inside &= jnp.all(jnp.where(movable, True, stays))
    for group in threat.groups:
        index = np.array(group)
        inside &= jnp.all(perturbed[index] >= -tolerance)
        change = jnp.sum(perturbed[index]) - jnp.sum(clean[index])
        inside &= jnp.abs(change) <= tolerance
    return inside & jnp.all(jnp.isfinite(perturbed))


def sample(threat: ThreatModel, clean: Array, *, key: Array) -> Array:
    """A random admissible input: uniform in the ball, then projected.

    The ball is that of the movable features.
    """
    threat = _at(threat, clean)
    if threat.norm == "linf":
        unit = jax.random.uniform(key, clean.shape, clean.dtype, -1, 1)
    else:
        direction_key, radius_key = jax.random.split(key)
        dimension = clean.size
        if threat.movable is not None:
            dimension = jnp.maximum(jnp.sum(threat.movable, dtype=clean.dtype), 1)
        radius = jax.random.uniform(radius_key, (), clean.dtype) ** (1 / dimension)
        unit = radius * _random_direction(threat, clean, direction_key)
    return project(threat, clean + threat.epsilon * unit, clean)


def sample_boundary(threat: ThreatModel, clean: Array, *, key: Array) -> Array:
    """A random admissible input on the ball's boundary, then projected.

    The ball is that of the movable features. For l∞ it is one of its corners.
    """
    threat = _at(threat, clean)
    if threat.norm == "linf":
        unit = jax.random.rademacher(key, clean.shape, clean.dtype)
    else:
        unit = _random_direction(threat, clean, key)
    return project(threat, clean + threat.epsilon * unit, clean)


def _random_direction(threat, clean, key):
    """A direction of unit length, uniform over those of the movable features."""
    direction = jax.random.normal(key, clean.shape, clean.dtype)
    if threat.movable is not None:
        # Before the division: what is frozen would shorten the step.
        direction = jnp.where(threat.movable, direction, 0)
    return unit_l2(direction)
