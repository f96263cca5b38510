"""A run from its flags to its exhibit: every part is measured, then all is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.console.flags import Options
from experiments.loop import parts
from experiments.report import judging
from experiments.report.judging import Question
from experiments.store.records import RecordStore


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
      title, questions, figures: as of `judging.write_exhibit`.
    """
    written, groups = parts.write_reports(folder, store, chosen, varying, write)
    path = judging.write_exhibit(
        folder,
        store,
        groups,
        written,
        title=title,
        questions=questions,
        figures=figures,
    )
    print("\n".join(map(str, [*written, path])))
