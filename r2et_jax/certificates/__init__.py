"""Bounds on rankings that hold over a whole ball of inputs."""

from r2et_jax.certificates.batch import certified_radii, certify
from r2et_jax.certificates.counting import Certificate, ranking_certificate
from r2et_jax.certificates.exact import exact_certificate
from r2et_jax.certificates.programs import program_certificate
from r2et_jax.certificates.smoothed import smoothed_certificate
from r2et_jax.certificates.smoothing import smoothed_counts

__all__ = [
    "Certificate",
    "certified_radii",
    "certify",
    "exact_certificate",
    "program_certificate",
    "ranking_certificate",
    "smoothed_certificate",
    "smoothed_counts",
]
