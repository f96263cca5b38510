"""Sound affine bounds of any JAX function over a set of inputs, from its program."""

from r2et_jax.bounds.bounding import bound
from r2et_jax.bounds.domain import ball, box, of_threat
from r2et_jax.bounds.policy import Policy

__all__ = ["Policy", "ball", "bound", "box", "of_threat"]
