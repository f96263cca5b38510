"""How `cost` tells growth: exponents beside the ideal, and many inputs."""

import numpy as np
import pytest

from experiments.cost import growth, report
from experiments.cost.workload import SIZES, Workload
from experiments.problems import presets
from experiments.store import records

WORKLOAD = Workload(
    "breast_cancer", ".", (), (), 8, 1.0, 0, SIZES["smoke"], "tiny"
)  # fmt: skip


def test_the_exponent_of_a_power_law_leaves_out_what_was_not_run():
    sizes = (10, 100, 1000)
    assert growth.slope(sizes, [3e2, 3e4, 3e6]) == pytest.approx(2)
    assert growth.slope(sizes, [3e1, np.nan, 3e3]) == pytest.approx(1)
    assert np.isnan(growth.slope(sizes, [3e1, np.nan, np.nan]))


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        # One more hidden layer has as many weights as 32 more features.
        ("depth", (1, 2), np.log2(161 / 129)),
        ("k", (4, 16), 0),
        ("devices", (1, 8), -1),
    ],
)
def test_the_ideal_is_the_work_of_the_network(axis, values, expected):
    sizes = [growth.Size()._replace(**{axis: value}) for value in values]
    exponent = growth.slope(values, [growth.ideal("attack step", s) for s in sizes])
    assert exponent == pytest.approx(expected)


def test_a_step_of_the_attack_grows_as_its_network(monkeypatch):
    monkeypatch.setattr(growth, "PROGRAMS", {"attack step": growth._attack})
    # The features from which on a step sorts no more by pairs.
    sizes = {"n": (128, 512), "inputs": (16, 64), "devices": (1, 2)}
    monkeypatch.setitem(presets.GROWTH, "tiny", sizes)
    recorded = growth.measure_growth_by_size(WORKLOAD)
    for axis in sizes:
        here = records.select(recorded, method=f"attack step, {axis}")
        value = {r["metric"]: r["value"] for r in here}
        assert value["growth_flops"] == pytest.approx(value["growth_ideal"], abs=0.15)
        # Simulated devices share the cores: no time is told of them.
        assert ("growth_seconds" in value) == (axis != "devices")
    assert "| breast_cancer | attack step, n |" in report.to_markdown(recorded, ())


@pytest.mark.parametrize(("longest", "verdicts"), [(10.0, "met"), (10.6, "MISSED")])
def test_a_million_inputs_are_told_with_their_targets(monkeypatch, longest, verdicts):
    counts = (100_000, 1_000_000)
    monkeypatch.setitem(presets.MANY_INPUTS, "tiny", counts)
    monkeypatch.setattr(
        growth.processes, "alone", lambda *_: ([1.0, longest], 2.0 * 2**30)
    )
    lines = report.target_lines(growth.measure_many(WORKLOAD))
    assert len(lines) == 2 and lines[0].endswith("met.")
    assert lines[1].endswith(f"{verdicts}.")
    # Of few inputs times say nothing of a line.
    monkeypatch.setitem(presets.MANY_INPUTS, "tiny", (1000, 2000))
    assert len(report.target_lines(growth.measure_many(WORKLOAD))) == 1
