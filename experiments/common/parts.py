"""The parts of a run, one for each data set or fold, with what is its own of the flags.

A data set of pairs has its own k, budgets and seeds, where they are not given; what is
measured with other settings stands in a table apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as absl_flags

from experiments.common import setup
from experiments.common.flags import Common
from experiments.common.output import write_text_atomic
from experiments.common.problems import Problem
from experiments.common.records import RecordStore
from r2et_jax import checks

# What the reports say of a data set's attacks.
_OF_VIEW = ("kind", "norm", "num_steps")


class Part(NamedTuple):
    """A data set, or one fold of it, and the flags that are meant for it."""

    found: Problem
    own: Common


def choose(found: Problem, common: Common, **own: Any) -> Part:
    """The part of a run that one data set is.

    Args:
      found: the data.
      common: the flags of the run.
      own: list flag -> the data set's own choice where that flag is not given.

    Raises:
      ValueError: k out of range, or a method that does not train such networks.
    """
    free = {n: value for n, value in own.items() if absl_flags.FLAGS[n].value is None}
    view = {name: getattr(found.view, name) for name in _OF_VIEW}
    common = common._replace(**free, **view)
    if found.view.paired:
        common = common._replace(datasets=(found.name,))
        for method in common.methods:
            found.check_method(method)
    for k in common.k:
        checks.check_k(k, found.num_features)
    return Part(found, common)


def with_choices(
    config: dict[str, Any], parts: Iterable[Part], names: Sequence[str]
) -> dict[str, Any]:
    """A run's configuration with the named flags of each data set of pairs."""
    chosen = {
        found.name: {name: list(getattr(own, name)) for name in names}
        for found, own in parts
        if found.view.paired
    }
    return {**config, "by_dataset": chosen} if chosen else config


def in_turn(parts: Iterable[Part]) -> Iterator[tuple[Problem, Common, int]]:
    """Every part with every k of its own.

    The compiled programs of one are gone before the next, but folds share theirs.
    """
    last = None
    for found, own in parts:
        for k in own.k:
            if last not in (None, (found.name, k)):
                setup.free_programs()
            last = found.name, k
            yield found, own, k


def write_reports(
    folder: Path,
    store: RecordStore,
    parts: Iterable[Part],
    names: Sequence[str],
    write: Callable[..., list[Path]],
) -> tuple[list[Path], list[Common]]:
    """Write the results, apart for data sets of other settings, and all in table.md.

    Args:
      folder: where to.
      store: the records.
      parts: of the run.
      names: list flags of which a data set may have its own.
      write: `write(folder, store, common, part=...) -> paths`: the tables are named
        table_{part}….md.

    Returns:
      Paths of what was written, and the flags of each group of data sets.
    """
    groups: dict[Any, Common] = {}
    for found, own in parts:
        same = own.kind, own.norm, *(getattr(own, name) for name in names)
        group = groups.setdefault(same, own._replace(datasets=()))
        if found.name not in group.datasets:
            groups[same] = group._replace(datasets=(*group.datasets, found.name))
    several = len(groups) > 1
    written, text = [], []
    for own in groups.values():
        part = "tabular" if own.kind == "tabular" else "_".join(own.datasets)
        paths = write(folder, store, own, part=part if several else "")
        for path in paths if several else ():
            if path.match("table*.md"):
                content = path.read_text(encoding="utf-8")
                text.append(f"# {', '.join(own.datasets)}\n\n{content}")
        written += paths
    if text:
        written.insert(0, folder / "table.md")
        write_text_atomic(written[0], "\n".join(text))
    return written, list(groups.values())
