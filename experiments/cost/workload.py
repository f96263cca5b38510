"""One data set of the experiment `cost`, how much of it is timed, and its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.cost import costs
from experiments.problems import presets


class Sizes(NamedTuple):
    """How much is timed: the rounds of alternation and the work in each."""

    rounds: int
    train_steps: int
    attack_inputs: int
    attack_blocks: int | None  # of track_every steps; None for the protocol's number
    compare_inputs: int
    compare_steps: int
    compare_batches: tuple[int, ...]
    loop_inputs: int
    memory_inputs: int


SIZES = {preset: Sizes(*values) for preset, values in presets.SIZES.items()}


class Workload(NamedTuple):
    """One data set with everything that its measurements share."""

    dataset: str
    data_dir: Path
    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    k: int
    epsilon: float
    seed: int
    sizes: Sizes
    preset: str = "standard"
    model: str = "mlp"

    def record(self, metric: str, value: float | None, n: int, **fields: Any) -> dict:
        """A record of this setting; fields not given do not apply."""
        return {
            "experiment": "cost", "dataset": self.dataset, "model": self.model,
            "method": "none", "schedule": "none", "seed": self.seed, "fold": None,
            "attack": "none", "epsilon": None, "k": self.k, "against": "none",
            "metric": metric, "value": value, "stderr": None, "n": n, **fields,
        }  # fmt: skip

    def spread(self, metric: str, values: np.ndarray, **fields: Any) -> list[dict]:
        """Median, smallest and largest of the rounds, as three records."""
        summaries = {"": np.median(values), "_min": values.min(), "_max": values.max()}
        return [
            self.record(metric + suffix, float(value), len(values), **fields)
            for suffix, value in summaries.items()
        ]

    def victim(self, num_inputs: int) -> costs.Victim:
        """The model under attack and some inputs."""
        return costs.victim(
            self.dataset, data_dir=self.data_dir, num_inputs=num_inputs, seed=self.seed
        )
