"""Audits side by side: paired by input, and corrected over all pairs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r2et_jax import metrics, threat
from r2et_jax.audit import asked, audit, compare, words

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def curved(w, x):
    return (w @ (0.5 * x**2))[None]


def linear(w, x):
    return (w @ x)[None]


def ask(apply, x=X, k=2, **options):
    weights = jnp.array([1.0, 1.1, 0.9, 1.2])
    budget = threat.threat_model("l2", 0.3)
    return audit(apply, weights, x, k=k, threat=budget, evaluations=1000, **options)


@pytest.fixture(scope="module")
def audits():
    a, b = ask(curved), ask(linear)
    return {"curved": a, "linear": b, "again": a}


def test_differences_are_paired_and_corrected(audits):
    compared = compare(audits)
    pairs = [
        (difference.first, difference.second) for difference in compared.differences
    ]
    assert pairs == [("curved", "linear"), ("curved", "again"), ("linear", "again")]
    expected = stats.ttest_rel(audits["curved"].precision, audits["linear"].precision)
    first, same, _ = compared.differences
    assert first.estimate.mean == pytest.approx(audits["curved"].precision.mean() - 1)
    interval = expected.confidence_interval(0.95)
    assert (first.estimate.low, first.estimate.high) == pytest.approx(interval)
    plain = [expected.pvalue, 1.0, expected.pvalue]
    assert [difference.p_value for difference in compared.differences] == pytest.approx(
        metrics.holm(plain)
    )
    assert first.more_stable == "linear" and same.more_stable == ""
    text = str(compared)
    assert "linear is the more stable one" in text and "chance may explain" in text


def test_rows_of_the_same_input_are_no_independent_ones(audits):
    """Eight inputs with two partners each: every ± and every verdict is over eight."""
    twice = np.concatenate([X[:8], X[:8]])
    several = {name: dataclasses.replace(a, x=twice) for name, a in audits.items()}
    compared = compare(several)
    halves = {
        name: a.precision.reshape(2, 8).mean(axis=0) for name, a in audits.items()
    }
    expected = stats.ttest_rel(halves["curved"], halves["linear"])
    estimate = compared.differences[0].estimate
    assert estimate.n == 8
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    (row,) = words.rows(several["curved"])
    assert row.precision == pytest.approx(halves["curved"].mean())
    assert row.stderr == pytest.approx(stats.sem(halves["curved"]))
    assert compared.rows()[0][2] == row.stderr
    assert row.stderr != pytest.approx(stats.sem(audits["curved"].precision))


def test_the_table_holds_the_means(audits):
    compared = compare(audits)
    name, mean, stderr, same, _ = compared.rows()[0]
    values = audits["curved"].precision
    assert name == "curved" and mean == pytest.approx(values.mean())
    assert stderr == pytest.approx(values.std(ddof=1) / 4)
    assert same == audits["curved"].same
    shown = compare({"<b>": audits["curved"], "b": audits["linear"]})._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown
    assert f"<td>{mean:.3f}</td>" in shown


def test_what_cannot_be_compared_is_named(audits):
    base = audits["curved"]
    for others, message in (
        ({}, "at least two"),
        ({"x": ask(linear, x=X[::-1].copy())}, "of the same inputs"),
        ({"x": ask(linear, k=1)}, "same k, got 2 in 'curved' and 1 in 'x'"),
        ({"x": 3}, r"audits\['x'\] must be an Audit, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({"curved": base, **others})
    with pytest.raises(ValueError, match="measured at ε = 0.3, got 0.1"):
        compare(audits, at=0.1)


def test_other_constraints_are_another_threat_model(audits):
    """Two boxes read the same in short; what may move is said column by column."""
    base = audits["curved"]
    boxes = (
        dataclasses.replace(base, asked=base.asked._replace(constraints=digest))
        for digest in ("a", "b")
    )
    with pytest.raises(ValueError, match="same constraints, got 'a' in 'one'"):
        compare(dict(zip(("one", "two"), boxes, strict=True)))
    first, second = (
        asked._constraints(threat.threat_model("l2", 1.0, lower=np.array(lower)))
        for lower in ([-1.0, -2.0], [-2.0, -1.0])
    )
    assert first != second
    frozen = threat.threat_model("l2", 1.0, frozen=[1], num_features=3)
    assert asked._rules(frozen, range(3)) == ("1 of 3 columns may not change: 1",)
    assert asked._rules(frozen, "abc") == ("1 of 3 columns may not change: b",)
    # Columns of other names are no other rule; what counts as a success is one.
    named = base.asked._replace(rules=("1 of 3 columns may not change: b",))
    compare({"one": base, "two": dataclasses.replace(base, asked=named)})
    kept = threat.threat_model("l2", 1.0, prediction="same_class")
    free = threat.threat_model("l2", 1.0)
    assert asked._constraints(kept) != asked._constraints(free)


@pytest.mark.parametrize(
    ("bound", "said"),
    [(0.876, "fewer than 87 %"), (0.999, "fewer than 99 %"), (1.0, "fewer than 100 %"),
     (0.29, "fewer than 29 %"), (0.004, "Less than one percent is proved")],
)  # fmt: skip
def test_a_proof_is_not_rounded_up(audits, bound, said):
    row = words.rows(audits["curved"])[0]._replace(certified=bound)
    assert said in words._worth(audits["curved"], row)
