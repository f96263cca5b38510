"""Curvature of a score: Hessian-vector products, norms, largest eigenvalue."""

from r2et_jax.curvature.lanczos import Eigenvalue as Eigenvalue
from r2et_jax.curvature.lanczos import largest_eigenvalue as largest_eigenvalue
from r2et_jax.curvature.lanczos import spectral_norm as spectral_norm
from r2et_jax.curvature.logit_space import OUTPUT_KINDS as OUTPUT_KINDS
from r2et_jax.curvature.logit_space import (
    composite_spectral_norm as composite_spectral_norm,
)
from r2et_jax.curvature.logit_space import output_hessian as output_hessian
from r2et_jax.curvature.logit_space import (
    piecewise_linear_spectral_norm as piecewise_linear_spectral_norm,
)
from r2et_jax.curvature.norms import frobenius_norm as frobenius_norm
from r2et_jax.curvature.norms import (
    frobenius_norm_squared_hutchinson as frobenius_norm_squared_hutchinson,
)
from r2et_jax.curvature.norms import (
    gram_frobenius_norm_squared as gram_frobenius_norm_squared,
)
from r2et_jax.curvature.norms import safe_sqrt as safe_sqrt
from r2et_jax.curvature.products import directional_norm as directional_norm
from r2et_jax.curvature.products import finite_difference_hvp as finite_difference_hvp
from r2et_jax.curvature.products import hvp as hvp
from r2et_jax.curvature.products import sign_direction as sign_direction

__all__ = [
    "directional_norm",
    "finite_difference_hvp",
    "frobenius_norm",
    "frobenius_norm_squared_hutchinson",
    "hvp",
    "largest_eigenvalue",
    "spectral_norm",
]
