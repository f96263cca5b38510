"""Models of other libraries as subjects; each is imported when it is asked for."""

from r2et_jax.adapters.equinox_module import equinox as equinox
from r2et_jax.adapters.estimator import sklearn as sklearn
from r2et_jax.adapters.flax_linen import linen as linen
from r2et_jax.adapters.flax_nnx import nnx as nnx
from r2et_jax.adapters.keras_model import keras as keras
from r2et_jax.adapters.predict_function import black_box as black_box
from r2et_jax.adapters.quantus_explain import quantus as quantus
from r2et_jax.adapters.recognised import subject as subject
from r2et_jax.adapters.torch_module import torch as torch

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
