"""The certify experiment from flags to figure, and what its report counts."""

import json
import time
import types

import jax
import numpy as np
import pytest

from experiments.certify import experiment, measure, report, variants
from experiments.console import cli
from experiments.problems import protocols, registry
from experiments.report import exhibit
from r2et_jax import certificates, datasets, models, threat
from r2et_jax.datasets.containers import Split
from r2et_jax.subject import subject
from tests.experiments import small_runs

METHODS = ("sp", "logistic")
BUDGETS = (0.05, 0.5)
NUM_TEST = small_runs.TINY.num_test


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--seeds=0,3", "--epsilon=.05,.5")
    options += (f"--methods={','.join(METHODS)}",)
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def test_a_run_records_and_draws(drawn, again):
    folder = again("certify")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    value = {
        (r["method"], r["seed"], r["epsilon"], r["metric"]): r["value"]
        for r in recorded
    }
    each = {
        (r["method"], r["seed"], r["epsilon"], r["metric"]): r["values"]
        for r in recorded
        if "values" in r
    }
    for method in METHODS:
        for seed in (0, 3):
            assert 0.5 < value[method, seed, None, "auc"] <= 1
            for epsilon in BUDGETS:
                cell = method, seed, epsilon
                certified = np.array(each[*cell, "certified_p@k_inputs"])
                attacked = np.array(each[*cell, "p@k_inputs"])
                assert len(certified) == len(attacked) == NUM_TEST
                assert np.all(certified <= attacked)
                assert value[*cell, "violations"] == 0
                np.testing.assert_allclose(
                    value[*cell, "certified_p@k"], certified.mean(), atol=1e-4
                )
                np.testing.assert_allclose(
                    value[*cell, "gap"], (attacked - certified).mean(), atol=2e-4
                )
                assert value[*cell, "certified_share"] == np.mean(certified == 1)
                assert value[*cell, "attacked_share"] == np.mean(attacked == 1)
            small, large = (
                value[method, seed, epsilon, "certified_p@k"] for epsilon in BUDGETS
            )
            assert large < small or method == "logistic"
    assert value["logistic", 0, 0.5, "certified_p@k"] == 1
    assert 0 < value["sp", 0, 0.05, "certified_p@k"] < 1
    assert "at 0 of 96 inputs" in (folder / "table.md").read_text()
    name = "certified_breast_cancer.png"
    assert {"attacked (strongest)", "certified", "l2 budget ε"} <= drawn.texts(name)
    (row,) = (r for r in small_runs.rows(folder / "table.csv") if r["method"] == "sp")
    for column, metric in (("certified", "certified_p@k"), ("attacked", "p@k")):
        means = [
            np.mean([value["sp", seed, epsilon, metric] for seed in (0, 3)])
            for epsilon in BUDGETS
        ]
        told = [float(row[f"{column}, ε = {epsilon} mean"]) for epsilon in BUDGETS]
        np.testing.assert_allclose(told, means)
        assert any(np.allclose(line, means) for line in drawn.lines(name)), metric
    shown = exhibit.read(folder)
    assert "breast_cancer: 0 of 96" in shown.claims[0].told() and shown.claims[0].held
    assert list(shown.figures) == ["certified_breast_cancer.png"]


def certifier(model, x, k, evaluations=1300):
    """Of a made-up table whose test inputs are these."""
    y = np.arange(len(x)) % 2
    split = Split(x, y)
    data = datasets.Dataset(
        "made",
        *[split] * 3,
        columns=(),
        groups=(),
        immutable=(),
        lower=np.full(x.shape[1], -np.inf),
        upper=np.full(x.shape[1], np.inf),
        meta={},
    )
    return measure.Certifier(
        registry.problem(data),
        model,
        k=k,
        num_test=len(x),
        strongest_evaluations=evaluations,
    )


def test_a_certificate_above_the_attack_is_counted(tiny, monkeypatch):
    model = models.MLP(hidden=(8,))
    x = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    params = model.init(jax.random.key(1), x[0])
    flat = np.ones(6)
    monkeypatch.setattr(
        measure.Certifier, "_certified", lambda *_: (flat, flat > 2, 0.25)
    )
    recorded = certifier(model, x, 3).measure(params, 3.0, exact_seconds=5.0)
    value = {record["metric"]: record for record in recorded}
    lowered = sum(share < 1 for share in value["p@k_inputs"]["values"])
    assert value["violations"]["value"] == lowered > 0
    assert report.num_violations(recorded) == (lowered, 6)
    assert report.num_mismatched(recorded) == 6
    notes = report._notes(recorded, 3, types.SimpleNamespace(kind="tabular"))
    assert "At 6 of 6 inputs the layers are not" in notes[-1]
    # The exact worst case lies between the bounds and is that of the attack or below.
    assert value["exact_violations"]["value"] == 0
    low, high = (value[f"exact_{end}"]["value"] for end in ("lower", "upper"))
    assert low <= high <= value["p@k"]["value"] + 1e-6
    assert value["exact_closed"]["value"] > 0


def test_certified_by_layers_and_by_programs(monkeypatch, compilations):
    stamps = []

    def perf_counter():
        stamps.append(compilations())
        return time.perf_counter()

    clock = types.SimpleNamespace(perf_counter=perf_counter)
    monkeypatch.setattr(measure, "time", clock)
    x = np.random.default_rng(0).normal(size=(19, 10)).astype(np.float32)
    ball = threat.threat_model("l2", 0.1)
    for hidden, activation in (((8,), "softplus"), ((6, 5), "tanh")):
        model = models.MLP(hidden=hidden, activation=activation)
        params = model.init(jax.random.key(1), x[0])
        made = certifier(model, x, 3)
        together, matches, seconds = made._certified(params, ball, None)
        assert matches.shape == (19,) and matches.all() and seconds > 0
        assert set(np.round(3 * together, 5)) <= {0, 1, 2, 3} and np.ptp(together) > 0
        # Nothing was compiled within what was timed.
        assert stamps[0] == stamps[1] > 0
        stamps.clear()
        # In another order, by the program of chunks of 7.
        rows = [18, 0, 9, 1, 17, 3, 4]
        alone = certificates.certify(
            subject(model, params), x[rows], ball, k=3, batch_size=7
        )
        np.testing.assert_array_equal(together[rows], alone.precision)
        # Smooth units have no regions to search.
        assert not made._is_exact(params)


@pytest.mark.slow
def test_pairs_are_certified_with_the_map_that_is_attacked(tiny, tmp_path, drawn):
    run = "--datasets=planted", "--methods=vanilla,sp", "--epsilon=.0001,.3"
    folders = f"--output_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}"
    cli.call(experiment, "--preset=smoke", "--noprogress", *run, *folders)
    text = (tmp_path / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    value = {(r["method"], r["epsilon"], r["metric"]): r["value"] for r in recorded}
    for method in ("vanilla", "sp"):
        assert value[method, 1e-4, "certified_p@k"] > 0.5
        assert value[method, 0.3, "certified_p@k"] <= value[method, 0.3, "p@k"]
        assert value[method, 1e-4, "violations"] == 0
    assert (
        "by bounds of the explanation's program" in (tmp_path / "table.md").read_text()
    )
    assert "attacked (strongest)" in drawn.texts("certified_planted.png")


def records_of(folder):
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_deep_networks_train_for_their_certificate(tiny, tmp_path):
    folders = f"--output_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}"
    given = "--hidden=6,5", "--methods=vanilla,cert_rank", "--weights=.5"
    options = "--preset=smoke", "--noprogress", "--seeds=0", "--epsilon=.05"
    cli.call(experiment, *options, *folders, *given)
    recorded = records_of(tmp_path)
    assert {r["model"] for r in recorded} == {"mlp_6_5"}
    assert all(r["value"] == 0 for r in recorded if r["metric"] == "violations")
    assert all(r["value"] > 0 for r in recorded if r["metric"] == "seconds")


def test_the_exact_worst_case_and_the_variants(tiny, tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(variants, "LAYERS", dict(list(variants.LAYERS.items())[:2]))
    some = {n: variants.PROGRAMS[n] for n in ("intervals", "4 pairs over 4 slabs")}
    monkeypatch.setattr(variants, "PROGRAMS", some)
    monkeypatch.setattr(variants, "_SLOPES", tuple(some))
    folders = f"--output_dir={tmp_path}", f"--models_dir={tmp_path / 'models'}"
    given = "--exact=.05", "--tolerance=0.003", "--variants=.05", "--methods=vanilla"
    options = "--preset=smoke", "--noprogress", "--seeds=0", "--epsilon=.05"
    cli.call(experiment, *options, *folders, *given)
    recorded = records_of(tmp_path)
    value = {r["metric"]: r["value"] for r in recorded}
    assert value["exact_closed"] == 1
    assert value["exact_slowest"] >= value["exact_seconds"] > 0
    assert value["certified_p@k"] <= value["exact_lower"] <= value["p@k"] + 1e-4
    table = (tmp_path / "table.md").read_text()
    assert "closed, ε = 0.05" in table and "exact > attacked at 0 of 12" in table
    ways = {r["variant"]: r["value"] for r in recorded if r["metric"] == "variant_p@k"}
    assert ways["layers, 1 slabs"] <= ways["layers, 4 slabs"] + 1e-6
    assert ways["intervals"] <= ways["better of three slopes"] + 1e-6
    assert max(ways.values()) <= value["exact_upper"] + 1e-6
    assert "branch and bound, 0.5 s" in ways
    shown = drawn.texts("variants_breast_cancer.png")
    assert {"4 pairs over 4 slabs", "layers, 4 slabs", "seconds an input"} <= shown


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--attacks=er", "er"),
        ("--epsilon=-1", "epsilon"),
        ("--k=30", "30"),
        ("--methods=skp", "skp"),
        ("--exact=.7", "--exact takes budgets of --epsilon"),
        ("--hidden=0", "hidden"),
        ("--weights=1", "--weights is for one method with penalties"),
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
