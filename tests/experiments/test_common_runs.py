"""Means over runs: intervals, verdicts and claims."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from experiments.loop import parts, runs
from experiments.report import exhibit, judging, statistics
from experiments.report.judging import Question


def record(seed, fold, value):
    return {"seed": seed, "fold": fold, "value": value}


def test_records_have_a_cell_each():
    several = [record(0, 0, 1.0), record(0, 1, 2.0), record(4, 0, None)]
    cells = statistics.cells(several)
    assert cells.pop((4, 0)) != cells.get((4, 0)) and cells == {(0, 0): 1, (0, 1): 2}
    with pytest.raises(ValueError, match="several records of seed 4, fold 0"):
        statistics.cells([*several, record(4, 0, 3.0)])


def test_verdicts_of_data_sets_have_three_values():
    assert exhibit.together([True, True]) is True
    assert exhibit.together([True, None]) is None
    assert exhibit.together([None, False, True]) is False
    assert exhibit.together([]) is None


def test_what_is_shown():
    values = [0.25, 0.5, 0.75]
    estimate = statistics.of_records([record(s, 0, v) for s, v in enumerate(values)])
    assert statistics.shown(estimate) == "0.50 ± 0.14"
    assert statistics.shown(estimate._replace(mean=-0.0001), "+.3f") == "0.000 ± 0.144"
    assert statistics.shown(estimate._replace(stderr=math.nan), "+.1%") == "+50.0%"
    broken = statistics.of_records([record(0, 0, 0.5), record(1, 0, None)])
    assert statistics.shown(broken) == "– (1/2)" and statistics.above(broken) is None
    assert (
        statistics.shown(statistics.difference({}, {})) == statistics.shown(None) == "–"
    )
    single = statistics.of_records([{**record(0, 0, 0.5), "stderr": 0.125, "n": 40}])
    assert statistics.shown(single) == "0.50 ± 0.12" and (single.over, single.n) == (
        "inputs",
        40,
    )
    assert statistics.above(single, 0) is None


class Flags(NamedTuple):
    datasets: tuple
    epsilon: tuple
    k: tuple
    seeds: tuple
    norm: str
    attacks: tuple = ("er", "none")
    typed: tuple = ()


def made_flags(*, k):
    return Flags(("a", "b"), (0.5, 1.0), k, (0, 1), "l2")


def test_finish_judges_each_data_set_and_describes_each_figure(
    tmp_path, monkeypatch, capsys
):
    names = (
        "table.md", "table_more.md", "bounds.md", "notes.md", "seen_a.png", "felt_a.png"
    )  # fmt: skip
    for name in names:
        (tmp_path / name).write_text("x")
    group = made_flags(k=(8,))
    written = [tmp_path / name for name in names]
    monkeypatch.setattr(parts, "write_reports", lambda *_: (written, [group]))
    question = Question(
        "It holds.",
        "by more than 1",
        lambda store, name, options: exhibit.Verdict(name == "a", store.told),
        "Chance.",
        figure="seen",
    )
    silent = question._replace(judge=lambda *_: None)
    unsure = question._replace(
        judge=lambda _, name, options: exhibit.Verdict(
            None, "dim", "Too dark." if name == "a" else ""
        )
    )
    store = SimpleNamespace(
        told="two", select=lambda **_: [{"fold": fold} for fold in (1, 0, 1)]
    )
    felt = unsure._replace(figure="felt", ours=True)
    known = question._replace(
        figure=None,
        judge=lambda _, name, options: exhibit.Verdict(False, "few", "Too few."),
    )
    asked = [question, silent, felt, known]
    runs.finish(
        tmp_path, store, [], (), None, title="T", questions=asked,
        figures={"seen": "What is seen.", "felt": "What is felt."},
    )  # fmt: skip
    content = exhibit.read(tmp_path)
    claim, undecided, other = content.claims
    assert (other.held, other.cause) == (False, "Too few.")
    assert (claim.ours, undecided.ours) == (False, True)
    assert undecided.held is None
    assert undecided.cause == f"Too dark. {exhibit.UNCLEAR}"
    assert (claim.held, claim.cause) == (False, "Chance.")
    assert claim.told().startswith("On 1 of 2 data sets. a: two; b: two.")
    assert "Rule: by more than 1, beyond a 95% interval over runs." in claim.told()
    # Each figure tells what the claims that it shows have found.
    assert content.figures == {
        "seen_a.png": "What is seen. a: two.", "felt_a.png": "What is felt. a: dim."
    }  # fmt: skip
    assert content.tables == ("table.md", "bounds.md")
    expected = "a, b: seeds 0, 1; folds 0, 1; k = 8; l2 budgets 0.5, 1; attacks er. "
    assert content.settings.startswith(expected)
    assert capsys.readouterr().out.split()[-1].endswith("exhibit.json")


def test_every_k_is_judged_and_shown(tmp_path):
    names = ["table_k2.md", "table_k5.md", "notes_k5.md", "seen_a_k2.png"]
    for name in names:
        (tmp_path / name).write_text("")
    question = Question(
        "It holds.",
        "by more than 1",
        lambda store, name, options: exhibit.Verdict(options.k == (5,), "some"),
        "Chance.",
        figure="seen",
    )
    path = judging.write_exhibit(
        tmp_path,
        SimpleNamespace(select=lambda **_: []),
        [made_flags(k=(2, 5))._replace(datasets=("a",))],
        [tmp_path / name for name in names],
        title="T",
        questions=[question],
        figures={"seen": "What is seen."},
    )
    content = exhibit.read(path.parent)
    (claim,) = content.claims
    assert claim.told().startswith("On 1 of 2 cases. a, k = 2: some; a, k = 5: some.")
    assert claim.held is False
    assert content.tables == ("table_k2.md", "table_k5.md")
    assert content.figures == {"seen_a_k2.png": "What is seen. a, k = 2: some."}


def test_folds_with_one_k_follow_each_other(monkeypatch):
    """They share compiled programs, which are gone before the next k or data set."""
    freed = []
    monkeypatch.setattr(parts.execution, "free_programs", lambda: freed.append(None))
    flags = made_flags(k=(2, 5))
    given = [
        parts.Part(SimpleNamespace(name=name, fold=fold), flags)
        for name, fold in (("a", 0), ("a", 1), ("b", 0))
    ]
    turns = [
        (problem.name, k, problem.fold, len(freed))
        for problem, _, k in parts.in_turn(given)
    ]  # fmt: skip
    assert turns == [
        ("a", 2, 0, 0), ("a", 2, 1, 0), ("a", 5, 0, 1), ("a", 5, 1, 1),
        ("b", 2, 0, 2), ("b", 5, 0, 3),
    ]  # fmt: skip
