"""A run that is interrupted wherever it measures ends as one that is not."""

import json
from pathlib import Path

import pytest

from experiments.store import output
from tests.experiments import small_runs
from tests.experiments.small_runs import RUNS

EXPERIMENTS = Path(small_runs.certify.__file__).parents[1]
# Whose tests interrupt training too, or keep more than records.
ELSEWHERE = {"attack", "case_study", "cost", "quickstart", "robustness", "train"}
# They read what others have measured.
READ = {"evidence", "reproduce"}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_with_the_same_records(
    name, small_folder, small_models, tmp_path, capsys
):
    small, whole, folder = RUNS[name], small_folder(name), tmp_path / "out"
    expected = small_runs.cells(whole)
    path = folder / output.RECORDS
    with pytest.MonkeyPatch.context() as patch:
        small.change(patch)
        counted = small_runs.Counted(patch, small.measuring)
        # Each of what measures is interrupted, not at its first call.
        for label, count in counted.calls.items():
            before = path.read_bytes() if path.exists() else b""
            counted.stop = label, max(1, count)
            with pytest.raises(SystemExit) as stopped:
                small.call(folder, small_models)
            assert stopped.value.code == 130
            assert "resumes" in capsys.readouterr().err
            assert path.read_bytes().startswith(before)
            done = small_runs.cells(folder)
            assert done == expected[: len(done)] and 0 < len(done) < len(expected)
        before, counted.stop = path.read_bytes(), None
        small.call(folder, small_models)
    assert path.read_bytes().startswith(before)
    assert small_runs.cells(folder) == expected
    # What stood in a complete cell was not measured again: each of what measures runs
    # once more for a cell that an interrupt has cut off at most.
    calls = json.loads((whole / small_runs.CALLS).read_text())
    for label, count in counted.calls.items():
        assert calls[label] <= count < calls[label] + len(calls), label
    assert {p.name for p in folder.iterdir()} | {small_runs.CALLS} == {
        p.name for p in whole.iterdir()
    }


def test_every_experiment_is_interrupted():
    names = {path.parent.name for path in EXPERIMENTS.glob("*/experiment.py")}
    assert names == {*RUNS, *ELSEWHERE, *READ}
