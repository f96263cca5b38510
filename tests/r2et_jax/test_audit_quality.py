"""Thickness, faithfulness and certified radii of an audit, from definitions anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import certificates, models, saliency, threat
from r2et_jax.audit import audit, layout, quality
from r2et_jax.subject import subject

pytestmark = pytest.mark.standard_promotion

BUDGET = 1000


def switching(w, x):
    """|∂z/∂x₀| = |w₀ x₀| against |∂z/∂x₁| = w₁: the top one changes with x₀."""
    return (0.5 * w[0] * x[0] ** 2 + w[1] * x[1])[None]


def curved(w, x):
    """A logit whose gradient changes a little, of rows of any number of columns."""
    return (x @ w + 0.3 * jnp.sum(jnp.sin(x) * w**2))[None]


def inputs(*shape):
    return np.asarray(jax.random.normal(jax.random.key(0), shape))


def test_thickness_is_the_share_of_the_way_on_which_the_order_holds():
    x = np.array([[1.1, 0.0], [1.9, 0.0], [-1.2, 3.0]], np.float32)
    budget = threat.threat_model("l2", 0.3)
    report = audit(switching, jnp.ones(2), x, k=1, threat=budget)
    # |x₀| > 1 up to the share (|x₀| − 1)/d of the way by −d of the first coordinate.
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 200_000)
    down = 0.3 * np.sqrt(rng.uniform(size=200_000)) * -np.cos(angle)
    for i, gap in enumerate((0.1, 0.9, 0.2)):
        expected = np.mean(np.minimum(1, gap / np.maximum(down, 1e-9)))
        assert report.quality.thickness[i] == pytest.approx(expected, abs=0.03)
    moved = np.abs(report.perturbed - x)[:, 0]
    along = np.minimum(1, np.array([0.1, 0.9, 0.2]) / np.maximum(moved, 1e-9))
    np.testing.assert_allclose(report.quality.thickness_attacked, along, atol=0.03)
    assert report.quality.thickness_attacked[1] == 1
    assert "thickness 0.9" in str(report)


def removed(w, x, order, features, baseline):
    """COMP, SUFF and DFFOT of one input, in loops over what is removed."""

    w = np.asarray(w)

    def probabilities(x):
        z = x @ w + 0.3 * np.sum(np.sin(x) * w**2)
        p = 1 / (1 + np.exp(-z))
        return np.array([1 - p, p])

    clean = probabilities(x)
    target, n = int(clean.argmax()), len(order)
    comp, suff, flip = [], [], 1.0
    for j in range(1, n + 1):
        top = np.isin(features, order[:j])
        without = probabilities(np.where(top, baseline, x))
        comp.append(abs(clean[target] - without[target]))
        if without.argmax() != target and flip == 1.0:
            flip = j / n
        alone = probabilities(np.where(top, x, baseline))
        suff.append(abs(clean[target] - alone[target]))
    return np.mean(comp), np.mean(suff), flip


SHAPES = {
    "rows": ((6,), {}, np.arange(6)),
    "variables": ((6,), {"groups": [(1, 4), (2, 3)]}, np.array([0, 1, 2, 2, 1, 3])),
    "channels first": ((2, 2, 3), {"channel_axis": 0}, np.tile(np.arange(6), 2)),
    "channels last": ((2, 3, 2), {}, np.repeat(np.arange(6), 2)),
    "tokens": ((4, 3), {"channel_axis": -1}, np.repeat(np.arange(4), 3)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_faithfulness_removes_all_numbers_of_a_feature(name):
    shape, options, features = SHAPES[name]
    x = inputs(5, *shape)
    rows = x.reshape(5, -1)
    w = 1.0 + jnp.arange(rows.shape[1], dtype=x.dtype) / 4

    def apply(w, x):
        return curved(w, x.ravel())

    report = audit(apply, w, x, k=2, budget=BUDGET, **options)
    assert not report.quality.not_faithful
    assert report.maps.shape[1] == features.max() + 1
    got = report.quality.faithfulness
    for i in range(5):
        order = np.argsort(-report.maps[i], kind="stable")
        expected = removed(w, rows[i], order, features, rows.mean(axis=0))
        measured = got.comprehensiveness[i], got.sufficiency[i], got.dffot[i]
        np.testing.assert_allclose(measured, expected, atol=2e-5)
    # Of random rankings it is that of the mean over all orders.
    rng = np.random.default_rng(0)
    count, many = features.max() + 1, []
    for _ in range(200):
        many.append(
            np.mean(
                [
                    removed(w, row, rng.permutation(count), features, rows.mean(0))
                    for row in rows
                ],
                axis=0,
            )
        )
    random = report.quality.random
    for field, expected in zip(
        ("comprehensiveness", "sufficiency", "dffot"),
        np.mean(many, axis=0),
        strict=True,
    ):
        assert getattr(random, field).mean() == pytest.approx(expected, abs=0.07)


def test_what_has_no_faithfulness_says_why():
    x, w = inputs(4, 3), jnp.array([3.0, 2.0, 1.0])
    value = audit(curved, w, x, k=1, budget=BUDGET, output="regression")
    assert "no probability" in value.quality.not_faithful
    assert np.isnan(value.quality.faithfulness.dffot).all()
    assert np.isfinite(value.quality.thickness).all()
    assert "faithfulness not measured: a regression" in str(value)

    def doubled(score, **options):
        explain = saliency.gradient(score, **options)
        return lambda *args: jnp.tile(explain(*args), 2)

    unknown = audit(curved, w, x, k=1, budget=BUDGET, explainer=doubled)
    assert "explainer of its own features" in unknown.quality.not_faithful
    assert "not measured: an explainer" in unknown._repr_html_()


def test_features_of_columns():
    of = quality.feature_of_columns
    rows, _ = layout.as_rows(inputs(2, 4))
    assert of((), rows, 4) == (0, 1, 2, 3)
    assert of(((1, 3),), rows, 3) == (0, 1, 2, 1)
    assert of((), rows, 8) is None
    pair, _ = layout.as_rows({"a": inputs(2, 2), "b": inputs(2, 3)})
    assert of((), pair, 5) == tuple(range(5))


def test_radii_by_layers_hold_and_are_no_further_than_what_was_found():
    model = models.MLP(hidden=(6,), activation="softplus")
    x = inputs(6, 5)
    params = model.init(jax.random.key(1), x[0])
    report = audit(
        model, params, x, k=2, threat=threat.threat_model("l2", 0.5), budget=3300
    )
    radii = report.certified.radii
    assert (radii <= report.distances).all() and (radii > 0).mean() > 0.8
    np.testing.assert_array_equal(report.certified_radius, radii.min(axis=1))
    examined = subject(model, params)
    for i in range(len(x)):
        for rank in range(2):
            budget = threat.threat_model("l2", float(radii[i, rank]))
            proof = certificates.certify(
                examined, x[i : i + 1], budget, k=2, num_slabs=1
            )
            assert report.top_k[i, rank] in proof.features[0][proof.kept[0]]
    # A halving below what this certificate proves, at most.
    further = np.minimum(radii + 0.5 * 2.0**-7, 0.5)
    for i in range(len(x)):
        budget = threat.threat_model("l2", float(further[i].min()))
        proof = certificates.certify(examined, x[i : i + 1], budget, k=2, num_slabs=1)
        assert further[i].min() == 0.5 or not proof.kept.all()


def test_radii_by_a_program_are_shares_of_the_budget():
    x = np.array([[1.1, 0.0], [1.9, 0.0], [-1.2, 3.0], [1.01, 0.0]], np.float32)
    budget = threat.threat_model("l2", 0.4)
    options = {"k": 1, "threat": budget, "epsilons": (0.25,), "budget": BUDGET}
    report = audit(switching, jnp.ones(2), x, certify=True, **options)
    # The order holds up to .1, .9, .2 and .01; the next step down is proved.
    np.testing.assert_allclose(
        report.certified.radii[:, 0], [0.0625, 0.4, 0.125, 0], atol=1e-7
    )
    assert "stays up to 0.062" in report._repr_html_().replace("\xa0", " ")
    nothing = audit(switching, jnp.ones(2), x, certify=False, **options)
    assert np.isnan(nothing.certified_radius).all()


def test_a_gate_says_what_it_rests_on():
    x = np.array([[1.1, 0.0], [1.9, 0.0]], np.float32)
    budget = threat.threat_model("l2", 0.3)
    report = audit(switching, jnp.ones(2), x, k=1, threat=budget, budget=BUDGET)
    passed, failed = report.check(0.5), report.check(0.6)
    assert passed and not failed
    assert (passed.exit_status, failed.exit_status) == (0, 1)
    assert str(failed) == ("FAILED: mean P@1 of at least 0.6 at ε = 0.3, got 0.500")
    value = audit(switching, jnp.ones(2), x, k=1, budget=BUDGET, output="regression")
    with pytest.raises(ValueError, match="regression has no class that stays"):
        value.check(0.5, prediction="same_class")
