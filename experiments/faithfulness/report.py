"""Table, figures and verdict of the faithfulness experiment, from the records alone.

How far COMP, SUFF and DFFOT of a model can go depends on how steep its probabilities
are, which training changes too. Models are therefore compared by their *lead* against
the same features in random order on the same model and by the same baseline, relative
to what that order reaches, so that a factor common to both cancels:

    lead = (COMP − COMP of a random order)/COMP of a random order
           (DFFOT, SUFF: the other way round)
    share = lead / mean over runs of vanilla's lead

The share that is judged is that of the mean lead over metrics and baselines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.problems.methods import family
from experiments.report import exhibit, judging, statistics, tables
from experiments.report.judging import main_method
from experiments.store.output import save_figure
from experiments.store.records import RecordStore
from r2et_jax import metrics
from r2et_jax.metrics.statistics import Estimate, over_runs
from r2et_jax.plots._figure import as_written
from r2et_jax.plots._panels import Panel, panels

# Metric -> its name, and whether more is more faithful.
METRICS = {
    "dffot": ("DFFOT", False),
    "comprehensiveness": ("COMP", True),
    "sufficiency": ("SUFF", False),
}
# Share of vanilla's lead that a method may give up and still count as no less faithful.
MARGIN = 0.1
_NOTES = (
    "Features of test inputs are removed in the order of their saliency; `random`: in "
    "random order, the floor of a ranking without information.",
    "DFFOT: share of the top features without which the predicted class is another "
    "one, 1 if there is none; flipped: share of inputs where there is one. Less is "
    "more faithful.",
    "COMP, SUFF: mean over j of |p(x) − p(x̃)| of the predicted class, x̃ without the "
    "top j features (more is more faithful) or with them alone (less is); signed: the "
    "same without |·|, as in ERASER.",
    "tied: share of features whose saliency another one has, so that their index "
    "decides which is removed first.",
    "baseline: what stands for a removed feature. zero; mean of the training inputs; "
    "conditional: values of the training inputs that are nearest in the kept features, "
    "mean over several. One-hot columns are removed one by one, like all others: zero "
    "makes a category of none, mean one of all; conditional values come from one input "
    "at a time.",
)
_OF_OTHERS = (
    "Images and graphs: DFFOT in steps of 2 % of many features, COMP and SUFF over 1, "
    "5, 10, 20 and 50 % of them. Of pairs the features of the first input are removed, "
    "the partner stays, and the prediction is that of the pair.",
)


def lead(
    store: RecordStore, metric: str, baseline: str, **where: Any
) -> dict[Any, float]:
    """(seed, fold) -> lead over a random order, a share of what that order reaches.

    NaN where it reaches nothing. `where` names data set, method and k.
    """
    sign = 1 if METRICS[metric][1] else -1
    cell = where | {"metric": metric, "baseline": baseline}
    faithful, floor = (
        statistics.cells(store.select(**cell, ranking=ranking))
        for ranking in ("saliency", "random")
    )
    return {
        run: sign * (value - floor[run]) / floor[run] if floor[run] else math.nan
        for run, value in faithful.items()
    }


def shares(
    store: RecordStore,
    metric: str,
    baseline: str,
    *,
    method: str,
    reference: str,
    **where: Any,
) -> dict[Any, float] | None:
    """(seed, fold) -> a method's lead as a share of the reference's mean lead.

    Paired: 1 + (lead − the reference's lead of this run)/its mean lead. None where the
    reference itself does no better than chance: the interval over runs of its lead
    holds 0.
    """
    return _paired(
        lead(store, metric, baseline, **where, method=method),
        lead(store, metric, baseline, **where, method=reference),
    )


def _paired(
    values: dict[Any, float], base: dict[Any, float]
) -> dict[Any, float] | None:
    level = over_runs(base)
    # A single run cannot be told from chance either, but has its share.
    if not level.mean > 0 or (level.runs > 1 and not statistics.above(level, 0)):
        return None
    return {
        run: 1 + (values[run] - base[run]) / level.mean for run in base if run in values
    }


def total(
    store: RecordStore,
    baselines: Sequence[str],
    *,
    method: str,
    reference: str,
    **where: Any,
) -> Estimate | None:
    """As `shares`, of the mean lead over all metrics and baselines."""

    def mean(name):
        shares_of = [
            lead(store, metric, baseline, **where, method=name)
            for metric in METRICS
            for baseline in baselines
        ]
        return {
            run: float(np.mean([by_run[run] for by_run in shares_of]))
            for run in shares_of[0]
        }

    share = _paired(mean(method), mean(reference))
    return None if share is None else over_runs(share)


def verdict(share: Estimate | None) -> bool | None:
    """False if a method's share is below 1, True if it is above 1 − MARGIN."""
    if share is None or statistics.above(share, 1) is False:
        return None if share is None else False
    return True if statistics.above(share, 1 - MARGIN) else None


def raw(
    store: RecordStore,
    baselines: Sequence[str],
    *,
    method: str,
    reference: str,
    **where: Any,
) -> tuple[int, int, int]:
    """Comparisons without a floor: how many, and in how many of them the method is less
    and more faithful than the reference beyond the interval over runs.
    """
    gains, highs = [], []
    for metric, (_, high) in METRICS.items():
        for baseline in baselines:
            cell = {"metric": metric, "baseline": baseline, "ranking": "saliency"}
            values, base = (
                statistics.cells(store.select(**where, **cell, method=name))
                for name in (method, reference)
            )
            gains.append(statistics.difference(values, base))
            highs.append(high)
    judged = list(zip(metrics.verdicts(gains), highs, strict=True))
    less = sum(better is (not high) for better, high in judged)
    more = sum(better is high for better, high in judged)
    return len(gains), less, more


def write_report(
    folder: Path, store: RecordStore, options, baselines, *, part: str = ""
) -> list[Path]:
    """Write the table and a figure for each data set; returns their paths."""
    (k,) = options.k
    chosen = {"dataset": options.datasets, "method": options.methods, "k": k}
    recorded = store.select(**chosen, baseline=baselines)
    # All methods of a baseline together: they are what is compared.
    recorded.sort(key=lambda record: baselines.index(record["baseline"]))
    rows = ("dataset", "baseline", "method")
    name = f"table_{part}" if part else "table"
    notes = (*_NOTES, *_OF_OTHERS) if options.kind != "tabular" else _NOTES
    table = tables.pivot(recorded, rows=rows, columns=_columns())
    tables.write_table(folder, table, notes=notes, name=name)
    written = [folder / f"{name}.{ending}" for ending in ("md", "csv")]
    for dataset in options.datasets:
        path = folder / figure_name(dataset)
        where = {"dataset": dataset, "k": k}
        save_figure(path, _figure(store, options.methods, baselines, where))
        written.append(path)
    return written


def figure_name(dataset: str) -> str:
    """File of a data set's figure."""
    return f"faithfulness_{dataset}.png"


def _columns():
    columns = []
    for metric, (name, high) in METRICS.items():
        best = "max" if high else "min"
        for ranking, heading in (("saliency", name), ("random", f"{name} random")):
            filters = {"metric": metric, "ranking": ranking}
            best = best if ranking == "saliency" else None
            columns.append(tables.ColumnSpec(heading, filters, best=best))
    more = {
        "flipped": "flipped",
        "COMP signed": "eraser_comprehensiveness",
        "SUFF signed": "eraser_sufficiency",
        "tied": "tied",
    }
    for heading, metric in more.items():
        filters = {"metric": metric, "ranking": "saliency"}
        columns.append(tables.ColumnSpec(heading, filters))
    return columns


def _figure(store, methods, baselines, where):
    """A panel for each metric: every method's share of the reference's lead."""
    reference = main_method(methods)
    drawn, hidden = [], False
    for metric, (name, _) in METRICS.items():
        series = {}
        for method in methods:
            pairs = []
            for baseline in baselines:
                of = {"method": method, "reference": reference, **where}
                by_run = shares(store, metric, baseline, **of)
                hidden |= by_run is None
                share = (math.nan, math.nan) if by_run is None else over_runs(by_run)
                pairs.append(share[:2])
            mean, stderr = np.array(pairs).T
            series[method] = mean, None if method == reference else stderr
        drawn.append(Panel(name, baselines, series))
    figure = panels(
        drawn,
        ylabel=f"1: as faithful as {reference}\n0: as a random order",
        title=f"{where['dataset']}: faithfulness, by what stands for removed features",
        baseline=reference,
    )
    if hidden:
        cause = f"not shown: where {reference} cannot be told from a random order"
        figure.supxlabel(as_written(cause), fontsize=8)
    for axes in figure.axes:
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylim(bottom=min(-0.05, axes.get_ylim()[0]))
    return figure


def write_exhibit(
    folder: Path, store: RecordStore, groups, baselines, written: Sequence[Path]
) -> Path:
    """Write the claims, one for each method of R2ET, on all data sets."""
    judged: dict[str, list[exhibit.Case]] = {}
    figures = {}
    for options in groups:
        (k,) = options.k
        reference = main_method(options.methods)
        for dataset in options.datasets:
            texts = []
            for method in options.methods:
                if method == reference:
                    continue
                where = {"dataset": dataset, "k": k}
                of = {"method": method, "reference": reference, **where}
                share = total(store, baselines, **of)
                if share is None:
                    text = f"{reference} not told from a random order"
                else:
                    count, less, more = raw(store, baselines, **of)
                    text = (
                        f"{statistics.shown(share)} ({share.runs} runs; of the "
                        f"{count} raw numbers, not less a random order's, {less} are "
                        f"worse and {more} better)"
                    )
                    texts.append(f"{method} {statistics.shown(share)}")
                if family(method) == "R2ET":
                    case = exhibit.Case(
                        dataset, None, exhibit.Verdict(verdict(share), text)
                    )
                    judged.setdefault(method, []).append(case)
            means = ", ".join(texts) or "none"
            figures[folder / figure_name(dataset)] = (
                "Panels for DFFOT, COMP and SUFF, in each of them the baselines; a "
                f"dot for each method, 1 where its lead over a random order is that of "
                f"{reference}, 0 where it has none. Means: {means}."
            )
    return exhibit.write(
        folder,
        title="Faithfulness: DFFOT, COMP and SUFF",
        claims=[_claim(method, cases) for method, cases in judged.items()],
        figures=figures,
        tables=[path for path in written if path.match("table*.md")][:1],
        typed=groups[0].typed,
        settings=judging.settings(store, groups),
    )


def _claim(method, cases):
    return exhibit.Claim(
        "Robustness is not paid for with faithfulness: explanations of models "
        f"trained with {method} are as faithful as vanilla's.",
        "lead over a random order of features, relative to that order's, mean over "
        "DFFOT, COMP, SUFF and the baselines, as a share of vanilla's: did not hold "
        "if the 95 % interval over paired runs lies below 1, else held if it lies "
        f"above {1 - MARGIN:g}",
        tuple(cases),
        "A penalty that moves the gaps of the ranking may move it away from the "
        "features that the prediction hangs on.",
    )
