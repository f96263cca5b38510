"""The numbers of an audit as plain values: what its page, its JSON and its CSV show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from r2et_jax.audit import guard_words, words

if TYPE_CHECKING:
    from r2et_jax.audit.result import Audit


def results(audit: Audit) -> dict[str, Any]:
    """All that a page says, as a JSON object; what is not finite is None."""
    return _plain(
        {
            "asked": {**audit.asked._asdict()},
            "verdict": words.verdict(audit),
            "curve": [row._asdict() for row in words.rows(audit)],
            "on_the_way": on_the_way(audit),
            "guards": [guard._asdict() for guard in guard_words.guards(audit)],
            "features": features(audit),
            "inputs": [input_of(audit, i) for i in range(len(audit.precision))],
            "limits": words.limits(audit),
            "not_certified": audit.certified.why_not,
        }
    )


def on_the_way(audit: Audit) -> list[dict[str, float]]:
    """Mean P@k seen at smaller budgets, on the ways to what the attacks found."""
    counted = audit.counted
    means = [
        float(np.mean(values[counted])) if counted.any() else np.nan
        for values in audit.on_the_way.precision
    ]
    levels = map(float, audit.on_the_way.epsilons)
    return [
        {"epsilon": level, "precision": mean}
        for level, mean in zip(levels, means, strict=True)
    ]


def features(audit: Audit) -> list[dict[str, Any]]:
    """Each feature over the inputs that have a ranking, the most frequent top first.

    `in_top` is the share of inputs in whose top k it is, `leaves` the share of those in
    which the attack took it out at the threat model's budget, `distance` the median of
    the least distances seen at which it leaves, `saliency` the mean share of the
    explanation.
    """
    counted = audit.counted
    top = np.zeros(audit.maps.shape, bool)
    kept, distance = top.copy(), np.full(audit.maps.shape, np.nan)
    rows = np.arange(len(top))[:, None]
    member = np.take_along_axis(audit.maps, audit.top_k, axis=1) > 0
    top[rows, audit.top_k] = member & counted[:, None]
    kept[rows, audit.top_k] = audit.kept
    distance[rows, audit.top_k] = audit.distances
    lines = []
    for i, name in enumerate(audit.asked.names):
        here = top[:, i]
        lines.append(
            {
                "name": name,
                "in_top": float(np.mean(here[counted])) if counted.any() else np.nan,
                "leaves": float(np.mean(~kept[here, i])) if here.any() else np.nan,
                "distance": float(np.median(distance[here, i]))
                if here.any()
                else np.nan,
                "saliency": float(np.mean(audit.maps[counted, i]))
                if counted.any()
                else np.nan,
            }
        )
    order = sorted(range(len(lines)), key=lambda i: _rank(lines[i], i))
    return [lines[i] for i in order]


def _rank(feature: dict[str, Any], i: int) -> tuple:
    keys = (feature["in_top"], feature["saliency"])
    return (*(-key if np.isfinite(key) else 0.0 for key in keys), i)


def after_top(audit: Audit, i: int) -> np.ndarray:
    """The top set of what the attack left of an input, boolean [f]."""
    values, k = audit.perturbed_maps[i], audit.asked.k
    if not np.isfinite(values).all():
        return np.zeros(len(values), bool)
    order = np.argsort(-values, kind="stable")[:k]
    mask = np.zeros(len(values), bool)
    mask[order] = values[order] > 0
    return mask


def before_top(audit: Audit, i: int) -> np.ndarray:
    """The clean top set of an input, boolean [f]."""
    mask = np.zeros(audit.maps.shape[1], bool)
    mask[audit.top_k[i]] = True
    return mask & (audit.maps[i] > 0) & bool(audit.counted[i])


def input_of(audit: Audit, i: int) -> dict[str, Any]:
    """One input: what stays of its top features, and what comes in for the rest."""
    names = audit.asked.names
    entered = np.flatnonzero(after_top(audit, i) & ~before_top(audit, i))
    entered = sorted(entered, key=lambda j: (-audit.perturbed_maps[i, j], j))
    return {
        "input": i,
        "predicted": words.class_name(audit, i),
        "precision": float(audit.precision[i]),
        "radius": float(audit.radius[i]),
        "certified": _of_input(audit.certified.precision, i, audit.at()),
        "certified_radius": float(audit.certified_radius[i]),
        "left_out": str(audit.excluded[i]),
        "top": [_top_feature(audit, i, rank) for rank in range(audit.asked.k)],
        "entered": [
            {
                "name": names[j],
                "before": float(audit.maps[i, j]),
                "after": float(audit.perturbed_maps[i, j]),
            }
            for j in entered
        ],
    }


def _of_input(values: np.ndarray | None, i: int, at: int) -> float:
    return float("nan") if values is None else float(values[at, i])


def _top_feature(audit: Audit, i: int, rank: int) -> dict[str, Any]:
    feature = audit.top_k[i, rank]
    return {
        "name": audit.asked.names[feature],
        "before": float(audit.maps[i, feature]),
        "after": float(audit.perturbed_maps[i, feature]),
        "stays": bool(audit.kept[i, rank]),
        "leaves_at": float(audit.distances[i, rank]),
        "proved_up_to": proved_up_to(audit, i, rank),
    }


def proved_up_to(audit: Audit, i: int, rank: int) -> float:
    """The distance up to which a top feature provably stays; NaN: nothing is proved."""
    radii = audit.certified.radii
    has_none = radii is None or np.isnan(audit.distances[i, rank])
    return float("nan") if has_none else float(radii[i, rank])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
