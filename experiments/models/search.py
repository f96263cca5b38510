"""The search of one method's grid, which is the library's."""

from r2et_jax.training.search import Plan as Plan
from r2et_jax.training.search import search as search
