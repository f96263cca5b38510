"""Bounds on rankings that hold over a whole ball of inputs."""

from r2et_jax.certificates.agreement import layers_agree as layers_agree
from r2et_jax.certificates.agreement import layers_check as layers_check
from r2et_jax.certificates.batch import certified_radii as certified_radii
from r2et_jax.certificates.batch import certify as certify
from r2et_jax.certificates.counting import Certificate as Certificate
from r2et_jax.certificates.counting import certified_radius as certified_radius
from r2et_jax.certificates.counting import ranking_certificate as ranking_certificate
from r2et_jax.certificates.exact import exact_certificate as exact_certificate
from r2et_jax.certificates.exact import is_piecewise_linear as is_piecewise_linear
from r2et_jax.certificates.intervals import OneHiddenLayer as OneHiddenLayer
from r2et_jax.certificates.intervals import feature_gap_bounds as feature_gap_bounds
from r2et_jax.certificates.intervals import gap_bounds as gap_bounds
from r2et_jax.certificates.intervals import gradient_bounds as gradient_bounds
from r2et_jax.certificates.intervals import preactivations as preactivations
from r2et_jax.certificates.intervals import slope_bounds as slope_bounds
from r2et_jax.certificates.intervals import unit_reach as unit_reach
from r2et_jax.certificates.programs import program_certificate as program_certificate
from r2et_jax.certificates.row_curvature import row_curvature as row_curvature
from r2et_jax.certificates.smoothed import smoothed_certificate as smoothed_certificate
from r2et_jax.certificates.smoothing import smoothed_counts as smoothed_counts

__all__ = [
    "Certificate",
    "certified_radii",
    "certified_radius",
    "certify",
    "exact_certificate",
    "is_piecewise_linear",
    "program_certificate",
    "ranking_certificate",
    "row_curvature",
    "smoothed_certificate",
    "smoothed_counts",
]
