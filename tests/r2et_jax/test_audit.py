"""The audit: what it says of models with known answers, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax.audit
from r2et_jax import models, saliency, threat
from r2et_jax.audit import audit
from r2et_jax.audit.inputs import check_explainer
from r2et_jax.subject import subject

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])


def linear(w, x):
    return jnp.dot(w, x)[None]


def switching(w, x):
    """|∂z/∂x₀| = |w₀ x₀| against |∂z/∂x₁| = w₁: the top one changes with x₀."""
    return (0.5 * w[0] * x[0] ** 2 + w[1] * x[1])[None]


def inputs(m, n):
    return np.asarray(jax.random.normal(jax.random.key(0), (m, n)))


def test_a_linear_model_cannot_be_attacked():
    report = audit(linear, WEIGHTS, inputs(6, 4), k=2, evaluations=1000)
    np.testing.assert_array_equal(report.precision, 1)
    np.testing.assert_array_equal(report.top_k, np.tile([0, 1], (6, 1)))
    assert report.kept.all()
    assert report.same == 1
    assert report.vanished == 1
    assert "P@2 1.000 under attack" in str(report)
    assert "certify=True" in report.certified.why_not


def test_the_distance_to_the_border_decides():
    x = np.array([[1.1, 0.0], [1.9, 0.0], [0.5, 0.0], [-1.2, 3.0]], np.float32)
    # |x₀| passes 1 within .3 of all but the second and the third.
    expected = [0, 1, 1, 0]
    params = jnp.array([1.0, 1.0])
    budget = threat.threat_model("l2", 0.3)
    report = audit(
        switching, params, x, k=1, threat=budget, evaluations=1000, certify=True
    )
    np.testing.assert_array_equal(report.precision, expected)
    # Its gradient is linear: bounds of its program leave no gap.
    np.testing.assert_array_equal(report.certified.precision[-1], expected)
    np.testing.assert_array_equal(report.certified.kept[-1, :, 0], expected)
    np.testing.assert_array_equal(report.kept[:, 0], expected)
    assert np.linalg.norm(report.perturbed - x, axis=1).max() <= 0.3 + 1e-5


def test_inputs_without_a_ranking_are_left_out_and_said():
    """The last feature, which is frozen, chooses what becomes of an input."""

    def apply(w, x):
        curved = 0.5 * x[0] ** 2 + x[1] + 0.25 * x[2]
        curved = jnp.where(x[0] > 2.1, jnp.nan, curved)
        cases = [curved, jnp.nan, 0.0, x[1], jnp.sum(x[:3])]
        return w * jnp.select([jnp.round(x[3]) == i for i in range(5)], cases)[None]

    curved = [[2.0, 0, 0, 0], [0.4, 0, 0, 0]]
    x = np.array(curved + [[1, 1, 1, case] for case in (1, 2, 3, 4)], np.float32)
    budget = threat.threat_model("l2", 0.3, frozen=[3], num_features=4)
    with pytest.warns(UserWarning, match="select_n at 2 places"):
        report = audit(apply, jnp.ones(()), x, k=2, threat=budget, evaluations=1000)
    # |x₀| falls below 1/4 in the second one alone; what gives NaN has no ranking.
    np.testing.assert_array_equal(report.precision, [1, 0.5, np.nan, np.nan, 1, 1])
    np.testing.assert_array_equal(report.num_positive, [3, 3, 0, 0, 1, 3])
    np.testing.assert_array_equal(report.tied, [0, 0, 0, 0, 0, 1])
    # The verdict and the gate say so, too.
    doubt = "; but 1 of 6 inputs are tied between ranks 2 and 3, where the order"
    assert doubt in str(report) and doubt in str(report.check(0.5))
    np.testing.assert_array_equal(report.kept.sum(axis=1), [2, 1, 0, 0, 1, 2])
    assert report.same == pytest.approx(0.875)
    assert str(report).splitlines()[:9] == [
        "P@2 0.875 under attack (0.875 with the class kept), 1.000 under noise of norm "
        "1e-6, 0.875 between different inputs; 4 of 6 inputs",
        "all are predicted as class 1",
        "left out: 1 of 6 inputs, whose output is not finite",
        "left out: 1 of 6 inputs, whose explanation is zero everywhere",
        "1 of 6 inputs have fewer than 2 features with saliency: P@2 is over those",
        "1 of 6 inputs are tied between ranks 2 and 3",
        "1 of 6 inputs can be changed within ε so that the explanation is not finite: "
        "the attack leaves such changes out",
        "The model switches where no smooth form is known (select_n at 2 places): "
        "gradients do not see that, and the attack may leave more than there is",
        "  ε = 0.3: 0.875 ± 0.125 of the top 2 stay; 25 % of the inputs lose one",
    ]


def test_a_gradient_on_what_may_not_move_has_vanished():
    params, x = jnp.array([1.0, 1.0]), np.float32([[1.4, 0.0], [0.7, 1.0]])
    budget = threat.threat_model("l2", 0.3, frozen=[0], num_features=2)
    report = audit(switching, params, x, k=1, threat=budget, evaluations=1000)
    assert report.vanished == 1
    np.testing.assert_array_equal(report.precision, 1)


def test_a_model_without_any_ranking():
    report = audit(lambda w, x: 0 * w[:1], WEIGHTS, inputs(3, 4), k=2)
    assert np.isnan(report.precision).all()
    assert np.isnan([report.same, report.vanished]).all()
    assert str(report).splitlines() == [
        "P@2 not available: no input has a ranking",
        "left out: 3 of 3 inputs, whose explanation is zero everywhere",
    ]


def test_one_input_that_is_moved_into_the_box():
    params, x = jnp.array([1.0, 1.0]), np.array([[1.4, 0.0]], np.float32)
    box = {"lower": -5.0, "upper": 1.2}
    with pytest.raises(ValueError, match=r"x\[0, 0\] is 1.4, outside .*\[-5, 1.2\]"):
        audit(switching, params, x, k=1, threat=threat.threat_model("l2", 0.3, **box))
    budget = threat.threat_model("l2", 0.3, **box, clip=True)
    report = audit(
        switching,
        params,
        x,
        k=1,
        threat=budget,
        evaluations=1000,
        key=jax.random.key(3),
    )
    # |x₀| passes 1 within .3 of 1.2, but not of 1.4.
    np.testing.assert_array_equal(report.precision, [0])
    assert np.linalg.norm(report.perturbed - [[1.2, 0]]) <= 0.3 + 1e-5
    assert np.isnan(report.same)
    assert "overlap between inputs not available (only one); 1 input\n" in str(report)
    assert "1 of 1 inputs were outside of the box" in str(report)


def test_probabilities_are_converted():
    def apply(w, x):
        return jax.nn.sigmoid(switching(w, x))

    x = [[1.25, -0.75], [1.9, 0.0], [0.5, -2.0], [-1.2, 3.0], [0.5, -2.0]]
    x = np.array(x, np.float32)
    params = jnp.array([1.0, 1.0])
    options = {"k": 1, "threat": threat.threat_model("l2", 0.3), "evaluations": 2000}
    report = audit(apply, params, x, output="probabilities", **options)
    np.testing.assert_array_equal(report.precision, [0, 1, 1, 0, 1])
    # |∂z/∂x| = (|x₀|, 1).
    weights = np.stack([np.abs(x[:, 0]), np.ones(5)], axis=1)
    np.testing.assert_allclose(
        report.maps, weights / weights.sum(axis=1, keepdims=True), rtol=1e-5
    )
    # Of the first one, |x₀| < 1 and z > 0 are .35 away together.
    np.testing.assert_array_equal(report.precision_same_class, [1, 1, 1, 0, 1])
    assert report.same == 0.5  # of four distinct inputs, three with the same top one


def test_a_subject_is_audited_as_the_model_in_parts_and_compiles_once(compilations):
    model = models.MLP(hidden=(6,))
    x = inputs(5, 4)
    params = model.init(jax.random.key(0), x[0])
    options = {"k": 2, "threat": threat.threat_model("l2", 0.5), "evaluations": 3300}
    twice = jax.tree.map(lambda leaf: 2 * leaf, params)
    start = compilations()
    in_parts = audit(model.apply, params, x, **options)
    # Eleven programs and some conversions; no operation is a program of its own.
    assert compilations() - start < 20
    audit(model, params, x, **options)  # a module has layers for certificates, too
    before = compilations()
    assert before > 10
    again = audit(model.apply, params, x, **options)
    other = r2et_jax.audit(subject(model, twice), x, **options)
    assert compilations() == before
    arrays = [f.name for f in dataclasses.fields(in_parts) if f.name != "asked"]
    for name in arrays:
        first, second = (getattr(report, name) for report in (in_parts, again))
        jax.tree.map(np.testing.assert_array_equal, first, second)
    assert in_parts.asked == again.asked
    by_parts = audit(model, twice, x, **options)
    np.testing.assert_array_equal(other.precision, by_parts.precision)
    np.testing.assert_array_equal(other.perturbed, by_parts.perturbed)


def test_an_explainer_is_traced_once_for_a_model():
    calls = []

    def counted(score, **options):
        calls.append(options)
        return saliency.gradient(score, **options)

    model = models.MLP(hidden=(6,))
    for width, expected in ((4, 2), (4, 2), (3, 4)):
        x = inputs(1, width)[0]
        params = model.init(jax.random.key(width + expected), x)
        assert check_explainer(counted, model.apply, params, x) == width
        assert len(calls) == expected  # as they are, and normalised


def test_each_input_is_audited_in_its_context():
    def switched(both, x, /):
        params, flip = both
        return switching(params, x * jnp.where(flip, -1.0, 1.0))

    x = np.array([[1.1, 0.0], [1.9, 0.0], [0.5, 0.0], [-1.2, 3.0]], np.float32)
    flips = np.array([True, False, True, False])
    params, budget = jnp.array([1.0, 1.0]), threat.threat_model("l2", 0.3)
    examined = subject(switched, params, context=flips)
    report = audit(examined, x, k=1, threat=budget, evaluations=1000)
    np.testing.assert_array_equal(report.precision, [0, 1, 1, 0])
    # z of a flipped input is that of −x.
    np.testing.assert_array_equal(report.predicted, [1, 1, 1, 1])
