"""Flax models."""

from r2et_jax.models.cnn import CNN
from r2et_jax.models.gcn import GCN
from r2et_jax.models.mlp import MLP, Linear, SkipMLP
from r2et_jax.models.resnet import ResNet9
from r2et_jax.models.siamese import Siamese, pair_apply

__all__ = ["CNN", "GCN", "MLP", "Linear", "ResNet9", "Siamese", "SkipMLP", "pair_apply"]
