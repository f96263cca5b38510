"""Top-k sets and the gaps between their features and the rest."""

from r2et_jax.ranking.gaps import pairwise_gaps
from r2et_jax.ranking.thickness import mean_thickness
from r2et_jax.ranking.thickness_bounds import (
    gap_bounds,
    published_gap_bounds,
    thickness_bound,
)
from r2et_jax.ranking.topk import ranks, top_k_indices, top_k_mask, top_k_overlap

__all__ = [
    "gap_bounds",
    "mean_thickness",
    "pairwise_gaps",
    "published_gap_bounds",
    "ranks",
    "thickness_bound",
    "top_k_indices",
    "top_k_mask",
    "top_k_overlap",
]
