"""Reading a model's own program (its jaxpr): its kinks, their stand-ins, its parts."""

from r2et_jax.programs.transform import describe, smooth, straight_through

__all__ = ["describe", "smooth", "straight_through"]
