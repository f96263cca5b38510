"""Reading a model's own program (its jaxpr): its kinks, their stand-ins, its parts."""

from r2et_jax.programs.linear_part import has_linear_part as has_linear_part
from r2et_jax.programs.transform import Contents as Contents
from r2et_jax.programs.transform import crossing as crossing
from r2et_jax.programs.transform import describe as describe
from r2et_jax.programs.transform import has_kinks as has_kinks
from r2et_jax.programs.transform import kinks as kinks
from r2et_jax.programs.transform import smooth as smooth

__all__ = [
    "crossing",
    "describe",
    "has_kinks",
    "kinks",
    "smooth",
]
