"""Distance against overlap: table, figures and the verdict from records alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.motivation.measure import NORMS, ROLES
from experiments.problems import presets
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict, together
from experiments.report.judging import Question, main_method
from experiments.store import output, records
from r2et_jax import plots
from r2et_jax.plots._explained import Explained

# Share of discordant pairs that is clearly above none.
_CLEARLY = 0.1
# Top sets up to this size are drawn feature by feature.
_MOST_BARS = 16
FIGURES = {
    "distance": "Perturbed inputs by l2 distance of the saliency and share of the top "
    "features that stays; A and B are of one input, A nearer but keeping fewer.",
    "example": "Saliency of one input before and after the perturbations A and B: A "
    "moves it less and changes more of its top features.",
}


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write the table, and for each data set the figures, from the records alone."""
    (k,) = options.k
    chosen = {"dataset": options.datasets, "method": options.methods, "k": k}
    name = f"table_{part}" if part else "table"
    table = tables.pivot(store.select(**chosen), columns=_columns(k))
    tables.write_table(folder, table, notes=_notes(options), name=name)
    written = [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    for dataset in options.datasets:
        method = main_method(options.methods)
        here = store.select(dataset=dataset, method=method, k=k)
        scatter, bars = (folder / f"{name}_{dataset}.png" for name in FIGURES)
        output.save_figure(scatter, _scatter(here, k))
        written.append(scatter)
        if k <= _MOST_BARS and records.select(here, metric="example"):
            output.save_figure(bars, _bars(here, k))
            written.append(bars)
    return written


def _columns(k):
    l2 = {"norm": "l2"}
    columns = {
        f"discordant, {norm}": {"metric": "discordant", "norm": norm, "pairs": "all"}
        for norm in NORMS
    }
    for pairs in ("random", "mixed", "attacks"):
        columns[f"{pairs}, l2"] = {"metric": "discordant", "pairs": pairs, **l2}
    columns |= {
        "tied": {"metric": "tied", "pairs": "all", **l2},
        "τ, l2": {"metric": "kendall", **l2},
        "ρ, l2": {"metric": "spearman", **l2},
        f"P@{k} farthest, l2": {"metric": "p@k_farthest", **l2},
        f"lowest P@{k}": {"metric": "p@k_lowest"},
    }
    return [tables.ColumnSpec(name, filters) for name, filters in columns.items()]


def _notes(options):
    (k,), (epsilon,) = options.k, options.epsilon
    return (
        f"Of each test input {presets.NUM_DIRECTIONS} random directions, and the best "
        f"and the last input of each attack ({', '.join(options.attacks)}), all within "
        f"the {options.norm} budget ε = {epsilon:g}.",
        "discordant: of two perturbed inputs of one input, the one whose saliency (of "
        f"sum 1) is nearer to the clean one in the norm keeps fewer of the top {k}; "
        "share of the pairs that differ in both, mean over inputs: 0 if the distance "
        "tells the ranking, .5 if it tells nothing.",
        "random, attacks: of pairs of two random directions, of two results of attacks;"
        " mixed: one of each. tied: pairs that are equal in either, left out.",
        "τ, ρ: Kendall's and Spearman's correlation of distance and overlap, mean over "
        "inputs; −1 if the distance tells the ranking.",
        f"P@{k} farthest: of the perturbed input with the largest distance; lowest: of "
        "the one that keeps fewest.",
    )


def _scatter(recorded, k):
    """All perturbations of some inputs, and the example's pair."""
    series: dict[str, dict[str, np.ndarray]] = {}
    for record in records.select(recorded, metric="points"):
        values = np.array([records.number(v) for v in record["values"]])
        series.setdefault(record["source"], {})[record["quantity"]] = values
    # Overlaps are multiples of 1/k: spread, so that points do not hide each other.
    rng = np.random.default_rng(0)
    for pair in series.values():
        pair["overlap"] += rng.uniform(-0.25, 0.25, pair["overlap"].size) / k
    title = "{dataset}, {method}: the nearer explanation need not be the more alike"
    chosen = _example(recorded)
    if chosen:
        near, far = (chosen[role]["value"] * k for role in ROLES[1:])
        title += f"\nOne input: A is nearer and keeps {near:.0f} of {k}, B {far:.0f}"
    figure = plots.scatter(
        {name: (pair["distance"], pair["overlap"]) for name, pair in series.items()},
        xlabel="l2 distance of the saliency from the clean one",
        ylabel=f"share of the top {k} that stays (P@{k})",
        title=title.format_map(recorded[0]),
        size=(7.4, 4.2),
    )
    (axes,) = figure.axes
    for mark, role in zip("AB", ROLES[1:], strict=True) if chosen else ():
        point = chosen[role]["l2"], chosen[role]["value"]
        axes.plot(*point, "o", color="white", ms=15, mec="black", mew=1.6)
        axes.text(*point, mark, ha="center", va="center", fontweight="bold")
    return figure


def _bars(recorded, k):
    """The saliency of the example before and after, panel by panel."""
    chosen = _example(recorded)
    explained = {}
    for role, record in chosen.items():
        values = np.array(record["values"])
        top = np.zeros(values.size, bool)
        top[np.argsort(-values, kind="stable")[:k]] = True
        explained[role] = Explained(values, top & (values > 0))
    panels = {}
    for mark, role in zip("AB", ROLES[1:], strict=True):
        distance, kept = chosen[role]["l2"], chosen[role]["value"] * k
        label = f"{mark}: l2 distance {distance:.2g}, keeps {kept:.0f} of {k}"
        panels[label] = explained["clean"], explained[role]
    return plots.explained_bars(
        panels,
        chosen["clean"]["features"].split(";"),
        xlabel="share of the saliency",
        title=f"{recorded[0]['dataset']}: A moves it less than B, but keeps less of "
        f"its top {k}",
    )


def _example(recorded):
    return {r["role"]: r for r in records.select(recorded, metric="example")}


def judge(store, dataset: str, options) -> Verdict:
    """Whether vanilla's discordant pairs are clearly more than none in every norm."""
    (k,), method = options.k, main_method(options.methods)

    def mean(metric, **at):
        here = {"dataset": dataset, "k": k, "method": method, "metric": metric}
        return statistics.of_records(store.select(**here, **at))

    shares = {norm: mean("discordant", norm=norm, pairs="all") for norm in NORMS}
    shown = ", ".join(
        f"{norm} {statistics.shown(v, '.0%')}" for norm, v in shares.items()
    )
    farthest, lowest = mean("p@k_farthest", norm="l2"), mean("p@k_lowest")
    text = (
        f"{shown} of pairs ({method}, {lowest.runs} runs); the perturbation "
        f"farthest in l2 keeps {farthest.mean:.2f} of the top {k}, the worst "
        f"{lowest.mean:.2f}"
    )
    held = together(statistics.above(v, _CLEARLY) for v in shares.values())
    return Verdict(held, text)


QUESTIONS = (
    Question(
        "The l_p distance of two explanations misleads about their ranking: the "
        "smaller distance can go with the smaller overlap of the top features.",
        f"more than {_CLEARLY:.0%} of pairs are discordant in each norm",
        judge,
        "Where the whole ranking moves with the map, its distance tells it.",
        figure="distance",
    ),
)
