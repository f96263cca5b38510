"""What `cost` measures beside the data: graphs in two forms, penalties, strongest."""

import numpy as np
import pytest

from experiments.cost import curvature, graphs, parts, report
from experiments.cost.workload import SIZES, Workload

WORKLOAD = Workload(
    "breast_cancer", ".", (), (), 8, 1.0, 0, SIZES["smoke"], "smoke"
)  # fmt: skip


def test_both_forms_of_a_graph_have_the_same_gradient():
    numbers_of = graphs.compare(7, 5, hidden=(4, 3), num_graphs=3, rounds=2)
    assert 0 <= numbers_of["error"] < 1e-4
    assert numbers_of["ratios"].shape == (2,) and (numbers_of["ratios"] > 0).all()
    assert numbers_of["edges"] > 0 and numbers_of["matrices"] > 0


@pytest.mark.parametrize(
    ("form", "low", "high", "error", "missed"),
    [
        ("sparse", 1.5, 3.0, 1e-6, 0),
        ("sparse", 0.9, 3.0, 1e-6, 1),
        ("dense", 0.2, 0.8, 1e-6, 0),
        ("dense", 0.2, 1.1, 1e-6, 1),
        ("dense", 0.2, 0.8, 1e-2, 1),
    ],
)
def test_the_expected_form_must_win_every_round(
    monkeypatch, form, low, high, error, missed
):
    numbers = {"ratios": np.array([low, high, (low + high) / 2]), "error": error}
    monkeypatch.setattr(graphs, "SHAPES", {form: (7, 5)})
    monkeypatch.setattr(graphs, "compare", lambda *_: dict(numbers))
    numbers_of = graphs.measure_graphs(WORKLOAD)
    lines = report.target_lines(numbers_of)
    assert len(lines) == 2
    assert sum(line.endswith("MISSED.") for line in lines) == missed
    assert f"| breast_cancer | {form} |" in report.to_markdown(numbers_of, ())


@pytest.mark.parametrize("name", ["exact_h", "ssr"])
def test_memory_of_a_penalty_is_measured_in_a_process_of_its_own(name):
    numbers_of = curvature.memory(
        name, num_features=70, hidden=(4,), num_outputs=3, batch=2
    )
    # An interpreter with JAX in it, and no more than a small network beside it.
    assert 50 * 2**20 < numbers_of["peak_bytes"] < report.MEMORY_LIMIT
    assert numbers_of["dense_bytes"] == 2 * 70**2 * 4
    assert numbers_of["value"] > 0 and numbers_of["slope"] > 0


@pytest.mark.parametrize(("peak", "verdict"), [(5.0, "met."), (3.0 * 2**30, "MISSED.")])
def test_memory_of_penalties_is_told_with_its_target(monkeypatch, peak, verdict):
    asked = []

    def memory(name, **options):
        asked.append((name, options["num_features"]))
        return {"peak_bytes": peak, "dense_bytes": 7.0, "value": 0.1, "slope": 0.2}

    monkeypatch.setattr(curvature, "memory", memory)
    numbers_of = curvature.measure_penalty_memory(WORKLOAD._replace(preset="paper"))
    assert asked == [("exact_h", 3072), ("ssr", 3072)]
    lines = report.target_lines(numbers_of)
    assert len(lines) == 2 and all(line.endswith(verdict) for line in lines)


def test_the_strongest_attack_is_timed_twice(monkeypatch):
    calls = []

    def strongest(model, k, evaluations):
        def run(params, x, threat, *, key):
            calls.append((k, evaluations, x.shape))
            return x

        return run

    monkeypatch.setattr(parts, "strongest", strongest)
    numbers_of = parts.measure_strongest(WORKLOAD)
    assert calls == [(8, parts.DEFAULT_EVALUATIONS, (64, 30))] * 2
    first, again = (record["value"] for record in numbers_of)
    assert (
        first > 0 and again > 0 and {r["attack"] for r in numbers_of} == {"strongest"}
    )
    (line,) = report.target_lines(numbers_of)
    assert line.startswith("Target: strongest_seconds of breast_cancer strongest ≤ 60")
