"""The certify experiment from flags to figure, and what its report counts."""

import json

import jax
import numpy as np
import pytest

from experiments.certify import experiment, measure, report
from experiments.console import cli
from experiments.problems import protocols
from experiments.report import exhibit
from r2et_jax import models, threat

TINY = protocols.PRESETS["smoke"]._replace(
    pretrain_epochs=4,
    epochs=2,
    eval_every=1,
    num_valid=10,
    num_test=20,
    strongest_budget=1300,
)
METHODS = ("vanilla", "sp", "logistic")
BUDGETS = (0.05, 0.5)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    common = ("--preset=smoke", "--noprogress", "--seeds=0,3", "--epsilon=.05,.5")
    common += (f"--methods={','.join(METHODS)}",)
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *common, *folders, *arguments)


def test_a_run_records_draws_and_resumes(tiny, tmp_path, drawn, resumes):
    call(tmp_path)
    text = (tmp_path / "records.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    value = {
        (r["method"], r["seed"], r["epsilon"], r["metric"]): r["value"] for r in found
    }
    each = {
        (r["method"], r["seed"], r["epsilon"], r["metric"]): r["values"]
        for r in found
        if "values" in r
    }
    for method in METHODS:
        for seed in (0, 3):
            assert 0.5 < value[method, seed, None, "auc"] <= 1
            for epsilon in BUDGETS:
                cell = method, seed, epsilon
                certified = np.array(each[*cell, "certified_p@k_inputs"])
                attacked = np.array(each[*cell, "p@k_inputs"])
                assert len(certified) == len(attacked) == 20
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
    for name in ("table.md", "table.csv", "config.json"):
        assert (tmp_path / name).stat().st_size > 100
    assert "at 0 of 240 inputs" in (tmp_path / "table.md").read_text()
    name = "certified_breast_cancer.png"
    assert {"attacked (strongest)", "certified", "l2 budget ε"} <= drawn.texts(name)
    for metric in ("certified_p@k", "p@k"):
        means = [
            np.mean([value["sp", seed, epsilon, metric] for seed in (0, 3)])
            for epsilon in BUDGETS
        ]
        assert any(np.allclose(line, means) for line in drawn.lines(name)), metric
    shown = exhibit.read(tmp_path)
    assert "breast_cancer 0 of 240" in shown.claims[0].found and shown.claims[0].held
    assert list(shown.figures) == ["certified_breast_cancer.png"]
    resumes(tmp_path, lambda: call(tmp_path), (experiment, "measure"))


def test_a_certificate_above_the_attack_is_counted(tiny, monkeypatch):
    model = models.MLP(hidden=(8,))
    x = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    params = model.init(jax.random.key(1), x[0])
    one = np.ones(6)
    monkeypatch.setattr(measure, "certify", lambda *_: lambda *_: (one, one > 2))
    found = measure.measure(model, params, x, k=3, epsilon=3.0, budget=1300)
    value = {record["metric"]: record for record in found}
    lowered = sum(share < 1 for share in value["p@k_inputs"]["values"])
    assert value["violations"]["value"] == lowered > 0
    assert report.num_violations(found) == (lowered, 6)
    assert report.num_mismatched(found) == 6
    assert "At 6 of 6 inputs the layers are not" in report._notes(found, 3)[-1]


def test_what_is_compiled_is_the_certificate_of_each_input():
    model = models.SkipMLP(hidden=(8,), activation="softplus")
    x = np.random.default_rng(0).normal(size=(19, 10)).astype(np.float32)
    params = model.init(jax.random.key(1), x[0])
    run = measure.certify(model, 3)
    ball = threat.threat_model("l2", 0.1)
    together, matches = map(np.asarray, run(params, x, ball))
    assert matches.shape == (19,) and matches.all()
    assert set(np.round(3 * together, 5)) <= {0, 1, 2, 3} and np.ptp(together) > 0
    alone = [float(run(params, row[None], ball)[0][0]) for row in x[[0, 9, 18]]]
    np.testing.assert_array_equal(together[[0, 9, 18]], np.float32(alone))


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--attacks=er", "er"),
        ("--epsilon=-1", "epsilon"),
        ("--k=30", "30"),
        ("--methods=skp", "skp"),
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
