"""Metrics of explanations and predictions: plain arrays in, arrays out."""

from r2et_jax.metrics.agreement import average_ranks as average_ranks
from r2et_jax.metrics.agreement import chance_corrected as chance_corrected
from r2et_jax.metrics.agreement import kendall as kendall
from r2et_jax.metrics.agreement import mse as mse
from r2et_jax.metrics.agreement import pearson as pearson
from r2et_jax.metrics.agreement import precision_at_k as precision_at_k
from r2et_jax.metrics.agreement import spearman as spearman
from r2et_jax.metrics.bootstrap import Comparison as Comparison
from r2et_jax.metrics.bootstrap import (
    hierarchical_bootstrap as hierarchical_bootstrap,
)
from r2et_jax.metrics.classification import accuracy as accuracy
from r2et_jax.metrics.classification import prediction_shift as prediction_shift
from r2et_jax.metrics.classification import roc_auc as roc_auc
from r2et_jax.metrics.classification import roc_auc_ranked as roc_auc_ranked
from r2et_jax.metrics.classification import sensitivity as sensitivity
from r2et_jax.metrics.discordance import Discordance as Discordance
from r2et_jax.metrics.discordance import discordance as discordance
from r2et_jax.metrics.faithfulness import Faithfulness as Faithfulness
from r2et_jax.metrics.faithfulness import conditional_baseline as conditional_baseline
from r2et_jax.metrics.faithfulness import constant_baseline as constant_baseline
from r2et_jax.metrics.faithfulness import faithfulness as faithfulness
from r2et_jax.metrics.ground_truth import truth_precision as truth_precision
from r2et_jax.metrics.guards import NullShare as NullShare
from r2et_jax.metrics.guards import background_share as background_share
from r2et_jax.metrics.guards import data_directions as data_directions
from r2et_jax.metrics.guards import linear_r2 as linear_r2
from r2et_jax.metrics.guards import null_share as null_share
from r2et_jax.metrics.perturbing import Curves as Curves
from r2et_jax.metrics.perturbing import deletion_insertion as deletion_insertion
from r2et_jax.metrics.perturbing import (
    faithfulness_correlation as faithfulness_correlation,
)
from r2et_jax.metrics.perturbing import infidelity as infidelity
from r2et_jax.metrics.same import corrected_precision as corrected_precision
from r2et_jax.metrics.same import mean_topk_overlap as mean_topk_overlap
from r2et_jax.metrics.same import overlap_covariance as overlap_covariance
from r2et_jax.metrics.statistics import CONFIDENCE as CONFIDENCE
from r2et_jax.metrics.statistics import Estimate as Estimate
from r2et_jax.metrics.statistics import by_run as by_run
from r2et_jax.metrics.statistics import differences as differences
from r2et_jax.metrics.statistics import estimate as estimate
from r2et_jax.metrics.statistics import holm as holm
from r2et_jax.metrics.statistics import jackknife_stderr as jackknife_stderr
from r2et_jax.metrics.statistics import over_runs as over_runs
from r2et_jax.metrics.statistics import verdicts as verdicts
from r2et_jax.metrics.summary import Summary as Summary
from r2et_jax.metrics.summary import distinct_inputs as distinct_inputs
from r2et_jax.metrics.summary import mean_and_stderr as mean_and_stderr
from r2et_jax.metrics.summary import means_by_unit as means_by_unit
from r2et_jax.metrics.thickness import InputThickness as InputThickness
from r2et_jax.metrics.thickness import thickness as thickness
from r2et_jax.metrics.worst_case import LargestChange as LargestChange
from r2et_jax.metrics.worst_case import local_lipschitz as local_lipschitz
from r2et_jax.metrics.worst_case import sensitivity_max as sensitivity_max
from r2et_jax.numerics import pareto_mask as pareto_mask

__all__ = [
    "Estimate",
    "Summary",
    "accuracy",
    "corrected_precision",
    "deletion_insertion",
    "estimate",
    "faithfulness",
    "faithfulness_correlation",
    "hierarchical_bootstrap",
    "holm",
    "infidelity",
    "jackknife_stderr",
    "kendall",
    "linear_r2",
    "local_lipschitz",
    "mean_and_stderr",
    "mean_topk_overlap",
    "mse",
    "null_share",
    "over_runs",
    "overlap_covariance",
    "pareto_mask",
    "pearson",
    "precision_at_k",
    "prediction_shift",
    "roc_auc",
    "sensitivity",
    "sensitivity_max",
    "spearman",
    "thickness",
    "verdicts",
]
