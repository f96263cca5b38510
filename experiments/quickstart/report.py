"""Before and after in some ten lines, and the pages of the audits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.quickstart.measure import VANILLA, Outcome
from r2et_jax.audit import compare, words
from r2et_jax.audit.result import Audit

PAGE = "index.html"


def lines(outcome: Outcome) -> list[str]:
    """What the audits found, model by model, and which difference is beyond chance."""
    compared = compare(outcome.audits)
    audit = outcome.audits[VANILLA]
    asked, width = audit.asked, max(map(len, outcome.audits))
    quality = {VANILLA: next(iter(outcome.hardened.values())).test_before}
    quality |= {name: model.test_after for name, model in outcome.hardened.items()}
    told = [
        f"share of the top {asked.k} features that stay on top, at worst, when an "
        f"input is changed by ε = {asked.epsilon:g} "
        f"({len(audit.precision)} test inputs)",
        f"{'':<{width}}  under attack   provable  shared anyway  P@{asked.k}⁺   "
        "accuracy  AUC",
    ]
    for name, mean, stderr, same, plus in compared.rows():
        told.append(
            f"{name:<{width}}  {mean:.3f} ± {stderr:.3f}  "
            f"{_provable(outcome.audits[name]):>8}  {same:>13.3f}  "
            f"{words.number(plus)}  "
            f"{quality[name].accuracy:>8.3f}  {quality[name].auc:.3f}"
        )
    told += compared.sentences()
    alike = [name for name, model in outcome.hardened.items() if model.one_ranking]
    if alike:
        told.append(
            f"{' and '.join(alike)} win by one ranking: different inputs share nearly "
            "all of their top features anyway, and those therefore hold"
        )
    return told


def _provable(audit: Audit) -> str:
    values = audit.certified.precision
    return "–" if values is None else f"{np.nanmean(values[audit.at()]):.3f}"


def save(outcome: Outcome, folder: Path) -> list[Path]:
    """The page of each audit, beside its numbers; what they show is what came out."""
    pages = []
    for name, audit in outcome.audits.items():
        title = "Before: vanilla" if name == VANILLA else f"After: hardened by {name}"
        audit.save(folder / name, title=title, figures=False)
        pages.append(folder / name / PAGE)
    return pages
