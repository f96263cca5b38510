"""Sound affine bounds of any JAX function over a set of inputs, from its program."""

from r2et_jax.bounds.affine import Affine as Affine
from r2et_jax.bounds.bounding import bound as bound
from r2et_jax.bounds.domain import Domain as Domain
from r2et_jax.bounds.domain import ball as ball
from r2et_jax.bounds.domain import box as box
from r2et_jax.bounds.domain import of_threat as of_threat
from r2et_jax.bounds.domain import with_slabs as with_slabs
from r2et_jax.bounds.policy import SLOPES as SLOPES
from r2et_jax.bounds.policy import Policy as Policy

__all__ = [
    "Affine",
    "Domain",
    "Policy",
    "ball",
    "bound",
    "box",
    "of_threat",
    "with_slabs",
]
