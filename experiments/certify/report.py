"""Table and figure of certified against attacked P@k, from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.certify import variants_report
from experiments.measures.evaluation import STRONGEST
from experiments.problems.registry import LOGISTIC
from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict
from experiments.report.judging import Question
from experiments.store import output, records
from r2et_jax.plots._paired import paired_curves

# Of the top k, certified: more than this says something.
_HALF = 0.5
# Of the top k under attack: a ranking that is lost.
_LOSES = 0.9


def write_report(
    folder: Path, store: records.RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write table.md, table.csv and a figure for each data set; returns their paths."""
    written = []
    for k in options.k:
        suffix = f"_k{k}" if len(options.k) > 1 else ""
        chosen = {"dataset": options.datasets, "method": options.methods, "k": k}
        recorded = store.select(**chosen)
        name = f"table_{part}{suffix}" if part else f"table{suffix}"
        table = tables.pivot(recorded, columns=_columns(recorded, options.epsilon))
        tables.write_table(folder, table, notes=_notes(recorded, k, options), name=name)
        written += [folder / f"{name}.{ending}" for ending in ("md", "csv")]
        for dataset in options.datasets:
            path = folder / f"certified_{dataset}{suffix}.png"
            here = records.select(recorded, dataset=dataset)
            output.save_figure(path, _figure(here, dataset, k, options))
            written.append(path)
            written += variants_report.write_report(folder, store, dataset, k, suffix)
    return written


def num_violations(recorded: list[dict[str, Any]]) -> tuple[int, int]:
    """Inputs with certified > attacked P@k, and inputs in all, over all cells."""
    counted = records.select(recorded, metric="violations")
    return sum(int(r["value"]) for r in counted), sum(r["n"] for r in counted)


def num_mismatched(recorded: list[dict[str, Any]]) -> int:
    """Inputs whose layers are not those of the model, over all cells."""
    counted = records.select(recorded, metric="mismatched")
    return sum(int(r["value"]) for r in counted)


def _sound(store, dataset, options):
    recorded = store.select(dataset=dataset, method=options.methods, k=options.k)
    violations, count = num_violations(recorded)
    return Verdict(violations == 0, f"{violations} of {count}")


def _not_vacuous(store, dataset, options):
    """At the largest budget, the best method but for linear models."""
    if options.kind != "tabular":
        return None
    budget = max(options.epsilon)
    where = {"dataset": dataset, "k": options.k[0], "metric": "certified_p@k"}
    recorded = store.select(**where, epsilon=budget)
    each = {
        method: statistics.of_records(records.select(recorded, method=method))
        for method in options.methods
        if method != LOGISTIC
    }
    if not each:
        return None
    finite = {m: value for m, value in each.items() if value.mean == value.mean}
    if not finite:
        return None
    best = max(finite, key=lambda method: finite[method].mean)
    shown = ", ".join(f"{m} {statistics.shown(value)}" for m, value in each.items())
    return Verdict(statistics.above(each[best], _HALF), f"ε = {budget:g}: {shown}")


def _where_vanilla_loses(store, dataset, options):
    """At the least budget with vanilla's P@k below .9, the best of the others."""
    if options.kind == "tabular" or "vanilla" not in options.methods:
        return None
    recorded = store.select(dataset=dataset, k=options.k[0])
    lost = [
        budget
        for budget in sorted(options.epsilon)
        if _mean(recorded, "vanilla", "p@k", budget) < _LOSES
    ]
    if not lost:
        return None
    each = {
        method: statistics.of_records(
            records.select(
                recorded, method=method, metric="certified_p@k", epsilon=lost[0]
            )
        )
        for method in options.methods
    }
    best = max(each, key=lambda method: each[method].mean)
    kept = _mean(recorded, "vanilla", "p@k", lost[0])
    shown = ", ".join(f"{m} {statistics.shown(value)}" for m, value in each.items())
    text = f"ε = {lost[0]:g} (vanilla keeps {kept:.2f}): {shown}"
    return Verdict(statistics.above(each[best], _HALF), text)


QUESTIONS = (
    Question(
        "The certificates are sound: none promises more than the strongest attack "
        "leaves.",
        "inputs and budgets with certified above attacked P@k: 0",
        _sound,
        "An error in the bounds, or in the arithmetic of float32.",
        exact=True,
        ours=True,
        figure="certified",
    ),
    Question(
        "The certificates are not vacuous (the papers' bounds stay theory).",
        f"certified P@k of the best method at the largest budget, above {_HALF}",
        _not_vacuous,
        "No method here was trained for its certificate: without that, bounds of the "
        "curvature over the whole ball are wide.",
        ours=True,
        figure="certified",
    ),
    Question(
        "Something is provable of images and graphs where an undefended model loses "
        "its ranking.",
        f"certified P@k of the best method above {_HALF} at the least budget at which "
        f"vanilla keeps less than {_LOSES} of its top k under attack",
        _where_vanilla_loses,
        "Kinks: bounds of a derivative that jumps are those of both sides.",
        ours=True,
        figure="certified",
    ),
)
FIGURES = {
    "certified": "P@k against the budget, attacked (above) and certified (below), "
    "method by method.",
    "variants": "Certified P@k of the ways to bound it, against seconds an input.",
}


def _columns(recorded, budgets) -> list[tables.ColumnSpec]:
    columns = [tables.ColumnSpec("AUC", {"metric": "auc"})]
    searched = {r["epsilon"] for r in records.select(recorded, metric="exact_closed")}
    for epsilon in budgets:
        at = {"attack": STRONGEST, "epsilon": epsilon}
        curves = [
            ("certified", "certified_p@k", "max"),
            ("attacked", "p@k", None),
            ("all kept", "certified_share", "max"),
        ]
        if epsilon in searched:
            curves += [
                ("exact ≥", "exact_lower", None),
                ("exact ≤", "exact_upper", None),
                ("closed", "exact_closed", None),
                ("exact s", "exact_seconds", None),
            ]
        columns += [
            tables.ColumnSpec(
                f"{name}, ε = {epsilon:g}", {"metric": metric, **at}, best=best
            )
            for name, metric, best in curves
        ]
    largest = {"attack": STRONGEST, "epsilon": max(budgets)}
    columns.append(
        tables.ColumnSpec("s an input", {"metric": "seconds", **largest}, best=None)
    )
    return columns


def _notes(recorded, k: int, options) -> tuple[str, ...]:
    violations, count = num_violations(recorded)
    mismatched = num_mismatched(recorded)
    searched = records.select(recorded, metric="exact_violations")
    how = "by bounds of the explanation's program"
    if options.kind == "tabular":
        how = (
            "by interval and linear bounds of φ′, of networks with several layers "
            "by bounds of the gradient's program"
        )
    notes = [
        f"certified: P@{k} that holds at every input with ‖δ‖₂ ≤ ε, {how}; mean over "
        f"inputs. all kept: share of inputs with certified P@{k} = 1.",
        f"attacked: P@{k} under `strongest` at the same budget, of the same inputs and "
        "the same map.",
        f"certified > attacked at {violations} of {count} inputs; the theory asks for "
        "0.",
        "s an input: seconds of the certificate on this machine, after compilation, at "
        "the largest budget.",
    ]
    if searched:
        wrong = sum(int(r["value"]) for r in searched)
        slowest = max(
            r["value"] for r in records.select(recorded, metric="exact_slowest")
        )
        notes.append(
            f"exact: between these the worst P@{k} lies, by branch and bound that "
            "begins at the attack's inputs; closed: share of inputs where both are "
            f"equal; exact s: seconds an input, at most {slowest:.2g}. exact > "
            f"attacked at {wrong} of {sum(r['n'] for r in searched)} inputs; the "
            "theory asks for 0."
        )
    if mismatched:
        notes.append(
            f"At {mismatched} of {count} inputs the layers are not those of the "
            "model: nothing is certified there."
        )
    return tuple(notes)


def _figure(recorded, dataset: str, k: int, options):
    series = {}
    budgets = sorted(options.epsilon)
    for method in options.methods:
        lines = [
            [_mean(recorded, method, metric, epsilon) for epsilon in budgets]
            for metric in ("p@k", "certified_p@k")
        ]
        series[method] = (budgets, *lines)
    return paired_curves(
        series,
        names=(f"attacked ({STRONGEST})", "certified"),
        xlabel="l2 budget ε",
        ylabel=f"P@{k}",
        title=f"{dataset}: certified and attacked P@{k}",
    )


def _mean(recorded, method, metric, epsilon) -> float:
    """Mean over runs; NaN where nothing was measured."""
    where = {"method": method, "metric": metric, "epsilon": epsilon}
    return statistics.of_records(records.select(recorded, **where)).mean
