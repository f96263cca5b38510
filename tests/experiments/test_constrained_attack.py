"""The experiment `constrained_attack`: equal P@k, the knee, records."""

import json

import numpy as np
import pytest

from experiments.console import cli
from experiments.constrained_attack import experiment
from experiments.constrained_attack import measure as constrained
from experiments.constrained_attack import report as constrained_report
from experiments.problems import presets, protocols
from experiments.store.records import REQUIRED, RecordStore
from tests.experiments import small_runs

K, NUM_FEATURES = 3, 10
NUM_INPUTS = small_runs.TINY.num_test


def test_sensitivity_is_read_where_the_precision_is_first_reached():
    precision = np.array([1.0, 0.8, 0.6, 0.7, 0.5])
    changed = np.array([0.0, 0.1, 0.3, 0.0, 0.4])
    at = constrained.sensitivity_at
    assert at(1.0, precision, changed) == 0.0
    assert at(0.7, precision, changed) == pytest.approx(0.2)
    assert at(0.6, precision, changed) == pytest.approx(0.3)
    # The second descent, from .7 to .5.
    assert at(0.55, precision, changed) == pytest.approx(0.3)
    assert np.isnan(at(0.4, precision, changed))


def test_two_curves_are_compared_at_what_both_reach():
    mine = np.array([1.0, 0.6]), np.array([0.0, 0.04])
    other = np.array([1.0, 0.5]), np.array([0.0, 0.5])
    equal = constrained.at_equal_precision(*mine, *other)
    assert equal.level == 0.6
    assert equal.sensitivity == pytest.approx(0.04)
    assert equal.other == pytest.approx(0.4)
    assert equal.mean == pytest.approx(0.02)
    assert equal.other_mean == pytest.approx(0.2)
    back = constrained.at_equal_precision(*other, *mine)
    assert (back.sensitivity, back.other) == (equal.other, equal.sensitivity)


def test_the_knee_is_the_front_point_nearest_to_the_ideal():
    points = np.array([[0.5, 0.1], [0.2, 0.2], [0.0, 0.9], [0.3, 0.3], [np.nan, 0.0]])
    assert constrained_report.knee(points) == 1
    assert constrained_report.knee(points[:1]) == 0
    # One that wins on both axes is the whole front.
    assert constrained_report.knee(np.array([[0.5, 0.5], [0.1, 0.1]])) == 1
    with pytest.raises(ValueError, match="no point is finite"):
        constrained_report.knee(np.full((2, 2), np.nan))


def test_the_unconstrained_attack_is_not_the_one_with_constraint():
    free, kept, weak = (
        constrained.Variant(name) for name in ("unconstrained", "qp", "fixed")
    )
    points = {free: (0.0, 0.4), kept: (0.0, 0.5), weak: (0.0, 0.9)}
    assert constrained_report.with_constraint(points) == kept


def test_variants_are_the_grid_of_each_rule():
    tried = constrained.variants(("qp", "gda", "fixed"), (0.1, 1.0), (0.5,))
    assert [variant.label for variant in tried] == [
        "unconstrained", "qp", "gda η=0.1", "gda η=1", "fixed λ₀=0.5",
    ]  # fmt: skip


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the experiment in this process on a protocol of seconds: run(*arguments)."""
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)

    def call(*arguments):
        fixed = (
            "--preset=smoke", "--noprogress", "--seeds=0", "--learning_rates=.1",
            "--weightings=unconstrained,gda", f"--output_dir={tmp_path}",
            f"--models_dir={tmp_path / 'models'}",
        )  # fmt: skip
        cli.call(experiment, *fixed, *arguments)

    return call


def test_a_run_writes_complete_records(again):
    folder = again("constrained_attack")
    names = {path.name for path in folder.iterdir()}
    assert {
        "config.json", "records.jsonl", "table.md", "table.csv",
        "front_breast_cancer.png", "along_iterations_breast_cancer.png",
        "exhibit.json",
    } <= names  # fmt: skip
    flags = json.loads((folder / "config.json").read_text())["flags"]
    assert flags["weightings"] == ["unconstrained", "gda"]
    assert flags["ranking_weights"] == [".5", ".9"]
    store = RecordStore(folder / "records.jsonl")
    assert {"weighting", "learning_rate", *REQUIRED} <= set(store.select()[0])
    assert {r["weighting"] for r in store.select()} == {"unconstrained", "gda"}
    gda = {"weighting": "gda", "learning_rate": 0.1, "seed": 3}
    for last, trace in (
        ("p@k_last", "p@k_trace"),
        ("sensitivity_last", "sensitivity_trace"),
    ):
        (record,) = store.select(metric=last, **gda)
        (traced,) = store.select(metric=trace, step=presets.CONSTRAINED_STEPS, **gda)
        assert record["value"] == traced["value"] and record["n"] == NUM_INPUTS
    (best,) = store.select(metric="p@k", **gda)
    (last,) = store.select(metric="p@k_last", **gda)
    assert best["value"] <= last["value"]
    assert "with constraint" in (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--weightings=adam", "unknown entry of --weightings 'adam'"),
        ("--learning_rates=0", "learning rate must be positive"),
        ("--ranking_weights=1.5", "--ranking_weights must lie in 0…1"),
    ],
)
def test_mistakes_are_one_line(argument, message, run, capsys):
    with pytest.raises(SystemExit):
        run(argument)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
