"""Measures the parts of a run of cost that are not recorded yet, one by one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

from experiments.console import progress
from experiments.console.flags import Options
from experiments.cost import image_parts
from experiments.cost.parts import PARTS
from experiments.cost.workload import Workload
from experiments.problems import presets
from experiments.store.records import RecordStore
from r2et_jax import datasets

# Parts that compare -> module and name of what they compare with.
OTHERS = {
    "throughput_ratio": ("torch", "PyTorch"),
    "explain_ratio": ("captum", "Captum"),
    "evaluation_ratio": ("quantus", "Quantus"),
}


def measure_missing(
    settings: Iterable[Workload], options: Options, store: RecordStore
) -> str:
    """Measure each part of each data set; returns a sentence on those left out."""
    missing, skipped = absent()
    if skipped:
        print(skipped)
    cells = [
        (workload, metric)
        for workload in settings
        for metric in parts_of(workload)
        if metric not in missing
        and not store.has(dataset=workload.dataset, metric=metric)
    ]
    for workload, metric in progress.track(
        cells, description=options.experiment, show=options.progress
    ):
        store.append(parts_of(workload)[metric](workload))
    return skipped


def parts_of(workload: Workload) -> dict[str, Callable[[Workload], list[dict]]]:
    """The parts that measure a data set, by the metric that each is known by."""
    if workload.dataset not in presets.COST_IMAGES:
        return PARTS
    paired = workload.dataset in datasets.names("pairs")
    return image_parts.PAIR_PARTS if paired else image_parts.PARTS


def absent() -> tuple[tuple[str, ...], str]:
    """The parts whose other libraries are not installed, and a sentence on it."""
    missing, names = [], []
    for metric, (library, name) in OTHERS.items():
        needed = {"torch", library}
        if any(importlib.util.find_spec(module) is None for module in needed):
            missing.append(metric)
            names.append(name)
    if not missing:
        return (), ""
    listed = ", ".join(names)
    return tuple(missing), f"Not installed, so that it was not compared with: {listed}."
