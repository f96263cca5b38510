"""P@k⁺, from what was recorded of P@k under attack and of `same` without."""

from __future__ import annotations

import math
from collections.abc import Iterable

from experiments.store.records import MEASURED, Record, number
from r2et_jax.metrics.agreement import chance_corrected

CORRECTED = "p@k+"
_NOT_OF_CELL = MEASURED | {"metric"}
# Fields in which an attacked cell differs from that of its model without an attack.
_OF_ATTACK = frozenset({"attack", "epsilon", "norm"})


def corrected(records: Iterable[Record]) -> list[Record]:
    """A record of P@k⁺ for each attacked cell that has what it takes.

        P@k⁺ = (P@k − same)/(1 − same) = 1 − (1 − P@k)/(1 − same)

    The cell holds P@k and its covariance with `same`, the cell without an attack
    `same`. The standard error over inputs is that of both, to first order. Cells of
    older runs hold no covariance, but P@k⁺ itself: of them there is nothing to add.

    Args:
      records: of any metrics; those of each model without an attack among them.
    """
    main, same, covariances = {}, {}, []
    for record in records:
        if record["metric"] == "p@k":
            main[_cell(record)] = record
        elif record["metric"] == "same" and record["attack"] == "none":
            same[_model(record)] = record
        elif record["metric"] == "p@k_same_covariance":
            covariances.append(record)
    return [
        _corrected(main[_cell(record)], same[_model(record)], number(record["value"]))
        for record in covariances
        if _model(record) in same
    ]


def _cell(record: Record) -> frozenset:
    return frozenset((n, v) for n, v in record.items() if n not in _NOT_OF_CELL)


def _model(record: Record) -> frozenset:
    return frozenset(pair for pair in _cell(record) if pair[0] not in _OF_ATTACK)


def _corrected(main: Record, same: Record, covariance: float) -> Record:
    precision, overlap = number(main["value"]), number(same["value"])
    value = float(chance_corrected(precision, overlap))
    record = {**main, "metric": CORRECTED, "value": value, "stderr": None}
    if math.isnan(value):
        return record | {"value": None, "note": f"value is {value}"}
    slope = 1 / (1 - overlap)
    of_same = -(1 - precision) * slope**2
    variance = (slope * number(main["stderr"])) ** 2
    variance += (of_same * number(same["stderr"])) ** 2
    variance += 2 * slope * of_same * covariance
    if not math.isnan(variance):
        record["stderr"] = math.sqrt(max(variance, 0.0))
    return record
