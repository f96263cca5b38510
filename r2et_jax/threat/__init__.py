"""The threat model: what an adversary may do to an input."""

from r2et_jax.threat.definition import (
    ABSENT_RULES,
    GROUP_RULES,
    NORMS,
    PREDICTION_RULES,
    ThreatModel,
    check_threat,
    threat_model,
    with_epsilon,
)
from r2et_jax.threat.geometry import (
    admissible_gradient,
    are_inside,
    check_inputs,
    contains,
    distance,
    movable_features,
    project,
    project_bounded_simplex,
    sample,
    sample_boundary,
)

__all__ = [
    "NORMS",
    "ThreatModel",
    "contains",
    "distance",
    "project",
    "sample",
    "sample_boundary",
    "threat_model",
    "with_epsilon",
]
