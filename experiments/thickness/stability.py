"""Statistical stability: thickness of the inputs a model has learnt, and of others."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from experiments.console.progress import track
from experiments.loop import setup
from experiments.measures import thickness
from experiments.measures.thickness import Sampling
from experiments.problems import presets
from experiments.problems.registry import Problem, View
from experiments.store.numbers import measured
from r2et_jax import score, training
from r2et_jax.context import in_context
from r2et_jax.execution import kept, map_batched
from r2et_jax.ranking.topk import border
from r2et_jax.training.weights import TABULAR_FEATURES


class Learning(NamedTuple):
    """How training samples of several sizes are drawn and learnt.

    Attributes:
      sizes: numbers of training inputs; see `sample_sizes`.
      num_steps: of training, the same for all sizes.
      batch_size, learning_rate: of Adam.
      num_unseen: inputs outside of the sample, at most.
      sampling: for thickness; its inputs are of no account.
    """

    sizes: tuple[int, ...]
    num_steps: int
    batch_size: int
    learning_rate: float
    num_unseen: int
    sampling: Sampling


# By preset, of tables and of all other data.
LEARNINGS = {
    at: Learning(*learnt, Sampling(0, num_draws, num_points))
    for at, (*learnt, num_draws, num_points) in presets.STABILITY.items()
}
THICKNESS, MARGINS = "thickness_difference", "margin_distance"


def sample_sizes(problem: Problem, learning: Learning) -> tuple[int, ...]:
    """The sizes that are there; of tables they leave three quarters unseen."""
    least = 4 if problem.view.tabular else 1
    return tuple(m for m in learning.sizes if least * m <= len(problem.dataset.train.y))


class Difference(NamedTuple):
    """What a model learnt from m inputs shows of these and of unseen ones.

    Attributes:
      thickness: mean over the sample less that over the unseen inputs.
      margins: Kolmogorov–Smirnov distance between the distributions of the gap between
        ranks k and k + 1.
      thickness_unseen: mean over the unseen inputs.
      num_unseen: how many these are.
    """

    thickness: float
    margins: float
    thickness_unseen: float
    num_unseen: int


def differences(
    problem: Problem,
    method: str,
    size: int,
    *,
    seed: int,
    k: int,
    epsilon: float,
    learning: Learning,
) -> Difference:
    """Train a method on a random sample, and compare it with unseen inputs.

    Those of tables are other training inputs. Pairs share images or graphs with each
    other within a split: there, and of all that is no table, they are test inputs.

    Args:
      problem: the data.
      method: of `presets.LEARNT_METHODS`.
      size: m, one of `sample_sizes`.
      seed: of the sample, the initialisation and the shuffling.
      k: size of the top set.
      epsilon: radius of the ball of thickness.
      learning: how much is trained and measured.
    """
    whole = problem.inputs("train")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(whole.y))
    inside = order[:size]
    # Copies up to the largest size: one compiled program for all sizes.
    rows = np.resize(inside, max(sample_sizes(problem, learning)))
    model, params = _learn(problem, method, rows, seed=seed, k=k, learning=learning)
    # The sample once more in copies: each has draws of its own.
    seen = _take((whole.x, whole.partner), rows)
    if problem.view.tabular:
        rest = order[size : size + learning.num_unseen]
        unseen = _take((whole.x, whole.partner), rest)
    else:
        test = problem.inputs("test")
        rest = rng.permutation(len(test.y))[: learning.num_unseen]
        unseen = _take((test.x, test.partner), rest)
    x, partner = jax.tree.map(lambda *both: np.concatenate(both), seen, unseen)
    sample = thickness.Sample(x, problem.view.context(model, params, partner))
    thick = thickness.estimate(
        problem, model, params, sample, "uniform",
        k=k, epsilon=epsilon, sampling=learning.sampling,
    ).mean  # fmt: skip
    margins = np.asarray(border_gaps(model, k, problem.view)(params, sample))
    count = len(rows)
    return Difference(
        float(thick[:count].mean() - thick[count:].mean()),
        # The p-value is not used, and its exact form is slow.
        float(
            stats.ks_2samp(margins[:size], margins[count:], method="asymp").statistic
        ),
        float(thick[count:].mean()),
        len(thick) - count,
    )


def _take(tree, rows):
    # By the host: XLA would compile for each number of rows.
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _learn(problem, method, rows, *, seed, k, learning):
    """The model of a method and its parameters after training on some inputs."""
    model = problem.model(method)
    x, y = _take(problem.training(), rows)
    epochs = learning.num_steps // (len(rows) // min(learning.batch_size, len(rows)))
    epochs = max(1, epochs)
    # What follows an epoch, as in all training, follows each one where there is any.
    rounds = 1 if problem.view.tabular else epochs
    init, shuffle = jax.random.split(jax.random.key(seed))
    params = model.init(init, problem.sample)
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
    objective = _objective(problem, method, model, k)
    run, optimizer = _trainer(objective, epochs // rounds, epochs, learning)
    # The sample alone: embeddings of graphs are centred by those that were learnt.
    inputs = problem.train_inputs(np.unique(rows))
    states = training.grid_states(
        problem.settle(model, start, inputs),
        optimizer,
        keys=shuffle[None],
        num_weights=1,
    )
    scale = 1.0
    if not problem.view.tabular:
        scale = problem.num_features / TABULAR_FEATURES
    weights = np.float32(scale) * np.asarray(
        [presets.LEARNT_METHODS[method]], np.float32
    )
    for _ in range(rounds):
        states = run(states, weights, x, y)
        states = states._replace(params=problem.settle(model, states.params, inputs))
    return model, jax.tree.map(lambda leaf: np.asarray(leaf)[0, 0, ...], states.params)


@functools.partial(kept, most=4)
def _objective(problem, method, model, k):
    return problem.objective(method, model, k=k)


# By the objective, which folds share.
@functools.partial(kept, most=4)
def _trainer(objective, num_epochs, total_epochs, learning):
    optimizer = training.adam(learning.learning_rate)
    run = training.compile_grid(
        objective,
        optimizer,
        num_epochs=num_epochs,
        batch_size=learning.batch_size,
        total_epochs=total_epochs,
    )
    return run, optimizer


@kept
def border_gaps(model: Any, k: int, view: View):
    """Compiled gaps between ranks k and k + 1: `run(params, Sample) -> [m]`."""
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def run(params, sample):
        def per_example(x, context):
            parameters = in_context(params, context)
            values = explain(parameters, x, score.predicted_class(apply(parameters, x)))
            inner, outer = border(values, k=k)
            return inner - outer

        return map_batched(per_example, tuple(sample), batch_size=256)

    return jax.jit(run)


def measure(problem: Problem, k: int, options, store) -> None:
    """Append the records of all samples of a data set that are not there yet."""
    learning, epsilon = (
        LEARNINGS[options.preset, problem.view.tabular],
        max(options.epsilon),
    )
    cells = [
        (method, size, seed)
        for method in presets.LEARNT_METHODS
        for size in sample_sizes(problem, learning)
        for seed in options.seeds
    ]
    shown = track(cells, description=f"{problem.name} samples", show=options.progress)
    for method, size, seed in shown:
        fields = setup.model_fields(
            options.experiment,
            problem,
            problem.model(method),
            method=method,
            seed=seed,
            k=k,
            tolerance=None,
            schedule="scratch",
        )
        cell = {**fields, "attack": "none", "epsilon": epsilon, "sample_size": size}
        if store.has(**cell):
            continue
        difference = differences(
            problem, method, size, seed=seed, k=k, epsilon=epsilon, learning=learning
        )
        values = {
            THICKNESS: abs(difference.thickness),
            "thickness_excess": difference.thickness,
            "thickness_unseen": difference.thickness_unseen,
            MARGINS: difference.margins,
        }
        n = difference.num_unseen
        store.append(
            [{**cell, **measured(name, v, None, n)} for name, v in values.items()]
        )
