"""The tables of the robustness experiment, and the ways to cheat that they expose."""

from __future__ import annotations

from experiments.measures.evaluation import STRONGEST
from experiments.problems import presets
from experiments.problems.methods import family
from experiments.problems.registry import LOGISTIC
from experiments.report import statistics, tables
from experiments.robustness import comparisons
from experiments.robustness.results import (
    LEADING,
    REFERENCE,
    Results,
    leading_attack,
    split_references,
)
from r2et_jax import attacks, objectives

READING = (
    "P@k: share of the clean top-k features that stay in the top k, the lowest value "
    "among the inputs that the attack visited; mean over test inputs.",
    "P@k⁺ = (P@k − same)/(1 − same): corrected for the overlap between different "
    "inputs, which a model that ignores its input has too.",
    "P@k, class kept: the lowest value among inputs whose predicted class stayed, of "
    "pairs that of the pair.",
    "same: mean top-k overlap between different test inputs; 1 for a linear model.",
    "null: share of the squared gradient along directions in which the training data "
    "are constant; large values fix the ranking at unchanged predictions.",
    "R² lin: R² of the best linear fit of the logit; near 1 the network is given up.",
    "k of a graph: half of the number of its edges where that is less. Penalties take "
    "one k for all graphs, that of nine in ten of them at most.",
    "train AUC: of training pairs; near 0.5 nothing was learnt, and robustness says "
    "nothing.",
    "AUC linear: of the same pairs by logistic regression on the weights of the edges "
    "of single graphs.",
    "truth: share of the top-k edges in which the classes truly differ, at first and "
    "under attack; known where the data were generated.",
    "bg: share of the top-k features on pixels that are zero, the background.",
    "P@k noise: P@k under random noise of norm 1e-6; below 1 the clean inputs sit on "
    "kinks or ties.",
    "AUC: of clean test data, of several classes the mean over each one against the "
    "others. aAUC: of the attacked inputs. changed: share of inputs whose predicted "
    "class the attack changed.",
    "pair changed, class changed: of pairs, the share whose prediction changed, and "
    "that in which the class of the attacked input did, by itself, by logistic "
    "regression on its embedding, of the accuracy beside it.",
    "fallback: share of seeds that found no checkpoint within the tolerance and take "
    "the vanilla model.",
    "logistic: logistic regression, whose ranking cannot change: the price in AUC of "
    "giving up the network.",
    "The CSV files also hold what was selected: penalty weights, epoch, validation "
    "AUC and P@k.",
)
# What an attack changes, by the kind of data.
INPUTS = {
    "tabular": "standardised inputs",
    "image": "pixels between 0 and 1, which stay there",
    "graph": "the weights of edges, within their legal values",
}
_DESCRIPTIONS = {
    **attacks.DESCRIPTIONS,
    STRONGEST: "the lowest of an ensemble of goals, surrogates and restarts, input by "
    "input",
}

# Beyond these a method is named among the ways to cheat.
LINEAR_R2 = 0.98
SAME = 0.95
NULL_ABOVE = 0.1


def columns(
    options, k: int, *, truth: bool = False, classes: bool = False
) -> list[tables.ColumnSpec]:
    """The columns that are shown.

    Args:
      options: the flags.
      k: size of the top set.
      truth: whether it is known, for how much of it explanations find.
      classes: whether inputs of pairs have a class of their own.
    """
    clean = {"attack": "none"}
    main, budget = leading_attack(options.attacks), max(options.epsilon)
    attacked = {"attack": main, "epsilon": budget}
    spec = tables.ColumnSpec
    return [
        spec("AUC", {"metric": "auc", **clean}, best="max"),
        *(
            spec(
                f"P@{k} {name}",
                {"metric": "p@k", "attack": name, "epsilon": budget},
                best="max",
            )
            for name in options.attacks
        ),
        spec(f"P@{k}⁺ {main}", {"metric": "p@k+", **attacked}, best="max"),
        spec(f"P@{k}, class kept", {"metric": "p@k_same_class", **attacked}),
        spec("same", {"metric": "same", **clean}),
        *_of_the_kind(options, clean),
        *(
            spec(name, {"metric": "truth_precision", **where})
            for name, where in (("truth", clean), (f"truth {main}", attacked))
            if truth
        ),
        spec(f"P@{k} noise", {"metric": "p@k", "attack": "noise"}),
        spec("aAUC", {"metric": "aauc", **attacked}),
        *(
            [
                spec("pair changed", {"metric": "sensitivity_pair", **attacked}),
                spec("class changed", {"metric": "sensitivity_class", **attacked}),
                spec("accuracy", {"metric": "class_accuracy", **clean}),
            ]
            if classes
            else [spec("changed", {"metric": "sensitivity", **attacked})]
        ),
        spec("fallback", {"metric": "fallback", **clean}, format=".2f"),
    ]


def _of_the_kind(options, clean) -> list[tables.ColumnSpec]:
    """Guards that not all kinds of data have."""
    names = {
        "tabular": [("null", "null"), ("R² lin", "linear_r2")],
        "image": [("null", "null"), ("bg", "bg")],
        "graph": [("train AUC", "train_auc"), ("AUC linear", "linear_auc")],
    }
    return [
        tables.ColumnSpec(name, {"metric": metric, **clean})
        for name, metric in names[options.kind]
    ]


def _reading(options) -> list[str]:
    """What is worth saying of the columns that there are."""
    kinds = {
        "null:": ("tabular", "image"),
        "R² lin:": ("tabular",),
        "logistic:": ("tabular",),
        "bg:": ("image",),
        "k of a graph:": ("graph",),
        "train AUC:": ("graph",),
        "AUC linear:": ("graph",),
        "truth:": ("graph",),
        "pair changed": ("image", "graph"),
    }
    hidden = tuple(start for start, among in kinds.items() if options.kind not in among)
    return [line for line in READING if not line.startswith(hidden)]


def table(results: Results, datasets, tolerance: float, *, selection: bool = False):
    """The table of some data sets; `selection` adds what was selected, for the CSV."""
    # Of the data sets of one table, some may have no truth.
    truth, classes = (
        bool(results.table_records(datasets, tolerance, [metric]))
        for metric in ("truth_precision", "class_accuracy")
    )
    shown = columns(results.options, results.k, truth=truth, classes=classes)
    if selection:
        chosen = ["epoch", "valid_auc", "valid_p@k", "settings_tried", "settings_left"]
        chosen += [m for m in results.metrics(tolerance) if m.startswith("weight_")]
        shown += [
            tables.ColumnSpec(name, {"metric": name, "attack": "none"})
            for name in chosen
        ]
    metrics = [column.filters["metric"] for column in shown]
    records = results.table_records(datasets, tolerance, metrics)
    return tables.pivot(records, columns=shown)


def markdown(results: Results, compared: comparisons.Comparisons) -> str:
    """All tables of one k with their notes."""
    options, k = results.options, results.k
    whole, reference = split_references(options.datasets)
    parts = []
    for tolerance in presets.TOLERANCES:
        marks = comparisons.marks(compared, tolerance, k)
        parts.append(
            f"## Top-{k} robustness, validation AUC within {tolerance} of vanilla's\n\n"
            f"{options.norm} budget ε = {max(options.epsilon):g} on "
            f"{INPUTS[options.kind]}.\n"
        )
        for datasets in (whole, reference):
            if not datasets:
                continue
            if datasets is reference:
                parts.append("### With one reference level of each category dropped\n")
            parts.append(
                tables.to_markdown(table(results, datasets, tolerance), marks=marks)
            )
    parts.append("## How to read the tables\n")
    notes = [*comparisons.notes(compared, k), *_reading(options), *_copies(results)]
    parts.append(_bullets(notes))
    parts.append(cheats(results))
    parts.append("## Methods\n")
    parts.append(_bullets(f"`{name}`: {describe(name)}" for name in options.methods))
    parts.append("## Attacks\n")
    lines = [f"`{name}`: {_DESCRIPTIONS[name]}" for name in options.attacks]
    if options.num_steps:
        lines.append(
            f"here `er`, `mse` and `er_surrogate` take {options.num_steps} steps, "
            "which are so much longer"
        )
    parts.append(_bullets(lines))
    return "\n".join(parts)


def describe(method: str) -> str:
    """What a method is, and whom it counts among; the parts of a sum joined."""
    if method == LOGISTIC:
        what = "logistic regression, whose ranking cannot change"
    else:
        what = objectives.method(method).description
    return f"{what} ({family(method)})"


def _copies(results: Results) -> list[str]:
    """How many rows of each table equal another one."""
    options, told = results.options, []
    for dataset in split_references(options.datasets)[0]:
        for method in options.methods:
            where = {"tolerance": presets.MAIN_TOLERANCE}
            for record in results.get(dataset, method, "copies", **where)[:1]:
                told.append((dataset, int(record["value"]), record["n"]))
    return [
        f"copies: of {dataset} {rows} of {total} rows equal another row after coding; "
        "equal rows stand in one part of the split."
        for dataset, rows, total in dict.fromkeys(told)
    ]


def cheats(results: Results) -> str:
    """Which methods come close to a model that only looks robust."""
    options, k = results.options, results.k
    tolerance = presets.MAIN_TOLERANCE
    lines = []
    for dataset in options.datasets:
        vanilla = results.mean(dataset, "vanilla", "null", tolerance=tolerance)
        lines.append(f"- {dataset}")
        if options.kind == "tabular":
            lines.append(
                f"  - nearly linear, R² lin ≥ {LINEAR_R2}: "
                + _beyond(results, dataset, "linear_r2", LINEAR_R2)
            )
        lines += [
            f"  - nearly one ranking for all inputs, same ≥ {SAME}: "
            + _beyond(results, dataset, "same", SAME),
        ]
        if vanilla == vanilla and options.kind != "graph":
            lines.append(
                f"  - null directions, null ≥ vanilla's {vanilla:.3f} + {NULL_ABOVE}: "
                + _beyond(results, dataset, "null", vanilla + NULL_ABOVE)
            )
    text = (
        "## Ways to cheat\n\n"
        f"Methods by their means over runs, validation AUC within {tolerance} of "
        "vanilla's; logistic regression, linear by construction, is left out.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    pairs = [
        (name, name + REFERENCE)
        for name in options.datasets
        if name + REFERENCE in options.datasets
    ]
    if not pairs:
        return text
    attack, budget = leading_attack(options.attacks), max(options.epsilon)
    where = {"tolerance": tolerance, "attack": attack, "epsilon": budget}
    rows = []
    for method in options.methods:
        cells = [
            statistics.shown(
                statistics.difference(
                    results.cells(after, method, "p@k", **where),
                    results.cells(before, method, "p@k", **where),
                ),
                "+.3f",
            )
            for before, after in pairs
        ]
        if set(cells) != {tables.MISSING}:
            rows.append(f"| {method} | " + " | ".join(cells) + " |")
    heads = " | ".join(f"{after} − {before}" for before, after in pairs)
    return (
        f"{text}\nChange of P@{k} under {attack} when one reference level of each "
        "category is dropped, so that no direction of the inputs is constant by "
        "construction; mean ± standard error over runs, paired. A fall says that "
        "robustness rested on such directions; fewer features raise P@k by chance "
        "alone.\n\n"
        f"| method | {heads} |\n| --- |{' ---: |' * len(pairs)}\n"
        + "\n".join(rows)
        + "\n"
    )


def summary(results: Results) -> str:
    """One block for each data set at the main tolerance, for a terminal."""
    options, k = results.options, results.k
    main, budget = leading_attack(options.attacks), max(options.epsilon)
    names = [name for name in reversed(LEADING) if name in options.attacks]
    wanted = [
        "AUC",
        "same",
        *(f"P@{k} {name}" for name in names or [main]),
        f"P@{k}⁺ {main}",
    ]
    known = {column.name: column for column in columns(options, k)}
    # The attacks stand in the heading of a column, P@k in the line above all.
    shown = [known[name]._replace(name=name.removeprefix(f"P@{k} ")) for name in wanted]
    shown[-1] = shown[-1]._replace(name=f"P@{k}⁺", format=".2f")
    shown[1] = shown[1]._replace(format=".2f")
    metrics = [column.filters["metric"] for column in shown]
    blocks = []
    for dataset in options.datasets:
        records = results.table_records([dataset], presets.MAIN_TOLERANCE, metrics)
        block = tables.pivot(
            [{**record, dataset: record["method"]} for record in records],
            rows=(dataset,),
            columns=shown,
        )
        blocks.append(tables.to_text(_sorted(block, main)))
    return (
        f"P@{k} under attack, {options.norm} ≤ {budget:g}, best first; mean ± standard "
        "error over runs\nsame: overlap between different inputs; P@"
        f"{k}⁺: {main}, corrected for it\n\n" + "\n".join(blocks)
    )


def _sorted(block: tables.Table, attack: str) -> tables.Table:
    """Rows by P@k under the leading attack, highest first, unknown last."""
    place = [column.name for column in block.columns].index(attack)

    def key(row):
        cell = block.cells[row][place]
        return -cell.mean if cell is not None and cell.mean == cell.mean else 2.0

    order = sorted(range(len(block.rows)), key=key)
    return block._replace(
        rows=[block.rows[i] for i in order], cells=[block.cells[i] for i in order]
    )


def _beyond(results, dataset, metric, threshold):
    """Methods at or above a threshold, with their means."""
    beyond = []
    for method in results.options.methods:
        if family(method) == "linear":
            continue
        mean = results.mean(dataset, method, metric, tolerance=presets.MAIN_TOLERANCE)
        if mean >= threshold:
            beyond.append(f"{method} ({mean:.3f})")
    return ", ".join(beyond) or "none"


def _bullets(lines) -> str:
    return "".join(f"- {line}\n" for line in lines)
