"""What one experiment shows: the claim, what was measured, figures and tables.

Every experiment writes it beside its records; `experiments.reproduce` puts the exhibits
of all experiments on one page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.store.output import PRESENTATION, write_text_atomic

FILE = "exhibit.json"
_APART = {"datasets", "preset", "data_dir", "records", *PRESENTATION}


class Claim(NamedTuple):
    """A claim of the papers, or ours, beside what was measured.

    Attributes:
      said: the claim in a sentence.
      held: whether it came out; None if this run cannot tell.
      found: what was measured, with numbers and over how many seeds.
      cause: where it does not hold or cannot be told, the likely cause.
      ours: whether this project makes it, not the papers.
    """

    said: str
    held: bool | None
    found: str
    cause: str = ""
    ours: bool = False


class Exhibit(NamedTuple):
    """The contribution of one experiment.

    Attributes:
      title: by its content, such as "P@k under attack".
      claims: that were judged.
      figures: file name -> text alternative: what is drawn, and what it shows.
      tables: file names of Markdown tables, the main one first.
      given: flags that the run was given, such as "--methods=vanilla,wd", but for the
        data, the preset and the folders.
      settings: what all numbers are of, such as seeds and k, in a line.
    """

    title: str
    claims: tuple[Claim, ...]
    figures: Mapping[str, str]
    tables: tuple[str, ...]
    given: tuple[str, ...] = ()
    settings: str = ""


def write(
    folder: Path,
    *,
    title: str,
    claims: Iterable[Claim],
    figures: Mapping[Path, str],
    tables: Iterable[Path],
    typed: Iterable[str],
    settings: str = "",
) -> Path:
    """Write a run's exhibit; figures and tables are files in its folder.

    `typed` are the flags that the run was given, `Common.typed`.

    Raises:
      FileNotFoundError: if a figure or table is not there.
      ValueError: for a figure without a text alternative.
    """
    tables = tuple(tables)
    for path in (*figures, *tables):
        if not path.is_file():
            raise FileNotFoundError(f"an exhibit names {path}, which does not exist")
    for path, alternative in figures.items():
        if not alternative.strip():
            raise ValueError(f"the figure {path.name} needs a text alternative")
    content = {
        "title": title,
        "claims": [claim._asdict() for claim in claims],
        "figures": {str(p.relative_to(folder)): text for p, text in figures.items()},
        "tables": [str(path.relative_to(folder)) for path in tables],
        "given": [flag for flag in typed if _name(flag) not in _APART],
        "settings": settings,
    }
    path = folder / FILE
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomic(path, text + "\n")
    return path


def read(folder: Path) -> Exhibit:
    """The exhibit of a run.

    Raises:
      FileNotFoundError: if the run has not written one.
      ValueError: if it is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Exhibit(
            content["title"],
            tuple(Claim(**claim) for claim in content["claims"]),
            dict(content["figures"]),
            tuple(content["tables"]),
            tuple(content.get("given", ())),
            content.get("settings", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not an exhibit ({error}): run it again") from error
    texts = [found.title, found.settings, *found.tables, *found.given]
    texts += [text for item in found.figures.items() for text in item]
    texts += [text for one in found.claims for text in (one.said, one.found, one.cause)]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{path} is not an exhibit: {text!r} is no text")
    return found


def _name(flag: str) -> str:
    """--noprogress and --progress=false alike are of the flag progress."""
    name = flag.lstrip("-").partition("=")[0]
    return next((known for known in _APART if name == f"no{known}"), name)
