"""Measures the parts of a run of cost that are not recorded yet, one by one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

from experiments.console import progress
from experiments.console.flags import Options
from experiments.cost import image_parts
from experiments.cost.parts import PARTS
from experiments.cost.setting import Setting
from experiments.measures import image_costs as cost_images
from experiments.store.records import RecordStore
from r2et_jax import datasets

# Parts that compare -> module and name of what they compare with.
OTHERS = {
    "throughput_ratio": ("torch", "PyTorch"),
    "explain_ratio": ("captum", "Captum"),
    "evaluation_ratio": ("quantus", "Quantus"),
}


def measure_missing(
    settings: Iterable[Setting], options: Options, store: RecordStore
) -> str:
    """Measure each part of each data set; returns a sentence on those left out."""
    missing, skipped = absent()
    if skipped:
        print(skipped)
    cells = [
        (setting, metric)
        for setting in settings
        for metric in parts_of(setting)
        if metric not in missing
        and not store.has(dataset=setting.dataset, metric=metric)
    ]
    for setting, metric in progress.track(
        cells, description=options.experiment, show=options.progress
    ):
        store.append(parts_of(setting)[metric](setting))
    return skipped


def parts_of(setting: Setting) -> dict[str, Callable[[Setting], list[dict]]]:
    """The parts that measure a data set, by the metric that each is known by."""
    if setting.dataset not in cost_images.NAMES:
        return PARTS
    paired = setting.dataset in datasets.names("pairs")
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
