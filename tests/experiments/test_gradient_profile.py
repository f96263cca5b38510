"""The experiment `gradient_profile`: numbers by hand, records, report."""

import json

import numpy as np
import pytest

from experiments.console import cli
from experiments.gradient_profile import experiment, measure, report
from experiments.models import candidates
from experiments.problems import protocols
from experiments.report import exhibit
from experiments.store import records
from r2et_jax import datasets
from tests.experiments import small_runs


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    # Compiles in a fraction of the time.
    monkeypatch.setattr(candidates, "_ATTACK", "random")
    monkeypatch.delenv("R2ET_DEBUG", raising=False)

    def call(*arguments):
        fixed = (
            "--preset=smoke", "--noprogress", "--methods=vanilla", "--seeds=0,3",
            f"--output_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}",
        )  # fmt: skip
        cli.call(experiment, *fixed, *arguments)

    return call


def test_statistics_by_hand():
    maps = np.array([[1.0, 6, 2, 1], [1, 1, 1, 1], [0, 4, 0, 0]])
    shares = measure.sorted_shares(maps)
    np.testing.assert_allclose(shares[0], [0.6, 0.2, 0.1, 0.1])
    statistics = measure.statistics(shares, k=2)
    np.testing.assert_allclose(statistics["top_share"], [0.8, 0.5, 1])
    np.testing.assert_array_equal(statistics["num_90"], [3, 4, 1])
    np.testing.assert_allclose(statistics["border_gap"], [1 / 6, 0, 0], atol=1e-12)
    # Gini: the mean of |v_i − v_j| over all pairs, over twice the mean.
    gini = [np.abs(v[:, None] - v).mean() / (2 * v.mean()) for v in maps]
    np.testing.assert_allclose(statistics["gini"], gini)


def test_maps_without_a_profile_are_counted():
    maps = np.array([[3.0, 1, 0], [0, 0, 0], [np.nan, 1, 1], [1, 2, 1]])
    recorded = {r["metric"]: r for r in measure.measure(maps, maps[:1], k=1)}
    assert recorded["top_share"]["n"] == 2
    assert recorded["top_share"]["value"] == pytest.approx((0.75 + 0.5) / 2)
    assert recorded["num_90"]["note"] == recorded["gini"]["note"]
    assert "2 inputs" in recorded["gini"]["note"]
    np.testing.assert_allclose(recorded["profile"]["values"], [0.625, 0.25, 0.125])


def test_the_reference_is_that_of_half_normal_numbers():
    maps = measure.normal_maps(np.ones((3, 500)), 500)
    statistics = measure.statistics(measure.sorted_shares(maps), k=50)
    assert statistics["gini"].mean() == pytest.approx(np.sqrt(2) - 1, abs=3e-3)
    # P(|Z| > t) where ∫_t^∞ z φ(z) dz has 90 % of its whole: t² = −2 log .9.
    assert statistics["num_90"].mean() / 500 == pytest.approx(0.646, abs=5e-3)
    # An input that is zero somewhere can explain nothing by a product there.
    factors = np.array([[1.0, 0, 2], [0, 1, 1]])
    maps = measure.normal_maps(factors, 3)
    np.testing.assert_array_equal(maps[:2] > 0, factors > 0)
    assert maps[::2, 2].mean() == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.1)
    # Three channels of a pixel are added up.
    maps = measure.normal_maps(np.ones((1, 6)), 2)
    assert maps.shape[1] == 2
    assert maps.mean() == pytest.approx(3 * np.sqrt(2 / np.pi), rel=0.05)


def test_a_long_tail_is_told_from_sorted_noise(tmp_path):
    n, k = 20, 4
    rng = np.random.default_rng(1)
    store = records.RecordStore(tmp_path / "records.jsonl")
    steep = 0.5 ** np.arange(n)
    for method, factor in (("vanilla", np.ones(n)), ("r2et", steep)):
        for seed in range(4):
            maps = np.abs(rng.normal(size=(300, n))) * factor
            cell = dict.fromkeys(records.REQUIRED)
            cell |= {"dataset": "a", "method": method, "seed": seed, "fold": 0, "k": k}
            chance = measure.normal_maps(np.ones((1, n)), n)
            recorded = measure.measure(maps, chance, k=k)
            store.append([{**cell, **r} for r in recorded])
    options = type(
        "Common", (), {"k": (k,), "methods": ("vanilla", "r2et"), "kind": "graph"}
    )
    verdict, text, _ = report.long_tail(store, "a", options)
    assert verdict is False and "of 20 features" in text
    assert "independent normal numbers × the inputs" in text
    options.methods = ("r2et",)
    assert report.long_tail(store, "a", options)[0] is True
    assert report.concentration(store, "a", options) is None
    options.methods = ("r2et", "vanilla")
    assert report.concentration(store, "a", options)[0] is True


def test_a_run_records_and_draws(drawn, again):
    folder = again("gradient_profile")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    (profile,) = (r for r in recorded if r["metric"] == "profile" and r["seed"] == 3)
    values = np.array(profile["values"])
    assert values.size == 30 and (np.diff(values) <= 0).all()
    assert values.sum() == pytest.approx(1, abs=1e-3)
    (top,) = (r for r in recorded if r["metric"] == "top_share" and r["seed"] == 3)
    assert top["value"] == pytest.approx(values[:8].sum(), abs=1e-3)
    shown = exhibit.read(folder)
    assert shown.tables == ("table.md",)
    assert list(shown.figures) == ["gradient_profile_breast_cancer.png"]
    (claim,) = shown.claims
    assert "of 30 features make up 90 %" in claim.told()
    assert claim.held is not None or claim.cause == exhibit.UNCLEAR
    name = "gradient_profile_breast_cancer.png"
    assert {"vanilla", "chance", "rank of the feature, of 30"} <= drawn.texts(name)
    both = [r["values"] for r in recorded if r["metric"] == "profile"]
    np.testing.assert_allclose(drawn.lines(name)[0], np.mean(both, axis=0), rtol=1e-3)


@pytest.mark.parametrize(
    "flag, message", [("--epsilon=1", "epsilon"), ("--k=2,3", "--k takes one entry")]
)
def test_a_wrong_flag_gives_one_line(run, flag, message, capsys):
    with pytest.raises(SystemExit):
        run(flag)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_table_of_ones_own_is_taken_by_its_path(run, tmp_path):
    # Of the shape of the bundled one, whose programs then serve.
    table = datasets.breast_cancer()._replace(name="whatever")
    datasets.save_npz(tmp_path / "own" / "mine.npz", table)
    run(f"--datasets={tmp_path / 'own' / 'mine.npz'}", "--seeds=0")
    recorded = records.RecordStore(tmp_path / "records.jsonl").select(k=8)
    assert {record["dataset"] for record in recorded} == {"mine"}
    assert (tmp_path / "gradient_profile_mine.png").is_file()
    (folder,) = (tmp_path / "models").iterdir()
    assert folder.name == "mine"
