"""The claims on cost: counts are exact, times judged by their ranges over rounds."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.report.exhibit import Case, Claim, Verdict, together
from experiments.store import records

# FLOPs of a training step with R2ET at most, in those of a vanilla one.
MOST = 8.0
# Exponent of the features in the FLOPs of such a step, at most.
NEARLY_LINEAR = 1.2
# Forms of R2ET, and what trains on attacked inputs.
R2ET = ("r2et", "r2et_nh", "r2et_mm", "r2et_mm_nh", "r2et_anchored")
ADVERSARIAL = "at"
# The same attack in PyTorch by batches; written anew for speed it is only shown.
PYTORCH = {"torch_batched": "few inputs", "torch_batched_many": "many inputs"}
_TUNED = {"torch_tuned": "tuned PyTorch, few", "torch_tuned_many": "tuned, many"}


def claims(recorded: Sequence[records.Record]) -> list[Claim]:
    """Those that the records can tell of; over all data sets."""
    asked = (
        (
            "R2ET trains at a small multiple of vanilla's FLOPs, though it sums over "
            "pairs of features.",
            f"FLOPs of a step over vanilla's, at most {MOST:g}",
            _small,
            "Penalties on pairs sort the features, and curvature needs second "
            "derivatives; see the table for the floor of the FLOPs.",
            False,
        ),
        (
            "Training with R2ET costs nearly linearly in the number n of features.",
            f"exponent of n in the FLOPs of a step, at most {NEARLY_LINEAR:g}",
            _growth,
            "Sums over all pairs, or comparisons of all features, grow as the square "
            "of their number.",
            False,
        ),
        (
            "Adversarial training is dearer than R2ET.",
            "FLOPs of a step of at over those of r2et, above 1",
            _dear,
            "Adversarial training takes three attack steps here; its cost grows with "
            "them.",
            False,
        ),
        (
            "Attacks here run faster than the same attacks in batched PyTorch.",
            "sample-iterations a second of ERAttack over PyTorch's, above 1 in all "
            "rounds",
            _fast,
            "The machine was busy, or the chunk does not fit its cache.",
            True,
        ),
    )
    judged = []
    for said, rule, judge, cause, ours in asked:
        cases = tuple(
            Case(name, None, verdict)
            for name in dict.fromkeys(record["dataset"] for record in recorded)
            if (verdict := judge(records.select(recorded, dataset=name)))
        )
        if cases:
            judged.append(Claim(said, rule, cases, cause, ours))
    return judged


def _value(recorded, metric: str, **where) -> float | None:
    values = records.select(recorded, metric=metric, **where)
    return records.number(values[0]["value"]) if values else None


def _small(recorded):
    ratios = {m: _value(recorded, "flops_ratio", method=m) for m in R2ET}
    ratios = {m: value for m, value in ratios.items() if value is not None}
    if not ratios:
        return None
    shown = ", ".join(
        f"{m} {value:.1f}{_time(recorded, m)}" for m, value in ratios.items()
    )
    return Verdict(max(ratios.values()) <= MOST, shown)


def _growth(recorded):
    known = records.select(recorded, metric="flops_exponent")
    powers = {r["method"]: records.number(r["value"]) for r in known}
    ours = [power for method, power in powers.items() if method in R2ET]
    if not ours:
        return None
    shown = ", ".join(f"{m} {power:.2f}" for m, power in powers.items())
    return Verdict(max(ours) <= NEARLY_LINEAR, f"{shown} ({known[0]['note']})")


def _time(recorded, method: str) -> str:
    value = _value(recorded, "time_ratio", method=method)
    return "" if value is None else f" (time {value:.1f})"


def _dear(recorded):
    pair = [_value(recorded, "flops_ratio", method=m) for m in (ADVERSARIAL, "r2et")]
    if None in pair:
        return None
    ratio = pair[0] / pair[1]
    times = [_value(recorded, "time_ratio", method=m) for m in (ADVERSARIAL, "r2et")]
    text = f"{ratio:.2f}"
    if None not in times:
        text += f" (time {times[0] / times[1]:.2f})"
    return Verdict(ratio > 1, text)


def _fast(recorded):
    judged, texts = [], []
    for against, shown in (*PYTORCH.items(), *_TUNED.items()):
        of = {"against": against}
        ratios = [
            _value(recorded, f"throughput_ratio{end}", **of)
            for end in ("", "_min", "_max")
        ]
        if None in ratios:
            continue
        middle, low, high = ratios
        texts.append(f"{shown} {middle:.2f} ({low:.2f} … {high:.2f})")
        if against in PYTORCH:
            judged.append(True if low > 1 else False if high < 1 else None)
    if not judged:
        return None
    held = together(judged)
    cause = "The ranges over rounds hold both." if held is None else ""
    return Verdict(held, ", ".join(texts), cause)
