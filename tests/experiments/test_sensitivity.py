"""Hyperparameters: what is tried, how it is judged, and a run from flags to figure."""

import json

import jax
import numpy as np
import pytest

from experiments.console import cli
from experiments.models import candidates, fitting
from experiments.problems import protocols
from experiments.problems.registry import problem
from experiments.report import exhibit
from experiments.sensitivity import experiment, measure, report
from experiments.store import records
from r2et_jax import attacks, datasets, saliency, score, threat
from r2et_jax.ranking.gaps import anchored_weights, smallest_pair_weights
from tests.experiments import small_runs

TINY = small_runs.TINY


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", TINY)
    # Compiles in a fraction of the time.
    monkeypatch.setattr(candidates, "_ATTACK", "random")
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--seeds=0,3", "--k=4")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


@pytest.fixture(scope="module")
def bundled():
    return problem(datasets.load("breast_cancer"))


def fitter(problem, changed, folder):
    return fitting.Fitter(
        problem, seeds=(0, 3), protocol=changed, k=4, models_dir=folder, progress=False
    )


def test_one_factor_changes_at_a_time(tiny, bundled, monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "standard", protocols.PRESETS["standard"])
    tried = list(measure.settings(bundled, "r2et_mm", 8, "standard"))
    assert {setting.factor for setting in tried} == set(measure.FACTORS)
    for factor in measure.FACTORS:
        of = [setting for setting in tried if setting.factor == factor]
        assert len(of) > 1 and sum(setting.default for setting in of) == 1
        assert len({setting.level for setting in of}) == len(of)
    whole = protocols.PRESETS["standard"]
    for setting in tried:
        assert (setting.k != 8) == (setting.factor == "k" and not setting.default)
        grid = protocols.weight_grid("r2et_mm", setting.protocol)
        if setting.weight is None:
            assert len(grid) == 4 and set(grid) < set(
                protocols.weight_grid("r2et_mm", whole)
            )
        else:
            (pair,) = grid
            position = int(setting.factor[-1]) - 1
            assert pair[position] == setting.weight
            assert pair[1 - position] == (1.0, 0.03)[1 - position]
            multiple = setting.weight / (1.0, 0.03)[position]
            assert setting.level == f"×{multiple:g}"
        if setting.default and setting.weight is None:
            assert setting.protocol._replace(k_prime=None) == measure.short_grid(whole)
    (alone,) = measure.settings(bundled, "vanilla", 8, "standard", ["schedule"])
    assert alone.factor == measure.BASELINE


@pytest.mark.parametrize("k", [1, 4, 28, 29])
def test_every_k_prime_has_its_pairs(tiny, bundled, k):
    weighing = {
        "r2et_mm": smallest_pair_weights,
        "r2et_anchored": anchored_weights,
    }
    for method, weigh in weighing.items():
        tried = measure.settings(bundled, method, k, "paper", ["k_prime"])
        levels = [setting.protocol.k_prime for setting in tried]
        assert len(levels) == len(set(levels)) > 0
        values = jax.random.uniform(jax.random.key(0), (30,))
        for level in levels:
            weigh(values, k=k, k_prime=level)


def test_methods_of_equal_effort_try_twelve_settings():
    """The step of est_h_fd is tuned with its weight; `at` has nothing to tune."""
    standard = protocols.PRESETS["standard"]
    grid = protocols.weight_grid("est_h_fd", standard)
    assert len(grid) == 12
    assert {tau for _, tau in grid} == {1e-6, 1e-4, 1e-2, 1e-1}
    assert len(protocols.weight_grid("r2et_mm_k", standard)) == 12
    assert protocols.weight_grid("at", standard) == [()]


def test_k_prime_is_part_of_what_names_a_model(bundled, tmp_path):
    def folder(name, **changes):
        return fitter(bundled, TINY._replace(**changes), tmp_path)._folder(name)[0]

    usual = protocols.default_k_prime(4, bundled.num_features)
    assert folder("r2et_mm") == folder("r2et_mm", k_prime=usual)
    assert folder("r2et_mm") != folder("r2et_mm", k_prime=usual + 1)
    assert folder("r2et_mm") != folder("r2et_mm", schedule="scratch")
    # The vanilla start is the same for all.
    started = folder("pretrained_vanilla")
    changes = {"schedule": "scratch", "reference": "vanilla", "k_prime": 1}
    assert folder("pretrained_vanilla", **changes) == started
    assert folder("pretrained_vanilla", pretrain_epochs=9) != started


def test_the_loss_takes_the_pairs_that_are_asked_for(bundled):
    model = bundled.model("r2et_mm_nh")
    x, y = bundled.training(8)
    params = model.init(jax.random.key(0), x[0])
    losses = {
        k_prime: bundled.objective(
            "r2et_mm_nh", model, k=4, k_prime=k_prime
        ).loss(params, x, y, np.array([1.0], np.float32))
        for k_prime in (None, 1, 2, 4)
    }  # fmt: skip
    explain = jax.vmap(
        lambda x: saliency.gradient(score.probability(model.apply))(
            params, x, score.predicted_class(model.apply(params, x))
        )
    )
    ordered = -np.sort(-np.asarray(explain(x)), axis=1)
    gaps = {
        n: np.mean(ordered[:, 4 - n : 4].mean(1) - ordered[:, 4 : 4 + n].mean(1))
        for n in (1, 2, 4)
    }
    assert losses[None] == losses[2]
    for n in (1, 4):
        np.testing.assert_allclose(
            losses[n] - losses[2], gaps[2] - gaps[n], rtol=1e-3, atol=1e-6
        )


def test_a_run_records_and_draws(tiny, bundled, small_models, drawn, again):
    folder = again("sensitivity")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    tried = {(r["method"], r["factor"], r["level"]) for r in recorded}
    assert tried == {
        ("vanilla", "none", "default"),
        ("r2et_mm", "k_prime", "1"), ("r2et_mm", "k_prime", "2"),
        ("r2et_mm", "lambda_1", "×0.1"), ("r2et_mm", "lambda_1", "×1"),
    }  # fmt: skip
    clean = {r["metric"] for r in recorded if r["attack"] == "none"}
    attacked = [r for r in recorded if r["attack"] == "random"]
    assert {"auc", "same", "epoch", "fallback"} <= clean
    assert {r["epsilon"] for r in attacked} == {0.5}

    # The number of one cell, from the model that was saved, by another way.
    changed = measure.short_grid(TINY)._replace(k_prime=1)
    fitted = fitter(bundled, changed, small_models)
    assert fitted._folder("r2et_mm")[0].is_dir()
    model, params = fitted.fit("r2et_mm").at(1, 0)
    named = attacks.protocol("random", bundled.view.attacked(model), k=4)
    result = attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )(
        params,
        bundled.inputs("test", 12).x,
        threat.threat_model("l2", 0.5),
        key=jax.random.key(0),
    )
    (record,) = records.select(
        attacked, metric="p@k", factor="k_prime", level="1", seed=3
    )
    np.testing.assert_allclose(record["value"], result.best.precision.mean(), rtol=1e-5)

    name = "sensitivity_breast_cancer.png"
    names = {"vanilla", "r2et_mm", "k′, number of pairs", "λ₁ of the ranking term"}
    assert names <= drawn.texts(name)
    cells = [
        records.select(attacked, metric="p@k", factor="k_prime", level=level)
        for level in "12"
    ]
    expected = [np.mean([r["value"] for r in cell]) for cell in cells]
    assert any(np.allclose(line, expected) for line in drawn.lines(name))
    rows = {r["level"]: r for r in small_runs.rows(folder / "table_k_prime.csv")}
    told = [float(rows[level]["P@k random mean"]) for level in "12"]
    np.testing.assert_allclose(told, expected)
    rows = small_runs.rows(folder / "table_lambda_1.csv")
    assert {r["level"] for r in rows} >= {"×0.1", "×1"}
    shown = exhibit.read(folder)
    assert len(shown.claims) == 2 and all(claim.told() for claim in shown.claims)
    assert list(shown.figures) == ["sensitivity_breast_cancer.png"]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--factors=kprime", "kprime"),
        ("--attacks=er,mse", "one entry"),
        ("--k=2,3", "one entry"),
        ("--k=30", "30"),
        ("--methods=logistic", "logistic"),
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


def made(factor, levels, method="r2et_mm"):
    """Records of P@k, `levels` level -> P@k of each seed; the first is the default."""
    return [
        {
            "dataset": "compas", "method": method, "factor": factor, "level": level,
            "default": level == next(iter(levels)), "seed": seed, "fold": 0,
            "metric": metric, "value": value, "stderr": 0.0, "attack": "er_surrogate",
            "weight": float(level[1:]) if level[0] == "×" else None,
        }
        for level, values in levels.items()
        for seed, value in enumerate(values)
        for metric in ("p@k", "same")
    ]  # fmt: skip


class Store(list):
    def select(self, **filters):
        return records.select(self, **filters)


def judged(recorded, factor):
    methods = tuple(dict.fromkeys(r["method"] for r in recorded))
    options = type("Common", (), {"methods": methods, "seeds": (0, 1, 2)})
    place = {
        "k_prime": 0, "schedule": 1, "reference": 2, "lambda_1": 3, "k": 5,
    }[factor]  # fmt: skip
    question = report.QUESTIONS[place]
    return question.judge(Store(recorded), "compas", options)


BASE = np.array([0.7, 0.8, 0.9])


@pytest.mark.parametrize(
    "shift, spread, held",
    [
        (0.01, 0.001, True),
        (-0.1, 0.001, False),
        (0.1, 0.001, False),
        (-0.03, 0.1, None),
    ],
)
def test_k_prime_is_stable_within_a_margin(shift, spread, held):
    other = BASE + shift + spread * np.array([-1, 0, 1])
    verdict, text, _ = judged(made("k_prime", {"4": BASE, "1": other}), "k_prime")
    assert verdict is held
    assert f"k′ = 1 {shift:+.3f}" in text


@pytest.mark.parametrize("shift, held", [(-0.2, True), (0.02, True), (0.2, False)])
def test_pretraining_is_judged_against_scratch(shift, held):
    levels = {"pretrain": BASE, "scratch": BASE + shift}
    assert judged(made("schedule", levels), "schedule")[0] is held
    assert judged(made("schedule", levels), "reference") is None


def test_k_is_compared_with_vanilla_at_the_same_k():
    recorded = made("k", {"8": BASE, "2": BASE - 0.1})
    recorded += made("k", {"8": BASE - 0.2, "2": BASE}, method="vanilla")
    verdict, text, _ = judged(recorded, "k")
    assert verdict is False
    assert "k = 2 -0.100" in text and "k = 8 +0.200" in text
    differences = records.select(
        report.derive(recorded), metric="difference", method="r2et_mm"
    )
    assert len(differences) == 6
    np.testing.assert_allclose([r["value"] for r in differences[-1:]], [-0.1])


def test_the_plateau_of_a_weight():
    def means(**levels):
        return {float(w[1:]): by_seed(BASE + v) for w, v in levels.items()}

    def by_seed(values):
        return {(seed, 0): value for seed, value in enumerate(values)}

    wide = means(w1=-0.2, w3=-0.04, w10=0, w30=-0.01, w100=-0.5)
    assert report.plateau(wide) == (3.0, 30.0, True)
    narrow = means(w1=-0.2, w3=-0.06, w10=0, w30=-0.06, w100=0)
    # What lies beyond a gap does not count.
    assert report.plateau(narrow) == (10.0, 10.0, False)
    unclear = means(w1=-0.04, w10=0)
    unclear[1.0] = by_seed(BASE + [-0.3, 0.2, -0.02])
    assert report.plateau(unclear) == (1.0, 10.0, None)
