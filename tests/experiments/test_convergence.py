"""The convergence experiment: its numbers by hand, and a run from flags to figures."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.console import cli
from experiments.convergence import experiment
from experiments.measures import convergence
from experiments.problems import protocols
from experiments.report import exhibit
from r2et_jax.attacks.multiobjective import ARMIJO, GAP_SHARE
from r2et_jax.attacks.multiobjective_trace import DescentResult, DescentTrace
from tests.experiments import small_runs


def result(norms, sizes, falls, worst=None):
    """A DescentResult of m inputs from its traces [m, steps]."""
    norms, sizes, falls = (np.asarray(a, float) for a in (norms, sizes, falls))
    empty = np.zeros_like(norms)
    trace = DescentTrace(
        direction_norm=norms,
        duality_gap=empty,
        slope=empty,
        step_size=sizes,
        worst_change=-np.ones_like(norms) if worst is None else np.asarray(worst),
        largest_gap=empty,
        smallest_gap=empty,
        least_decrease=falls,
        precision=empty,
    )
    fields = dict.fromkeys(DescentResult._fields)
    fields |= {"num_steps": (sizes > 0).sum(axis=1), "trace": trace}
    return DescentResult(**fields)


def test_rate_by_hand():
    t = np.arange(1, 101.0)
    norms = np.stack([3 / np.sqrt(t), 2 / t, t[::-1], 1 / t])
    sizes = np.full(norms.shape, 0.5)
    sizes[3] = 0
    falls = np.broadcast_to(100.0, norms.shape)
    rate = convergence.rate(result(norms, sizes, falls))
    np.testing.assert_allclose(rate.exponent, [-0.5, -1, -1, np.nan], rtol=1e-9)
    np.testing.assert_array_equal(rate.lowest[2], t[::-1])
    assert np.isinf(rate.bound[:, 0]).all()
    share = ARMIJO * (1 - GAP_SHARE)
    np.testing.assert_allclose(
        rate.bound[0, 1:], np.sqrt(100 / (share * 0.5 * t[:-1])), rtol=1e-12
    )
    # Only the third input has directions above the bound.
    above = t[::-1][:-1] > rate.bound[2, 1:]
    assert rate.num_violations == above.sum() > 0
    assert rate.num_rises == 0


def test_a_rise_counts_where_a_step_was_taken():
    worst = [[-1.0, 0.5, 0.0, 0.0]]
    rate = convergence.rate(
        result(np.ones((1, 4)), [[1.0, 1, 1, 0]], np.full((1, 4), 9.0), worst)
    )
    assert rate.num_rises == 2


def test_dependence_keeps_censored_inputs_apart():
    rng = np.random.default_rng(0)
    gaps = rng.uniform(0.1, 2, 40)
    steps = np.ceil(10 * gaps + rng.uniform(0, 8, 40)).astype(int)
    steps[[3, 17]] = 0
    dependence = convergence.dependence(gaps, steps, num_steps=50)
    kept = steps > 0
    assert (dependence.n, dependence.num_censored) == (38, 2)
    expected = stats.pearsonr(gaps[kept], steps[kept])[0]
    np.testing.assert_allclose(dependence.pearson, expected, rtol=1e-9)
    expected = stats.pearsonr(np.log(gaps[kept]), np.log(steps[kept]))[0]
    np.testing.assert_allclose(dependence.pearson_log, expected, rtol=1e-9)
    expected = stats.spearmanr(gaps[kept], steps[kept])[0]
    np.testing.assert_allclose(dependence.spearman, expected, rtol=1e-9)
    filled = np.where(kept, steps, 51)
    expected = stats.spearmanr(gaps, filled)[0]
    np.testing.assert_allclose(dependence.spearman_all, expected, rtol=1e-9)
    few = convergence.dependence(gaps[:4], np.array([0, 0, 3, 4]), num_steps=5)
    assert np.isnan(few.pearson) and np.isnan(few.spearman)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.setitem(convergence.LENGTHS, "smoke", small_runs.CONVERGENCE)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--methods=vanilla", "--seeds=0,3")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def test_a_run_records_and_draws(drawn, again):
    folder = again("convergence")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    thick = [r for r in recorded if r["metric"] == "thickness"]
    assert all((r["attack"], r["epsilon"]) == ("none", 1.0) for r in thick)
    assert all(0.5 < r["value"] <= 1 for r in thick) and len(thick) > 0
    recorded = [r for r in recorded if r["metric"] != "thickness"]
    assert {r["attack"] for r in recorded} == {"multiobjective"}
    assert {r["epsilon"] for r in recorded} == {None}
    of_seed = [r for r in recorded if r["seed"] == 3]
    value = {r["metric"]: r["value"] for r in of_seed if "iteration" not in r}
    assert value["rises"] == value["bound_violations"] == 0
    steps = [r for r in of_seed if r["metric"] == "steps"]
    assert [r["input"] for r in steps] == list(range(5))
    censored = [r for r in steps if r["value"] is None]
    assert all(r["note"].startswith("censored") for r in censored)
    assert value["censored"] == len(censored) / 5
    gaps = [r["initial_gap"] for r in steps]
    np.testing.assert_allclose(value["initial_gap"], np.mean(gaps))
    for metric, last in (("direction_norm", 12), ("p@k_trace", 12)):
        along = [r for r in of_seed if r["metric"] == metric]
        values = [r["value"] for r in along]
        assert along[0]["iteration"] == 1 and along[-1]["iteration"] == last
        assert (np.diff(values) <= 0).all()
    (row,) = small_runs.rows(folder / "table.csv")
    for column, metric in (("reached", "rate_reached"), ("censored", "censored")):
        of_seeds = [r["value"] for r in recorded if r["metric"] == metric]
        assert len(of_seeds) == 2
        np.testing.assert_allclose(float(row[f"{column} mean"]), np.mean(of_seeds))
    np.testing.assert_allclose(
        float(row["Θ mean"]), np.mean([r["value"] for r in thick])
    )
    name = "direction_norm_breast_cancer.png"
    line = drawn.lines(name)[0]
    of_seeds = [r["value"] for r in recorded if r["metric"] == "direction_norm"]
    expected = stats.gmean(np.reshape(of_seeds, (2, 12)))
    np.testing.assert_allclose(line, expected)
    assert {"1/√t", "iteration t"} <= drawn.texts(name)
    name = "steps_by_gap_breast_cancer.png"
    assert "smallest initial gap" in drawn.texts(name)
    left = [
        (r["initial_gap"], r["value"])
        for r in recorded
        if r["metric"] == "steps" and r["value"] is not None
    ]
    np.testing.assert_allclose(sorted(map(tuple, drawn.points(name))), sorted(left))
    shown = exhibit.read(folder)
    # One method alone has no order by thickness.
    assert len(shown.claims) == 2 and len(shown.figures) == 2
    assert "(0 violations)" in shown.claims[0].told()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--epsilon=1", "epsilon"),
        ("--attacks=er", "er"),
        ("--methods=logistic", "logistic"),
        ("--k=30", "30"),
        ("--datasets=adultt", "adultt"),
    ],
)
def test_a_wrong_flag_gives_one_line(tiny, flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(tmp_path / "out", flag)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
