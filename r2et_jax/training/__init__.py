"""Training of single models and of grids, and the selection of checkpoints."""

from r2et_jax.training.epochs import init_state, train_epochs
from r2et_jax.training.grid import compile_grid, grid_states
from r2et_jax.training.optimizers import adam
from r2et_jax.training.resume import Checkpoints
from r2et_jax.training.search import search
from r2et_jax.training.selection import select
from r2et_jax.training.short import train

__all__ = [
    "Checkpoints",
    "adam",
    "compile_grid",
    "grid_states",
    "init_state",
    "search",
    "select",
    "train",
    "train_epochs",
]
