"""Claims judged on a run's records, and the exhibit that tells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.console.flags import Options
from experiments.problems import presets
from experiments.report import exhibit
from experiments.report.exhibit import Case, Verdict
from experiments.store.records import RecordStore
from r2et_jax.metrics.statistics import CONFIDENCE

# Tables that an exhibit shows, by the beginning of their files' names.
_TABLES = ("table", "bounds", "stability")
# Behind ±, in claims, tables, figures and notes alike.
_ERRORS = (
    "the standard error over runs (seeds, folds averaged; of one seed its folds), of a "
    "single run that over its inputs"
)


class Question(NamedTuple):
    """A claim that is judged on each data set with each k, and holds if it does on all.

    Attributes:
      said: the claim.
      rule: by which a data set is judged.
      judge: `judge(store, dataset, options) -> Verdict`, where `options` has one k;
        None where the question has no meaning.
      cause: the likely one where it does not hold.
      exact: whether the rule counts, so that no error comes in.
      figure: name of the figure that shows it, or None.
      ours: whether the claim is this project's, not the papers'.
    """

    said: str
    rule: str
    judge: Callable[..., Verdict | None]
    cause: str
    exact: bool = False
    figure: str | None = None
    ours: bool = False


def main_method(methods: Sequence[str]) -> str:
    """The method that a claim is judged on: vanilla, else the first one."""
    return "vanilla" if "vanilla" in methods else methods[0]


def write_exhibit(
    folder: Path,
    store: RecordStore,
    groups: Sequence[Options],
    written: Sequence[Path],
    *,
    title: str,
    questions: Sequence[Question],
    figures: Mapping[str, str],
) -> Path:
    """Write a run's exhibit and return its path.

    Args:
      folder, store: of the run.
      groups: the flags of each group of data sets.
      written: the reports, of whose main tables one is shown, or one for each k.
      title: of the exhibit.
      questions: its claims.
      figures: name -> what is drawn; the files are {name}_{dataset}.png.
    """
    cells = {
        (name, f"_k{k}" if len(options.k) > 1 else ""): options._replace(k=(k,))
        for options in groups
        for k in options.k
        for name in options.datasets
    }
    claims, told = [], {}
    for question in questions:
        cases = []
        for (name, suffix), theirs in cells.items():
            verdict = question.judge(store, name, theirs)
            if verdict is not None:
                case = Case(name, theirs.k[0] if suffix else None, verdict)
                cases.append(case)
                told.setdefault((question.figure, name, suffix), []).append(case.told())
        if cases:
            beyond = f", beyond a {CONFIDENCE:.0%} interval over runs"
            rule = f"{question.rule}{'' if question.exact else beyond}"
            of = question.said, rule, tuple(cases), question.cause, question.ours
            claims.append(exhibit.Claim(*of))
    drawn = {
        path: f"{text} {'; '.join(told.get((figure, name, suffix), [name]))}."
        for name, suffix in cells
        for figure, text in figures.items()
        if (path := folder / f"{figure}_{name}{suffix}.png") in written
    }
    first, *others = _TABLES
    shown = [path for path in written if path == folder / f"{first}.md"]
    if not shown:
        for end in dict.fromkeys(suffix for _, suffix in cells):
            shown += [path for path in written if path.match(f"{first}*{end}.md")][:1]
    for start in others:
        shown += [path for path in written if path.match(f"{start}*.md")]
    return exhibit.write(
        folder,
        title=title,
        claims=claims,
        figures=drawn,
        tables=shown,
        typed=groups[0].typed,
        settings=settings(store, groups),
    )


def settings(
    store: RecordStore,
    groups: Sequence[Options],
    *,
    tolerances: Sequence[float] = (presets.MAIN_TOLERANCE,),
    error: str = _ERRORS,
) -> str:
    """What all numbers of a run are of, in a line.

    Args:
      store, groups: as of `write_exhibit`.
      tolerances: validation AUC that models may give up against vanilla.
      error: what stands behind ±.
    """
    told = []
    for options in groups:
        budgets, k = (
            ", ".join(f"{v:g}" for v in values)
            for values in (options.epsilon, options.k)
        )
        seeds = f"seeds {', '.join(map(str, options.seeds))}"
        folds = {record["fold"] for record in store.select(dataset=options.datasets)}
        if len(folds) > 1:
            seeds += f"; folds {', '.join(map(str, sorted(folds)))}"
        attacks = ", ".join(name for name in options.attacks if name != "none")
        told.append(
            f"{', '.join(options.datasets)}: {seeds}; k = {k}; {options.norm} budgets "
            f"{budgets or 'none'}; attacks {attacks or 'none'}"
        )
    limits = " and ".join(format(value, "g") for value in tolerances)
    return (
        f"{'. '.join(told)}. Checkpoints within {limits} of vanilla's validation AUC; "
        f"± is {error}."
    )
