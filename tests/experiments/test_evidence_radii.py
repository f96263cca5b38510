"""Certified radii beside the smallest changes that attacks find."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.console import cli
from experiments.evidence import experiment as evidence
from experiments.evidence import radii
from experiments.problems import presets, protocols
from r2et_jax import attacks, certificates, models, threat
from r2et_jax.subject import subject
from tests.experiments import small_runs

SCALES = jnp.array([3.0, 2.0, 0.5, 0.25])


def diagonal(params, x):
    """Its gradient is `params * x`."""
    return jnp.sum(params * x**2 / 2)[None]


def test_both_ends_of_a_gradient_that_is_linear():
    """The nearest point with |g_i| = |g_j|, over all pairs across the border."""
    examined = subject(diagonal, SCALES)
    x = np.array([[1.0, 0.9, 1.0, 1.0], [0.5, -0.4, 0.3, -1.0], [1.0, 3.0, 5.5, 0.1]])
    x = x.astype(np.float32)
    g, scales = np.abs(x) * np.asarray(SCALES), np.asarray(SCALES)
    top = np.argsort(-g, axis=1)
    exact = [
        min(
            (g[row, i] - g[row, j]) / np.hypot(scales[i], scales[j])
            for i in top[row, :2]
            for j in top[row, 2:]
        )
        for row in range(3)
    ]
    measured = radii.measure(
        examined,
        x,
        threat.threat_model("l2", 2.0),
        k=2,
        evaluations=1300,
        num_budgets=6,
    )
    np.testing.assert_allclose(measured.certified, exact, rtol=1e-3)
    assert np.all(measured.smallest > np.asarray(exact) * (1 - 1e-4))
    np.testing.assert_allclose(measured.smallest, exact, rtol=0.01)


def nearest_at(edge, asked):
    """An attack that finds a change just where its budget allows the one at `edge`."""

    def nearest(row, budget):
        asked.append(budget)
        return edge if budget >= edge else np.inf

    return nearest


@pytest.mark.parametrize("over", [1.0, 1.4])
def test_the_interval_shrinks_from_both_ends(over):
    """Also by attacks whose change is farther away than it needs to be."""
    edge, asked = 0.37, []
    seen = nearest_at(edge, asked)

    def nearest(row, budget):
        return min(seen(row, budget) * over, budget if budget >= edge else np.inf)

    smallest = radii._smallest(nearest, None, 0.2, 4.0, 14)
    assert edge <= smallest <= edge * (1 + 2 * presets.RADII_PRECISION)
    assert asked[0] == 4.0 and 0.199 < asked[1] < 0.2 and len(asked) <= 15


def test_what_ends_the_search_of_an_input():
    asked = []
    assert radii._smallest(nearest_at(0.3, asked), None, 4.0, 4.0, 9) == np.inf
    assert asked == []
    assert radii._smallest(nearest_at(5.0, asked), None, 0.2, 4.0, 9) == np.inf
    assert asked == [4.0]
    # Of what nothing is certified the ratio is 0, however near the change is.
    assert radii._smallest(nearest_at(0.3, asked), None, 0.0, 4.0, 9) == 0.3
    # A change within what is certified is met.
    assert radii._smallest(nearest_at(0.3, []), None, 0.301, 4.0, 9) == 0.3


def test_the_median_is_over_inputs_with_both_ends():
    certified = np.array([0.5, 0.95, 4.0, 0.2, 0.0, 1.9])
    smallest = np.array([1.0, 1.0, np.inf, np.inf, 0.3, 2.0])
    gap = radii.finding("made", radii.Radii(certified, smallest), 4.0, 12.0)
    numbers = gap.numbers
    assert numbers["median"] == pytest.approx(np.median([0.5, 0.95, 0.0, 0.95]))
    assert numbers["lower_quartile"] == pytest.approx(0.375)
    assert numbers["upper_quartile"] == pytest.approx(0.95)
    assert (numbers["inputs"], numbers["violations"]) == (4, 0)
    assert (numbers["certified_to_the_end"], numbers["unchanged"]) == (1, 1)
    assert not gap.holds and "median ratio 0.725" in gap.text
    near = radii.Radii(np.full(3, 0.95), np.ones(3))
    assert radii.finding("near", near, 4.0, 1.0).holds
    # A change nearer than what is certified disproves the certificate.
    wrong = radii.Radii(np.array([0.95, 0.95, 1.01]), np.ones(3))
    wrong = radii.finding("wrong", wrong, 4.0, 1.0)
    assert wrong.numbers["violations"] == 1 and not wrong.holds
    nothing = radii.Radii(np.full(2, 4.0), np.full(2, np.inf))
    assert not radii.finding("nothing", nothing, 4.0, 1.0).holds


def test_time_counts_with_what_compiles(monkeypatch):
    model = models.MLP(hidden=(8, 8), activation="softplus")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    examined = subject(model, model.init(jax.random.key(0), x[0]))
    ball, budgets = threat.threat_model("l2", 1.0), np.array([0.01, 0.3])
    timed = radii.timed("made", examined, x, ball, budgets, k=2)
    for end, epsilon in zip(("first", "last"), budgets, strict=True):
        within = threat.threat_model("l2", float(epsilon))
        certified = certificates.certify(examined, x, within, k=2).precision
        assert timed.numbers[f"certified_at_{end}_budget"] == float(certified.mean())
    assert 0 < timed.numbers["seconds"] < timed.numbers["seconds_first"]
    assert (timed.numbers["inputs"], timed.numbers["budgets"]) == (5, 2)
    assert timed.holds and timed.numbers["cores"] >= 1
    # More than the second call takes, which is not what counts.
    between = timed.numbers["seconds_first"] * 0.99
    clock = iter([0.0, between / 0.99, 0.0, timed.numbers["seconds"]])
    monkeypatch.setattr(radii.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(presets, "MOST_SECONDS", between)
    assert not radii.timed("made", examined, x, ball, budgets, k=2).holds


@pytest.mark.parametrize("claim", ["radii", "many_radii"])
def test_a_claim_runs(claim, tmp_path, small_models, monkeypatch, capsys):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.setitem(presets.RADII, "smoke", (2, 4.0, 1300, 2, 5))
    monkeypatch.setattr(presets, "RADII_METHODS", ("vanilla",))
    monkeypatch.setattr(presets, "TIMED_METHODS", ("vanilla",))
    # Compiles in a fraction of the time.
    random = functools.partial(attacks.attack, "random")
    monkeypatch.setattr(radii.attacks, "attack", lambda *, k, evaluations: random(k=k))
    with pytest.raises(SystemExit) as stopped:
        cli.call(
            evidence,
            f"--claim={claim}",
            "--preset=smoke",
            "--datasets=breast_cancer",
            "--seeds=0,3",
            "--noprogress",
            f"--models_dir={small_models}",
            f"--output_dir={tmp_path}",
        )
    told = json.loads((tmp_path / claim / "findings.json").read_text())
    subjects = [finding["subject"] for finding in told["findings"]]
    held = all(finding["holds"] for finding in told["findings"])
    assert stopped.value.code == (0 if held else 2)
    if claim == "radii":
        (numbers,) = (finding["numbers"] for finding in told["findings"])
        assert subjects == ["breast_cancer, vanilla"]
        total = ("inputs", "certified_to_the_end", "unchanged")
        assert sum(numbers[name] for name in total) == 2
        assert numbers["violations"] == 0
    else:
        assert [text.split(", ")[2] for text in subjects] == [
            "hidden=32",
            "hidden=32,32",
        ]
        assert held
