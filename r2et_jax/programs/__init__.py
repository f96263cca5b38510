"""Reading a model's own program (its jaxpr): its kinks, their stand-ins, its parts."""

from r2et_jax.programs.transform import describe, smooth

__all__ = ["describe", "smooth"]
