"""One value for a model: what it reads by itself, and what it refuses."""

import doctest
import functools
import inspect
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax.subject
from r2et_jax import _callable, models, saliency, score
from r2et_jax import subject as subject_lib
from r2et_jax.execution import IN_CACHE
from r2et_jax.programs.transform import has_kinks
from r2et_jax.subject import Subject, explain, subject
from r2et_jax.tracing import traced_once

N = 6
MODEL = models.MLP(hidden=(8,))


@pytest.fixture(scope="module")
def params():
    return MODEL.init(jax.random.key(0), jnp.zeros(N))


X = np.random.default_rng(0).normal(size=(5, N)).astype(np.float32)


def test_docstring_examples_run():
    for module in (subject_lib, _callable):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0


def test_a_module_and_its_apply_are_one(params):
    by_module, by_function = subject(MODEL, params), subject(MODEL.apply, params)
    assert by_module.form == by_function.form
    assert hash(by_module.form) == hash(by_function.form)
    net = by_module.layers(params)
    np.testing.assert_array_equal(net.weight, MODEL.layers(params).weight)
    assert by_function.layers is None


def test_the_stand_in_is_read_from_the_program_and_is_the_written_one(params):
    for given in (None, lambda rho: MODEL.apply):  # none, and the model itself
        read = subject(MODEL, params, smoothed=given).stand_in(3.0)
        written = MODEL.surrogate(rho=3.0).apply
        np.testing.assert_allclose(read(params, X), written(params, X), rtol=1e-5)
        assert not has_kinks(read, params, X[0])
    sharp = subject(MODEL, params, smoothed=lambda rho: MODEL.surrogate(rho=9.0).apply)
    np.testing.assert_array_equal(
        sharp.stand_in(1.0)(params, X), MODEL.surrogate(rho=9.0).apply(params, X)
    )


def test_probabilities_are_converted_and_their_stand_ins_too(params):
    def probability(params, x, /):
        return jax.nn.sigmoid(MODEL.apply(params, x))

    made = [
        subject(
            probability,
            params,
            output="probabilities",
            smoothed=lambda rho: probability,
        )
        for _ in range(2)
    ]
    assert made[0].apply is made[1].apply  # by which programs are found again
    for apply in (made[0].apply, made[0].stand_in(50.0)):
        logits = jax.vmap(apply, (None, 0))(params, X)
        np.testing.assert_allclose(logits, MODEL.apply(params, X), atol=0.05)


def test_it_is_a_pytree_whose_parameters_are_data(params):
    traces = []

    @jax.jit
    def run(subject, x):
        traces.append(None)
        return subject.apply(subject.params, x)

    twice = jax.tree.map(lambda leaf: 2 * leaf, params)
    outputs = run(subject(MODEL, params, names=list("abcdef")), X[0])
    two = run(subject(MODEL, twice, names=list("abcdef")), X[0])
    assert len(traces) == 1 and not np.array_equal(outputs, two)
    moved = jax.tree.map(lambda leaf: leaf + 1, subject(MODEL, params, context=X))
    assert isinstance(moved, Subject)
    np.testing.assert_array_equal(moved.context, X + 1)


def test_a_module_that_cannot_be_hashed_serves_all_the_same(params):
    class Listed(nn.Module):
        table: dict

        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(jnp.maximum(x, 0))

    module = Listed({"widths": [3]})
    fresh = module.init(jax.random.key(0), X[0])
    maps = explain(subject(module, fresh), X)
    kernel = np.abs(fresh["params"]["Dense_0"]["kernel"][:, 0]) * (X > 0)
    total = np.maximum(kernel.sum(1, keepdims=True), 1e-30)
    np.testing.assert_allclose(maps, kernel / total, rtol=1e-5)


@pytest.mark.parametrize("target", [None, 2, np.array([0, 1, 2, 1, 0])])
def test_explaining_a_batch_is_the_explanation_of_each(target):
    """Of three classes, whose maps differ; those of two do not."""
    model = models.MLP(hidden=(8,), num_outputs=3)
    params = model.init(jax.random.key(0), X[0])
    factory = saliency.integrated_gradients
    maps = explain(subject(model, params, explainer=factory), X, target, batch_size=2)
    explain_one = jax.jit(factory(score.log_odds(model.apply)))
    wanted = np.asarray(model.apply(params, X)).argmax(axis=1)
    if target is not None:
        wanted = np.broadcast_to(target, 5)
    for i in range(5):
        np.testing.assert_allclose(
            maps[i], explain_one(params, X[i], wanted[i]), rtol=1e-5
        )


def test_each_input_is_explained_in_its_context():
    def apply(both, x, /):
        weights, beside = both
        return (weights * beside) @ x[:, None]

    weights = jnp.arange(1.0, N + 1)
    examined = subject(apply, weights, context=jnp.asarray(X))
    expected = np.abs(weights * X)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(explain(examined, X), expected, rtol=1e-5)
    assert subject(apply, weights, context=X, shape=(N,)).shape == (N,)
    assert examined.at(weights).context is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "scores"}, "unknown output 'scores'; known: auto, logits, prob"),
        ({"explainer": "gradient"}, "factory of explanations.*'gradient'"),
        ({"smoothed": 3.0}, "smoothed must be a function, got 3.0"),
        ({"layers": 3.0}, "layers must be a function, got 3.0"),
        ({"names": "abcdef"}, "names must be a sequence of texts, got 'abcdef'"),
        ({"names": set("abcdef")}, "names must be a sequence of texts, got {"),
        ({"names": ["a", "b", "a"]}, "names must differ, got 'a' twice"),
        ({"names": ["a", "b"], "shape": (N,)}, "as many as the features, 6, got 2"),
        ({"classes": [0, 1]}, "classes must be a sequence of texts"),
        ({"groups": [(0, 1), (1, 2)]}, "do not overlap, got"),
        ({"groups": [(0, 9)], "shape": (N,)}, r"must lie in 0…5, got \[9\]"),
        ({"shape": (N + 1,)}, r"does not take an input of shape \(7,\)"),
    ],
)
def test_what_it_does_not_take_is_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        subject(MODEL, params, **options)


def test_models_that_are_neither_say_what_to_pass():
    with pytest.raises(ValueError, match="a Flax Linen module or a function.*got 3"):
        subject(3, None)

    class Module:
        def __call__(self, x):
            return x

    Module.__module__ = "equinox._module"
    with pytest.raises(ValueError, match=r"adapters.equinox\(model\)"):
        subject(Module(), None)


def test_the_module_is_called_as_the_function_in_any_order_of_imports(params):
    assert r2et_jax.subject(MODEL, params).form == subject(MODEL, params).form
    signature = inspect.signature(r2et_jax.subject)
    assert signature == inspect.signature(subject)
    code = (
        "import r2et_jax.attacks, r2et_jax.subject\n"
        "from r2et_jax import subject\n"
        "from r2et_jax.subject import subject as function\n"
        "assert subject(abs, None).apply is function(abs, None).apply is abs"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_are_those_that_the_module_has():
    shallow, deep = models.MLP(hidden=(4,)), models.MLP(hidden=(4, 3))
    x = jnp.zeros(N)
    assert subject(shallow, shallow.init(jax.random.key(0), x)).layers is not None
    assert subject(deep, deep.init(jax.random.key(0), x)).layers is None


def test_a_chunk_holds_fewer_inputs_whose_explanation_makes_large_arrays(monkeypatch):
    """By the largest array: what is explained does not depend on it."""
    seen = []
    drive = subject_lib.drive_chunks

    def noted(compiled, *, batch_size, in_cache):
        seen.append(in_cache)
        return drive(compiled, batch_size=batch_size, in_cache=in_cache)

    monkeypatch.setattr(subject_lib, "drive_chunks", noted)
    points, n = 1000, 300

    def apply(params, x, /):
        return jnp.tanh(params * x).sum()[None]

    explainer = functools.partial(saliency.integrated_gradients, num_points=points)
    x = np.random.default_rng(0).normal(size=(9, n)).astype(np.float32)
    params = jnp.linspace(-1.0, 1.0, n)
    maps = explain(subject(apply, params, explainer=explainer), x)
    # The gradients of all points.
    assert seen[-1] == 2**20 // (points * n) == 3
    explain(subject(apply, params), x)
    assert seen[-1] == IN_CACHE
    # Integrated: tanh(w·x) of each feature.
    expected = np.abs(np.tanh(params * x))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(maps, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.ones(4, np.float32),
            r"a batch .* got shape \(4,\); one input x is .* x\[None",
        ),
        ([[1.0, 2.0, 3.0, 4.0]], r"x\[0\]\[0\] must be a batch"),
        (
            np.ones((2, 3), np.float32),
            r"does not take an input of shape \(3,\)",
        ),
    ],
)
def test_what_is_no_batch_of_the_models_inputs(x, message):
    """One row was taken for a batch of numbers: its map was 1 everywhere."""
    examined = subject(lambda params, x: (params * x**2).sum()[None], jnp.ones(4))
    with pytest.raises(ValueError, match=message):
        explain(examined, x)


def test_a_model_that_is_traced_once_is_the_model():
    calls = []

    def apply(params, x, /):
        calls.append(x.shape)
        return jnp.maximum(params @ x, 0).sum()[None]

    form = subject(apply, jnp.eye(3)).form
    once = traced_once(form)
    assert traced_once(form) == once != form
    program = jax.make_jaxpr(lambda p, x: form.saliency()(p, x, 1))(
        jnp.eye(3), X[0][:3]
    )
    calls.clear()
    copied = [
        jax.make_jaxpr(lambda p, x: once.saliency()(p, x, 1))(jnp.eye(3), X[0][:3])
        for _ in range(3)
    ]
    assert len(calls) == 1
    assert {len(copy.eqns) for copy in copied} == {len(program.eqns)}
    # A stand-in that is the model itself stays the model: its kinks are still read.
    smoothed = form._replace(smoothed=lambda rho: apply)
    soft, plain = (
        f.stand_in(2.0)(jnp.eye(3), -jnp.ones(3)) for f in (traced_once(smoothed), once)
    )
    assert float(soft[0]) == float(plain[0]) > 0
