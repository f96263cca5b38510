"""Modules to JSON and back, and models that a folder alone brings back."""

import doctest
import inspect
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import models, saved
from r2et_jax.models import registry
from r2et_jax.training.checkpoint import save_model

MODULES = [
    models.Linear(num_outputs=3),
    models.MLP(),
    models.MLP(hidden=(4, 3), num_outputs=2, activation="softplus", rho=2.5),
    models.SkipMLP(hidden=(), activation="tanh"),
    models.MLP().surrogate(rho=3.0),
    models.CNN(),
    models.CNN().surrogate(rho=7.0),
    models.GCN(num_nodes=5),
    models.ResNet9(),
    models.Siamese(encoder=models.CNN(num_outputs=8), centered=True),
    models.Siamese(encoder=models.GCN(num_nodes=5)).surrogate(rho=4.0),
]


@pytest.mark.parametrize("module", [registry, saved])
def test_docstring_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_every_public_model_is_known():
    public = {
        name: value
        for name, value in vars(models).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    assert registry.MODELS == public
    assert {type(module) for module in MODULES} == set(public.values())


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_comes_back_through_json(module):
    description = registry.describe(module)
    again = registry.build(json.loads(json.dumps(description)))
    assert type(again) is type(module) and again == module
    assert hash(again) == hash(module)
    assert registry.describe(again) == description


def test_the_description_names_every_attribute():
    assert registry.describe(models.MLP(hidden=[np.int64(7)], rho=np.float32(2))) == {
        "class": "MLP",
        "hidden": [7],
        "num_outputs": 1,
        "activation": "leaky_relu",
        "rho": 2.0,
    }
    nested = registry.describe(models.Siamese(encoder=models.MLP(hidden=(2,))))
    assert nested["encoder"]["class"] == "MLP" and nested["encoder"]["hidden"] == [2]


class Foreign(nn.Module):
    """A model of one's own."""

    width: int = 3
    inner: nn.Module | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(self.width)(x)))


def local():
    class Foreign(nn.Module):
        pass

    return Foreign()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: registry.describe(local()), "not found as .*local.*one of CNN, "),
        (
            lambda: registry.describe(type("MLP", (Foreign,), {})()),
            "MLP'> is not found as .*:MLP",
        ),
        (
            lambda: registry.build({"class": "this.is.not.there:Net"}),
            "import 'this.is.not.there' first",
        ),
        # Neither a Flax module, nor to be called.
        (lambda: registry.build({"class": "os:system"}), "import 'os' first, and it"),
        (
            lambda: registry.build({"class": f"{__name__}:Foreign", "depth": 3}),
            "unknown attribute of .*Foreign 'depth'; known: inner, width",
        ),
        (
            lambda: registry.describe(models.MLP(hidden=(4, jnp.tanh))),
            r"MLP\.hidden\[1\] must be a number, text, a module or a sequence",
        ),
        (lambda: registry.build({"hidden": [3]}), "needs an entry 'class'"),
        (lambda: registry.build("MLP"), "needs an entry 'class'"),
        (lambda: registry.build({"class": "Foreign"}), "unknown model 'Foreign'"),
        (
            lambda: registry.build({"class": "MLP", "width": 3}),
            "unknown attribute of MLP 'width'; known: activation, hidden",
        ),
        (lambda: registry.build({"class": "MLP", "parent": None}), "'parent'"),
        (lambda: registry.build({"class": "Siamese"}), "cannot build Siamese"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def of_function(params, x):
    """A model that is a function."""
    (first, second), scale = params
    return jnp.tanh(x @ first) @ second["v"] * scale


def of_no_params(x):
    return x


def test_a_folder_brings_back_a_function_and_parameters_in_lists(tmp_path):
    x = jnp.linspace(-1, 1, 3)
    params = [(np.ones((3, 2)), {"v": np.ones((2, 1))}), np.float32(2)]
    saved.save(tmp_path / "model", of_function, params, {"auc": 0.75})
    loaded = saved.load(tmp_path / "model")
    assert loaded.model is of_function and loaded.description["auc"] == 0.75
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    np.testing.assert_array_equal(
        r2.subject(*loaded[:2]).apply(loaded.params, x), of_function(params, x)
    )
    saved.save(tmp_path / "again", *loaded)
    # An array alone has no dict to stand in.
    saved.save(tmp_path / "array", of_function, np.ones(2))
    np.testing.assert_array_equal(saved.load(tmp_path / "array").params, np.ones(2))


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (lambda w, x: x, [np.ones(2)], "no lambda and no function inside"),
        (models.MLP().apply, {"w": np.ones(2)}, "must be a Flax Linen module or a fun"),
        (
            of_no_params,
            {"w": np.ones(2)},
            r"must take \(params, x\), got .*of_no_params",
        ),
        ("net", {"w": np.ones(2)}, "must be a Flax Linen module.*got 'net'"),
        (of_function, [{1: np.ones(2)}], r"keys of params\[0\] must be texts, got 1"),
        (
            of_function,
            [np.ones(2), None],
            r"params\[1\] must be an array.*got a NoneType",
        ),
    ],
)
def test_what_would_not_come_back_is_not_saved(tmp_path, model, params, message):
    with pytest.raises(ValueError, match=message):
        saved.save(tmp_path / "a", model, params)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["os:system", "json:loads", "a.b:net", 3, None])
def test_no_other_function_is_taken_from_a_folder(name):
    """A builtin, one of other arguments, one that is not there, no name."""
    with pytest.raises(ValueError, match="which is not there: import"):
        registry.build({"function": name})


def test_a_folder_brings_back_a_model(tmp_path):
    model = models.SkipMLP(hidden=(4, 3), num_outputs=2, activation="gelu")
    x = jnp.linspace(-1, 1, 5)
    params = model.init(jax.random.key(2), x)
    saved.save(tmp_path / "model", model, params, {"auc": 0.75})
    loaded = saved.load(tmp_path / "model")
    assert loaded.model == model
    assert loaded.description["auc"] == 0.75
    assert loaded.description["architecture"] == registry.describe(model)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    np.testing.assert_array_equal(
        loaded.model.apply(loaded.params, x), model.apply(params, x)
    )
    # What was read may be written again.
    saved.save(tmp_path / "again", *loaded)
    assert saved.load(tmp_path / "again").description == loaded.description


def test_a_model_of_ones_own_is_found_by_its_import_path(tmp_path, monkeypatch):
    model = Foreign(width=4, inner=models.Linear())
    x = jnp.linspace(-1, 1, 5)
    params = model.init(jax.random.key(2), x)
    saved.save(tmp_path / "model", model, params)
    loaded = saved.load(tmp_path / "model")
    assert loaded.model == model
    assert loaded.description["architecture"]["class"] == f"{__name__}:Foreign"
    expected = model.apply(params, x)
    np.testing.assert_array_equal(loaded.model.apply(loaded.params, x), expected)
    # In a process that has not imported it, nothing is imported for it.
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(ValueError, match=f"import {__name__!r} first"):
        saved.load(tmp_path / "model")
    assert __name__ not in sys.modules


def test_mistakes_of_saved_models_are_named(tmp_path):
    params = {"w": np.ones(2)}
    with pytest.raises(ValueError, match="is not found as"):
        saved.save(tmp_path / "a", local(), params)
    other = {"architecture": registry.describe(models.MLP(hidden=(8,)))}
    with pytest.raises(ValueError, match="the description is of .*the model is"):
        saved.save(tmp_path / "a", models.MLP(), params, other)
    with pytest.raises(FileNotFoundError, match="no saved model"):
        saved.load(tmp_path / "a")
    save_model(tmp_path / "a", params, {"auc": 0.5})
    with pytest.raises(ValueError, match="does not name its architecture"):
        saved.load(tmp_path / "a")
