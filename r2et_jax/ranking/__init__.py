"""Top-k sets and the gaps between their features and the rest."""

from r2et_jax.ranking.gaps import anchored_weights as anchored_weights
from r2et_jax.ranking.gaps import border_features as border_features
from r2et_jax.ranking.gaps import features_at as features_at
from r2et_jax.ranking.gaps import mean_exponential_gap as mean_exponential_gap
from r2et_jax.ranking.gaps import (
    mean_exponential_smallest as mean_exponential_smallest,
)
from r2et_jax.ranking.gaps import mean_gap_scale as mean_gap_scale
from r2et_jax.ranking.gaps import mean_gap_weights as mean_gap_weights
from r2et_jax.ranking.gaps import pairwise_gaps as pairwise_gaps
from r2et_jax.ranking.gaps import smallest_pair_weights as smallest_pair_weights
from r2et_jax.ranking.gaps import weighted_sum as weighted_sum
from r2et_jax.ranking.thickness import Thickness as Thickness
from r2et_jax.ranking.thickness import mean_thickness as mean_thickness
from r2et_jax.ranking.thickness import ordered_share as ordered_share
from r2et_jax.ranking.thickness import pair_thickness as pair_thickness
from r2et_jax.ranking.thickness_bounds import GapBounds as GapBounds
from r2et_jax.ranking.thickness_bounds import RowNorms as RowNorms
from r2et_jax.ranking.thickness_bounds import gap_bounds as gap_bounds
from r2et_jax.ranking.thickness_bounds import (
    published_gap_bounds as published_gap_bounds,
)
from r2et_jax.ranking.thickness_bounds import row_norms as row_norms
from r2et_jax.ranking.thickness_bounds import thickness_bound as thickness_bound
from r2et_jax.ranking.topk import at as at
from r2et_jax.ranking.topk import border as border
from r2et_jax.ranking.topk import border_tie as border_tie
from r2et_jax.ranking.topk import descending_order as descending_order
from r2et_jax.ranking.topk import leading as leading
from r2et_jax.ranking.topk import leading_masks as leading_masks
from r2et_jax.ranking.topk import positive_top_k_mask as positive_top_k_mask
from r2et_jax.ranking.topk import ranks as ranks
from r2et_jax.ranking.topk import top_k_indices as top_k_indices
from r2et_jax.ranking.topk import top_k_mask as top_k_mask
from r2et_jax.ranking.topk import top_k_overlap as top_k_overlap

__all__ = [
    "gap_bounds",
    "mean_thickness",
    "pair_thickness",
    "pairwise_gaps",
    "positive_top_k_mask",
    "published_gap_bounds",
    "ranks",
    "thickness_bound",
    "top_k_indices",
    "top_k_mask",
    "top_k_overlap",
]
