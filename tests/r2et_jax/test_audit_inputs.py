"""The audit of inputs and outputs of every kind, against the same model of rows."""

import functools
import re
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, threat
from r2et_jax.audit import audit, words
from r2et_jax.audit.asked import variable_name
from r2et_jax.audit.layout import as_rows
from r2et_jax.audit.progress import as_progress
from r2et_jax.saliency.grouped import by_variable
from r2et_jax.subject import subject

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

BUDGET = threat.threat_model("l2", 0.3)
OPTIONS = {"k": 1, "threat": BUDGET, "evaluations": 1000}
X = np.array([[1.1, 0.0], [1.9, 0.0], [0.5, 0.0], [-1.2, 3.0]], np.float32)
PARAMS = jnp.array([1.0, 1.0])


def switching(w, x):
    """|∂z/∂x₀| = |x₀| against |∂z/∂x₁| = 1: the top one changes where |x₀| = 1."""
    return (0.5 * w[0] * x[0] ** 2 + w[1] * x[1])[None]


@functools.cache
def of_rows():
    return audit(switching, PARAMS, X, **OPTIONS)


def same_answers(report, *, but=()):
    expected = of_rows()
    for name in ("precision", "curve", "kept", "top_k", "predicted"):
        if name not in but:
            given, wanted = getattr(report, name), getattr(expected, name)
            np.testing.assert_array_equal(given, wanted, err_msg=name)
    np.testing.assert_allclose(report.maps, expected.maps, rtol=1e-5)
    np.testing.assert_allclose(report.distances, expected.distances, rtol=0.02)


def test_the_first_change_is_found_where_it_is():
    """The top feature changes where |x₀| = 1, at ||x₀| − 1| from the input."""
    report = of_rows()
    np.testing.assert_array_equal(report.precision, [0, 1, 1, 0])
    expected = np.array([0.1, np.inf, np.inf, 0.2])
    # Never below the truth, and near it on the way that the attack took.
    assert (report.radius >= expected - 1e-6).all()
    assert report.radius[0] < 0.2 and report.radius[3] < 0.3
    assert np.isinf(report.radius[1:3]).all()


def test_on_the_way_it_is_known_where_the_ranking_went():
    """Of what left within ε = .3 at .1 and .2, budget by budget; no attack at these."""
    report = of_rows()
    way = report.on_the_way
    np.testing.assert_allclose(way.epsilons, 0.3 * np.arange(1, 17) / 16, rtol=1e-6)
    for i, radius in enumerate(report.radius):
        expected = np.where(way.epsilons >= radius * (1 - 1e-5), 0.0, 1.0)
        np.testing.assert_array_equal(way.precision[:, i], expected)
    np.testing.assert_array_equal(way.precision[-1], report.precision)


def test_an_array_of_any_shape_is_its_row():
    def of_grid(w, x):
        return switching(w, x[0])

    report = audit(of_grid, PARAMS, X[:, None, :], **OPTIONS)
    same_answers(report)
    assert report.asked.explained_shape == (1, 2)
    assert report.asked.names == ("(0, 0)", "(0, 1)")


def test_a_dict_is_its_row_and_names_its_arrays():
    def of_dict(w, x):
        return switching(w, jnp.concatenate([x["a"], x["b"]]))

    parts = {"b": X[:, 1:], "a": X[:, :1]}
    report = audit(of_dict, PARAMS, parts, **OPTIONS)
    same_answers(report)
    assert report.asked.names == ("a", "b")
    # What JAX knows as a structure is one, too.
    layout, rows = as_rows(flax.core.freeze(parts))
    np.testing.assert_array_equal(rows, X)
    assert isinstance(layout.input_of(rows[0]), flax.core.FrozenDict)


@pytest.mark.parametrize("axis", [0, 2])
def test_channels_are_summed(axis):
    """Channels that share a pixel's weight: its map is their sum, whichever axis."""

    def of_image(w, x):
        pixels = jnp.sum(x, axis=axis).ravel()
        return switching(w, jnp.stack([pixels[0], pixels[1]]))

    shape = (3, 1, 2) if axis == 0 else (1, 2, 3)
    image = np.zeros((4, *shape), np.float32)
    image[:] = (X / 3)[:, None, None, :] if axis == 0 else (X / 3)[:, None, :, None]
    chosen = {"channel_axis": axis} if axis == 0 else {}
    report = audit(of_image, PARAMS, image, **OPTIONS, **chosen)
    np.testing.assert_allclose(report.maps, of_rows().maps, rtol=1e-5)
    assert report.asked.explained_shape == (1, 2)
    assert report.perturbed.shape == (4, 6)
    # Moving all three channels alike reaches √3 times as far.
    np.testing.assert_array_equal(report.precision, [0, 1, 0, 0])


def test_batches_alone():
    def of_batch(w, x):
        assert x.ndim == 2
        return jax.vmap(switching, (None, 0))(w, x)

    same_answers(audit(of_batch, PARAMS, X, batched=True, **OPTIONS))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_regression_has_no_class(shape):
    def value(w, x):
        return switching(w, x).reshape(shape) - 100

    report = audit(value, PARAMS, X, output="regression", **OPTIONS)
    same_answers(report, but=["predicted"])
    assert np.isnan(report.precision_same_class).all()
    assert np.isnan(report.curve_same_class).all()
    np.testing.assert_allclose(
        report.outputs[:, 0], [value(PARAMS, x).sum() for x in X], rtol=1e-6
    )
    assert "class" not in str(report)


def test_one_of_several_outputs():
    def values(w, x):
        return jnp.concatenate([x[:1] - x[1:], switching(w, x)])

    options = {"output": "regression", **OPTIONS}
    same_answers(audit(values, PARAMS, X, target=1, **options), but=["predicted"])
    assert audit(values, PARAMS, X, target=0, **options).precision.min() == 1


def test_one_of_two_or_three_classes():
    """The log-odds of class 2 of (a, b, z): z − log(e^a + e^b)."""

    def classes(w, x):
        return jnp.concatenate([jnp.zeros(1), jnp.zeros(1), switching(w, x)])

    report = audit(classes, PARAMS, X, target=2, **OPTIONS)
    same_answers(report, but=["predicted"])
    z = np.array([switching(PARAMS, x)[0] for x in X])
    np.testing.assert_allclose(report.outputs[:, 0], z - np.log(2), rtol=1e-5)

    def two(w, x):
        return jnp.concatenate([jnp.zeros(1), switching(w, x)])

    same_answers(audit(two, PARAMS, X, **OPTIONS))


def test_budgets_rise_and_what_a_smaller_one_found_counts():
    report = audit(switching, PARAMS, X, epsilons=(0.15, 1.0), **OPTIONS)
    np.testing.assert_allclose(report.epsilons, [0.15, 0.3, 1.0])
    # The first change is .1, .9, .5 and .2 away.
    expected = [[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    # The second one is .9 away: more than so few evaluations find.
    reached = [0, 2, 3]
    np.testing.assert_array_equal(
        report.curve[:, reached], np.take(expected, reached, 1)
    )
    np.testing.assert_array_equal(report.precision, report.curve[1])
    assert (report.radius >= np.array([0.1, 0.9, 0.5, 0.2]) - 1e-6).all()
    assert np.isfinite(report.radius[reached]).all()
    length = np.linalg.norm(report.perturbed - X, axis=1)
    assert length[0] <= 0.15 + 1e-6  # found under the smaller budget
    # The mean at ε = .3 is .5.
    assert report.check(0.5) and report.check(0.75, at=0.15)
    assert not report.check(0.51) and not report.check(0.3, at=1.0)


def test_groups_are_explained_as_variables_by_their_names():
    """z = 3c₁ + 3c₂ + 2n: the coding alone makes the columns of c the largest."""

    def coded(w, x):
        return (3 * x[0] + 3 * x[1] + 2 * x[2] + x[3])[None]

    x = np.array([[1, 0, 0.5, 0], [0, 1, -0.5, 1.0]], np.float32)
    names = ["colour=red", "colour=blue", "age", "hours"]
    options = {"k": 1, "evaluations": 1000, "names": names}
    assert audit(coded, PARAMS, x, **options).top_k[0, 0] == 0
    report = audit(coded, PARAMS, x, groups=[(0, 1)], **options)
    assert report.asked.names == ("colour", "age", "hours")
    np.testing.assert_allclose(report.maps, [[0, 2 / 3, 1 / 3]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (["land=United-States", "land=United-Kingdom"], "land"),
        (["sky_red", "sky_rosy"], "sky"),
        (["red", "blue"], "red / blue"),
    ],
)
def test_a_variable_is_called_as_its_columns_are(columns, name):
    assert variable_name(columns) == name


def test_the_ranking_of_variables_does_not_hang_on_the_coding():
    """The same function in full and in reference coding, in float64."""
    with jax.enable_x64(True):
        a = np.random.default_rng(0).normal(size=(5,))

        def full(w, x):
            return jnp.tanh(w @ x)[None]

        def reference(w, x):
            # x₀ = 1 − x₁ − x₂: the first level is left out.
            rest = jnp.concatenate([x[:1] * 0, x[1:]])
            shifted = jnp.concatenate([w[:3] - w[0], w[3:]])
            return jnp.tanh(shifted @ rest + w[0])[None]

        x = np.array([[0, 1, 0, 0.3, -0.2]])
        group = ((0, 1, 2),)
        maps = []
        for apply in (full, reference):
            explained = subject(apply, jnp.asarray(a), explainer=by_variable(group, 5))
            maps.append(explained.saliency()(explained.params, x[0], 1))
        np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5)
        centred = a[:3] - a[:3].mean()
        expected = np.abs([np.linalg.norm(centred), a[3], a[4]])
        np.testing.assert_allclose(maps[0], expected / expected.sum(), rtol=1e-10)


@pytest.mark.parametrize("kind", ["float64", "bfloat16"])
def test_other_float_types(kind):
    """In 16 bits an attack's steps would be lost in rounding: it goes in 32."""
    with jax.enable_x64(kind == "float64"):
        dtype = jnp.dtype(kind)
        x = np.asarray(jnp.asarray(X, dtype))
        budget = threat.threat_model("l2", 0.3)
        report = audit(
            switching, jnp.ones(2, dtype), x, k=1, threat=budget, evaluations=1000
        )
        held = "float64" if kind == "float64" else "float32"
        assert report.perturbed.dtype == held and report.asked.dtype == held
        np.testing.assert_array_equal(report.precision, [0, 1, 1, 0])


def test_an_input_of_two_axes_goes_back_to_its_shape():
    x = np.arange(24.0).reshape(2, 3, 4).astype(np.float32)
    layout, rows = as_rows(x, None)
    np.testing.assert_array_equal(layout.input_of(rows[1]), x[1])
    assert as_rows(x, -2)[0].explained == (4,)


class Tensor:
    """As of torch: one that takes part in a gradient hands over no array."""

    dtype = "torch.float32"

    def detach(self):
        return self

    def cpu(self):
        return X


@pytest.mark.parametrize("x", [X.astype(object), X.astype(np.float16), Tensor()])
def test_what_others_hand_over_is_taken_as_floats(x):
    layout, rows = as_rows(x)
    assert rows.dtype == np.float32 and layout.size == 2
    np.testing.assert_allclose(rows, X, atol=1e-3)


class Frame:
    """As of pandas: an array whose columns have names."""

    columns = ("age", "hours")

    def __array__(self, dtype=None, copy=None):
        return X.astype(object)


def test_the_columns_of_a_frame_have_their_names():
    report = audit(switching, PARAMS, Frame(), **OPTIONS)
    same_answers(report)
    assert report.asked.names == ("age", "hours")
    named = audit(subject(switching, PARAMS, names=list("pq")), Frame(), **OPTIONS)
    assert named.asked.names == ("p", "q")


@pytest.mark.parametrize(("side", "evaluations"), [(16, 16_000), (17, 3500)])
def test_how_hard_is_attacked_goes_by_the_size_of_an_input(
    side, evaluations, monkeypatch
):
    """A photograph at a table's number of evaluations would take hours."""
    asked = {}

    def attack(name, **keywords):
        asked.update(keywords)
        raise KeyboardInterrupt

    monkeypatch.setattr(attacks, "attack", attack)
    with pytest.raises(KeyboardInterrupt):
        audit(
            lambda w, x: (w * x**2).sum()[None],
            jnp.ones(()),
            np.ones((2, side, side)),
            k=1,
        )
    assert asked["evaluations"] == evaluations


def test_progress_is_told():
    told = []
    audit(switching, PARAMS, X, progress=lambda *now: told.append(now), **OPTIONS)
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4, 5]
    assert {total for _, total, _ in told} == {5}
    assert told[0][2] == "the attack at ε = 0.3" and told[-1][2] == "done"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_for_the_asking(terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    tell = as_progress(True)
    for done in (0, 30, 40):
        tell(done, 40, f"stage {done}")
    *lines, end = re.split("[\r\n]", capsys.readouterr().err)
    assert [line.split()[1] for line in lines] == ["0/40", "30/40", "40/40"]
    assert [line.count("█") for line in lines] == [0, 15, 20] and end == ""
    assert as_progress(False) is None and as_progress(None) is None


def test_a_model_of_another_library_needs_no_params():
    from sklearn.linear_model import LogisticRegression

    y = np.array([0, 1, 0, 1])
    model = LogisticRegression().fit(X, y)
    report = audit(model, X, k=1, evaluations=1000, names=["a", "b"])
    weights = np.abs(model.coef_[0])
    np.testing.assert_allclose(report.maps, [weights / weights.sum()] * 4, rtol=1e-5)
    assert report.asked.names == ("a", "b") and report.asked.classes == ("0", "1")
    np.testing.assert_array_equal(report.predicted, model.predict(X))
    np.testing.assert_array_equal(report.precision, 1)


def layered(layer):
    weights = jax.random.normal(jax.random.key(1), (5, 4))
    ends = jnp.arange(1.0, 6)[:, None]
    given = {"k": 2, "evaluations": 1000}
    x = np.asarray(jax.random.normal(jax.random.key(0), (6, 4)))
    return audit(lambda w, x: layer(w @ x) @ ends, weights, x, **given)


def test_what_gradients_do_not_see_is_said():
    with pytest.warns(UserWarning, match="no smooth form is known .sort at 1 place"):
        report = layered(jnp.sort)
    sentence = "switches where no smooth form is known (sort at 1 place)"
    assert sentence in str(report)
    assert any(sentence in limit for limit in words.limits(report))


def test_a_layer_is_the_same_in_whichever_way_it_is_written():
    by_name, by_product = layered(jax.nn.relu), layered(lambda z: z * (z > 0))
    assert not by_product.asked.unsmoothed
    assert by_name.precision.min() < 1
    np.testing.assert_array_equal(by_name.precision, by_product.precision)
