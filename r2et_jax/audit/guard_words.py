"""What shows that a ranking was had too cheaply, or is none; and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from r2et_jax.audit import words
from r2et_jax.metrics.summary import mean_and_stderr

if TYPE_CHECKING:
    from r2et_jax.audit.result import Audit


class Guard(NamedTuple):
    """One guard: what it is called, its value, what it says, whether it warns."""

    name: str
    value: str
    meaning: str
    warns: bool


def prediction_change(audit: Audit) -> np.ndarray:
    """How far the attack that left the least moved the prediction [m].

    Total variation between the class probabilities, in [0, 1]; of a regression the
    absolute change of the value.
    """
    clean, after = (
        np.asarray(values, np.float64)
        for values in (audit.outputs, audit.perturbed_outputs)
    )
    if audit.asked.output == "regression":
        return np.abs(after - clean).sum(axis=1)
    return 0.5 * np.abs(_probabilities(after) - _probabilities(clean)).sum(axis=1)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def guards(audit: Audit) -> list[Guard]:
    """What shows that a ranking was had too cheaply, or is none."""
    k, counted, m = audit.asked.k, audit.counted, len(audit.precision)
    some = counted.any()
    plus = float(audit.corrected.mean) if some else np.nan
    noise = float(mean_and_stderr(audit.noise_precision).mean)
    moved = prediction_change(audit)[counted]
    fewer = int(np.sum(counted & (audit.num_positive < k)))
    ties, outside = int(audit.tied.sum()), int(audit.moved.sum())
    silent, coarse = int(np.sum(~counted)), int(audit.coarse.sum())
    share = audit.asked.epsilon / audit.nearest if audit.nearest else np.nan
    unit = "" if audit.asked.output == "regression" else ", as a shift of probability"
    return [
        *_worth_reading(audit),
        Guard(
            "overlap of different inputs",
            words.number(audit.same),
            f"share of the top {k} that two different inputs have in common; near 1 "
            "the explanation is the same for all, and cannot but be stable",
            audit.same >= words.ALIKE,
        ),
        Guard(
            f"P@{k}⁺",
            words.number(plus),
            "P@k above what different inputs share anyway: (P@k − overlap)/(1 − "
            "overlap); 1 is perfect, 0 no better than one ranking for all",
            plus < words.UNSTABLE,
        ),
        Guard(
            "P@k under noise of length 1e-6",
            words.number(noise),
            "below 1 inputs sit on a kink or a tie, where the explanation is arbitrary",
            noise < 1,
        ),
        Guard(
            "inputs without a gradient of the ranking",
            words.percent(audit.vanished),
            "where the model's own gradient hides the ranking; the attack goes through "
            "a smooth stand-in there",
            audit.vanished > 0.5,
        ),
        Guard(
            "the prediction moved by",
            words.number(float(np.mean(moved)) if some else np.nan),
            f"how far the attack moved the output{unit}, on average",
            False,
        ),
        Guard(
            "ε over the distance to the nearest other input",
            words.number(share),
            "near 1 or above, a changed input may as well be another one",
            share >= 1,
        ),
        Guard(
            "inputs left out",
            f"{silent} of {m}",
            "without a ranking: an output or an explanation that is zero or not finite",
            silent > 0,
        ),
        Guard(
            "inputs with changes that have no explanation",
            f"{int(np.sum(no_number(audit)))} of {m}",
            f"of {audit.quality.num_draws} random changes within ε one or more gives a "
            "number that is not finite; the attack leaves such changes out",
            bool(np.any(no_number(audit))),
        ),
        Guard(
            f"inputs with fewer than {k} features",
            f"{fewer} of {m}",
            "features without any weight do not count as top features",
            fewer > 0,
        ),
        Guard(
            f"inputs tied between ranks {k} and {k + 1}",
            f"{ties} of {m}",
            "the order of the columns decides there what is on top",
            ties > 0,
        ),
        Guard(
            "inputs too large for ε",
            f"{coarse} of {m}",
            "values so large that the rounding of floats takes changes of ε away: "
            "standardise the columns, or use float64",
            coarse > 0,
        ),
        Guard(
            "inputs moved into the box",
            f"{outside} of {m}",
            "inputs that lay outside of the bounds of the threat model",
            outside > 0,
        ),
    ]


def no_number(audit: Audit) -> np.ndarray:
    """Which inputs with a ranking have a changed one, drawn at random, without [m]."""
    return audit.counted & (audit.quality.num_nonfinite > 0)


def _worth_reading(audit: Audit) -> list[Guard]:
    """Thickness, and faithfulness beside that of random rankings."""
    quality, counted = audit.quality, audit.counted
    toward = f"{quality.num_draws} random changes within ε = {audit.asked.epsilon:g}"
    rows = [
        Guard(
            "thickness",
            words.number(_mean(quality.thickness[counted])),
            f"share of the way to each of {toward} on which a top feature keeps its "
            "place before another one, mean over all such pairs; 1 is all of it. On "
            "the way to what the attack found: "
            f"{words.number(_mean(quality.thickness_attacked[counted]))}",
            False,
        )
    ]
    if quality.not_faithful:
        why = f"not measured: {quality.not_faithful}"
        return [*rows, Guard("faithfulness", "–", why, False)]
    for name, field, meaning, sign in _FAITHFUL:
        ours, random = (
            np.asarray(getattr(values, field), np.float64)[counted]
            for values in (quality.faithfulness, quality.random)
        )
        lead = mean_and_stderr(sign * (ours - random))
        is_better = lead.mean > 2 * lead.stderr if lead.n > 1 else lead.mean > 0
        value = f"{words.number(_mean(ours))} (random {words.number(_mean(random))})"
        rows.append(Guard(name, value, meaning, bool(lead.n and not is_better)))
    return rows


def worth(audit: Audit) -> str:
    """Thickness and faithfulness in a line of plain text."""
    said = [f"thickness {words.number(_mean(audit.quality.thickness[audit.counted]))}"]
    if audit.quality.not_faithful:
        said.append(f"faithfulness not measured: {audit.quality.not_faithful}")
    else:
        said += [
            f"{g.name.partition(',')[0]} {g.value}" for g in _worth_reading(audit)[1:]
        ]
    return f"  {'; '.join(said)}"


# Of what is in `metrics.Faithfulness`; 1 where high is faithful.
_FAITHFUL = (
    (
        "COMP, comprehensiveness",
        "comprehensiveness",
        "how much the predicted class's probability changes without the top features, "
        "mean over their number; higher than of a random ranking is faithful",
        1,
    ),
    (
        "SUFF, sufficiency",
        "sufficiency",
        "how much it changes where the top features alone are left; lower than of a "
        "random ranking is faithful",
        -1,
    ),
    (
        "DFFOT, decision flip",
        "dffot",
        "share of the features, from the top, without which another class is "
        "predicted; lower than of a random ranking is faithful",
        -1,
    ),
)


def _mean(values: np.ndarray) -> float:
    return float(mean_and_stderr(np.asarray(values, np.float64)).mean)
