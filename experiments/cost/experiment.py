"""What training objectives and attacks cost, as ratios measured side by side.

FLOPs are XLA's counts of one step compiled alone, its loops unrolled; beside them
stands the fewest that the method can take, see `cost_floors`. Times are taken in
alternation, and ratios are medians over rounds, so that a busy machine slows both sides
alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.console import flags
from experiments.cost import image_parts
from experiments.cost import images as cost_images
from experiments.cost.measure import measure_missing
from experiments.cost.report import write_results
from experiments.cost.workload import SIZES, Workload
from experiments.loop import asked
from experiments.problems import presets
from experiments.problems.registry import problem
from experiments.store import output, records
from r2et_jax import checks, datasets, objectives
from r2et_jax.attacks.protocols import SINGLE

FLAGS = flags.describe(
    "cost",
    defaults=presets.FLAGS["cost"],
)


def read_settings(options: flags.Options) -> list[Workload]:
    """One setting for each data set.

    Raises:
      ValueError: for more than one k, budget or seed, or numbers out of range.
    """
    for name in ("k", "epsilon", "seeds"):
        if len(getattr(options, name)) != 1:
            raise ValueError(
                f"--{name} takes one number in this experiment, got "
                f"{','.join(map(str, getattr(options, name)))}"
            )
    (k,), (epsilon,), (seed,) = options.k, options.epsilon, options.seeds
    checks.check_positive("epsilon", epsilon)
    for name in options.datasets:
        if name in presets.COST_IMAGES:
            _check_asked(options, "methods", image_parts.METHODS)
            _check_asked(options, "attacks", (image_parts.ATTACK,))
            checks.check_k(k, math.prod(cost_images.SHAPES[name]))
        else:
            data = datasets.load(name, data_dir=options.data_dir)
            checks.check_k(k, len(data.columns))
    return [
        Workload(
            name, options.data_dir, options.methods, options.attacks, k, epsilon, seed,
            SIZES[options.preset], options.preset, cost_images.MODELS.get(name, "mlp"),
        )
        for name in options.datasets
    ]  # fmt: skip


def _data_sha256(options: flags.Options) -> dict[str, str]:
    """Of the data sets that are there: images that are not have random inputs."""
    fingerprints = {}
    for name in options.datasets:
        try:
            loaded = datasets.load(name, data_dir=options.data_dir)
        except FileNotFoundError:
            continue
        fingerprints[name] = problem(loaded).fingerprint
    return fingerprints


def _check_asked(options: flags.Options, name: str, known: Sequence[str]) -> None:
    """Raise if a list flag was given and asks for more than is measured on images."""
    for entry in options.given[name] or ():
        checks.check_in(f"entry of --{name} on images", entry, known)


def main(values) -> None:
    """Measure what is not yet recorded, then write the table and the figure."""
    options = FLAGS.read(
        values,
        datasets=(*asked.known_tables(values), *presets.COST_IMAGES),
        methods=objectives.NAMES,
        attacks=SINGLE,
    )
    settings = read_settings(options)
    data = _data_sha256(options)
    folder = output.prepare_output_dir(
        options.output_dir, options.config, experiment=options.experiment, data=data
    )
    store = records.RecordStore(
        folder / output.RECORDS,
        data={(name, None): sha256 for name, sha256 in data.items()},
    )
    skipped = measure_missing(settings, options, store)
    write_results(folder, store.select(), skipped, options.typed)
    print((folder / "table.md").read_text(encoding="utf-8"), end="")
