"""Several audits side by side: which model or explanation is more stable."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from r2et_jax import metrics
from r2et_jax.audit import words
from r2et_jax.audit.result import Audit
from r2et_jax.metrics import statistics
from r2et_jax.metrics.statistics import Estimate
from r2et_jax.metrics.summary import as_units, distinct_inputs, means_by_unit


class Difference(NamedTuple):
    """One audit less another, paired by input.

    Attributes:
      first, second: names of the two.
      estimate: mean difference of P@k over the inputs that both rank, see
        `metrics.Estimate`; its `low` and `high` are a 95 % interval.
      p_value: two-sided, corrected by Holm over all pairs; NaN where unknown.
      more_stable: name of the more stable one, or "" where chance may explain it.
    """

    first: str
    second: str
    estimate: Estimate
    p_value: float
    more_stable: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Compared:
    """Audits side by side; print it for a table.

    Attributes:
      audits: name -> audit.
      epsilon: the budget at which they are compared.
      differences: of all pairs, in order.
    """

    audits: dict[str, Audit]
    epsilon: float
    differences: tuple[Difference, ...]

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """(name, mean P@k, standard error, overlap of inputs, P@k⁺) of each audit.

        P@k⁺ is that at the threat model's own budget.
        """
        lines = []
        for name, audit in self.audits.items():
            row = words.rows(audit)[audit.at(self.epsilon)]
            plus = float(audit.corrected.mean) if audit.counted.any() else np.nan
            lines.append((name, row.precision, row.stderr, audit.same, plus))
        return lines

    def sentences(self) -> list[str]:
        """What each pair says."""
        return [_sentence(difference, self.epsilon) for difference in self.differences]

    def __str__(self) -> str:
        k = next(iter(self.audits.values())).asked.k
        width = max(map(len, self.audits))
        lines = [f"P@{k} under attack at ε = {self.epsilon:g}, ± standard error"]
        for name, mean, stderr, same, plus in self.rows():
            lines.append(
                f"  {name:<{width}}  {words.number(mean)} ± {words.number(stderr)}  "
                f"overlap of inputs {words.number(same)}, P@{k}⁺ {words.number(plus)}"
            )
        return "\n".join([*lines, *self.sentences(), _LIMIT])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        k = next(iter(self.audits.values())).asked.k
        heads = ["", f"P@{k} at ε = {self.epsilon:g}", "±", "overlap", f"P@{k}⁺"]
        head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
        lines = "".join(
            f"<tr><td>{html.escape(name)}</td>"
            + "".join(f"<td>{words.number(value)}</td>" for value in values)
            + "</tr>"
            for name, *values in self.rows()
        )
        told = "".join(
            f"<p>{html.escape(text)}</p>" for text in (*self.sentences(), _LIMIT)
        )
        return f"<table><tr>{head}</tr>{lines}</table>{told}"


_LIMIT = (
    "Intervals are over the inputs, for these trained models: other training runs "
    "would give other models."
)


def compare(audits: Mapping[str, Audit], *, at: float | None = None) -> Compared:
    """Which of several models or explanations is more stable, beyond chance.

    P@k of the same inputs is subtracted input by input; the mean difference has
    Student's interval over the inputs, and the p-values of all pairs are corrected by
    Holm's method.

    Args:
      audits: name -> audit, at least two, of the same inputs in the same order, with
        the same k, norm and evaluations.
      at: a budget that all of them measured; by default the threat model's own.

    Returns:
      `Compared`; print it.

    Raises:
      ValueError: for fewer than two, what are no audits, other inputs, another k, norm,
        number of evaluations or rules of the threat model, a budget that one did not
        measure.

    Example:
      >>> from r2et_jax.audit import audit
      >>> x = np.array([[1.0, 2.0, 0.5], [0.5, -1.0, 2.0]], np.float32)
      >>> linear = audit(lambda w, x: (w @ x)[None], x[0], x, k=1, evaluations=1000)
      >>> print(compare({"a": linear, "b": linear}).differences[0].estimate.mean)
      0.0
    """
    if not isinstance(audits, Mapping) or len(audits) < 2:
        raise ValueError(
            "audits must be a mapping of at least two names to audits, got a "
            f"{type(audits).__name__}{_of(audits)}"
        )
    audits = {str(name): audit for name, audit in audits.items()}
    (first, base), *others = audits.items()
    for name, audit in audits.items():
        if not isinstance(audit, Audit):
            raise ValueError(f"audits[{name!r}] must be an Audit, got {audit!r}")
    for name, audit in others:
        _check_same(first, base, name, audit)
    epsilon = base.asked.epsilon if at is None else at
    values = {name: audit.curve[audit.at(epsilon)] for name, audit in audits.items()}
    pairs = list(itertools.combinations(values, 2))
    units = distinct_inputs(next(iter(audits.values())).x)
    estimates = [_paired(values[a] - values[b], units) for a, b in pairs]
    corrected = statistics.holm([paired.p_value() for paired in estimates])
    clear = statistics.verdicts(estimates)
    differences = tuple(
        Difference(a, b, paired, p, "" if lead is None else (a if lead else b))
        for (a, b), paired, p, lead in zip(
            pairs, estimates, corrected, clear, strict=True
        )
    )
    return Compared(audits, float(epsilon), differences)


def _of(audits: Any) -> str:
    return f" of {len(audits)}" if hasattr(audits, "__len__") else ""


def _paired(differences: np.ndarray, units: np.ndarray) -> Estimate:
    """Over different inputs: rows of the same one, as with partners, count once."""
    known = np.isfinite(differences)
    of_inputs = means_by_unit(differences[known], as_units(units[known], known.sum()))
    return metrics.estimate(of_inputs.tolist(), over="inputs")


def _check_same(first: str, base: Audit, name: str, audit: Audit) -> None:
    if audit.x.shape != base.x.shape or not np.array_equal(audit.x, base.x):
        raise ValueError(
            f"audits must be of the same inputs, got others in {name!r} than in "
            f"{first!r}"
        )
    same_constraints = base.asked.constraints == audit.asked.constraints
    for field in ("k", "norm", "evaluations", "rules", "constraints"):
        mine, other = (getattr(audited.asked, field) for audited in (base, audit))
        # The rules name columns, which may be called otherwise.
        if mine != other and not (field == "rules" and same_constraints):
            raise ValueError(
                f"audits must have the same {field}, got {mine!r} in {first!r} and "
                f"{other!r} in {name!r}"
            )


def _sentence(difference: Difference, epsilon: float) -> str:
    estimate: Any = difference.estimate
    if not estimate.runs:
        return f"{difference.first} and {difference.second} rank no input in common."
    numbers = f"{estimate.mean:+.3f}"
    if np.isfinite(estimate.low):
        numbers += f" (95 % interval {estimate.low:+.3f} … {estimate.high:+.3f}"
        numbers += f", corrected p = {difference.p_value:.2g}; {estimate.n} inputs)"
    less = f"{difference.first} less {difference.second}: {numbers}"
    if not difference.more_stable:
        return f"{less}; chance may explain it at ε = {epsilon:g}."
    return f"{less}; {difference.more_stable} is the more stable one."
