"""Flax models."""

from r2et_jax.models.activations import activation as activation
from r2et_jax.models.activations import leaky_softplus as leaky_softplus
from r2et_jax.models.activations import scaled_softplus as scaled_softplus
from r2et_jax.models.mlp import MLP as MLP
from r2et_jax.models.mlp import Linear as Linear
from r2et_jax.models.mlp import SkipMLP as SkipMLP
