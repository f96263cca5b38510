"""Flax models."""

from r2et_jax.models.activations import activation as activation
from r2et_jax.models.activations import leaky_softplus as leaky_softplus
from r2et_jax.models.activations import scaled_softplus as scaled_softplus
from r2et_jax.models.bends import bend_range as bend_range
from r2et_jax.models.cnn import CNN as CNN
from r2et_jax.models.gcn import GCN as GCN
from r2et_jax.models.gcn import adjacency as adjacency
from r2et_jax.models.gcn import edge_list as edge_list
from r2et_jax.models.gcn import sparse_graph as sparse_graph
from r2et_jax.models.gcn import upper_triangle as upper_triangle
from r2et_jax.models.lines import slope_lines as slope_lines
from r2et_jax.models.mlp import MLP as MLP
from r2et_jax.models.mlp import Linear as Linear
from r2et_jax.models.mlp import SkipMLP as SkipMLP
from r2et_jax.models.pooling import pool as pool
from r2et_jax.models.registry import build as build
from r2et_jax.models.registry import describe as describe
from r2et_jax.models.resnet import ResNet9 as ResNet9
from r2et_jax.models.siamese import Siamese as Siamese
from r2et_jax.models.siamese import class_apply as class_apply
from r2et_jax.models.siamese import pair_apply as pair_apply
from r2et_jax.models.siamese import pair_split as pair_split
from r2et_jax.models.siamese import recenter as recenter
from r2et_jax.models.slopes import OneHiddenLayer as OneHiddenLayer
from r2et_jax.models.slopes import slope_range as slope_range

__all__ = [
    "CNN",
    "GCN",
    "Linear",
    "MLP",
    "ResNet9",
    "Siamese",
    "SkipMLP",
    "build",
    "describe",
    "pair_apply",
]
