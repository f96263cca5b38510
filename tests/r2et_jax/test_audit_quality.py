"""Thickness, faithfulness and certified radii of an audit, from definitions anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import certificates, models, saliency, threat
from r2et_jax.audit import asked, audit, layout, measures, quality
from r2et_jax.score import predicted_class
from r2et_jax.subject import explain, subject

pytestmark = pytest.mark.standard_promotion

EVALUATIONS, BALL = 1000, threat.threat_model("l2", 0.4)


def switching(w, x):
    """|∂z/∂x₀| = |w₀ x₀| against |∂z/∂x₁| = w₁: the top one changes with x₀."""
    return (0.5 * w[0] * x[0] ** 2 + w[1] * x[1])[None]


def curved(w, x):
    """A logit whose gradient changes a little, of rows of any number of columns."""
    return (x @ w + 0.3 * jnp.sum(jnp.sin(x) * w**2))[None]


def inputs(*shape):
    return np.asarray(jax.random.normal(jax.random.key(0), shape))


def measured(apply, w, x, k=2, groups=(), channel_axis="auto", **options):
    """The quality of explanations, and the maps that it is of."""
    where, rows = layout.as_rows(x, channel_axis)
    examined = asked.explained(subject(apply, w, groups=groups), where)
    form = layout.of_rows(examined.form, where)
    saliency_of = form.saliency()

    def of_row(row):
        return saliency_of(w, row, predicted_class(form.apply(w, row)))

    maps = np.asarray(jax.jit(jax.vmap(of_row))(rows))
    count = maps.shape[1]
    features = quality.feature_of_columns(examined.groups, where, count)
    options = {"attacked": rows, "threat": BALL, "evaluations": EVALUATIONS, **options}
    worth = quality.measured(
        form, w, rows, k=k, features=features, count=count, output="logits",
        key=jax.random.key(0), **options,
    )  # fmt: skip
    return worth, maps


def test_thickness_is_the_share_of_the_way_on_which_the_order_holds():
    x = np.array([[1.1, 0.0], [1.9, 0.0], [-1.2, 3.0]], np.float32)
    moved = np.array([0.3, 0.2, 0.25], np.float32)
    ends = x - np.sign(x[:, :1]) * np.eye(2, dtype=np.float32)[0] * moved[:, None]
    ball = threat.threat_model("l2", 0.3)
    thick, _ = measured(
        switching, jnp.ones(2), x, k=1, attacked=ends, threat=ball, evaluations=16_000
    )
    assert (thick.num_draws, thick.num_points) == (64, 20)
    # |x₀| > 1 up to the share (|x₀| − 1)/d of the way by −d of the first coordinate.
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 200_000)
    down = 0.3 * np.sqrt(rng.uniform(size=200_000)) * -np.cos(angle)
    gaps = np.array([0.1, 0.9, 0.2])
    for share, gap in zip(thick.thickness, gaps, strict=True):
        expected = np.mean(np.minimum(1, gap / np.maximum(down, 1e-9)))
        assert share == pytest.approx(expected, abs=0.03)
    along = np.minimum(1, gaps / moved)
    np.testing.assert_allclose(thick.thickness_attacked, along, atol=0.026)


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

    worth, maps = measured(apply, w, x, **options)
    assert not worth.not_faithful and maps.shape[1] == features.max() + 1
    got = worth.faithfulness
    for i in range(5):
        order = np.argsort(-maps[i], kind="stable")
        expected = removed(w, rows[i], order, features, rows.mean(axis=0))
        values = got.comprehensiveness[i], got.sufficiency[i], got.dffot[i]
        np.testing.assert_allclose(values, expected, atol=2e-5)
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
    random = worth.random
    for field, expected in zip(
        ("comprehensiveness", "sufficiency", "dffot"),
        np.mean(many, axis=0),
        strict=True,
    ):
        assert getattr(random, field).mean() == pytest.approx(expected, abs=0.07)


X = np.array([[1.1, 0.0], [1.9, 0.0], [-1.2, 3.0], [1.01, 0.0]], np.float32)
OPTIONS = {"k": 1, "threat": BALL, "epsilons": (0.25,), "evaluations": EVALUATIONS}


@pytest.fixture(scope="module")
def report():
    return audit(switching, jnp.ones(2), X, certify=True, **OPTIONS)


@pytest.fixture(scope="module")
def of_values():
    return audit(switching, jnp.ones(2), X, output="regression", **OPTIONS)


def test_an_audit_tells_both(report):
    thick, faithful = report.quality.thickness, report.quality.faithfulness
    assert f"thickness {thick.mean():.3f}; COMP" in str(report)
    assert f"DFFOT {faithful.dffot.mean():.3f} (random" in str(report)


def test_what_has_no_faithfulness_says_why(of_values):
    assert "no probability" in of_values.quality.not_faithful
    assert np.isnan(of_values.quality.faithfulness.dffot).all()
    assert np.isfinite(of_values.quality.thickness).all()
    assert "faithfulness not measured: a regression" in str(of_values)

    def doubled(score, **options):
        explain = saliency.gradient(score, **options)
        return lambda *args: jnp.tile(explain(*args), 2)

    unknown = audit(
        switching, jnp.ones(2), X, k=1, evaluations=EVALUATIONS, explainer=doubled
    )
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


def test_radii_by_layers_hold_and_are_the_last_step_that_does():
    model = models.MLP(hidden=(6,), activation="softplus")
    x = inputs(6, 5)
    params = model.init(jax.random.key(1), x[0])
    examined = subject(model, params)
    where, _ = layout.as_rows(x)
    top_k = np.argsort(-explain(examined, x), axis=1)[:, :2]
    ball = threat.threat_model("l2", 0.5)
    proved = measures.certified(examined, where, x, ball, [0.5], top_k)
    assert not proved.why_not
    radii = proved.radii
    assert (radii > 0).mean() > 0.8 and (radii < 0.5).any()
    for i in range(len(x)):
        for rank in range(2):
            budget = threat.threat_model("l2", float(radii[i, rank]))
            proof = certificates.certify(
                examined, x[i : i + 1], budget, k=2, num_slabs=1
            )
            assert top_k[i, rank] in proof.features[0][proof.kept[0]]
    # A halving below what this certificate proves, at most.
    further = np.minimum(radii + 0.5 * 2.0**-7, 0.5)
    for i in range(len(x)):
        budget = threat.threat_model("l2", float(further[i].min()))
        proof = certificates.certify(examined, x[i : i + 1], budget, k=2, num_slabs=1)
        assert further[i].min() == 0.5 or not proof.kept.all()


def test_radii_by_a_program_are_shares_of_the_budget(report):
    # The order holds up to .1, .9, .2 and .01; the next step down is proved.
    np.testing.assert_allclose(
        report.certified.radii[:, 0], [0.0625, 0.4, 0.125, 0], atol=1e-7
    )
    np.testing.assert_array_equal(report.certified_radius, report.certified.radii[:, 0])
    assert "stays up to 0.062" in report._repr_html_().replace("\xa0", " ")


def test_without_proofs_there_are_no_radii(of_values):
    assert np.isnan(of_values.certified_radius).all()


def test_a_gate_says_what_it_rests_on(report, of_values):
    passed, failed = report.check(0.25), report.check(0.6)
    assert passed and not failed
    assert (passed.exit_status, failed.exit_status) == (0, 1)
    assert str(failed) == "FAILED: mean P@1 of at least 0.6 at ε = 0.4, got 0.250"
    with pytest.raises(ValueError, match="regression has no class that stays"):
        of_values.check(0.5, prediction="same_class")


def test_random_rankings_are_random_ones_alone():
    """Equal weights are all tied; numbers drawn at random are not."""
    worth, _ = measured(lambda w, x: (w @ x)[None], jnp.ones(4), inputs(3, 4))
    np.testing.assert_array_equal(worth.faithfulness.tied, 1)
    np.testing.assert_array_equal(worth.random.tied, 0)
