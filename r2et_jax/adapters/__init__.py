"""Models of other libraries as subjects; each is imported when it is asked for."""

from r2et_jax.adapters.equinox_module import equinox
from r2et_jax.adapters.estimator import sklearn
from r2et_jax.adapters.flax_linen import linen
from r2et_jax.adapters.flax_nnx import nnx
from r2et_jax.adapters.keras_model import keras
from r2et_jax.adapters.predict_function import black_box
from r2et_jax.adapters.quantus_explain import quantus
from r2et_jax.adapters.recognised import subject
from r2et_jax.adapters.torch_module import torch

__all__ = [
    "black_box",
    "equinox",
    "keras",
    "linen",
    "nnx",
    "quantus",
    "sklearn",
    "subject",
    "torch",
]
