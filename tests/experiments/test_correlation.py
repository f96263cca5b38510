"""The correlation experiment: its quantities against references, and a run."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.console import cli
from experiments.correlation import experiment, measure, report
from experiments.measures import thickness
from experiments.problems import protocols
from experiments.problems.registry import problem
from experiments.report import exhibit
from experiments.store import records
from r2et_jax import datasets, models, ranking, score
from tests.experiments import small_runs

K = 8


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.setitem(thickness.SAMPLINGS, ("smoke", True), small_runs.CORRELATION)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--methods=vanilla", "--seeds=0,3")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def test_quantities_are_those_of_the_dense_hessian(tiny, monkeypatch):
    data = problem(datasets.load("breast_cancer"))
    model = models.MLP(hidden=(6,), activation="softplus")
    params = model.init(jax.random.key(0), data.sample)
    sample = thickness.first_inputs(data, model, params, 3)
    values = measure._local(model, K, data.view)(params, sample)
    parts = {
        name: jax.jit(jax.vmap(jax.hessian(of(model.apply), 1), (None, 0, None)))
        for name, of in (("hessian", score.probability), ("bend", score.log_odds))
    }
    gradient = jax.vmap(jax.grad(score.log_odds(model.apply), 1), (None, 0, None))
    sizes = np.abs(gradient(params, sample.x, 1))
    for name, dense in parts.items():
        expected = np.linalg.norm(dense(params, sample.x, 1), axis=(1, 2))
        if name == "bend":
            expected = expected / np.linalg.norm(sizes, axis=1)
        np.testing.assert_allclose(values[name], expected, rtol=1e-3)
    ranked = -np.sort(-sizes / sizes.sum(1, keepdims=True), axis=1)
    np.testing.assert_allclose(
        values["gap"], ranked[:, K - 1] - ranked[:, K], rtol=1e-3
    )
    mean = [ranking.pairwise_gaps(row, row, k=K).mean() for row in ranked]
    np.testing.assert_allclose(values["gap_mean"], mean, rtol=1e-4)
    # Where it is large, the norm is estimated.
    monkeypatch.setattr(measure, "EXACT_FEATURES", 4)
    measure._local.cache_clear()
    estimated = measure._local(model, K, data.view)(params, sample)
    np.testing.assert_allclose(estimated["hessian"], values["hessian"], rtol=0.6)
    assert not np.allclose(estimated["hessian"], values["hessian"], rtol=1e-5)


def test_a_run_records_and_draws(tmp_path, small_models, drawn, again):
    folder = again("correlation")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    of_seed = [r for r in recorded if r["seed"] == 3]
    (epochs,) = [r for r in of_seed if r["metric"] == "manipulation_epoch"]
    steps = np.array(epochs["values"], float)
    left = np.isfinite(steps)
    (censored,) = [r for r in of_seed if r["metric"] == "censored"]
    assert censored["value"] == np.mean(~left) and len(steps) == 9
    assert np.nanmax(steps) <= 200 and np.nanmin(steps) >= 1
    quantities = {r["quantity"] for r in of_seed if r["metric"] == "quantity"}
    assert quantities == set(report.QUANTITIES)
    for name in ("gap", "uniform"):
        value = {r["metric"]: r for r in of_seed if r.get("quantity") == name}
        x = np.array(value["quantity"]["values"], float)
        filled = np.where(left, steps, 201)
        expected = stats.spearmanr(x, filled)[0]
        assert value["spearman_all"]["value"] == pytest.approx(expected, abs=0.02)
        assert value["spearman"]["n"] == left.sum()
        expected = stats.pearsonr(x[left], steps[left])[0]
        assert value["pearson"]["value"] == pytest.approx(expected, abs=0.01)
    rows = {r["quantity"]: r for r in small_runs.rows(folder / "table.csv")}
    dots = drawn.points("correlations_breast_cancer.png")
    for place, name in enumerate(report.QUANTITIES):
        mean = np.mean(
            [
                r["value"]
                for r in recorded
                if r["metric"] == "spearman_all" and r["quantity"] == name
            ]
        )
        told = float(rows[name]["Spearman with censored mean"])
        np.testing.assert_allclose(told, mean)
        assert any(np.allclose(dot, (mean, place)) for dot in dots), name
    inputs = drawn["inputs_breast_cancer.png"]
    assert len([axes for axes in inputs.axes if axes.get_xlabel()]) == 6
    shown = drawn.texts("correlations_breast_cancer.png")
    assert {"all inputs", "manipulated ones", "Hessian", "gap", "thickness"} <= shown
    shown = exhibit.read(folder)
    assert len(shown.claims) == 4 and len(shown.figures) == 2
    # Beside the models of the small run.
    (_, fewer) = _epochs(tmp_path / "share", small_models, "--share=.7")
    # Three of eight features take longer to leave than one.
    kept = np.isfinite(fewer)
    assert (fewer[kept] >= steps[kept]).all() and (fewer[kept] > steps[kept]).any()
    assert "P@k fell below 0.7" in (tmp_path / "share" / "table.md").read_text("utf-8")


def _epochs(folder, models_dir, *arguments):
    """Manipulation epochs of every model of a run."""
    small = small_runs.RUNS["correlation"]
    with pytest.MonkeyPatch.context() as patch:
        small.change(patch)
        small.call(folder, models_dir, *arguments)
    text = (folder / "records.jsonl").read_text()
    recorded = map(json.loads, text.splitlines())
    values = [r["values"] for r in recorded if r["metric"] == "manipulation_epoch"]
    return np.array(values, float)


def judged(thick, hessian, gap, bend=0.1):
    """The verdicts of the questions on made-up correlations of 5 runs."""
    rng = np.random.default_rng(0)
    store = [
        {"dataset": "d", "method": method, "k": 8, "seed": seed, "fold": 0,
         "metric": metric, "quantity": name, "share": 1.0,
         "value": (value[method] if isinstance(value, dict) else value)
         + 0.02 * rng.normal()}
        for name, value in (
            ("uniform", thick), ("hessian", hessian), ("gap", gap), ("bend", bend),
            ("gap_mean", 0.1), ("gaussian", 0.2), ("adversarial", 0.2),
            ("uniform_min", 0.3),
        )
        for method in ("a", "b")
        for seed in range(5)
        for metric in ("spearman_all", "spearman")
    ]  # fmt: skip
    censored = {
        "dataset": "d",
        "method": "a",
        "k": 8,
        "metric": "censored",
        "share": 1.0,
    }
    store.append({**censored, "value": 0.25})

    class Store:
        def select(self, **filters):
            return records.select(store, **filters)

    class Options:
        methods, k = ("a", "b"), (8,)

    questions = report.QUESTIONS
    verdicts = [question.judge(Store(), "d", Options) for question in questions]
    assert "without the 25% never manipulated" in verdicts[0][1]
    assert "(manipulated: a top-k feature left)" in verdicts[0][1]
    return [verdict.held for verdict in verdicts]


def test_claims_follow_the_correlations():
    assert judged(0.5, -0.1, 0.2) == [True, True, True, False]
    assert judged(0.3, -0.4, 0.6) == [True, False, True, True]
    assert judged(-0.2, 0.0, -0.2) == [False, False, False, None]
    # Signs that cancel over methods hide nothing.
    assert judged(0.5, {"a": 0.4, "b": -0.4}, 0.2)[1] is False
    assert judged(0.5, 0.0, 0.2, bend=-0.4)[1:3] == [True, False]


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--attacks=mse", "mse"),
        ("--epsilon=.5,1", "epsilon"),
        ("--k=30", "30"),
        ("--share=0", "--share must lie in (0, 1], got 0.0"),
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
