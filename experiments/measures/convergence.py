"""Multi-objective descent on one model's inputs, and the numbers of its theory.

Its facts need smooth explanations: a network with kinks is replaced by its smooth
surrogate (same parameters), |g| by √(g² + μ²) − μ. Everything runs in float64, since
the directions fall through many orders of magnitude. The region is unbounded.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.problems import presets
from r2et_jax import attacks, metrics, saliency, score, threat
from r2et_jax.attacks.multiobjective import ARMIJO, GAP_SHARE
from r2et_jax.attacks.multiobjective_trace import DescentResult, trace_descent
from r2et_jax.attacks.smooth_terms import smoothed_gradient
from r2et_jax.execution import kept

ATTACK = "multiobjective"
# Smoothing of |g|, in units of the log-odds' gradient.
MU = 1e-3
# Length of a step at most where steps until a flip are counted, in units of the
# standardised inputs: numbers of steps are then comparable between models whose
# gradients differ in scale. The rate is measured on steps without a bound.
MAX_LENGTH = 0.05


class Lengths(NamedTuple):
    """How many inputs are descended, and how many steps each.

    Attributes:
      num_inputs: inputs.
      rate_steps: steps of unbounded length, for the rate.
      flip_steps: steps of at most MAX_LENGTH, for the steps until a flip.
    """

    num_inputs: int
    rate_steps: int
    flip_steps: int


LENGTHS = {at: Lengths(*values) for at, values in presets.CONVERGENCE.items()}


class Rate(NamedTuple):
    """How the directions of m inputs fall.

    Attributes:
      lowest: min_{s ≤ t} ‖d_s‖ [m, steps].
      bound: what Armijo's rule guarantees for it [m, steps]; infinite at t = 0.
      exponent: log(lowest_T/lowest_1)/log T at the last step T [m]; 1/√T is −.5. NaN
        for inputs that were critical at the start.
      num_violations: entries of lowest above the bound.
      num_rises: accepted steps in which an objective did not fall.
    """

    lowest: np.ndarray
    bound: np.ndarray
    exponent: np.ndarray
    num_violations: int
    num_rises: int


class Dependence(NamedTuple):
    """How the steps until the first top-k feature leaves depend on the initial gap.

    Attributes:
      pearson, spearman: over the inputs that were manipulated; NaN for fewer than 3.
      pearson_log: of the logarithms.
      spearman_all: with the censored inputs, as if they had all needed one more step
        than was tried.
      n, num_censored: manipulated inputs, and the others.
    """

    pearson: float
    spearman: float
    pearson_log: float
    spearman_all: float
    n: int
    num_censored: int


@kept
def descent(model: Any, k: int, num_steps: int, *, max_length: float = math.inf):
    """Compiled descent: `run(params, x [m, n]) -> DescentResult`, NumPy in and out.

    Args:
      model: the Flax module; one with kinks is replaced by its surrogate.
      k: size of the top set.
      num_steps: steps for each input.
      max_length: of a step, in units of x.
    """
    smooth = model.surrogate(rho=presets.SURROGATE_RHO)
    explained = score.log_odds(smooth.apply)
    attack = attacks.multiobjective_attack(
        smooth.apply,
        saliency.gradient(explained),
        k=k,
        attack_saliency=smoothed_gradient(explained, mu=MU, normalize=False),
        project=False,
        max_length=max_length,
    )

    def per_example(params, x):
        return trace_descent(
            attack,
            params,
            x,
            score.predicted_class(smooth.apply(params, x)),
            threat.threat_model(),  # its budget plays no part: nothing is projected
            key=jax.random.key(0),
            num_steps=num_steps,
        )

    compiled = jax.jit(jax.vmap(per_example, (None, 0)))

    def run(params, x):
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (params, x))
            return jax.tree.map(np.asarray, compiled(*double))

    return run


def rate(result: DescentResult) -> Rate:
    """The rate of convergence of a batch; see `Rate`."""
    trace = result.trace
    lowest = np.minimum.accumulate(trace.direction_norm, axis=1)
    num_steps = lowest.shape[1]
    taken = np.cumsum(trace.step_size, axis=1)[:, :-1]
    fallen = np.maximum(trace.least_decrease[:, 1:], 0)
    bound = np.full(lowest.shape, np.inf)
    share = ARMIJO * (1 - GAP_SHARE)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(taken > 0, fallen / (share * taken), np.inf)
    # The bound at t holds for the directions before x_t.
    bound[:, 1:] = np.sqrt(squares)
    violated = lowest[:, :-1] > bound[:, 1:] * (1 + 1e-9)
    fall = np.log(np.maximum(lowest[:, -1], np.finfo(float).tiny))
    fall = fall - np.log(np.maximum(lowest[:, 0], np.finfo(float).tiny))
    exponent = np.where(result.num_steps > 0, fall / np.log(num_steps), np.nan)
    accepted = trace.step_size > 0
    return Rate(
        lowest=lowest,
        bound=bound,
        exponent=exponent,
        num_violations=int(violated.sum()),
        num_rises=int((trace.worst_change[accepted] >= 0).sum()),
    )


# Compiled: cells differ in how many inputs were manipulated, and by single operations
# each number of them costs some thirty programs.
_pearson, _spearman = jax.jit(metrics.pearson), jax.jit(metrics.spearman)


def dependence(gaps: np.ndarray, steps: np.ndarray, *, num_steps: int) -> Dependence:
    """Correlations of initial gaps [m] with steps [m], 0 for a censored input."""
    flipped = steps > 0
    n = int(flipped.sum())
    correlations = dict.fromkeys(("pearson", "spearman", "pearson_log"), np.nan)
    with jax.enable_x64(True):
        if n >= 3:
            g, s = gaps[flipped], steps[flipped].astype(float)
            logs = np.log(np.maximum(g, np.finfo(float).tiny)), np.log(s)
            correlations = {
                "pearson": float(_pearson(g, s)),
                "spearman": float(_spearman(g, s)),
                "pearson_log": float(_pearson(*logs)),
            }
        filled = np.where(flipped, steps, num_steps + 1).astype(float)
        whole = float(_spearman(gaps, filled)) if len(gaps) >= 3 else np.nan
    return Dependence(
        **correlations, spearman_all=whole, n=n, num_censored=len(gaps) - n
    )


def initial_gaps(result: DescentResult) -> np.ndarray:
    """The smallest gap at the start [m]."""
    return result.trace.smallest_gap[:, 0]
