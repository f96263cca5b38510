"""Fronts of accuracy and robustness: table, figures and verdicts from records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from experiments.problems import presets
from experiments.problems.methods import family
from experiments.report import exhibit, judging, statistics, tables
from experiments.store import output
from experiments.store.records import RecordStore
from r2et_jax import metrics, plots
from r2et_jax.metrics.statistics import by_run
from r2et_jax.numerics import pareto_mask
from r2et_jax.plots._figure import as_label

# What a front sets against P@k: metric -> name and axis.
AXES = {
    "auc": ("cAUC", "AUC of the test split (cAUC)"),
    "aauc": ("aAUC", "AUC of the attacked inputs (aAUC)"),
}
NUM_RESAMPLES = 2000
# Share of the resamples from which on a place on the front is taken as sure.
SURE = 0.95
# The papers compare these with each other; thickness as a penalty, ratios and sums of
# methods are apart, so that they do not win in the name of R2ET.
PUBLISHED = ("baseline", "R2ET")
NETWORKS = (*PUBLISHED, "direct forms, sums", "ours")
_DOTTED = {"color": "#888888", "linestyle": ":", "linewidth": 1.5}


def group_of(method: str) -> str:
    """One of `NETWORKS`, or "linear", whose ranking no attack changes."""
    of_family = family(method)
    if of_family == "R2ET" and ("+" in method or not method.startswith("r2et")):
        return "direct forms, sums"
    return of_family


class Points(NamedTuple):
    """Methods at tolerances on one data set.

    Attributes:
      methods: of each of m points.
      labels: their names: the method, and the tolerance where it makes a difference.
      values: [m, 2, r], AUC and P@k of each run (seed, or fold of one seed).
    """

    methods: list[str]
    labels: list[str]
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """[m, 2] over runs."""
        return self.values.mean(axis=2)

    def of(self, *groups: str) -> Points:
        """Those of some families of methods."""
        kept = [
            i for i, method in enumerate(self.methods) if group_of(method) in groups
        ]
        methods, labels = ([names[i] for i in kept] for names in self[:2])
        return Points(methods, labels, self.values[kept])


def points(store: RecordStore, options, dataset: str, metric: str) -> Points:
    """What was measured of all methods, over the runs that all of them have.

    Two tolerances that chose the same checkpoints are one point.
    """
    recorded: dict[tuple[str, float], list[dict[Any, float]]] = {}
    for method in options.methods:
        for tolerance in presets.TOLERANCES:
            where = {"dataset": dataset, "method": method, "tolerance": tolerance}
            where |= {"k": options.k, "epsilon": options.epsilon}
            recorded[method, tolerance] = [
                statistics.cells(store.select(**where, metric=name))
                for name in (metric, "p@k")
            ]
    shared = set.intersection(*(set(pair[0]) for pair in recorded.values()))
    methods, labels, values = [], [], []
    for (method, tolerance), pair in recorded.items():
        alike = pair == recorded[method, presets.MAIN_TOLERANCE]
        if tolerance != presets.MAIN_TOLERANCE and alike:
            labels[-1] = method
            continue
        methods.append(method)
        labels.append(f"{method} at {tolerance:g}")
        both = [{cell: cells[cell] for cell in sorted(shared)} for cells in pair]
        values.append([list(by_run(cells).values()) for cells in both])
    return Points(methods, labels, np.array(values))


def on_front(means: np.ndarray) -> np.ndarray:
    """Which of [m, 2] points no other one dominates, bool [m]; more is better."""
    return pareto_mask(means, maximize=(True, True))


def resampled_fronts(values: np.ndarray, *, num_resamples: int) -> np.ndarray:
    """Membership of the front of means over resampled runs, bool [B, m].

    Args:
      values: [m, 2, r].
      num_resamples: B; each draws r runs with replacement, the same for all points.
    """
    num_runs = values.shape[2]
    drawn = np.random.default_rng(0).integers(num_runs, size=(num_resamples, num_runs))
    means = values[:, :, drawn].mean(axis=3)
    return np.stack([on_front(means[:, :, b]) for b in range(num_resamples)])


class Front(NamedTuple):
    """A front, its points in ascending order of AUC.

    Attributes:
      labels: of its points.
      shares: share of resampled runs in which each of them is on the front.
      r2et: the same for any method of R2ET, on this front or not; None of one run.
    """

    labels: list[str]
    shares: list[float]
    r2et: float | None

    def __str__(self) -> str:
        pairs = zip(self.labels, self.shares, strict=True)
        return ", ".join(f"{label} ({share:.0%})" for label, share in pairs)


def front(measured: Points) -> Front:
    """The front of means, and how sure its points are."""
    means = measured.means
    here = np.flatnonzero(on_front(means))
    here = here[np.argsort(means[here, 0])]
    members = resampled_fronts(measured.values, num_resamples=NUM_RESAMPLES)
    r2et = [group_of(method) == "R2ET" for method in measured.methods]
    return Front(
        [measured.labels[i] for i in here],
        [float(members[:, i].mean()) for i in here],
        float(members[:, r2et].any(axis=1).mean())
        if measured.values.shape[2] > 1
        else None,
    )


def write_report(
    folder: Path, store: RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write the table and, for each data set, a figure for each AUC."""
    (k,), (epsilon,), (attack,) = options.k, options.epsilon, options.attacks
    names = {"cAUC": "auc", "aAUC": "aauc", f"P@{k}": "p@k"}
    names["class changed"] = "sensitivity"
    table = tables.pivot(
        store.select(dataset=options.datasets, method=options.methods, k=k),
        rows=("dataset", "method", "tolerance"),
        columns=[
            tables.ColumnSpec(name, {"metric": metric}, format=".4f")
            for name, metric in names.items()
        ],
    )
    notes = [
        f"P@{k}, aAUC and the share of changed classes under {attack}, {options.norm} "
        f"budget ε = {epsilon:g}; cAUC of the whole test split. tolerance: of "
        "validation AUC against vanilla's.",
        "Fronts of networks, in brackets the share of resampled runs in which a point "
        "is on the front. Alone: of baselines and R2ET.",
    ]
    written = []
    for dataset in options.datasets:
        for metric, (short, _) in AXES.items():
            measured = points(store, options, dataset, metric)
            notes.append(
                f"{dataset}, P@{k} and {short}: {front(measured.of(*NETWORKS))}. "
                f"Alone: {front(measured.of(*PUBLISHED))}."
            )
            path = folder / figure_name(dataset, metric)
            output.save_figure(path, _figure(measured, dataset, metric, options))
            written.append(path)
    name = f"table_{part}" if part else "table"
    tables.write_table(folder, table, notes=notes, name=name)
    return [*(folder / f"{name}.{ending}" for ending in ("md", "csv")), *written]


def figure_name(dataset: str, metric: str) -> str:
    """File of a data set's figure."""
    return f"front_{metric}_{dataset}.png"


def _figure(measured, dataset, metric, options):
    """Means with standard errors by family of methods, both fronts with their names."""
    drawn = {}
    for name in NETWORKS:
        here = measured.of(name)
        if here.methods:
            mean = metrics.estimate
            pairs = [[mean(values)[:2] for values in pair] for pair in here.values]
            (x, x_error), (y, y_error) = np.array(pairs).transpose(1, 2, 0)
            drawn[name] = x, y, x_error, y_error
    figure = plots.front(
        drawn,
        xlabel=AXES[metric][1],
        ylabel=f"P@{options.k[0]} under {options.attacks[0]}, "
        f"ε = {options.epsilon[0]:g}",
        title=f"{dataset}: robustness against accuracy, up and right is better",
        size=(8.0, 4.8),
    )
    (axes,) = figure.axes
    networks, published = measured.of(*NETWORKS), measured.of(*PUBLISHED)
    places = {}
    for which in (networks, published):
        best = which.means[on_front(which.means)]
        names = (which.labels[i] for i in np.flatnonzero(on_front(which.means)))
        places |= dict(zip(names, best, strict=True))
    # `best` is the published front.
    axes.step(*best[np.argsort(best[:, 0])].T, where="pre", zorder=0.9, **_DOTTED)
    handles = [
        Line2D([], [], color="#888888", label="front of all networks"),
        Line2D([], [], **_DOTTED, label="of baselines and R2ET"),
    ]
    linear = measured.of("linear")
    for label, place in zip(linear.labels, linear.means, strict=True):
        (star,) = axes.plot(
            *place, "*", color="black", markersize=11, label=as_label(label)
        )
        handles.append(star)
    ordered = sorted(places, key=lambda label: tuple(places[label]))
    for number, label in enumerate(ordered, start=1):
        axes.annotate(
            str(number), places[label], (6, 6), textcoords="offset points", fontsize=9
        )
        look = {"linestyle": "none", "color": "black", "markeredgewidth": 0}
        look |= {"marker": f"${number}$", "markersize": 4 + 3 * len(str(number))}
        handles.append(Line2D([], [], label=as_label(label), **look))
    style = {"frameon": False, "fontsize": 8, "handlelength": 2.6}
    figure.legend(handles=handles, loc="outside right lower", **style)
    return figure


def write_exhibit(folder, store, groups, written):
    figures = {}
    judged: dict[str, list[exhibit.Case]] = {metric: [] for metric in AXES}
    for options in groups:
        for dataset in options.datasets:
            for metric, (short, _) in AXES.items():
                measured = points(store, options, dataset, metric)
                networks, alone = (
                    front(measured.of(*of)) for of in (NETWORKS, PUBLISHED)
                )
                share = "–" if alone.r2et is None else f"{alone.r2et:.0%}"
                group_by = dict(
                    zip(measured.labels, map(group_of, measured.methods), strict=True)
                )
                r2et = [label for label in alone.labels if group_by[label] == "R2ET"]
                fronts = [", ".join(front_of.labels) for front_of in (alone, networks)]
                text = (
                    f"in {share} under {options.attacks[0]}; {len(r2et)} of "
                    f"{len(alone.labels)} points of the front are R2ET's "
                    f"({', '.join(r2et) or 'none'}); with all other methods the front "
                    f"is {fronts[1]}"
                )
                told = exhibit.Verdict(verdict(alone.r2et), text)
                judged[metric].append(exhibit.Case(dataset, None, told))
                figures[folder / figure_name(dataset, metric)] = (
                    f"P@{options.k[0]} under attack against {short}: a point for each "
                    "method and tolerance, coloured by family, with standard errors; "
                    f"front of all networks: {fronts[1]}; of baselines and R2ET: "
                    f"{fronts[0]}."
                )
    return exhibit.write(
        folder,
        title="Robustness against accuracy",
        claims=[_claim(metric, cases) for metric, cases in judged.items()],
        figures=figures,
        tables=[path for path in written if path.match("table*.md")][:1],
        typed=groups[0].typed,
        settings=judging.settings(
            store,
            groups,
            tolerances=presets.TOLERANCES,
            error="the standard error over runs",
        ),
    )


def verdict(share: float | None) -> bool | None:
    """Whether R2ET is on the front, by the share of resampled runs in which it is."""
    if share is None or 1 - SURE < share < SURE:
        return None
    return share >= SURE


def _claim(metric, cases):
    return exhibit.Claim(
        "R2ET is on the Pareto front of P@k under attack and "
        f"{AXES[metric][0]}, compared with the other baselines.",
        f"a variant is on the front in at least {SURE:.0%} of resampled runs",
        tuple(cases),
        "Where it does not, a method without a ranking term is better in both.",
    )
