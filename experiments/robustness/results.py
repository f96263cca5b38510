"""The numbers of the robustness experiment, found by what they measure; families."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from experiments.problems.methods import family
from experiments.report import statistics
from experiments.robustness.corrected import corrected
from experiments.store.records import Record, RecordStore
from r2et_jax.attacks.registry import STRONGEST
from r2et_jax.datasets.registry import REFERENCE_SUFFIX
from r2et_jax.metrics.statistics import Estimate

# The leading attack is the first of these that was run; both are tested.
LEADING = (STRONGEST, "er_surrogate")
# A data set of this ending lacks one reference level of each one-hot group.
REFERENCE = REFERENCE_SUFFIX


def leading_attack(attacks: Sequence[str]) -> str:
    """strongest, else er_surrogate, else the last one named."""
    return next((name for name in LEADING if name in attacks), attacks[-1])


def split_references(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The data sets as they are, then those with reference levels dropped."""
    whole = tuple(name for name in names if not name.endswith(REFERENCE))
    return [whole, tuple(name for name in names if name.endswith(REFERENCE))]


class Results:
    """The records of one k by data set, method, tolerance, attack and metric.

    Those of P@k⁺ are computed here, see `corrected`.

    Args:
      store: all records.
      options: the flags of the run.
      k: size of the top set; records without a k belong to every one.

    Example:
      >>> results = Results(store, options, k=8)
      >>> results.cells("adult", "r2et", "same", tolerance=0.01)
      {(0, 0): 0.93, (1, 0): 0.91}
    """

    def __init__(self, store: RecordStore, options, *, k: int):
        self.options = options
        self.k = k
        self._found: dict[tuple, list[Record]] = {}
        wanted = {
            "dataset": options.datasets,
            "method": options.methods,
            "k": (k, None),
        }
        records = store.select(**wanted)
        for record in [*records, *corrected(records)]:
            key = (
                record["dataset"], record["method"], record.get("tolerance"),
                record["attack"], record["metric"],
            )  # fmt: skip
            self._found.setdefault(key, []).append(record)

    def get(
        self,
        dataset: str,
        method: str,
        metric: str,
        *,
        tolerance: float | None,
        attack: str = "none",
        epsilon: float | None = None,
    ) -> list[Record]:
        """The records of one metric, of one budget or of all."""
        recorded = self._found.get((dataset, method, tolerance, attack, metric), [])
        if epsilon is None:
            return recorded
        return [record for record in recorded if record["epsilon"] == epsilon]

    def measured(self, dataset: str, tolerance: float) -> tuple[str, ...]:
        """The methods that were measured on a data set."""
        return tuple(
            method
            for method in self.options.methods
            if self.get(dataset, method, "auc", tolerance=tolerance)
        )

    def table_records(
        self, names: Iterable[str], tolerance: float, metrics: Iterable[str]
    ) -> list[Record]:
        """The records of some metrics, in the order of data sets and methods."""
        metrics = frozenset(metrics)
        groups: dict[tuple, list[Record]] = {}
        for (dataset, method, at, _, metric), recorded in self._found.items():
            if at == tolerance and metric in metrics:
                groups.setdefault((dataset, method), []).extend(recorded)
        return [
            record
            for dataset in names
            for method in self.options.methods
            for record in groups.get((dataset, method), [])
        ]

    def metrics(self, tolerance: float) -> list[str]:
        """Names of all metrics of a tolerance, sorted."""
        return sorted({key[4] for key in self._found if key[2] == tolerance})

    def cells(self, *where: str, **which) -> dict[tuple, float]:
        """(seed, fold) -> value; arguments as for `get`."""
        return statistics.cells(self.get(*where, **which))

    def estimate(self, *where: str, **which) -> Estimate:
        """The mean over runs with its error; of no runs if nothing was measured."""
        return statistics.of_records(self.get(*where, **which))

    def mean(self, *where: str, **which) -> float:
        """Mean over runs; NaN if there are none or one is not finite."""
        return self.estimate(*where, **which).mean

    def best(self, dataset: str, of_family: str, *, tolerance: float) -> str | None:
        """The method of a family with the highest mean P@k of validation inputs.

        Those were attacked for selection already: no test input takes part.
        """
        means = {
            method: self.mean(dataset, method, "valid_p@k", tolerance=tolerance)
            for method in self.options.methods
            if family(method) == of_family
        }
        known = [method for method in means if not math.isnan(means[method])]
        return max(known, key=means.__getitem__) if known else None
