"""Curvature of a score: Hessian-vector products, norms, largest eigenvalue."""

from r2et_jax.curvature.lanczos import largest_eigenvalue, spectral_norm
from r2et_jax.curvature.norms import frobenius_norm, frobenius_norm_squared_hutchinson
from r2et_jax.curvature.products import hvp

__all__ = [
    "frobenius_norm",
    "frobenius_norm_squared_hutchinson",
    "hvp",
    "largest_eigenvalue",
    "spectral_norm",
]
