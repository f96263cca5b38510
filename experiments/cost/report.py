"""Table, targets, figure and exhibit of what training and attacks cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.cost import image_parts
from experiments.cost import images as cost_images
from experiments.cost.claims import claims
from experiments.cost.parts import PARTS
from experiments.report import exhibit, tables
from experiments.store import output, records
from r2et_jax import plots

MEMORY_LIMIT = 2 * 2**30
IMAGE_MODELS = tuple(cost_images.MODELS.values())
# What the library aims at: (metric, fields, bound, whether the bound is an upper one).
TARGETS = (
    ("flop_units", {"attack": "er"}, 4.5, True),
    ("flops_ratio", {"method": "r2et"}, 8.0, True),
    ("flops_ratio", {"method": "r2et_nh"}, 4.0, True),
    ("flops_over_floor", {}, 1.5, True),
    ("throughput_ratio", {"against": "torch_batched", "model": "mlp"}, 2.5, False),
    (
        "throughput_ratio",
        {"against": "torch_batched", "model": IMAGE_MODELS},
        1.0,
        False,
    ),
    ("explain_ratio", {}, 1.5, False),
    ("evaluation_ratio", {}, 50.0, False),
    ("grouped_convolutions", {"attack": "er"}, 0, True),
    ("throughput_ratio", {"against": "torch_one_by_one"}, 1000.0, False),
    ("peak_memory_bytes", {"attack": "er"}, MEMORY_LIMIT, True),
    ("resident_growth_bytes", {"attack": "er"}, MEMORY_LIMIT, True),
    ("strongest_seconds", {}, 60.0, True),
    ("graph_form_ratio_min", {"against": "sparse"}, 1.0, False),
    ("graph_form_ratio_max", {"against": "dense"}, 1.0, True),
    ("graph_form_error", {}, 1e-4, True),
    ("penalty_peak_bytes", {}, MEMORY_LIMIT, True),
    ("many_peak_bytes", {}, 3 * 2**30, True),
    ("many_nonlinearity", {}, 0.05, True),
)
# Metrics whose notes stand below the table.
NOTED = frozenset(PARTS) | frozenset(image_parts.PARTS)
# The first of these that applies says what a number is of.
SUBJECTS = ("against", "method", "attack")
# One line of a section: heading, metric, unit of the number, format, with its spread.
SECTIONS = {
    "Training step, vanilla = 1": ("method", (
        ("FLOPs", "flops_ratio", 1, ".2f", False),
        ("their floor", "flops_floor", 1, ".2f", False),
        ("FLOPs over floor", "flops_over_floor", 1, ".2f", False),
        ("time", "time_ratio", 1, ".2f", True),
        ("µs per step", "step_seconds", 1e-6, ".0f", True),
        ("exponent of n in FLOPs", "flops_exponent", 1, ".2f", False),
    )),
    "Attacks, a forward pass = 1 FLOP unit": ("attack", (
        ("FLOP units per step", "flop_units", 1, ".2f", False),
        ("10⁶ sample-iterations/s", "throughput", 1e6, ".2f", True),
        ("of the bare steps", "throughput_bare", 1e6, ".2f", True),
        ("driven from the host, a scan = 1", "host_driven_ratio", 1, ".2f", True),
    )),
    "ERAttack against PyTorch": ("against", (
        ("times as fast", "throughput_ratio", 1, ".2f", True),
        ("bare steps", "throughput_ratio_bare", 1, ".2f", True),
        ("PyTorch, 10³ sample-iterations/s", "torch_throughput", 1e3, ".1f", True),
        ("here", "jax_throughput", 1e3, ".1f", True),
    )),
    "Explanations against Captum": ("against", (
        ("times as fast", "explain_ratio", 1, ".2f", True),
        ("in CPU seconds", "explain_ratio_cpu", 1, ".2f", True),
        ("Captum, inputs/s", "explain_rate_theirs", 1, ".0f", True),
        ("here", "explain_rate", 1, ".0f", True),
    )),
    "Evaluations of an explanation against Quantus": ("against", (
        ("times as many a second", "evaluation_ratio", 1, ".0f", True),
        ("a CPU second", "evaluation_ratio_cpu", 1, ".0f", True),
        ("Quantus, 10³ a second", "evaluation_rate_theirs", 1e3, ".1f", True),
        ("here", "evaluation_rate", 1e3, ".1f", True),
    )),
    "The strongest attack, seconds": ("attack", (
        ("first call", "strongest_seconds", 1, ".1f", False),
        ("again", "strongest_seconds_compiled", 1, ".1f", False),
    )),
    "Growth: exponents of a power law, with their ideal": ("method", (
        ("ideal", "growth_ideal", 1, ".2f", False),
        ("FLOPs", "growth_flops", 1, ".2f", False),
        ("CPU time", "growth_seconds", 1, ".2f", False),
        ("bytes", "growth_bytes", 1, ".2f", False),
    )),
    "Many inputs, 50 steps": ("attack", (
        ("CPU seconds", "many_seconds", 1, ".1f", False),
        ("resident peak, MiB", "many_peak_bytes", 2**20, ".0f", False),
        ("off the line by", "many_nonlinearity", 1, ".3f", False),
    )),
    "Graphs by matrices, by edges = 1": ("against", (
        ("time", "graph_form_ratio", 1, ".2f", True),
        ("gradients apart by", "graph_form_error", 1, ".0e", False),
    )),
    "Memory of curvature penalties, MiB": ("method", (
        ("resident peak", "penalty_peak_bytes", 2**20, ".0f", False),
        ("dense Hessians", "penalty_dense_bytes", 2**20, ".0f", False),
    )),
    "Memory, MiB": ("attack", (
        ("compiled", "peak_memory_bytes", 2**20, ".0f", False),
        ("resident growth", "resident_growth_bytes", 2**20, ".0f", False),
        ("of 1/8 of the inputs", "resident_growth_bytes_few", 2**20, ".0f", False),
        ("results", "result_bytes", 2**20, ".0f", False),
        ("resident peak", "resident_peak_bytes", 2**20, ".0f", False),
        ("of 1/8 of the inputs", "resident_peak_bytes_few", 2**20, ".0f", False),
    )),
}  # fmt: skip


def to_markdown(recorded: Iterable[records.Record], notes: Iterable[str]) -> str:
    """The table of all parts: medians, with the smallest and largest in brackets."""
    recorded, text = list(recorded), []
    for title, (key, columns) in SECTIONS.items():
        metrics = [column[1] for column in columns]
        rows = dict.fromkeys(
            (r["dataset"], r[key]) for r in recorded if r["metric"] in metrics
        )
        if not rows:
            continue
        text += [f"## {title}", ""]
        text.append("| dataset | " + " | ".join([key, *(c[0] for c in columns)]) + " |")
        text.append("| --- | --- |" + " ---: |" * len(columns))
        for dataset, name in rows:
            here = records.select(recorded, dataset=dataset, **{key: name})
            shown = [_shown(here, *column[1:]) for column in columns]
            text.append("| " + " | ".join([dataset, name, *shown]) + " |")
        text.append("")
    text += _derivations(recorded)
    return "\n".join([*text, *(f"- {note}" for note in notes)]) + "\n"


def _derivations(recorded):
    """How the floors of the FLOPs come about, each method on the first data set."""
    floors = {}
    for r in records.select(recorded, metric="flops_floor"):
        floors.setdefault(r["method"], r)
    if not floors:
        return []
    title = "Floors of the FLOPs, in passes through the network for one example"
    lines = [f"## {title}", "", "| method | passes | how |", "| --- | ---: | --- |"]
    for name, r in floors.items():
        here = {"dataset": r["dataset"], "method": name}
        (passes,) = records.select(recorded, metric="floor_passes", **here)
        lines.append(f"| {name} | {passes['value']:.2f} | {r['note']} |")
    return [*lines, ""]


def _shown(recorded, metric, unit, spec, spread):
    def text_of(name):
        values = records.select(recorded, metric=name)
        if not values:
            return tables.MISSING
        return format(records.number(values[0]["value"]) / unit, spec)

    text = text_of(metric)
    if not spread or text == tables.MISSING:
        return text
    return f"{text} ({text_of(metric + '_min')} … {text_of(metric + '_max')})"


def target_lines(recorded: Iterable[records.Record]) -> list[str]:
    """For every target that was measured: its bound, the number, whether it is met."""
    lines = []
    for metric, fields, bound, upper in TARGETS:
        for r in records.select(recorded, metric=metric, **fields):
            value = records.number(r["value"])
            met = value <= bound if upper else value >= bound
            subject = next(r[f] for f in SUBJECTS if r[f] != "none")
            name = f"{r['dataset']} {subject}"
            lines.append(
                f"Target: {metric} of {name} {'≤' if upper else '≥'} {bound:g}, "
                f"measured {value:.4g}: {'met' if met else 'MISSED'}."
            )
    return lines


def image_notes(recorded: Iterable[records.Record]) -> list[str]:
    """What the numbers of networks of images mean, where there are any."""
    if not records.select(recorded, model=IMAGE_MODELS):
        return []
    return [
        "On images an attack runs as `attacks.compile_attack` chooses: with "
        "convolutions on CPU each step is a program that the host calls, else they are "
        "scanned. A ratio above 1 says that the host drives faster than the scan.",
        "PyTorch has the same network, weights, goal, batch size and cores; both sides "
        "track P@k every 10 steps, and neither does in the column of the bare steps.",
        "Resident growth is what an attack adds to a process that has compiled it and "
        "run two chunks. Where the chunk bounds the memory, eight times the inputs add "
        "no more than the results, which are copied once, from chunks into a whole.",
    ]


def write_results(
    folder: Path, recorded: list[records.Record], skipped: str, typed: Sequence[str]
) -> None:
    """Write table.md, table.csv, cost.png and the exhibit from the records."""
    notes = [
        *target_lines(recorded),
        "Medians over rounds in alternation, (smallest … largest).",
        "A pass is one product with each weight matrix; an inner one omits the first "
        "layer's. Activations, norms and the optimiser are not in the floors.",
        *image_notes(recorded),
        *dict.fromkeys(
            f"{r['dataset']}, {r['method'] if r['attack'] == 'none' else r['attack']}, "
            f"{r['metric']}: {r['note']}."
            for r in recorded
            if r.get("note") and r["metric"] in NOTED
        ),
        *([skipped] if skipped else []),
    ]
    output.write_text_atomic(folder / "table.md", to_markdown(recorded, notes))
    columns = [
        tables.ColumnSpec(metric, {"metric": metric})
        for metric in dict.fromkeys(r["metric"] for r in recorded)
    ]
    rows = ("dataset", "method", "attack", "against")
    table = tables.pivot(recorded, rows=rows, columns=columns)
    output.write_text_atomic(folder / "table.csv", tables.to_csv(table))
    here = records.select(recorded, metric=("flops_ratio", "time_ratio"))
    methods = list(dict.fromkeys(r["method"] for r in here))
    bars = {}
    for dataset in dict.fromkeys(r["dataset"] for r in here):
        for metric, label in (("flops_ratio", "FLOPs"), ("time_ratio", "time")):
            value = {
                r["method"]: records.number(r["value"])
                for r in records.select(here, dataset=dataset, metric=metric)
            }
            bars[f"{label}, {dataset}"] = [value.get(m, np.nan) for m in methods]
    figures = {}
    if bars:
        figures[_figure(folder, bars, methods)] = (
            "Bars: FLOPs and time of one training step of every method, vanilla = 1."
        )
    exhibit.write(
        folder,
        title="What training and attacks cost",
        claims=claims(recorded),
        figures=figures,
        tables=[folder / "table.md"],
        typed=typed,
    )


def _figure(folder: Path, bars: dict[str, list[float]], methods: list[str]) -> Path:
    figure = plots.bars(
        list(bars),
        list(bars.values()),
        groups=methods,
        ylabel="one training step, vanilla = 1",
        size=(max(6.4, 1.5 + 0.6 * len(methods)), 4.0),
    )
    output.save_figure(folder / "cost.png", figure)
    return folder / "cost.png"
