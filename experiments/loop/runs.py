"""Numbers of independent runs, the error of their mean, and what it allows to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.console.flags import Options
from experiments.loop import parts
from experiments.problems import presets
from experiments.report import exhibit
from experiments.report.exhibit import UNCLEAR as UNCLEAR
from experiments.report.exhibit import Case
from experiments.report.exhibit import Verdict as Verdict
from experiments.report.exhibit import together as together
from experiments.report.statistics import Cells as Cells
from experiments.report.statistics import above as above
from experiments.report.statistics import cells as cells
from experiments.report.statistics import difference as difference
from experiments.report.statistics import of_records as of_records
from experiments.report.statistics import shown as shown
from experiments.store.numbers import measured
from experiments.store.records import RecordStore
from r2et_jax.metrics import verdicts as verdicts
from r2et_jax.metrics.statistics import CONFIDENCE as CONFIDENCE
from r2et_jax.metrics.statistics import Estimate as Estimate
from r2et_jax.metrics.statistics import over_runs as over_runs

# Tables that an exhibit shows, by the beginning of their files' names.
_TABLES = ("table", "bounds", "stability")
# Behind ±, in claims, tables, figures and notes alike.
_ERRORS = (
    "the standard error over runs (seeds, folds averaged; of one seed its folds), of a "
    "single run that over its inputs"
)


def listed(metric: str, value: float, n: int, values: Iterable) -> dict[str, Any]:
    """The fields of a number with a list behind it, to four digits, for figures."""
    short = [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
    return {**measured(metric, value, None, n), "values": short}


def main_method(methods: Sequence[str]) -> str:
    """The method that a claim is judged on: vanilla, else the first one."""
    return "vanilla" if "vanilla" in methods else methods[0]


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


def run(
    options: Options,
    measure: Callable[..., None],
    write: Callable[..., list[Path]],
    *,
    title: str,
    questions: Sequence[Question],
    figures: Mapping[str, str],
    varying: Sequence[str] = parts.LARGEST,
) -> None:
    """Measure every part of a run with every k, then `finish` it.

    Args:
      options: the flags of the run.
      measure: `measure(problem, k, options, store)`, with the flags for that data set.
      write, title, questions, figures, varying: as of `finish`.
    """
    chosen = parts.chosen(options, varying)
    folder, store = parts.start(chosen, options, varying=varying)
    for problem, flags, k in parts.in_turn(chosen):
        measure(problem, k, flags, store)
    finish(
        folder,
        store,
        chosen,
        varying,
        write,
        title=title,
        questions=questions,
        figures=figures,
    )


def finish(
    folder: Path,
    store: RecordStore,
    chosen: Sequence[parts.Part],
    varying: Sequence[str],
    write: Callable[..., list[Path]],
    *,
    title: str,
    questions: Sequence[Question],
    figures: Mapping[str, str],
) -> None:
    """Write a run's reports and its exhibit, and print the paths.

    Args:
      folder, store, chosen, varying, write: as of `parts.write_reports`.
      title: of the exhibit.
      questions: its claims.
      figures: name -> what is drawn; the files are {name}_{dataset}.png.
    """
    written, groups = parts.write_reports(folder, store, chosen, varying, write)
    path = write_exhibit(
        folder,
        store,
        groups,
        written,
        title=title,
        questions=questions,
        figures=figures,
    )
    print("\n".join(map(str, [*written, path])))


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
      title, questions, figures: see `finish`.
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
