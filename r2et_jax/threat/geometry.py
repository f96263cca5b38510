"""The inputs that a threat model admits: nearest ones, membership, random ones."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.numerics import unit_l2
from r2et_jax.threat.definition import ThreatModel
from r2et_jax.types import Array

# Rounding of float32 values at the border of the box, as a share of the bound.
_SLACK = 1e-5


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


def distance(threat: ThreatModel, clean: Array, perturbed: Array) -> Array:
    """‖x′ − x‖ in the norm of the threat model.

    Args:
      threat, clean, perturbed: the threat model, x [n] and x′ [n].

    Returns:
      Scalar.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> threat, x = threat_model("l2", 1.0), jnp.zeros(2)
      >>> print(distance(threat, x, jnp.array([3.0, 4.0])))
      5.0
    """
    delta = perturbed - clean
    if threat.norm == "linf":
        return jnp.max(jnp.abs(delta))
    scale = jnp.max(jnp.abs(delta))
    safe = jnp.where(scale > 0, scale, 1)
    return safe * jnp.sqrt(jnp.sum((delta / safe) ** 2))


def project(threat: ThreatModel, clean: Array, perturbed: Array) -> Array:
    """The admissible input nearest to `perturbed` in Euclidean distance.

    The set is the ball around the clean input, the box, the frozen features and the
    simplices of the one-hot groups together. A ball alone has a closed form. The l2
    ball with other constraints C: the projection is P_C(x + s(x′ − x)) for the
    largest s ∈ [0, 1] that stays in the ball, found by halving, since its distance
    from x never falls as s grows, and at s = ε/‖x′ − x‖ is at most ε. The l∞ ball is
    itself a box. An admissible x′ stays where it is.

    Args:
      threat: the threat model.
      clean: x [n]; where it violates the box or a simplex and the threat model clips,
        it is first moved onto them, and the ball is taken around the moved point.
      perturbed: proposed x′ [n].

    Returns:
      Admissible x′ [n]; NaN if a traced clean input is outside of what the threat model
      allows and it does not clip.

    Raises:
      ValueError: for a threat model of another n, or a clean input, not traced, that is
        outside.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> threat, x = threat_model("l2", 1.0), jnp.zeros(2)
      >>> print(project(threat, x, jnp.array([3.0, 4.0])))
      [0.6 0.8]
    """
    known = jax.tree.leaves((threat, clean))
    if not any(isinstance(array, jax.core.Tracer) for array in known):
        check_inputs(threat, np.asarray(clean)[None])
    admissible = _is_admissible(threat, clean)
    nearest = _project(threat, clean, perturbed)
    return nearest if admissible is True else jnp.where(admissible, nearest, jnp.nan)


def _project(threat: ThreatModel, clean: Array, perturbed: Array) -> Array:
    threat = _at(threat, clean)
    if threat.movable is not None:
        perturbed = jnp.where(threat.movable, perturbed, clean)
    center = _center(threat, clean)
    if threat.norm == "linf":
        low, high = center - threat.epsilon, center + threat.epsilon
        return _project_box_groups(threat, perturbed, clean, low, high)
    length = distance(threat, center, perturbed)
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
        inside = distance(threat, center, at(middle)) <= threat.epsilon
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    nearest = _project_box_groups(threat, perturbed, clean)
    fits = distance(threat, center, nearest) <= threat.epsilon
    bounds = (share, jnp.ones_like(share))
    low, _ = jax.lax.fori_loop(0, _num_halvings(clean.dtype), halve, bounds)
    return jnp.where(fits, nearest, at(low))


def _num_halvings(dtype) -> int:
    """Halvings of an interval that exhaust the float type: 30 in float32."""
    return jnp.finfo(dtype).nmant + 7


def _at(threat: ThreatModel, clean: Array) -> ThreatModel:
    """The threat model at one input: in its float type, with what may move there."""
    _check_shapes(threat, clean.shape)
    cast = {
        name: getattr(threat, name).astype(clean.dtype)
        for name in ("epsilon", "lower", "upper")
        if getattr(threat, name) is not None
    }
    movable = movable_features(threat, clean)
    return dataclasses.replace(threat, **cast, movable=movable, absent="free")


def _check_shapes(threat: ThreatModel, shape: tuple[int, ...]) -> None:
    """Raise unless the threat model fits inputs of this shape."""
    for name in ("lower", "upper", "movable"):
        part = getattr(threat, name)
        if part is not None and part.shape not in ((), shape):
            raise ValueError(
                f"the threat model has {name} of shape {part.shape}, expected "
                f"{shape} as of the input"
            )
    beyond = [i for group in threat.groups for i in group if i >= shape[0]]
    if beyond:
        raise ValueError(
            f"the threat model has feature {beyond[0]} in a one-hot group, expected "
            f"indices in 0…{shape[0] - 1} as of the input"
        )


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


def admissible_gradient(
    threat: ThreatModel, clean: Array, perturbed: Array, gradient: Array
) -> Array:
    """The part of a gradient along which an admissible input can descend.

    Zero for frozen features, and where x′ is on the box and −∇ leads out of it; on the
    simplex of a one-hot group −∇ is projected onto the directions that stay there. The
    ball is left out: its boundary can be followed.

    Args:
      threat: the threat model.
      clean: x [n].
      perturbed: admissible x′ [n].
      gradient: ∇ at x′ [n].

    Returns:
      [n]; zero if nothing can descend.

    Source: the projected gradient of constrained optimisation, Bertsekas 1976.
    """
    threat = _at(threat, clean)
    # Which features may still fall and rise.
    falls = rises = jnp.ones(gradient.shape, bool)
    if threat.movable is not None:
        falls = rises = threat.movable
    if threat.lower is not None:
        falls &= perturbed > threat.lower
    if threat.upper is not None:
        rises &= perturbed < threat.upper
    tangent = jnp.where(jnp.where(gradient > 0, falls, rises), gradient, 0)
    if threat.groups:
        # Longer than any entry of the projection.
        far = 2 * jnp.max(jnp.abs(gradient))
        for group in threat.groups:
            index = np.array(group)
            down = project_bounded_simplex(
                -gradient[index],
                jnp.where(falls[index] & (perturbed[index] > 0), -far, 0),
                jnp.where(rises[index], far, 0),
                total=0.0,
            )
            tangent = tangent.at[index].set(-down)
    return tangent


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
    ends = jnp.min(values - high), jnp.max(values - low)

    def halve(_, bounds):
        a, b = bounds
        middle = (a + b) / 2
        above = jnp.sum(jnp.clip(values - middle, low, high)) >= total
        return jnp.where(above, middle, a), jnp.where(above, b, middle)

    a, b = jax.lax.fori_loop(0, _num_halvings(values.dtype), halve, ends)
    z = jnp.clip(values - (a + b) / 2, low, high)
    # What rounding left of the sum goes to the entries in proportion to their room:
    # for y far outside of narrow bounds none may lie strictly between them.
    rest = total - jnp.sum(z)
    room = jnp.where(rest > 0, high - z, z - low)
    whole = jnp.sum(room)
    nearest = jnp.clip(z + room * (rest / jnp.where(whole > 0, whole, 1)), low, high)
    # What is there already stays, without the rounding of the halving.
    there = jnp.all((low <= values) & (values <= high)) & (jnp.sum(values) == total)
    return jnp.where(there, values, nearest)


def contains(
    threat: ThreatModel, clean: Array, perturbed: Array, *, tolerance: float = 1e-5
) -> Array:
    """Whether x′ is admissible up to `tolerance` in every constraint (boolean).

    The admissible set is that of `project`: around a clean input that violates the
    box or a simplex it is empty, or with `clip` the ball is that of the moved point.

    Args:
      threat, clean, perturbed: the threat model, x [n] and x′ [n].
      tolerance: on every constraint, in units of x.

    Returns:
      Boolean scalar.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> threat, x = threat_model("l2", 1.0), jnp.zeros(2)
      >>> print(contains(threat, x, jnp.array([0.0, 1.1])))
      False
    """
    admissible = _is_admissible(threat, clean)
    threat = _at(threat, clean)
    movable = True if threat.movable is None else threat.movable
    length = distance(threat, _center(threat, clean), perturbed)
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
    return inside & admissible & jnp.all(jnp.isfinite(perturbed))


def check_inputs(threat: ThreatModel, x: Array) -> None:
    """Raise unless the threat model fits inputs that are known, not traced.

    Args:
      threat: the threat model.
      x: clean inputs [m, n].

    Raises:
      ValueError: for a box, frozen features or groups of another n; unless the threat
        model clips, for a clean input outside of the box or with a negative value in a
        one-hot group that stays on its simplex.
    """
    inside = are_inside(threat, x)
    if threat.clip or inside.all():
        return
    x = np.asarray(x)
    index = tuple(np.argwhere(~inside)[0].tolist())
    limits = _limits(jax.tree.map(np.asarray, threat), x[0], xp=np)
    low, high = (limit[index[1:]] for limit in limits)
    rows = int((~inside).reshape(len(x), -1).any(axis=1).sum())
    raise ValueError(
        f"x{list(index)} is {x[index]:g}, outside of what the threat model allows in "
        f"that column, [{low:g}, {high:g}] ({rows} of {len(x)} inputs are outside "
        "somewhere): give bounds in the units of x that contain all inputs, or "
        "clip=True to move them inside"
    )


def are_inside(threat: ThreatModel, x: Array) -> np.ndarray:
    """Which values of clean inputs [m, n] lie inside the box and the simplices.

    Values of features that may not move count as inside. On the host, for inputs that
    are known; boolean [m, n].

    Raises:
      ValueError: for a box, frozen features or groups of another n.
    """
    x = np.asarray(x)
    _check_shapes(threat, x.shape[1:])
    # By NumPy, since JAX would trace it where the caller is traced.
    threat = jax.tree.map(np.asarray, threat)
    return _is_inside(threat, x, _limits(threat, x[0], xp=np), xp=np)


def _limits(threat: ThreatModel, clean: Array, *, xp=jnp) -> list[Array]:
    """What the box and the simplices allow each feature: lowest and highest [n]."""
    floor = np.full(clean.shape, -np.inf, clean.dtype)
    for group in threat.groups:
        floor[list(group)] = 0
    lower = floor if threat.lower is None else threat.lower.astype(clean.dtype)
    upper = np.inf if threat.upper is None else threat.upper.astype(clean.dtype)
    return [xp.maximum(lower, floor), xp.broadcast_to(upper, clean.shape)]


def _is_inside(threat: ThreatModel, clean: Array, limits, *, xp=jnp) -> Array:
    """Whether each feature is where it may be at a clean input: boolean as clean."""
    low, high = limits
    inside = clean >= low - _SLACK * xp.maximum(abs(low), 1)
    inside &= clean <= high + _SLACK * xp.maximum(abs(high), 1)
    movable = movable_features(threat, clean)
    return inside if movable is None else inside | ~movable


def _is_admissible(threat: ThreatModel, clean: Array) -> Array | bool:
    """Whether a threat model that does not clip admits a clean input (boolean)."""
    if threat.clip or not _is_constrained(threat):
        return True
    return jnp.all(_is_inside(threat, clean, _limits(threat, clean)))


def sample(threat: ThreatModel, clean: Array, *, key: Array) -> Array:
    """A random admissible input: uniform in the ball, then projected.

    The ball is that of the movable features.

    Args:
      threat, clean, key: the threat model, x [n], a random key.

    Returns:
      x′ [n]; NaN where `project` gives it.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> threat, x = threat_model("l2", 1.0), jnp.zeros(2)
      >>> drawn = sample(threat, x, key=jax.random.key(0))
      >>> print(contains(threat, x, drawn))
      True
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
    return project(threat, clean, clean + threat.epsilon * unit)


def sample_boundary(threat: ThreatModel, clean: Array, *, key: Array) -> Array:
    """A random admissible input on the ball's boundary, then projected.

    The ball is that of the movable features. For l∞ it is one of its corners.

    Args:
      threat, clean, key: the threat model, x [n], a random key.

    Returns:
      x′ [n]; NaN where `project` gives it.

    Example:
      >>> from r2et_jax.threat import threat_model
      >>> threat, x = threat_model("l2", 1.0), jnp.zeros(2)
      >>> drawn = sample_boundary(threat, x, key=jax.random.key(0))
      >>> print(contains(threat, x, drawn))
      True
    """
    threat = _at(threat, clean)
    if threat.norm == "linf":
        unit = jax.random.rademacher(key, clean.shape, clean.dtype)
    else:
        unit = _random_direction(threat, clean, key)
    return project(threat, clean, clean + threat.epsilon * unit)


def _random_direction(threat, clean, key):
    """A direction of unit length, uniform over those of the movable features."""
    direction = jax.random.normal(key, clean.shape, clean.dtype)
    if threat.movable is not None:
        # Before the division: what is frozen would shorten the step.
        direction = jnp.where(threat.movable, direction, 0)
    return unit_l2(direction)
