"""What the experiments on thickness measure of one model.

Thickness is estimated along segments from an input to draws of three distributions:
uniform in the ball of the budget, Gaussian with the variance of SmoothGrad, and one
adversarial sample, which `ADVERSARY` finds and not the attack that judges robustness.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.measures import evaluation
from experiments.problems import presets
from experiments.problems.registry import Problem
from r2et_jax import metrics, ranking, saliency, score, threat
from r2et_jax.certificates.row_curvature import row_curvature
from r2et_jax.checks import check_in
from r2et_jax.execution import example_keys, kept, map_batched
from r2et_jax.metrics.thickness import InputThickness
from r2et_jax.models.bends import bend_range

DISTRIBUTIONS = ("uniform", "gaussian", "adversarial")
ADVERSARY = "mse"
# Judges robustness, unless another one is named.
ATTACK = "er_surrogate"
# Begins the names of the metrics of `Bounds`.
BOUND = "bound_"
# Standard deviations of SmoothGrad, in the units of the input.
SIGMAS = {"tabular": 0.5**0.5, "image": 25.5 / 255, "graph": 0.1}
# Relative error of rounding in sums of float32, for counts of violated bounds.
_ROUNDING = 1e-4


class Sampling(NamedTuple):
    """How finely thickness is estimated.

    Attributes:
      num_inputs: test inputs.
      num_draws: draws of each random distribution.
      num_points: points on each segment.
    """

    num_inputs: int
    num_draws: int
    num_points: int


# By preset, of tables and of all other data.
SAMPLINGS = {at: Sampling(*values) for at, values in presets.THICKNESS.items()}


class Sample(NamedTuple):
    """The inputs of one measurement with their partners' embeddings, or None."""

    x: Any
    context: Any


def sampling(problem: Problem, preset: str) -> Sampling:
    """How finely a preset measures a data set."""
    return SAMPLINGS[preset, problem.view.tabular]


def first_inputs(problem: Problem, model: Any, params: Any, limit: int) -> Sample:
    """The first test inputs."""
    inputs = problem.inputs("test", limit)
    return Sample(inputs.x, problem.view.context(model, params, inputs.partner))


def estimate(
    problem: Problem,
    model: Any,
    params: Any,
    sample: Sample,
    distribution: str,
    *,
    k: int,
    epsilon: float | None,
    sampling: Sampling,
) -> InputThickness:
    """The thickness of every input of a sample under one distribution.

    Args:
      problem: the data.
      model: the Flax module.
      params: its parameters.
      sample: the inputs.
      distribution: one of `DISTRIBUTIONS`.
      k: size of the top set.
      epsilon: the budget; of no account for "gaussian".
      sampling: draws and points; an adversarial sample is one draw.
    """
    check_in("distribution", distribution, DISTRIBUTIONS)
    view, ends = problem.view, None
    ball = problem.threat_model(0.0 if distribution == "gaussian" else epsilon)
    if distribution == "adversarial":
        attack = evaluation.compiled_attack(model, ADVERSARY, k, view, evaluations=0)
        key = jax.random.key(0)
        result = attack(params, sample.x, ball, key=key, context=sample.context)
        distribution, ends = "given", result.details.last
    return metrics.thickness(
        view.explained(model, params, sample.context),
        np.asarray(sample.x),
        ball,
        k=k,
        key=jax.random.key(1),
        distribution=distribution,
        ends=ends,
        sigma=SIGMAS[view.kind],
        num_draws=sampling.num_draws,
        num_points=sampling.num_points,
        batch_size=view.batch_size,
    )


class Bounds(NamedTuple):
    """Bounds on the smooth stand-in of one model, for every input [m].

    Gaps are means over the pairs, relative to that of the input itself.

    Attributes:
      lower, upper: the corrected bounds on the mean gap along the segments.
      published_lower, published_upper: the published ones.
      uniform: the mean gap along segments to uniform draws.
      adversarial: the same toward an adversarial sample.
      violated: share of pairs whose gap toward the adversarial sample is outside of
        the corrected bounds.
      published_violated: share of pairs below the published lower bound.
      thickness_bound: mean over the pairs of the lower bound on Θ_ij.
      thickness: mean Θ_ij under uniform draws, which it bounds.
      thickness_adversarial: and toward the adversarial sample.
    """

    lower: np.ndarray
    upper: np.ndarray
    published_lower: np.ndarray
    published_upper: np.ndarray
    uniform: np.ndarray
    adversarial: np.ndarray
    violated: np.ndarray
    published_violated: np.ndarray
    thickness_bound: np.ndarray
    thickness: np.ndarray
    thickness_adversarial: np.ndarray


def bounds(
    problem: Problem,
    model: Any,
    params: Any,
    x: Any,
    ends: Any,
    *,
    k: int,
    epsilon: float,
    sampling: Sampling,
) -> Bounds:
    """Bounds on the thickness of a network with one hidden layer, and what they bound.

    Args:
      problem: a table.
      model, params: the network; one with kinks is replaced by its smooth stand-in.
      x: inputs [m, n].
      ends: points of the ball around each input [m, n], adversarial for the stand-in.
      k: size of the top set.
      epsilon: radius of the l2 ball.
      sampling: draws and points.
    """
    smooth = model.surrogate(rho=problem.view.rho)
    run = _bounds(smooth, k, sampling.num_draws, sampling.num_points)
    out = run(params, x, jnp.asarray(ends), problem.threat_model(epsilon))
    return Bounds(*(np.asarray(leaf, np.float64) for leaf in out))


@kept
def _bounds(model, k: int, num_draws: int, num_points: int):
    bends = bend_range(model.activation, rho=model.rho)
    curvature = row_curvature(model.apply, model.layers, bends, k=k)
    explain = saliency.gradient(score.log_odds(model.apply), normalize=False)
    times = (jnp.arange(num_points) + 0.5) / num_points

    def per_example(params, x, end, key, ball):
        epsilon = ball.epsilon
        gradient, norms = curvature(params, x, epsilon)
        at_input = curvature(params, x, 0 * epsilon)[1]
        ours = ranking.gap_bounds(gradient, norms, k=k, epsilon=epsilon)
        theirs = ranking.published_gap_bounds(
            gradient, norms, at_input, k=k, epsilon=epsilon
        )
        share = ranking.thickness_bound(gradient, norms, k=k, epsilon=epsilon)
        target = score.predicted_class(model.apply(params, x))
        clean = explain(params, x, target)

        def along(end):
            points = x + times[:, None] * (end - x)
            maps = jax.vmap(lambda point: explain(params, point, target))(points)
            gaps = jax.vmap(lambda v: ranking.pairwise_gaps(v, clean, k=k))(maps)
            above = jnp.mean(gaps >= 0, axis=0, dtype=x.dtype)
            return jnp.mean(gaps, axis=0), above

        draws = jax.vmap(lambda key: threat.sample(ball, x, key=key))(
            jax.random.split(key, num_draws)
        )
        drawn, drawn_above = jax.lax.map(along, draws)
        attacked, attacked_above = along(end)
        slack = _ROUNDING * jnp.max(clean)
        low = attacked < ours.lower - slack
        outside = low | (attacked > ours.upper + slack)
        mean = jnp.mean(ranking.pairwise_gaps(clean, clean, k=k))
        relative = (*ours, *theirs, drawn, attacked)
        shares = (
            outside,
            attacked < theirs.lower - slack,
            share,
            drawn_above,
            attacked_above,
        )
        return Bounds(
            *(jnp.mean(value) / mean for value in relative),
            *(jnp.mean(value, dtype=x.dtype) for value in shares),
        )

    def run(params, x, ends, ball):
        keys = example_keys(jax.random.key(2), len(x))
        return map_batched(
            lambda *args: per_example(params, *args, ball),
            (x, ends, keys),
            batch_size=16,
        )

    return jax.jit(run)
