"""Training of single models and of grids, and the selection of checkpoints."""

from r2et_jax.training.checkpoint import load_model as load_model
from r2et_jax.training.checkpoint import save_model as save_model
from r2et_jax.training.epochs import REFERENCES as REFERENCES
from r2et_jax.training.epochs import TrainState as TrainState
from r2et_jax.training.epochs import init_state as init_state
from r2et_jax.training.epochs import train_epochs as train_epochs
from r2et_jax.training.epochs import train_step as train_step
from r2et_jax.training.grid import compile_grid as compile_grid
from r2et_jax.training.grid import grid_states as grid_states
from r2et_jax.training.optimizers import SCHEDULES as SCHEDULES
from r2et_jax.training.optimizers import adam as adam
from r2et_jax.training.packing import params_sha256 as params_sha256
from r2et_jax.training.resume import Checkpoints as Checkpoints
from r2et_jax.training.resume import Restored as Restored
from r2et_jax.training.search import search as search
from r2et_jax.training.selection import Choice as Choice
from r2et_jax.training.selection import admissible as admissible
from r2et_jax.training.selection import select as select
from r2et_jax.training.short import train as train

__all__ = [
    "Checkpoints",
    "TrainState",
    "adam",
    "compile_grid",
    "grid_states",
    "init_state",
    "search",
    "select",
    "train",
    "train_epochs",
    "train_step",
]
