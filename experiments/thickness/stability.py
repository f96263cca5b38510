"""Statistical stability: thickness of the inputs a model has learnt, and of others."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.console.progress import track
from experiments.loop import runs, setup
from experiments.measures import thickness
from experiments.measures.numbers import measured
from experiments.measures.thickness import Effort
from experiments.problems import pair_presets
from experiments.problems.registry import Problem, View
from experiments.report import tables
from experiments.store.records import number, select
from r2et_jax import plots, ranking, score, training
from r2et_jax.context import in_context
from r2et_jax.execution import map_batched


class Plan(NamedTuple):
    """How training samples of several sizes are drawn and learnt.

    Attributes:
      sizes: numbers of training inputs; see `sample_sizes`.
      num_steps: of training, the same for all sizes.
      batch_size, learning_rate: of Adam.
      num_unseen: inputs outside of the sample, at most.
      effort: for thickness; its inputs are of no account.
    """

    sizes: tuple[int, ...]
    num_steps: int
    batch_size: int
    learning_rate: float
    num_unseen: int
    effort: Effort


# By preset, of tables and of all other data.
PLANS = {
    ("smoke", True): Plan((16, 64), 100, 16, 1e-2, 64, Effort(0, 4, 4)),
    ("standard", True): Plan(
        (32, 128, 512, 2048), 1024, 32, 3e-3, 8192, Effort(0, 8, 5)
    ),
    ("paper", True): Plan(
        (32, 128, 512, 2048), 8192, 32, 1e-3, 8192, Effort(0, 32, 10)
    ),
    ("smoke", False): Plan((16, 64), 100, 16, 3e-3, 64, Effort(0, 2, 4)),
    ("standard", False): Plan((16, 64, 256, 1024), 512, 32, 3e-3, 512, Effort(0, 4, 4)),
    ("paper", False): Plan((16, 64, 256, 1024), 4096, 32, 1e-3, 2048, Effort(0, 16, 5)),
}
THICKNESS, MARGINS = "thickness_difference", "margin_distance"
GUIDE = "√(1/m + 1/u)"
_LABELS = {THICKNESS: "|Θ seen − unseen|", MARGINS: "KS of border gaps"}
# Methods that are learnt from samples, and the weights of their penalties on tables.
METHODS = {"vanilla": (), "r2et_nh": (3.0,)}


def sample_sizes(found: Problem, plan: Plan) -> tuple[int, ...]:
    """The sizes that are there; of tables they leave three quarters unseen."""
    least = 4 if found.view.tabular else 1
    return tuple(m for m in plan.sizes if least * m <= len(found.dataset.train.y))


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
    found: Problem,
    method: str,
    size: int,
    *,
    seed: int,
    k: int,
    epsilon: float,
    plan: Plan,
) -> Difference:
    """Train a method on a random sample, and compare it with unseen inputs.

    Those of tables are other training inputs. Pairs share images or graphs with each
    other within a split: there, and of all that is no table, they are test inputs.

    Args:
      found: the data.
      method: of `METHODS`.
      size: m, one of `sample_sizes`.
      seed: of the sample, the initialisation and the shuffling.
      k: size of the top set.
      epsilon: radius of the ball of thickness.
      plan: how much is trained and measured.
    """
    whole = found.inputs("train")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(whole.y))
    inside = order[:size]
    # Copies up to the largest size: one compiled program for all sizes.
    rows = np.resize(inside, max(sample_sizes(found, plan)))
    model, params = _learn(found, method, rows, seed=seed, k=k, plan=plan)
    # The sample once more in copies: each has draws of its own.
    seen = _take((whole.x, whole.partner), rows)
    if found.view.tabular:
        rest = order[size : size + plan.num_unseen]
        unseen = _take((whole.x, whole.partner), rest)
    else:
        test = found.inputs("test")
        rest = rng.permutation(len(test.y))[: plan.num_unseen]
        unseen = _take((test.x, test.partner), rest)
    x, partner = jax.tree.map(lambda *both: jnp.concatenate(both), seen, unseen)
    sample = thickness.Sample(x, found.view.context(model, params, partner))
    thick = thickness.estimate(
        found, model, params, sample, "uniform",
        k=k, epsilon=epsilon, effort=plan.effort,
    ).mean  # fmt: skip
    margins = np.asarray(border_gaps(model, k, found.view)(params, sample))
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
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), tree)


def _learn(found, method, rows, *, seed, k, plan):
    """The model of a method and its parameters after training on some inputs."""
    model = found.model(method)
    x, y = _take(found.training(), rows)
    epochs = plan.num_steps // (len(rows) // min(plan.batch_size, len(rows)))
    epochs = max(1, epochs)
    # What follows an epoch, as in all training, follows each one where there is any.
    rounds = 1 if found.view.tabular else epochs
    init, shuffle = jax.random.split(jax.random.key(seed))
    start = jax.tree.map(lambda leaf: leaf[None], model.init(init, found.sample))
    objective = _objective(found, method, model, k)
    run, optimizer = _trainer(objective, epochs // rounds, epochs, plan)
    # The sample alone: embeddings of graphs are centred by those that were learnt.
    inputs = found.train_inputs(np.unique(rows))
    states = training.grid_states(
        found.settle(model, start, inputs),
        optimizer,
        keys=shuffle[None],
        num_weights=1,
    )
    scale = 1.0
    if not found.view.tabular:
        scale = found.num_features / pair_presets.TABULAR_FEATURES
    weights = scale * jnp.asarray([METHODS[method]], jnp.float32)
    for _ in range(rounds):
        states = run(states, weights, x, y)
        states = states._replace(params=found.settle(model, states.params, inputs))
    return model, jax.tree.map(lambda leaf: leaf[0, 0], states.params)


@functools.lru_cache(maxsize=4)
def _objective(found, method, model, k):
    return found.objective(method, model, k=k)


# By the objective, which folds share.
@functools.lru_cache(maxsize=4)
def _trainer(objective, num_epochs, total_epochs, plan):
    optimizer = training.adam(plan.learning_rate)
    run = training.compile_grid(
        objective,
        optimizer,
        num_epochs=num_epochs,
        batch_size=plan.batch_size,
        total_epochs=total_epochs,
    )
    return run, optimizer


@functools.lru_cache
def border_gaps(model: Any, k: int, view: View):
    """Compiled gaps between ranks k and k + 1: `run(params, Sample) -> [m]`."""
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def run(params, sample):
        def one(x, context):
            own = in_context(params, context)
            values = explain(own, x, score.predicted_class(apply(own, x)))
            inner, outer = ranking.border(values, k=k)
            return inner - outer

        return map_batched(one, tuple(sample), batch_size=256)

    return jax.jit(run)


def measure(experiment: str, found: Problem, k: int, common, store) -> None:
    """Append the records of all samples of a data set that are not there yet."""
    plan, epsilon = PLANS[common.preset, found.view.tabular], max(common.epsilon)
    cells = [
        (method, size, seed)
        for method in METHODS
        for size in sample_sizes(found, plan)
        for seed in common.seeds
    ]
    shown = track(cells, description=f"{found.name} samples", show=common.progress)
    for method, size, seed in shown:
        fields = setup.model_fields(
            experiment,
            found,
            found.model(method),
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
            found, method, size, seed=seed, k=k, epsilon=epsilon, plan=plan
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


def table(learnt) -> tables.Table:
    """The table of the records of samples."""
    spec = tables.ColumnSpec
    return tables.pivot(
        learnt,
        rows=("dataset", "method", "sample_size"),
        columns=[
            spec("|Θ seen − unseen|", {"metric": THICKNESS}, format=".4f"),
            spec("Θ seen − unseen", {"metric": "thickness_excess"}, format="+.4f"),
            spec("Θ unseen", {"metric": "thickness_unseen"}),
            spec("KS of border gaps", {"metric": MARGINS}),
        ],
    )


NOTES = (
    "Models learnt from a random sample of the training inputs (sample_size) by the "
    "same number of steps; seen: that sample; unseen: training inputs outside of it, "
    "where the data are no table test inputs.",
    "KS: largest difference of the distribution functions of the gap between ranks k "
    "and k + 1, maps of unit sum.",
)


def figure(learnt, dataset: str):
    """Both differences against the sample size, beside what chance alone gives."""
    series, top = {}, 0.0
    for metric, label in _LABELS.items():
        for method in METHODS:
            values = _by_size(learnt, dataset, method, metric)
            if not values:
                continue
            sizes = sorted(values)
            pairs = [runs.over_runs(values[m])[:2] for m in sizes]
            means, errors = np.array(pairs).T
            series[f"{label}, {method}"] = sizes, means, errors
            top = max(top, means[0])
    effective = _effective(learnt, dataset, THICKNESS)
    sizes = sorted(effective)
    both = np.array([effective[m] for m in sizes])
    series[GUIDE] = np.array(sizes, float), 2 * top * np.sqrt(both[0] / both), None
    return plots.curves(
        series,
        xlabel="inputs m that the model has learnt",
        ylabel="difference, seen and unseen inputs",
        title=f"{dataset}: stability of thickness and gaps",
        xscale="log",
        yscale="log",
        size=(7.2, 4.0),
    )


def _by_size(learnt, dataset, method, metric) -> dict[int, dict[tuple, float]]:
    """Sample size -> seed and fold -> value."""
    found: dict[int, dict[tuple, float]] = {}
    for record in select(learnt, dataset=dataset, method=method, metric=metric):
        runs_of_size = found.setdefault(record["sample_size"], {})
        runs_of_size[record["seed"], record["fold"]] = number(record["value"])
    return found


def _effective(learnt, dataset, metric) -> dict[int, float]:
    """Sample size m -> m·u/(m + u), u the unseen inputs, the mean over runs.

    Two means of m and u independent numbers differ by a standard deviation that falls
    as one over the root of it, and no faster: a few unseen inputs are a floor.
    """
    found: dict[int, list[float]] = {}
    for record in select(learnt, dataset=dataset, metric=metric):
        m, unseen = record["sample_size"], record["n"]
        found.setdefault(m, []).append(m * unseen / (m + unseen))
    return {m: float(np.mean(values)) for m, values in found.items()}


def rate(learnt, dataset: str, metric: str) -> runs.Estimate | None:
    """Exponent of a power law in m·u/(m + u), by run; None of one size.

    The mean over methods of the slope of the logarithms: that of a difference with
    mean zero falls as its standard deviation does.
    """
    effective = _effective(learnt, dataset, metric)
    slopes: dict[tuple, list[float]] = {}
    for method in METHODS:
        values = _by_size(learnt, dataset, method, metric)
        sizes = sorted(values)
        if len(sizes) < 2:
            return None
        for run in values[sizes[0]]:
            y = [max(values[m][run], np.finfo(float).tiny) for m in sizes]
            both = [effective[m] for m in sizes]
            slope = np.polyfit(np.log(both), np.log(y), 1)[0]
            slopes.setdefault(run, []).append(float(slope))
    return runs.over_runs({run: float(np.mean(v)) for run, v in slopes.items()})


# A claim of 1/√m cannot be shown to the last digit: a fifth is left to the fit.
_FAST_ENOUGH = 0.4
RULE = (
    "exponent of m·u/(m + u), u the number of other inputs (chance alone gives −0.5): "
    f"held below −{_FAST_ENOUGH:.1f}, did not hold above −0.5"
)


_FEW_GRAPHS = "Pairs of few graphs are not as many independent inputs."


def judge(metric: str):
    """`judge(store, dataset, common)` of a question on the rate, see `RULE`."""

    def judged(store, dataset, common):
        learnt = select_learnt(store.select(dataset=dataset, k=common.k))
        found = rate(learnt, dataset, metric) if learnt else None
        if found is None:
            return None
        text = f"{dataset}: exponent {runs.shown(found, '+.2f')}, {found.runs} runs"
        if runs.above(found, -0.5):
            return (
                (False, text, _FEW_GRAPHS) if common.kind == "graph" else (False, text)
            )
        slow = runs.above(found, -_FAST_ENOUGH)
        return (True if slow is False else None), text

    return judged


def select_learnt(found) -> list[dict[str, Any]]:
    """The records of samples among all."""
    return [record for record in found if "sample_size" in record]
