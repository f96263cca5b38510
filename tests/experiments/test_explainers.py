"""The experiment `explainers`: factories, orders by SciPy, records."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.explainers import measure, report
from experiments.problems import registry
from experiments.problems import views as views_of
from experiments.report import exhibit
from experiments.store import records
from r2et_jax import datasets, models, saliency, score
from r2et_jax.metrics.statistics import Estimate

NUM_TEST = 8


def test_a_run_records_each_explainer(again):
    folder = again("explainers")
    store = records.RecordStore(folder / "records.jsonl")
    recorded = store.select(metric="p@k")
    assert all(set(records.REQUIRED) <= set(record) for record in recorded)
    cells = {(r["method"], r["seed"], r["explainer"]) for r in recorded}
    assert len(cells) == len(recorded) == 2 * 2 * 3
    assert all(r["n"] == NUM_TEST and 0 <= r["value"] < 1 for r in recorded)
    assert len({r["value"] for r in recorded if r["seed"] == 0}) > 3
    shown = exhibit.read(folder)
    assert list(shown.figures) == ["explainers_breast_cancer.png"]
    (claim,) = shown.claims
    assert "2 methods, 2 runs" in claim.told()
    table = (folder / "table.md").read_text()
    assert "gradient–integrated_gradients: Kendall's τ" in table


def test_explainers_are_those_of_the_library():
    problem = registry.problem(datasets.load("breast_cancer"))
    draws = measure.Draws(5, 4, 6)
    views = measure.views(problem.view, draws)
    assert views == measure.views(problem.view, draws)  # programs are kept by them
    assert hash(views["smooth_grad"]) == hash(
        measure.views(problem.view, draws)["smooth_grad"]
    )
    model = models.MLP(hidden=(4,), activation="softplus")
    x = np.asarray(problem.sample)
    params = model.init(jax.random.key(0), x)
    s = score.log_odds(model.apply)
    smooth = functools.partial(
        saliency.smooth_grad(s, num_samples=4, sigma=0.5**0.5), key=jax.random.key(0)
    )
    expected = {
        "gradient": saliency.gradient(s),
        "smooth_grad": smooth,
        "integrated_gradients": saliency.integrated_gradients(s, num_points=6),
    }

    def all_maps(params, x):
        explainers = {name: view.explainer for name, view in views.items()}
        return [
            {name: explain(s)(params, x, 1) for name, explain in explainers.items()},
            {n: f(s, normalize=False)(params, x, 1) for n, f in explainers.items()},
            {name: explain(params, x, 1) for name, explain in expected.items()},
        ]

    maps, whole, wanted = jax.jit(all_maps)(params, x)
    for name in expected:
        np.testing.assert_allclose(maps[name], wanted[name], rtol=1e-5)
        share = whole[name] / whole[name].sum()
        np.testing.assert_allclose(maps[name], share, rtol=1e-5)


def test_the_channels_of_a_pixel_are_summed():
    of_pixels = saliency.of_pixels(3)
    view = dataclasses.replace(views_of.IMAGE, explainer=of_pixels, paired=False)
    weights = np.linspace(-1, 1, 12).astype(np.float32)
    x = np.arange(1, 13, dtype=np.float32)

    def linear(weights, x, target, /):
        return weights @ x

    views = measure.views(view, measure.Draws(1, 2, 2), channels=3)
    assert views["gradient"].explainer is of_pixels
    wanted = {name: np.abs(weights) for name in ("gradient", "smooth_grad")}
    wanted["integrated_gradients"] = np.abs(weights * x)
    for name, values in wanted.items():
        explain = views[name].explainer(linear, normalize=False)
        expected = values.reshape(4, 3).sum(axis=1)
        np.testing.assert_allclose(explain(weights, x, 1), expected, rtol=1e-5)


def test_graphs_average_gradient_times_input():
    views = measure.views(views_of.GRAPH, measure.DRAWS["standard", False])
    assert views["gradient"].explainer is saliency.gradient_times_input
    smooth = views["smooth_grad"].explainer
    assert (smooth.base, smooth.sigma) == (saliency.gradient_times_input, 0.1)
    assert smooth.num_samples == 8
    assert {view.norm for view in views.values()} == {"linf"}


def by_seed(values):
    return {(seed, 0): value for seed, value in enumerate(values)}


def precision(means, spread=0.01):
    """Method -> (seed, fold) -> P@k around the means, equally shifted in each run."""
    shifts = spread * np.array([-1.0, 0.0, 1.0, 0.5])
    return {name: by_seed(mean + shifts) for name, mean in means.items()}


def test_orders_are_compared_run_by_run():
    first = precision({"a": 0.2, "b": 0.5, "c": 0.8, "d": 0.9})
    same = report.compare(first, precision({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}))
    assert (same.tau, same.by_run.mean, same.swapped) == (1, 1, ())
    assert same.p_value == pytest.approx(2 / 24)  # two of the 4! orders
    turned = report.compare(first, precision({"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.5}))
    assert turned.tau == pytest.approx(4 / 6)
    assert turned.swapped == (("c", "b"),)


def test_a_swap_within_its_errors_is_none():
    first = precision({"a": 0.2, "b": 0.5})
    noisy = {
        "a": by_seed([0.5, 0.3, 0.45, 0.2]),
        "b": by_seed([0.3, 0.4, 0.35, 0.3]),
    }
    compared = report.compare(first, noisy)
    assert compared.tau == -1 and compared.swapped == ()
    assert compared.by_run.low < 0 < compared.by_run.high


def test_the_claim_has_three_answers(monkeypatch):
    def order(low, swapped=()):
        spread = Estimate(0.5, (0.5 - low) / stats.t.ppf(0.975, 4), "seeds", 5, 5, 0)
        return report.Order(0.5, 0.1, spread, swapped)

    given = {"vanilla": by_seed([0.4]), "r2et": by_seed([0.6])}
    asked = []
    monkeypatch.setattr(
        report, "_precision", lambda *_: dict.fromkeys(measure.NAMES, given)
    )

    class Options(NamedTuple):
        methods: tuple

    options = Options(("vanilla", "r2et", "rat"))
    for last, verdict in (
        (order(0.1), True), (order(-0.1), None), (order(0.1, (("a", "b"),)), False),
    ):  # fmt: skip
        compared = {("x", "y"): order(0.2), ("x", "z"): last}

        def orders(store, dataset, options, compared=compared):
            asked.append(options.methods)
            return compared

        monkeypatch.setattr(report, "orders", orders)
        assert report.judge(None, "adult", options).held is verdict
    # The claim is the papers': a method of ours does not break it.
    assert asked == [["vanilla", "r2et"]] * 3
    assert report.judge(None, "adult", Options(("vanilla", "rat"))) is None
