"""The same network through every library: one map, one stand-in, one P@k."""

import doctest
import importlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters, models
from r2et_jax.programs.transform import has_kinks
from tests.r2et_jax import foreign

pytestmark = pytest.mark.standard_promotion

X = np.random.default_rng(0).normal(size=(12, foreign.N)).astype(np.float32)
KINDS = sorted(foreign.NETWORKS)


def closure(params, x, /):
    first, bias, last, last_bias = params
    return jax.nn.relu(x @ first + bias) @ last + last_bias


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    closure_weights = foreign.weights()
    given = foreign.NETWORKS[request.param](closure_weights)
    return getattr(adapters, request.param)(*given, X), closure_weights


def test_the_map_is_that_of_the_closure(made):
    subject, closure_weights = made
    expected = r2.explain(r2.subject(closure, closure_weights), X)
    np.testing.assert_allclose(r2.explain(subject, X), expected, atol=1e-5)
    assert subject.shape == (foreign.N,)


@pytest.mark.parametrize("rho", [1.0, 8.0])
def test_the_stand_in_is_that_of_the_written_surrogate(made, rho):
    subject, closure_weights = made
    written = models.MLP((foreign.HIDDEN,), activation="relu").surrogate(rho=rho)
    expected = written.apply(foreign.linen(closure_weights)[1], X)
    stand_in = subject.stand_in(rho)
    values = jax.vmap(stand_in, (None, 0))(subject.params, X)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    # A ReLU that was not found would pass where ρ is large.
    sharp = jax.vmap(subject.apply, (None, 0))(subject.params, X)
    assert np.abs(values - sharp).max() > 0.01
    assert has_kinks(subject.apply, subject.params, X[0])
    assert not has_kinks(stand_in, subject.params, X[0])


def test_precision_under_attack_is_that_of_the_closure(made):
    subject, closure_weights = made
    attack = r2.attack("er_surrogate", k=2, num_steps=20)
    threat, key = r2.threat_model("l2", 0.5), jax.random.key(0)
    expected = attack(
        r2.subject(closure, closure_weights), X, threat, key=key
    ).precision
    precision = attack(subject, X, threat, key=key).precision
    assert 0.1 < expected.mean() < 0.95
    np.testing.assert_allclose(precision.mean(), expected.mean(), atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_entry_recognises_the_library(kind):
    given = foreign.NETWORKS[kind](foreign.weights(num_outputs=3))
    subject = adapters.subject(*given, X)
    direct = getattr(adapters, kind)(*given, X)
    values = [jax.vmap(s.apply, (None, 0))(s.params, X) for s in (subject, direct)]
    expected = closure(foreign.weights(num_outputs=3), X)
    np.testing.assert_allclose(values[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(*values)
    if kind != "torch":  # whose programs are their module's own
        assert subject.form == direct.form and hash(subject.form) == hash(direct.form)


def test_the_one_entry_takes_functions_too():
    closure_weights = foreign.weights()
    subject = adapters.subject(closure, closure_weights, X, names=list("abcdef"))
    assert subject.apply is closure and subject.shape == (6,)
    assert subject.names == tuple("abcdef")
    assert adapters.subject(closure, closure_weights).shape is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_another_librarys_model_is_told_its_adapter(kind, other):
    model = foreign.NETWORKS[other](foreign.weights())[0]
    if kind == other:
        with pytest.raises(
            ValueError, match=f"class, got {type(model).__name__} itsel"
        ):
            getattr(adapters, kind)(type(model), *[{}] * (kind == "linen"))
    else:
        with pytest.raises(ValueError, match=f"is for r2et_jax.adapters.{other}$"):
            getattr(adapters, kind)(model, *[{}] * (kind == "linen"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "linen"])
def test_a_model_by_itself_is_told_its_adapter(kind):
    model = foreign.NETWORKS[kind](foreign.weights())[0]
    for call in (
        lambda: r2.subject(model, None),
        lambda: r2.subject(closure, model, shape=(6,)),
        lambda: r2.audit(model, None, X, k=2),
    ):
        with pytest.raises(
            ValueError, match=rf"pass r2et_jax.adapters.{kind}\(model\)"
        ):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapters.subject(3), "an estimator or a function, got a int"),
        (lambda: adapters.subject(models.MLP), "class, got MLP itself"),
        (lambda: r2.subject(models.MLP, {}), "class, got MLP itself"),
        (lambda: adapters.subject(models.MLP()), r"\(module, variables, x\), got 0"),
        (lambda: adapters.subject(closure), "got 0 arguments after it; one of NumPy"),
        (lambda: adapters.subject(closure, 1, 2, 3), "got 3 arguments"),
        (lambda: adapters.nnx(closure), "a function apply.* is for r2et_jax.subject"),
        (lambda: adapters.torch("net"), "takes a Module of torch, got a str"),
        (lambda: adapters.linen(models.MLP(), {"w": 1}), r"'params'.*the keys \['w'\]"),
        (lambda: adapters.linen(models.MLP(), [1]), "what module.init ret.*got list"),
    ],
)
def test_what_is_no_model_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 6), np.float32), r"m ≥ 1, got shape \(0, 6\)"),
        (np.float32(1), r"got shape \(\)"),
        (np.ones((2, 6), int), "dtype int64: of tokens or categories"),
        (np.full((2, 6), np.nan), "must be finite, got nan"),
        (np.ones((2, 5), np.float32), "neither by itself .* nor in a batch of one"),
    ],
)
def test_inputs_that_no_model_takes_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        adapters.linen(*foreign.linen(foreign.weights()), x)


def test_a_model_that_was_converted_wrongly_is_refused():
    from r2et_jax.adapters import program

    closure_weights = foreign.weights()
    right = program.examined(
        closure, closure_weights, X, lambda x: closure(closure_weights, x)[:, 0]
    )
    assert right.shape == (6,)
    with pytest.raises(ValueError, match="gives other outputs than the original"):
        program.examined(
            closure, closure_weights, X, lambda x: 1.01 * closure(closure_weights, x)
        )


def test_fixed_arrays_are_known_by_their_content():
    from r2et_jax.adapters.program import Fixed

    fixed, same, other = (
        Fixed({"a": jnp.arange(3.0), "key": jax.random.key(seed)}) for seed in (0, 0, 1)
    )
    assert fixed == same and hash(fixed) == hash(same) and fixed != other
    assert fixed != Fixed({"b": jnp.arange(3.0), "key": jax.random.key(0)})


def test_no_library_is_imported_before_it_is_asked_for():
    code = (
        "import sys, r2et_jax.adapters as a; a.subject\n"
        "names = {'flax.nnx', 'equinox', 'keras', 'torch', 'torchax'}\n"
        "print(names & set(sys.modules) - {'flax.nnx'})"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["flax_linen", "flax_nnx", "estimator", "recognised"])
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"r2et_jax.adapters.{name}"))
    assert result.attempted > 0 and result.failed == 0
