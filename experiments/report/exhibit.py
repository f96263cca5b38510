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


# Cause of what cannot be told.
UNCLEAR = "Too few runs, or differences within their errors."


class Verdict(NamedTuple):
    """What was measured of one data set says of a claim.

    Attributes:
      held: whether it came out; None if this run cannot tell.
      numbers: what was measured and over how many runs, without the data set's name.
      cause: the likely one where it did not hold or cannot be told; "" for the usual.
    """

    held: bool | None
    numbers: str
    cause: str = ""


class Case(NamedTuple):
    """The verdict on one data set, and on one k where a run has several."""

    dataset: str
    k: int | None
    verdict: Verdict

    def told(self, *, named: bool = True) -> str:
        """Its numbers, behind what they are of; the data set only where it is named."""
        of = [self.dataset] if named else []
        of += [] if self.k is None else [f"k = {self.k}"]
        return (
            f"{', '.join(of)}: {self.verdict.numbers}" if of else self.verdict.numbers
        )


class Claim(NamedTuple):
    """A claim of the papers, or ours, beside what was measured.

    Attributes:
      said: the claim in a sentence.
      rule: by which a data set is judged.
      cases: the verdicts.
      usual: the likely cause where it does not hold.
      ours: whether this project makes it, not the papers.
    """

    said: str
    rule: str
    cases: tuple[Case, ...]
    usual: str = ""
    ours: bool = False

    @property
    def held(self) -> bool | None:
        """Whether it came out in all cases."""
        return together(case.verdict.held for case in self.cases)

    @property
    def cause(self) -> str:
        """Where it does not hold or cannot be told, the likely causes."""
        if self.held:
            return ""
        usual = self.usual if self.held is False else UNCLEAR
        verdicts = (case.verdict for case in self.cases)
        return " ".join(
            sorted({v.cause or usual for v in verdicts if v.held is self.held})
        )

    def told(self, page: str = "") -> str:
        """What was measured, case by case, and the rule.

        Args:
          page: a data set that is not named, as it stands before the text already.
        """
        text = "; ".join(case.told(named=case.dataset != page) for case in self.cases)
        if len(self.cases) > 1:
            each_once = len({case.dataset for case in self.cases}) == len(self.cases)
            held = sum(case.verdict.held is True for case in self.cases)
            of = "data sets" if each_once else "cases"
            text = f"On {held} of {len(self.cases)} {of}. {text}"
        return f"{text}. Rule: {self.rule}."


def together(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all hold: False if one does not, else None if one cannot be told."""
    verdicts = list(verdicts)
    if any(verdict is False for verdict in verdicts):
        return False
    return True if verdicts and all(verdicts) else None


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

    `typed` are the flags that the run was given, `Options.typed`.

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
        "claims": [
            claim._asdict()
            | {
                "cases": [
                    case._asdict() | {"verdict": case.verdict._asdict()}
                    for case in claim.cases
                ]
            }
            for claim in claims
        ],
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
        shown = Exhibit(
            content["title"],
            tuple(map(_claim, content["claims"])),
            dict(content["figures"]),
            tuple(content["tables"]),
            tuple(content.get("given", ())),
            content.get("settings", ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not an exhibit ({error}): run it again") from error
    texts = [shown.title, shown.settings, *shown.tables, *shown.given]
    texts += [text for item in shown.figures.items() for text in item]
    for claim in shown.claims:
        texts += [claim.said, claim.rule, claim.usual]
        for case in claim.cases:
            texts += [case.dataset, case.verdict.numbers, case.verdict.cause]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{path} is not an exhibit: {text!r} is no text")
    return shown


def _claim(content: dict) -> Claim:
    cases = tuple(
        Case(**case | {"verdict": Verdict(**case["verdict"])})
        for case in content["cases"]
    )
    return Claim(**content | {"cases": cases})


def _name(flag: str) -> str:
    """--noprogress and --progress=false alike are of the flag progress."""
    name = flag.lstrip("-").partition("=")[0]
    return next((known for known in _APART if name == f"no{known}"), name)
