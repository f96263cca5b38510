"""What an audit found, in words: the rule of each verdict stands beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2et_jax.metrics.summary import distinct_inputs, mean_and_stderr

if TYPE_CHECKING:
    from r2et_jax.audit.asked import Asked
    from r2et_jax.audit.result import Audit

# P@k from which an explanation is called stable, and below which unstable.
STABLE, UNSTABLE = 0.9, 0.6
# Overlap of different inputs above which stability says little.
ALIKE = 0.9
_NORMS = {
    "l2": "Euclidean length (l2) of the change",
    "linf": "largest change of any single value (l∞)",
}


class Row(NamedTuple):
    """P@k under one budget; means over the inputs that have a ranking.

    Attributes:
      epsilon: the budget.
      precision: mean P@k under attack.
      stderr: its standard error over inputs.
      same_class: mean with the predicted class kept; NaN of a regression.
      certified: mean certified P@k; NaN where nothing is proved.
      reordered: share of inputs that lost at least one top feature.
    """

    epsilon: float
    precision: float
    stderr: float
    same_class: float
    certified: float
    reordered: float


def rows(audit: Audit) -> list[Row]:
    """The table of P@k against the budgets."""
    counted = audit.counted
    # Rows of the same input, such as with several partners, are no independent ones.
    units = distinct_inputs(audit.x)
    table = []
    for i, epsilon in enumerate(audit.epsilons):
        mean = mean_and_stderr(audit.curve[i])
        stderr = mean_and_stderr(audit.curve[i], units=units).stderr
        proved = np.nan
        if audit.certified.precision is not None and counted.any():
            proved = float(np.mean(audit.certified.precision[i][counted]))
        table.append(
            Row(
                epsilon=float(epsilon),
                precision=float(mean.mean),
                stderr=float(stderr),
                same_class=float(mean_and_stderr(audit.curve_same_class[i]).mean),
                certified=proved,
                reordered=_share(audit.curve[i][counted] < 1),
            )
        )
    return table


def number(value: float) -> str:
    """Three digits behind the point, or "–" where there is no number."""
    return f"{value:.3f}" if np.isfinite(value) else "–"


def floored(value: float) -> str:
    """Two digits, rounded down: what is proved says no more than its proof."""
    if not np.isfinite(value):
        return "–"
    if value <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step + 1e-9) * step:.2g}"


def percent(value: float) -> str:
    """A share in per cent; never 0 or 100 of what is neither."""
    if not np.isfinite(value):
        return "–"
    if 0 < value < 0.01:
        return "less than 1 %"
    if 0.99 < value < 1:
        return "more than 99 %"
    return f"{100 * value:.0f} %"


def question(audit: Audit) -> str:
    """What was asked, in one paragraph."""
    asked = audit.asked
    rules = f" Besides: {'; '.join(asked.rules)}." if asked.rules else ""
    return (
        f"A model was shown {len(audit.precision)} inputs of {asked.columns} numbers "
        f"each. For every input an explanation ({asked.explainer}) says how much each "
        f"of {len(asked.names)} features matters, and a person reads the top "
        f"{asked.k}. An adversary may change the input a little. How much of the top "
        f"{asked.k} is left? A change may be at most ε = {asked.epsilon:g}, the "
        f"{_NORMS[asked.norm]}, in the units of the inputs.{rules}"
    )


def verdict(audit: Audit) -> list[str]:
    """Three sentences: how much stays, how small a change is enough, what is proved."""
    k, epsilon = audit.asked.k, audit.asked.epsilon
    counted = audit.counted
    if not counted.any():
        return [
            "No input has a ranking, so that nothing can be said of the top features.",
            "Every explanation is zero, or it or the output is not a finite number.",
            "Look at the model's output and gradient before anything else.",
        ]
    row = rows(audit)[audit.at()]
    kind = "partly stable"
    if row.precision >= STABLE:
        kind = "stable"
    elif row.precision < UNSTABLE:
        kind = "unstable"
    first = (
        f"On average {100 * row.precision:.1f} % of the top {k} features stay on top "
        f"when an adversary may change an input by ε = {epsilon:g}: the explanations "
        f"are {kind} against such changes (stable from {percent(STABLE)}, unstable "
        f"below {percent(UNSTABLE)}){doubts(audit)}."
    )
    if not epsilon:
        first = (
            f"ε = 0 lets nothing change, so that the top {k} stay whatever the model "
            "is: ask at a budget above 0."
        )
    return [first, _smallest(audit), _worth(audit, row)]


def doubts(audit: Audit) -> str:
    """Of how many inputs P@k says nothing, though it is a number; empty for none."""
    k, m = audit.asked.k, len(audit.precision)
    ties, coarse = int(audit.tied.sum()), int(audit.coarse.sum())
    said = []
    if ties:
        said.append(
            f"{ties} of {m} inputs are tied between ranks {k} and {k + 1}, where the "
            "order of the columns decides what is on top"
        )
    if coarse:
        said.append(
            f"{coarse} of {m} inputs are so large that rounding takes changes of ε away"
        )
    return f"; but {', and '.join(said)}" if said else ""


def _smallest(audit: Audit) -> str:
    k, epsilon = audit.asked.k, audit.asked.epsilon
    radius = audit.radius[audit.counted]
    reach = max(epsilon, float(audit.epsilons[-1]))
    if not np.isfinite(radius).any():
        return (
            f"No change of up to ε = {reach:g} was found that takes a feature out of "
            f"the top {k} of any input."
        )
    half = float(np.median(radius))
    typical = (
        f"half of them by one of at most {half:.2g}"
        if np.isfinite(half)
        else f"the smallest was {radius.min():.2g}, and less than half of them changed"
    )
    if not np.isfinite(audit.nearest):
        return (
            f"The top {k} of {percent(_share(np.isfinite(radius)))} of the inputs was "
            f"changed within ε = {reach:g}, {typical}."
        )
    near = audit.nearest / 10
    return (
        f"The top {k} of {percent(_share(radius <= near))} of the inputs can be "
        "changed by less than a tenth of the distance to the nearest other input "
        f"({audit.nearest:.3g} in the middle); {typical}."
    )


def _worth(audit: Audit, row: Row) -> str:
    # Down, as a proof says no more than it has shown.
    share = math.floor(100 * row.certified + 1e-9) if np.isfinite(row.certified) else 0
    proved = (
        f"It is proved that no such change leaves fewer than {share} % on average"
        if share
        else "Less than one percent is proved: a stronger attack may find more"
        if np.isfinite(row.certified)
        else "Nothing is proved: a stronger attack may find more"
    )
    if np.isnan(audit.same):
        return f"{proved}."
    alike = f"different inputs share {percent(audit.same)} of their top features anyway"
    if audit.same >= ALIKE:
        return f"{proved}; {alike}, so that staying on top says little here."
    return f"{proved}; {alike}, which is what a fixed ranking would keep."


def unseen(asked: Asked) -> str:
    """What of the model gradients do not see, a sentence without its end."""
    return (
        f"The model switches where no smooth form is known ({asked.unsmoothed}): "
        "gradients do not see that, and the attack may leave more than there is"
    )


def limits(audit: Audit) -> list[str]:
    """What was assumed, and what the answer does not say."""
    asked = audit.asked
    kinds = {
        "logits": "The model's outputs are taken as logits, before any softmax.",
        "probabilities": "The model's outputs are taken as class probabilities.",
        "regression": "The model's output is taken as a value, and explained itself.",
    }
    proved = audit.certified.why_not
    return [
        kinds[asked.output],
        "P@k under attack is an upper bound: the lowest that an ensemble of attacks "
        f"found with {asked.evaluations:,} evaluations for each input and budget. A "
        "stronger attack may find less.",
        "Certified P@k is a lower bound that no attack of this kind can go below."
        if not proved
        else f"No lower bound is given: {proved.removeprefix('nothing is proved: ')}.",
        f"The attack takes its gradients from {asked.stand_in}.",
        *([f"{unseen(asked)}."] if asked.unsmoothed else []),
        "Distances are of changes that were found: the smallest one may be smaller."
        + (
            ""
            if audit.certified.radii is None
            else " What provably stays is searched for in steps, and may reach further."
        ),
        *(
            [
                "Faithfulness puts a feature's mean over these inputs in its place; "
                f"random rankings are means over {audit.quality.num_rankings} for each "
                "input. ⚠ "
                "stands where the lead over them is less than two standard errors."
            ]
            if not audit.quality.not_faithful
            else []
        ),
        "± is one standard error over the inputs, of this one trained model; another "
        "training run would give another model.",
        "The answer is about these inputs and this kind of change alone.",
        f"Numbers are {asked.dtype}; versions: "
        + ", ".join(f"{name} {version}" for name, version in asked.versions.items())
        + f"; random key {list(asked.key)}.",
    ]


def table(audit: Audit) -> str:
    """The table of P@k in plain text, a line for each budget."""
    k = audit.asked.k
    lines = []
    for row in rows(audit):
        line = f"  ε = {row.epsilon:g}: {number(row.precision)}"
        if np.isfinite(row.stderr):
            line += f" ± {row.stderr:.3f}"
        line += f" of the top {k} stay; {percent(row.reordered)} of the inputs lose one"
        if np.isfinite(row.certified):
            line += f"; provably {row.certified:.3f} stay"
        lines.append(line)
    return "\n".join(lines)


def class_name(audit: Audit, i: int) -> str:
    """What the class of an input is called, "" for a regression."""
    asked, predicted = audit.asked, int(audit.predicted[i])
    if asked.output == "regression":
        return f"value {float(audit.outputs[i].sum()):.4g}"
    names = asked.classes
    if names is not None and len(names) == max(2, audit.outputs.shape[1]):
        return names[predicted]
    return f"class {predicted}"


def worst_first(audit: Audit) -> np.ndarray:
    """The inputs with a ranking, the least stable first."""
    order = np.lexsort((audit.radius, audit.precision))
    return order[audit.counted[order]]


def _share(flags: np.ndarray) -> float:
    return float(np.mean(flags)) if len(flags) else float("nan")
