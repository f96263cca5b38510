"""The threat model: what an adversary may do to an input.

One object serves attacks, metrics and certificates. It is a pytree: the budget and
the bounds are traced data, so that a grid of budgets shares one compiled program; the
norm and the rules are static.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import (
    check_count,
    check_in,
    check_nonnegative,
    feature_indices,
    is_mask,
)
from r2et_jax.types import Array

NORMS = ("l2", "linf")
GROUP_RULES = ("free", "simplex", "frozen")
PREDICTION_RULES = ("free", "same_class", "penalized")
ABSENT_RULES = ("free", "frozen")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["epsilon", "lower", "upper", "movable", "penalty"],
    meta_fields=["norm", "groups", "prediction", "absent", "clip"],
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
      clip: whether a clean input outside of the box or of a simplex is moved there.
        Otherwise nothing is admissible around it.
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
    clip: bool = False


def threat_model(
    norm: str = "l2",
    epsilon: float = 1.0,
    *,
    lower: Array | float | None = None,
    upper: Array | float | None = None,
    frozen: Sequence[int] | Array = (),
    groups: Sequence[Sequence[int] | Array] = (),
    group_rule: str = "free",
    absent: str = "free",
    prediction: str = "free",
    penalty: float = 1.0,
    num_features: int | None = None,
    clip: bool = False,
) -> ThreatModel:
    """Build a threat model; by default the l2 ball of radius 1, the published one.

    Args:
      norm: "l2" or "linf".
      epsilon: budget ε ≥ 0, in units of x.
      lower, upper: box that contains x′: numbers or arrays [n]. A clean input must
        lie inside, up to rounding, unless `clip`; its frozen features may lie anywhere.
      frozen: features that may not change: indices, or a boolean mask [n].
      groups: one-hot groups, each one indices or a boolean mask [n].
      group_rule: "free" treats the groups as real numbers, "simplex" keeps each one
        nonnegative with its clean sum, "frozen" forbids to change them.
      absent: "frozen" keeps at zero what is exactly zero at the clean input, as the
        absent edges of a sparse graph, whose upper triangle is x.
      prediction: "free", "same_class" or "penalized", see `ThreatModel`.
      penalty: weight ≥ 0 under "penalized".
      num_features: n, needed where `frozen` or frozen groups are given as indices,
        which are checked against it, as inputs are.
      clip: move clean inputs outside of the box or of a simplex onto them, and take
        the ball around the moved point, instead of refusing such inputs.

    Returns:
      `ThreatModel`.

    Raises:
      ValueError: for an unknown name, a negative budget, features that are no indices
        in 0…n−1 and no mask [n], groups that are empty, overlap or are half frozen (as
        simplices of one-hot groups are by `absent`), bounds that are no numbers, have
        another shape or lower > upper.

    Example:
      >>> from r2et_jax.threat import project
      >>> threat = threat_model("l2", 0.5, lower=0.0, upper=1.0)
      >>> project(threat, jnp.array([0.9, 0.0]), jnp.array([2.0, 0.0]))
      Array([1., 0.], dtype=float32)
    """
    check_in("norm", norm, NORMS)
    check_in("group rule", group_rule, GROUP_RULES)
    check_in("prediction rule", prediction, PREDICTION_RULES)
    check_in("rule for absent features", absent, ABSENT_RULES)
    check_nonnegative("epsilon", epsilon)
    check_nonnegative("penalty", penalty)
    check_in("answer of clip", clip, (True, False))
    if num_features is not None:
        check_count("num_features", num_features)
    elif is_mask(frozen):
        num_features = len(frozen)
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise ValueError(f"groups must be a sequence of one-hot groups, got {groups!r}")
    members = tuple(
        feature_indices(f"groups[{i}]", group, num_features)
        for i, group in enumerate(groups)
    )
    if () in members:
        raise ValueError(f"one-hot groups must not be empty, got {members}")
    flat = [i for group in members for i in group]
    if len(flat) != len(set(flat)):
        raise ValueError(f"one-hot groups must not overlap, got {members}")
    fixed = set(feature_indices("frozen", frozen, num_features))
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
    movable = None
    if fixed and num_features is None:
        raise ValueError("num_features is needed where features are frozen")
    # Where n is said all may be free: inputs of another n are then refused.
    if num_features is not None:
        movable = np.ones(num_features, bool)
        movable[sorted(fixed)] = False
        movable = jnp.asarray(movable)
    low, high = _bounds(lower, upper, num_features)
    # `float` is float32, and float64 where JAX has it enabled.
    return ThreatModel(
        epsilon=jnp.asarray(epsilon, float),
        lower=None if low is None else jnp.asarray(low, float),
        upper=None if high is None else jnp.asarray(high, float),
        movable=movable,
        penalty=jnp.asarray(penalty, float),
        norm=norm,
        groups=kept,
        prediction=prediction,
        absent=absent,
        clip=bool(clip),
    )


def _bounds(lower, upper, num_features):
    """The bounds of the box as arrays [] or [n], None where there is none."""
    bounds = []
    n = "n" if num_features is None else num_features
    for name, value in (("lower", lower), ("upper", upper)):
        try:
            bound = None if value is None else np.asarray(value, float)
            # NumPy reads numbers out of texts.
            if np.asarray(value).dtype.kind in "SU":
                raise TypeError(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must hold numbers, got {value!r}") from error
        shape = () if bound is None else bound.shape
        if shape and shape != (len(bound) if n == "n" else n,):
            raise ValueError(f"{name} must be a number or [{n}], got shape {shape}")
        bounds.append(bound)
        n = shape[0] if shape else n
    low, high = (
        edge if bound is None else bound
        for bound, edge in zip(bounds, (-np.inf, np.inf), strict=True)
    )
    if not np.all(np.less_equal(low, high)):  # NaN included
        raise ValueError(f"lower must not exceed upper, got {lower} and {upper}")
    return bounds


def check_threat(threat: ThreatModel) -> None:
    """Raise unless it is a threat model, such as a bare budget is not."""
    if not isinstance(threat, ThreatModel):
        raise ValueError(
            f"threat must be a threat model, such as threat_model('l2', 0.5), got "
            f"{threat!r}"
        )


def with_epsilon(threat: ThreatModel, epsilon: float) -> ThreatModel:
    """The same threat model at another budget.

    Args:
      threat: the threat model.
      epsilon: its new budget ≥ 0, in units of x.

    Returns:
      `ThreatModel`.

    Raises:
      ValueError: for a negative budget.

    Example:
      >>> print(with_epsilon(threat_model("l2", 1.0), 0.5).epsilon)
      0.5
    """
    check_nonnegative("epsilon", epsilon)
    dtype = threat.epsilon.dtype
    return dataclasses.replace(threat, epsilon=jnp.asarray(epsilon, dtype))
