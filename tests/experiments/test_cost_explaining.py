"""The explanations that `cost` times: other libraries compute the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cost import costs, explaining, measure, report
from experiments.cost.workload import SIZES, Workload
from r2et_jax import models
from r2et_jax.subject import explain


def workload(dataset, folder="."):
    return Workload(
        dataset, folder, ("r2et",), ("er",), 8, 1.0, 0, SIZES["smoke"], "smoke"
    )


def made(dataset, folder, count, monkeypatch):
    if dataset == "mnist":
        return explaining.network(workload(dataset, folder), count)
    x = np.random.default_rng(0).normal(size=(count, 9)).astype(np.float32)
    model = models.MLP(hidden=(7, 5))
    params = model.init(jax.random.key(0), x[0])
    victim = costs.Victim(model, params, jnp.asarray(x))
    monkeypatch.setattr(costs, "victim", lambda *_, **__: victim)
    return explaining.network(workload("adult"), count)


@pytest.mark.parametrize("dataset", ["table", "mnist"])
@pytest.mark.filterwarnings("default")
def test_captum_explains_the_same_network_alike(dataset, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("captum", reason="Captum is not installed")
    from experiments.cost import torch_explaining as theirs

    network = made(dataset, tmp_path, 4, monkeypatch)
    x = torch.tensor(network.torch_x)
    logits = jax.vmap(network.model.apply, (None, 0))(network.params, network.x)
    np.testing.assert_allclose(
        network.torch_net(x).detach().numpy(), logits, rtol=1e-4, atol=1e-5
    )
    for name, tolerance in (("gradient", 1e-4), ("integrated_gradients", 1e-4)):
        run = theirs.captum(name, network.torch_net, x, points=50, sigma=0.1, size=10)
        maps = run().abs().detach().numpy().reshape(4, -1)
        maps /= maps.sum(axis=1, keepdims=True)
        ours = explain(explaining.examined(network, name), network.x)
        np.testing.assert_allclose(ours, maps, rtol=tolerance, atol=1e-6)
    # Other draws: their means are near each other, and far from the plain gradient.
    run = theirs.captum(
        "smooth_grad", network.torch_net, x, points=50, sigma=0.1, size=10
    )
    maps = run().detach().numpy().reshape(4, -1)
    maps /= maps.sum(axis=1, keepdims=True)
    ours = explain(explaining.examined(network, "smooth_grad"), network.x)
    assert np.abs(ours - maps).sum(axis=1).max() < 0.2


@pytest.mark.parametrize("part", ["measure_captum", "measure_quantus"])
@pytest.mark.filterwarnings("default")
def test_a_comparison_is_recorded_and_shown(part, tmp_path, monkeypatch):
    library = part.removeprefix("measure_")
    for name in ("torch", "captum", library):
        pytest.importorskip(name, reason=f"{name} is not installed")
    made("table", tmp_path, 32, monkeypatch)
    records = getattr(explaining, part)(workload("adult"))
    assert all(r["value"] > 0 for r in records)
    rows = {r["against"] for r in records}
    assert all(library in row for row in rows)
    table = report.to_markdown(records, report.target_lines(records))
    assert all(f"| adult | {row} |" in table for row in rows)
    assert "Target: " in table


def test_libraries_that_are_not_installed_are_named(monkeypatch):
    there = {"torch": True, "captum": True, "quantus": None}
    monkeypatch.setattr(measure.importlib.util, "find_spec", there.get)
    missing, told = measure.absent()
    assert missing == ("evaluation_ratio",)
    assert told == "Not installed, so that it was not compared with: Quantus."
    monkeypatch.setitem(there, "torch", None)
    assert len(measure.absent()[0]) == 3
    monkeypatch.setattr(measure.importlib.util, "find_spec", lambda _: True)
    assert measure.absent() == ((), "")


def test_several_clocks_are_read_for_each_round():
    ticks = iter(range(100))
    seconds = costs.interleaved(
        {"a": lambda: None, "b": lambda: None},
        rounds=3,
        clock=lambda: np.array([next(ticks), 0.0]),
    )
    assert {name: values.shape for name, values in seconds.items()} == {
        "a": (3, 2),
        "b": (3, 2),
    }
    assert (seconds["a"] == [1, 0]).all()
