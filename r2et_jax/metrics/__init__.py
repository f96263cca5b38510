"""Metrics of explanations and predictions: plain arrays in, arrays out."""

from r2et_jax.metrics.agreement import kendall, mse, pearson, precision_at_k, spearman
from r2et_jax.metrics.classification import accuracy, roc_auc, sensitivity
from r2et_jax.metrics.faithfulness import constant_baseline, faithfulness
from r2et_jax.metrics.ground_truth import truth_precision
from r2et_jax.metrics.guards import linear_r2, null_share
from r2et_jax.metrics.perturbing import (
    deletion_insertion,
    faithfulness_correlation,
    infidelity,
)
from r2et_jax.metrics.same import mean_topk_overlap
from r2et_jax.metrics.statistics import estimate, holm, verdicts
from r2et_jax.metrics.thickness import thickness
from r2et_jax.metrics.worst_case import local_lipschitz, sensitivity_max

__all__ = [
    "accuracy",
    "constant_baseline",
    "deletion_insertion",
    "estimate",
    "faithfulness",
    "faithfulness_correlation",
    "holm",
    "infidelity",
    "kendall",
    "linear_r2",
    "local_lipschitz",
    "mean_topk_overlap",
    "mse",
    "null_share",
    "pearson",
    "precision_at_k",
    "roc_auc",
    "sensitivity",
    "sensitivity_max",
    "spearman",
    "thickness",
    "truth_precision",
    "verdicts",
]
