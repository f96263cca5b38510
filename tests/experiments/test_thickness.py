"""The thickness experiment: its estimates, its statistics, and a run from its flags."""

import itertools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.console import cli
from experiments.measures import thickness
from experiments.problems import presets, protocols
from experiments.problems.registry import problem
from experiments.report import exhibit, statistics
from experiments.store import records
from experiments.thickness import (
    experiment,
    measure,
    report,
    stability,
    stability_report,
)
from r2et_jax import datasets, models, saliency, score, threat
from tests.experiments import small_runs

SAMPLING, PLAN = small_runs.THICKNESS, small_runs.PLAN
K = 8


@pytest.fixture(scope="module")
def trained():
    """A problem, a smooth model with some curvature, and the first inputs."""
    data = problem(datasets.load("breast_cancer"))
    model = models.MLP(hidden=(6,), activation="softplus")
    params = model.init(jax.random.key(0), data.sample)
    params = jax.tree.map(lambda leaf: 2 * leaf, params)
    return data, model, params, thickness.first_inputs(data, model, params, 5)


def test_thickness_of_a_sample_is_that_of_its_segments(trained):
    """Toward the adversarial sample, by hand from the maps along the way."""
    data, model, params, sample = trained
    run = {"k": K, "epsilon": 1.0, "sampling": SAMPLING}
    thick = thickness.estimate(data, model, params, sample, "adversarial", **run)
    attack = thickness.evaluation.compiled_attack(
        model, thickness.ADVERSARY, K, data.view, evaluations=0
    )
    ball, key = threat.threat_model("l2", 1.0), jax.random.key(0)
    ends = attack(params, sample.x, ball, key=key, context=None).details.last
    assert np.linalg.norm(ends - sample.x, axis=1).max() <= 1 + 1e-5
    explain = jax.jit(
        jax.vmap(jax.grad(lambda p, x: model.apply(p, x)[0], 1), (None, 0))
    )
    times = (np.arange(3) + 0.5) / 3
    for i, (x, end) in enumerate(zip(np.asarray(sample.x), ends, strict=True)):
        points = np.stack([x, *(x + t * (end - x) for t in times)])
        clean, *maps = np.abs(explain(params, points))
        order = np.argsort(-clean, kind="stable")
        above = [m[order[:K], None] >= m[None, order[K:]] for m in maps]
        np.testing.assert_allclose(thick.mean[i], np.mean(above), atol=2e-3)
        np.testing.assert_allclose(thick.least[i], np.mean(above, 0).min(), atol=0.34)
    uniform = thickness.estimate(data, model, params, sample, "uniform", **run)
    noisy = thickness.estimate(data, model, params, sample, "gaussian", **run)
    assert np.all(noisy.least <= noisy.mean) and noisy.mean.mean() < 1
    assert noisy.mean.mean() < uniform.mean.mean()
    alone = thickness.Sample(sample.x[:1], None)
    first = thickness.estimate(data, model, params, alone, "uniform", **run)
    np.testing.assert_allclose(first.mean, uniform.mean[:1], atol=1e-6)


def test_bounds_enclose_what_is_measured(trained):
    data, model, params, sample = trained
    ends = sample.x + 0.3 / np.sqrt(sample.x.shape[1])
    ask = {"k": K, "epsilon": 0.3, "sampling": SAMPLING}
    bounds = thickness.bounds(data, model, params, sample.x, ends, **ask)
    for gaps in (bounds.uniform, bounds.adversarial):
        assert np.all(bounds.lower < gaps) and np.all(gaps < bounds.upper)
    assert np.all(bounds.published_upper > bounds.upper)
    assert np.all(bounds.thickness_bound <= bounds.thickness)
    assert np.all(bounds.thickness_bound <= bounds.thickness_adversarial)
    assert bounds.violated.max() == 0
    # Ends outside of the ball make the count of violations see something.
    far = sample.x + 30 * np.sign(np.random.default_rng(0).normal(size=sample.x.shape))
    away = thickness.bounds(data, model, params, sample.x, far, **ask)
    assert away.violated.min() > 0
    explain = saliency.gradient(score.log_odds(model.apply), normalize=False)
    values = -np.sort(-np.asarray(explain(params, sample.x[0], 1)))
    gap = np.mean(values[:K, None] - values[None, K:])
    end = sample.x[0] + (np.arange(3)[:, None] + 0.5) / 3 * (ends - sample.x)[0]
    maps = np.asarray(jax.vmap(explain, (None, 0, None))(params, end, 1))
    maps = maps[:, np.argsort(-np.asarray(explain(params, sample.x[0], 1)))]
    expected = np.mean(maps[:, :K, None] - maps[:, None, K:]) / gap
    np.testing.assert_allclose(bounds.adversarial[0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["planted", pytest.param("digits", marks=pytest.mark.slow)]
)
def test_pairs_that_were_learnt_are_compared_with_those_of_the_test_part(name):
    data = problem(datasets.load(name))
    learning = PLAN._replace(num_steps=8, num_unseen=6)
    asked = {"seed": 3, "k": 5, "learning": learning}
    difference = stability.differences(data, "vanilla", 8, epsilon=0.1, **asked)
    assert difference.thickness_unseen > 0.5 and difference.num_unseen == 6
    # By hand: the gap at the border of each pair's map, of unit sum.
    train, test = data.dataset.train, data.dataset.test
    inside = np.random.default_rng(3).permutation(len(train.y))[:8]
    model, params = stability._learn(data, "vanilla", np.resize(inside, 32), **asked)
    apply = models.pair_apply(model)
    gradient = jax.jit(jax.grad(lambda x, partner: apply((params, partner), x)[0]))

    def margins(pairs, rows):
        gaps = []
        for x, partner in zip(pairs.x[rows], pairs.partner[rows], strict=True):
            value = np.abs(gradient(x, partner) * (x if name == "planted" else 1))
            value = np.sort(value / value.sum())[::-1]
            gaps.append(value[4] - value[5])
        return gaps

    expected = stats.ks_2samp(margins(train, inside), margins(test, slice(6))).statistic
    assert difference.margins == pytest.approx(expected)


def test_the_rate_is_that_of_the_power_law():
    learnt = [
        {"dataset": "d", "method": method, "metric": "x", "sample_size": m,
         "seed": seed, "fold": None, "n": 10**9, "value": (1 + seed) * m**power}
        for method, power in (("vanilla", -0.4), ("r2et_nh", -0.8))
        for m in (8, 32, 128)
        for seed in (0, 1, 2)
    ]  # fmt: skip
    exponent = stability_report.rate(learnt, "d", "x")
    assert exponent.mean == pytest.approx(-0.6) and exponent.runs == 3
    assert stability_report.rate(learnt[:3], "d", "x") is None


def test_few_unseen_inputs_do_not_slow_the_rate_of_chance():
    """Two samples of one distribution, at every size beside as few unseen ones."""
    rng = np.random.default_rng(0)
    learnt, unseen = [], 64
    for seed in range(20):
        for method, m in itertools.product(presets.LEARNT_METHODS, (16, 64, 256, 1024)):
            first, second = rng.normal(size=m), rng.normal(size=unseen)
            learnt += [
                {"dataset": "d", "method": method, "metric": metric, "value": value,
                 "sample_size": m, "seed": seed, "fold": 0, "n": unseen}
                for metric, value in (
                    ("mean", abs(first.mean() - second.mean())),
                    ("ks", stats.ks_2samp(first, second).statistic),
                )
            ]  # fmt: skip
    for metric in ("mean", "ks"):
        exponent = stability_report.rate(learnt, "d", metric)
        assert exponent.low < -0.5 < exponent.high, metric


@pytest.mark.parametrize(
    "power, noise, verdict",
    [
        (-0.5, 0.02, True),
        (-0.8, 0.01, True),
        (-0.3, 0.01, False),
        (-0.6, 0.4, None),
        (-0.45, 0.01, False),
    ],  # fmt: skip
)
def test_a_rate_that_cannot_be_told_is_no_rate(power, noise, verdict):
    rng = np.random.default_rng(0)
    learnt = [
        {"dataset": "d", "method": method, "metric": "x", "sample_size": m, "k": 8,
         "seed": seed, "fold": None, "n": 10**9, "value": m ** (power + slope)}
        for method in ("vanilla", "r2et_nh")
        for seed, slope in enumerate(noise * rng.normal(size=5))
        for m in (8, 32, 128)
    ]  # fmt: skip
    store = SimpleNamespace(select=lambda **filters: records.select(learnt, **filters))
    judge = stability_report.judge("x")
    held, text, _ = judge(store, "d", SimpleNamespace(k=(8,), kind="tabular"))
    assert held is verdict and "5 runs" in text
    # Pairs of few graphs share their graphs: another cause.
    of_graphs = judge(store, "d", SimpleNamespace(k=(8,), kind="graph"))
    assert bool(of_graphs.cause) is (verdict is False)


def test_correlation_over_models_and_run_by_run():
    rng = np.random.default_rng(0)
    points = {
        (method, seed, 0): (0.1 * i + 0.01 * rng.normal(), i + rng.normal())
        for i, method in enumerate("abcdef")
        for seed in range(4)
    }
    related = statistics.association(points)
    x, y = np.array(list(points.values())).T
    assert related["pearson"] == pytest.approx(stats.pearsonr(x, y)[0])
    assert related["spearman"] == pytest.approx(stats.spearmanr(x, y)[0])
    runs = [
        stats.spearmanr(*np.array([points[m, s, 0] for m in "abcdef"]).T)[0]
        for s in range(4)
    ]
    assert related["by_run"].mean == pytest.approx(np.mean(runs))
    reach = stats.t.ppf(0.975, 3) * np.std(runs, ddof=1) / 2
    assert related["by_run"].high == pytest.approx(np.mean(runs) + reach)
    few = statistics.association({("a", 0, 0): (1.0, 2.0)})
    assert np.isnan(few["pearson"])


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.setitem(thickness.SAMPLINGS, ("smoke", True), SAMPLING)
    monkeypatch.setitem(stability.LEARNINGS, ("smoke", True), PLAN)
    monkeypatch.setattr(presets, "LEARNT_METHODS", {"vanilla": ()})
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", "--methods=vanilla", "--seeds=0,3")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def test_a_run_records_and_draws(drawn, again):
    folder = again("thickness")
    text = (folder / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    thick = [r for r in recorded if r["metric"] == "thickness"]
    cells = {(r["distribution"], r["epsilon"]) for r in thick}
    assert cells == {
        ("gaussian", None), ("uniform", 1.0), ("adversarial", 1.0),
    }  # fmt: skip
    assert all(0 < r["value"] <= 1 and r["n"] == 6 for r in thick)
    bounds = {
        r["metric"]: r["value"]
        for r in recorded
        if r["epsilon"] == 1 and r["seed"] == 3
    }
    assert bounds["bound_lower"] < bounds["bound_uniform"] < bounds["bound_upper"]
    assert bounds["bound_violated"] == 0
    sizes = {r["sample_size"] for r in recorded if "sample_size" in r}
    assert sizes == {8, 32}
    (row,) = small_runs.rows(folder / "table.csv")
    name = "thickness_breast_cancer.png"
    assert "mean thickness Θ" in drawn.texts(name)
    of_models = {
        (r["seed"], r["metric"]): r["value"] for r in recorded if r["epsilon"] == 1.0
    }
    for distribution in ("uniform", "gaussian", "adversarial"):
        means = {
            r["seed"]: r["value"] for r in thick if r["distribution"] == distribution
        }
        told = float(row[f"Θ {distribution} mean"])
        np.testing.assert_allclose(told, np.mean(list(means.values())))
        for seed, mean in means.items():
            at = mean, of_models[seed, "p@k"]
            assert any(np.allclose(dot, at) for dot in drawn.points(name))
    rows = small_runs.rows(folder / "bounds.csv")
    (row,) = (r for r in rows if r["epsilon"] == "1.0")
    lower = np.mean([of_models[seed, "bound_lower"] for seed in (0, 3)])
    np.testing.assert_allclose(float(row["lower mean"]), lower)
    rows = small_runs.rows(folder / "stability.csv")
    assert [r["sample_size"] for r in rows] == ["8", "32"]
    upper, *_, lower = drawn.lines("bounds_breast_cancer.png")
    assert (upper > lower).all()
    assert "√(1/m + 1/u)" in drawn.texts("stability_breast_cancer.png")
    shown = exhibit.read(folder)
    assert len(shown.claims) == 5 and len(shown.figures) == 3
    assert shown.claims[0].held is None  # one method
    assert shown.claims[1].held is True


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--attacks=mse", "mse"),
        ("--attacks=er,er_surrogate", "attacks"),
        ("--k=2,3", "k"),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["planted", pytest.param("digits", marks=pytest.mark.slow)]
)
def test_pairs_have_a_thickness(name):
    loaded = datasets.load(name, fold=0) if name == "planted" else datasets.load(name)
    data = problem(loaded)
    model = data.model("vanilla")
    params = model.init(jax.random.key(0), data.sample)
    chosen = SimpleNamespace(model=model, params=params)
    sampling = thickness.Sampling(3, 2, 2)
    epsilon = max(data.epsilon["smoke"])
    ask = {"k": data.k, "attack": "er_surrogate", "sampling": sampling}
    cells = measure.measure(data, chosen, epsilon=epsilon, **ask)
    cells += measure.measure(data, chosen, epsilon=None, **ask)
    thick = [cell for cell in cells if cell["metric"] == "thickness"]
    assert [c["distribution"] for c in thick] == ["uniform", "adversarial", "gaussian"]
    assert all(0 <= cell["value"] <= 1 and cell["n"] == 3 for cell in thick)


def test_the_figure_of_bounds_is_of_the_mean_over_methods():
    recorded = [
        {"metric": thickness.BOUND + name, "epsilon": epsilon, "seed": seed,
         "fold": 0, "method": method, "value": value + seed + 10 * epsilon}
        for name in thickness.Bounds._fields
        for epsilon in (0.1, 0.5)
        for seed in (0, 1)
        for method, value in (("vanilla", 1.0), ("r2et", 3.0))
    ]  # fmt: skip
    figure = report._bounds_figure(recorded, "d", (0.1, 0.5))
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(drawn) >= 5
    for line in drawn[:5]:
        np.testing.assert_allclose(line.get_ydata(), [3.5, 7.5])
