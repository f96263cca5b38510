"""How the saliency of an input spreads over its features: sorted gradient magnitudes.

Trains methods (or finds their models), sorts the saliency of each test input, and
records the mean profile and how uneven it is. The papers build on a long tail: few
features carry most. Magnitudes that carry no information fall off as well once they
are sorted, so that those of independent normal numbers stand beside.

    python -m experiments.gradient_profile --datasets=adult,bank,compas
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.console import flags
from experiments.loop import parts, runs
from experiments.measures.numbers import summary
from experiments.problems import presets
from experiments.problems.registry import View
from experiments.report import tables
from experiments.store import output, records
from r2et_jax import objectives, plots, score
from r2et_jax.context import in_context
from r2et_jax.execution import map_batched

# Share of the sum whose features are counted.
MOST = 0.9
_DRAWS = 1000
_BATCH_SIZE = 256
_REFERENCE = "chance"
# A tail is long if it needs at most this share of the features of normal numbers.
_FEWER = 0.95
# Method that should make the tail longer.
_TRAINED = "r2et"
_FIGURES = {
    "gradient_profile": "Sorted shares of the saliency by rank, logarithmic: a "
    "curve for each method, rank k marked, beside what chance gives.",
}
# From so many features on, ranks are drawn on a logarithmic axis.
_MANY = 100
_OWN = ("k", "seeds")


def _define(values):
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "gradient_profile",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,wd,r2et_nh,r2et",
            "standard": "vanilla,wd,sp,r2et_nh,r2et,rat",
            "paper": "vanilla,wd,sp,r2et_nh,r2et,rat",
        },
        "attacks": "none",
        "k": str(presets.TABULAR_K),
        "seeds": runs.SEEDS,
    },
    own=parts.OF_PAIRS,
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=objectives.NAMES,
        attacks=("none",),
    )
    if common.epsilon:
        raise ValueError("--epsilon has no use here: inputs are not attacked")
    runs.check_single(common, ("k",))
    chosen = [parts.choose(found, common, _OWN) for found in parts.problems(common)]
    runs.run(
        common,
        chosen,
        _OWN,
        _measure_dataset,
        write_report,
        experiment=FLAGS.experiment,
        title="Sorted gradient magnitudes",
        questions=_questions(),
        figures=_FIGURES,
    )


def _questions():
    return (
        runs.Question(
            "Few features carry most of an explanation: its sorted magnitudes have a "
            "long tail.",
            f"features for 90 % of the sum at least {1 - _FEWER:.0%} fewer than of "
            "independent normal numbers, of graphs times the inputs, since a product "
            "has a longer tail",
            long_tail,
            "Sorting makes any numbers fall; the network weighs most features alike.",
            figure="gradient_profile",
        ),
        runs.Question(
            "Training for a robust ranking makes the tail: it gathers the explanation "
            "on fewer features.",
            f"{_TRAINED} needs fewer features for 90 % of the sum than vanilla",
            concentration,
            "The selected penalties may be weak there.",
            ours=True,
            figure="gradient_profile",
        ),
    )


def _measure_dataset(found, k, common, store):
    num_test = found.protocol(common.preset).num_test
    inputs = found.inputs("test", num_test)
    x, partner, _ = inputs
    for one in parts.models(FLAGS.experiment, found, k, common, description="profile"):
        cell = {**one.fields, "attack": "none", "epsilon": None}
        if not store.has(**cell):
            context = found.view.context(one.model, one.params, partner)
            maps = _explain(one.model, found.view)(one.params, x, context)
            # Graphs are explained by a product with the input, which has a tail itself.
            factors = np.asarray(x)
            if found.view.kind != "graph":
                factors = np.ones_like(factors)
            reference = normal_maps(factors, maps.shape[1])
            units = inputs.units
            measurements = measure(np.asarray(maps), reference, k=k, units=units)
            store.append([{**cell, **record} for record in measurements])


@functools.lru_cache
def _explain(model: Any, view: View):
    """Compiled maps of inputs: `run(params, x [m, n], context) -> [m, n]`."""
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def run(params, x, context):
        def one(x, context):
            both = in_context(params, context)
            return explain(both, x, score.predicted_class(apply(both, x)))

        size = view.batch_size or _BATCH_SIZE
        return map_batched(one, (x, context), batch_size=size)

    return jax.jit(run)


def measure(
    maps: np.ndarray, reference: np.ndarray, *, k: int, units: Any = None
) -> list[dict[str, Any]]:
    """The records of saliency maps [m, n]: metric, value, stderr, n, and the profile.

    Maps that are zero or not finite have no profile; they are counted in `note`. The
    metrics of the reference [d, n], what chance gives, begin with `reference_`. `units`
    as of `summary`.
    """
    found = []
    for prefix, of, rows in (("", maps, units), ("reference_", reference, None)):
        profiles = sorted_shares(of)
        told = statistics(profiles, k=k).items()
        found += [summary(prefix + name, values, rows) for name, values in told]
        mean = np.nanmean(profiles, axis=0)
        found.append(runs.listed(f"{prefix}profile", mean[0], len(of), mean))
    return found


def normal_maps(factors: np.ndarray, num_features: int) -> np.ndarray:
    """Maps [d, n] of chance: |independent normal numbers × factors [m, c·n]|.

    The channels of a feature are added up, as explanations of pixels do.
    """
    draws = np.random.default_rng(0).normal(size=(_DRAWS, factors.shape[1]))
    maps = np.abs(draws * np.resize(factors, draws.shape))
    return maps.reshape(_DRAWS, num_features, -1).sum(axis=2)


def sorted_shares(maps: np.ndarray) -> np.ndarray:
    """Each map over its sum, in descending order, in float64; NaN if it has none."""
    maps = np.asarray(maps, np.float64)
    totals = maps.sum(axis=1, keepdims=True)
    usable = np.isfinite(totals) & (totals > 0)
    shares = np.where(usable, maps, np.nan) / np.where(usable, totals, 1)
    return -np.sort(-shares, axis=1)


def statistics(profiles: np.ndarray, *, k: int) -> dict[str, np.ndarray]:
    """How uneven profiles [m, n] are: name -> [m].

    top_share: of the k largest; gini: Gini's index, 0 if all are equal; num_90: how
    many of the largest make up 90 %; border_gap: from rank k to k + 1, relative to the
    largest.
    """
    n = profiles.shape[1]
    reached = np.cumsum(profiles, axis=1)
    usable = np.isfinite(reached[:, -1])
    # Rounding must not ask for another feature.
    short = (reached < MOST - 1e-6).sum(axis=1)
    weights = n + 1 - 2 * np.arange(1, n + 1)
    return {
        "top_share": reached[:, k - 1],
        "gini": profiles @ weights / n,
        "num_90": np.where(usable, short + 1, np.nan),
        "border_gap": (profiles[:, k - 1] - profiles[:, k]) / profiles[:, 0],
    }


def write_report(
    folder: Path, store: records.RecordStore, common, *, part: str = ""
) -> list[Path]:
    """Write the table and a figure for each data set from the records alone."""
    (k,) = common.k
    chosen = {"dataset": common.datasets, "method": common.methods, "k": k}
    found = store.select(**chosen)
    spec = tables.ColumnSpec
    columns = [
        spec(f"top {k}", {"metric": "top_share"}),
        spec("Gini", {"metric": "gini"}),
        spec("features for 90 %", {"metric": "num_90"}, format=".1f"),
        spec("gap at k", {"metric": "border_gap"}),
    ]
    name = f"table_{part}" if part else "table"
    tables.write_table(
        folder,
        tables.pivot(found, columns=columns),
        notes=[
            *_notes(k),
            *(_reference(store, name, common.kind, k) for name in common.datasets),
        ],
        name=name,
    )
    written = [folder / f"{name}.{kind}" for kind in ("md", "csv")]
    for dataset in common.datasets:
        path = folder / f"gradient_profile_{dataset}.png"
        figure = _figure(store.select(**{**chosen, "dataset": dataset}), dataset, k)
        output.save_figure(path, figure)
        written.append(path)
    return written


def _notes(k):
    return (
        "Means over test inputs of the saliency of each, divided by its sum (graphs: "
        "gradient × input).",
        f"top {k}: its share of the sum. Gini: 0 where all features are equal, near 1 "
        "where one carries all. features for 90 %: how many of the largest make up 90 "
        f"% of the sum. gap at k: saliency at rank {k} less that at rank {k + 1}, over "
        "the largest.",
    )


def _reference(store, dataset, kind, k):
    names = "top_share", "gini", "num_90", "border_gap"
    top, gini, most, gap = (_chance(store, dataset, k, name) for name in names)
    n = _num_features(store, dataset, k)
    return (
        f"{dataset}, magnitudes of {n} {_numbers(kind)}: top {k} {top:.3f}, "
        f"Gini {gini:.3f}, {most:.1f} for 90 %, gap at k {gap:.3f}."
    )


def _numbers(kind: str) -> str:
    product = " × the inputs" if kind == "graph" else ""
    return f"independent normal numbers{product}"


def _chance(store, dataset, k, metric) -> float:
    """A statistic of the reference, the mean over folds."""
    found = store.select(dataset=dataset, k=k, metric=f"reference_{metric}")
    return float(np.mean([records.number(record["value"]) for record in found]))


def _num_features(store, dataset, k):
    return len(store.select(dataset=dataset, k=k, metric="profile")[0]["values"])


def _figure(found, dataset, k):
    """Mean profiles of all methods, means over runs, on a logarithmic axis."""
    series = {}
    for record in records.select(found, metric="profile"):
        series.setdefault(record["method"], []).append(record["values"])
    n = len(records.select(found, metric="profile")[0]["values"])
    ranks = np.arange(1, n + 1)
    drawn = {
        method: (ranks, _positive(np.mean(values, axis=0)), None)
        for method, values in series.items()
    }
    chance = records.select(found, metric="reference_profile")
    reference = np.mean([record["values"] for record in chance], axis=0)
    drawn[_REFERENCE] = (ranks, _positive(reference), None)
    figure = plots.curves(
        drawn,
        xlabel=f"rank of the feature, of {n}",
        ylabel="share of the saliency, mean of inputs",
        title=f"{dataset}: saliency from the largest to the smallest",
        xscale="log" if n > _MANY else "linear",
        yscale="log",
    )
    (axes,) = figure.axes
    # A band behind the others, which may lie on it.
    band = {"color": "#BBBBBB", "linestyle": "-", "marker": "", "linewidth": 6.0}
    axes.get_lines()[-1].set(zorder=1, **band)
    figure.legends[0].get_lines()[-1].set(**band)
    lowest = min(y[np.isfinite(y)].min() for _, y, _ in drawn.values())
    # What hardly any input has would squeeze the rest.
    axes.set_ylim(bottom=max(lowest / 2, 1e-3 / n))
    axes.axvline(k + 0.5, color="#444444", linewidth=1.0)
    axes.annotate(
        f" top {k}",
        (k + 0.5, 1),
        xycoords=("data", "axes fraction"),
        va="top",
        fontsize=9,
    )
    return figure


def _positive(values):
    """Zeros, which a logarithmic axis has no place for, as NaN."""
    return np.where(values > 0, values, np.nan)


def long_tail(store, dataset: str, common) -> tuple[bool | None, str]:
    """Whether vanilla's features for 90 % of the sum are fewer than normal numbers'."""
    (k,), methods = common.k, common.methods
    n = _num_features(store, dataset, k)
    reference = _chance(store, dataset, k, "num_90")
    main = runs.main_method(methods)
    found = _over_runs(store, dataset, k, main, "num_90")
    more = runs.above(found, _FEWER * reference)
    top = _over_runs(store, dataset, k, main, "top_share")
    text = (
        f"{dataset}: {runs.shown(found, '.1f')} of {n} features make up 90 % "
        f"({_numbers(common.kind)}: {reference:.1f}), the top {k} {top.mean:.0%} "
        f"({main}, {found.runs} runs)"
    )
    return None if more is None else not more, text


def concentration(store, dataset: str, common) -> tuple[bool | None, str] | None:
    """Whether R2ET's explanations need fewer features than vanilla's, run by run."""
    if not {_TRAINED, "vanilla"} <= set(common.methods):
        return None
    (k,) = common.k
    found = {
        method: runs.cells(
            store.select(dataset=dataset, k=k, method=method, metric="num_90")
        )
        for method in (_TRAINED, "vanilla")
    }
    after, before = map(runs.over_runs, found.values())
    saved = runs.difference(found["vanilla"], found[_TRAINED])
    text = (
        f"{dataset}: {before.mean:.1f} → {after.mean:.1f} features, "
        f"{runs.shown(saved, '.1f')} fewer ({saved.runs} runs)"
    )
    return runs.above(saved, 0), text


def _over_runs(store, dataset, k, method, metric):
    return runs.of_records(
        store.select(dataset=dataset, k=k, method=method, metric=metric)
    )
