"""The threat model: what an adversary may do to an input."""

from r2et_jax.threat.definition import ThreatModel, threat_model
from r2et_jax.threat.geometry import contains, distance, project, sample

__all__ = ["ThreatModel", "contains", "distance", "project", "sample", "threat_model"]
