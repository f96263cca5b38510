"""The mutants fit the code, and their runner tells killed ones from survivors."""

import ast

import pytest

from tests.mutants import runner
from tests.mutants.catalogue import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_one_fault_in_code_that_compiles(mutant):
    whole = (runner.CHECKOUT / mutant.path).read_text(encoding="utf-8")
    changed = runner.mutated(mutant, whole)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(whole))
    assert all((runner.CHECKOUT / file).is_file() for file in mutant.tests)


def test_mutants_stand_in_all_rooms():
    assert len(set(MUTANTS)) == len(MUTANTS) >= 40
    rooms = {"/".join(mutant.path.split("/")[:2]) for mutant in MUTANTS}
    library = "ranking curvature threat attacks bounds certificates objectives metrics"
    assert rooms >= {f"r2et_jax/{name}" for name in (*library.split(), "training")}
    assert rooms >= {"experiments/store", "experiments/report", "experiments/loop"}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(1, runner.KILLED), (None, runner.KILLED), (0, runner.SURVIVED),
     (2, runner.UNTRIED)],
)  # fmt: skip
def test_only_a_failing_test_kills(tmp_path, monkeypatch, status, verdict):
    mutant = MUTANTS[0]
    trial = runner._Trial(tmp_path, minutes=1, workers=1)
    monkeypatch.setattr(trial, "_copy", lambda: tmp_path)
    path = tmp_path / mutant.path
    path.parent.mkdir(parents=True)
    path.write_text(mutant.before)
    seen = []

    def tested(copy, file):
        seen.append(path.read_text())
        return (0 if len(seen) == 1 else status), ""

    monkeypatch.setattr(trial, "_tested", tested)
    assert trial.outcome(mutant)[0] == verdict
    assert seen == [mutant.before, mutant.after] and path.read_text() == mutant.before


def test_tests_that_fail_anyway_try_nothing(tmp_path, monkeypatch):
    trial = runner._Trial(tmp_path, minutes=1, workers=1)
    monkeypatch.setattr(trial, "_copy", lambda: tmp_path)
    monkeypatch.setattr(trial, "_tested", lambda copy, file: (1, ""))
    assert trial.outcome(MUTANTS[0])[0] == runner.UNTRIED
