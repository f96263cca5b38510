"""What `import r2et_jax as r2` shows: submodules, the first names, and no more."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import _callable
from r2et_jax.certificates import batch
from r2et_jax.checks import check_in
from r2et_jax.training import short

# Public names of all submodules together: a user finds what is there. Whoever adds one
# takes one out, or says why it is worth the room: adapters has one for each library,
# bounds one for each kind of set, datasets one for each place that a table comes from,
# metrics those that Captum's and Quantus' users look for.
MOST_NAMES = 153
FIRST_NAMES = 15


def run(code: str) -> str:
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return out.stdout.strip()


def test_the_import_loads_nothing_heavy():
    code = "import sys, r2et_jax; print({'jax', 'flax', 'numpy'} & set(sys.modules))"
    assert run(code) == "set()"


def test_the_library_is_imported_without_any_extra():
    """Each submodule but the figures, as after `pip install` of the wheel alone."""
    extras = [
        "matplotlib", "equinox", "keras", "torch", "torchax", "pandas", "captum",
        "quantus", "tqdm", "markdown", "PIL", "pooch",
    ]  # fmt: skip
    code = f"""
import sys
sys.modules.update(dict.fromkeys({extras}))
import r2et_jax as r2
print(*[getattr(r2, name).__name__ for name in dir(r2) if name != "plots"])
"""
    assert "r2et_jax.audit" in run(code)


def test_it_shows_the_submodules_and_the_first_names():
    shown = set(dir(r2))
    folder = Path(r2.__file__).parent
    submodules = {name for name in shown if (folder / name).is_dir()}
    submodules |= {name for name in shown if (folder / f"{name}.py").is_file()}
    first = shown - submodules | {"audit", "subject"}
    assert len(first) == FIRST_NAMES
    assert all(callable(getattr(r2, name)) for name in first)
    assert shown == set(r2.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'pgd'"):
        _ = r2.pgd


def submodules():
    return [
        importlib.import_module(f"r2et_jax.{name}")
        for name in dir(r2)
        if inspect.ismodule(getattr(r2, name))
    ]


def test_the_public_names_are_few_and_exist():
    names = [(module, name) for module in submodules() for name in module.__all__]
    assert len(names) <= MOST_NAMES
    assert len({(module.__name__, name) for module, name in names}) == len(names)
    for module, name in names:
        assert hasattr(module, name), f"{module.__name__}.{name}"


def test_a_package_shows_its_public_names_and_no_more():
    """Whatever else stands in a package is imported from its module."""
    for module in submodules():
        if not hasattr(module, "__path__"):
            continue
        modules = {n for n, v in vars(module).items() if inspect.ismodule(v)}
        shown = {name for name in vars(module) if not name.startswith("_")}
        assert shown - modules == set(module.__all__) - modules, module.__name__
        inner = {vars(module)[name].__name__ for name in modules}
        assert all(name.startswith(f"{module.__name__}.") for name in inner)


def test_every_public_name_says_what_it_is():
    silent = []
    for module in submodules():
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value) or inspect.ismodule(value):
                text = vars(value).get("__doc__") if inspect.isclass(value) else None
                text = inspect.getdoc(value) if text is None else text
                # What NamedTuple and dataclasses write by themselves says nothing.
                if not text or text.startswith(f"{name}("):
                    silent.append(f"{module.__name__}.{name}")
            else:
                check_in("constant", name, [name.upper()])
    assert not silent, silent


@pytest.mark.parametrize("first", ["r2et_jax.audit", "r2et_jax.attacks", "r2et_jax"])
def test_audit_and_subject_are_called_in_any_order_of_imports(first):
    code = (
        f"import {first}\n"
        "import r2et_jax as r2\n"
        "import r2et_jax.subject\n"
        "from r2et_jax.audit import Audit, audit\n"
        "from r2et_jax import audit as package\n"
        "from r2et_jax.subject import subject\n"
        "assert package is r2.audit and r2.audit.audit is audit\n"
        "assert r2.subject(abs, None).apply is subject(abs, None).apply is abs\n"
        "try:\n"
        "    r2.audit(abs, k=1)\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    assert "audit takes audit(subject, x, k=…)" in run(code)


def test_the_modules_that_are_called_show_how():
    assert inspect.signature(r2.audit) == inspect.signature(r2.audit.audit)
    assert isinstance(r2.audit, _callable.CallableModule)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("module", [batch, short])
def test_docstring_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


X = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)


def test_certified_in_one_call_is_the_certificate_of_each():
    model = r2.models.MLP(hidden=(5,), activation="softplus")
    params = model.init(jax.random.key(0), X[0])
    threat = r2.threat_model("l2", 0.6, frozen=[2], num_features=6)
    certificate = r2.certify(r2.subject(model, params), X, threat, k=2, batch_size=4)
    certify_one = jax.jit(
        r2.certificates.ranking_certificate(model.apply, model.layers, k=2)
    )
    for i, x in enumerate(X):
        alone = certify_one(params, x, threat)
        np.testing.assert_allclose(certificate.precision[i], alone.precision)
        np.testing.assert_array_equal(certificate.features[i], alone.features)
        np.testing.assert_allclose(
            certificate.separation[i], alone.separation, rtol=1e-3, atol=1e-6
        )
    assert 0 < certificate.precision.mean() < 1


def test_what_cannot_be_certified_is_named():
    model = r2.models.MLP(hidden=(5,), activation="softplus")
    params, threat = model.init(jax.random.key(0), X[0]), r2.threat_model()
    for changed, message in (
        ({"explainer": r2.smooth_grad}, r"functools\.partial\(explainer.*key="),
        ({"layers": r2.models.MLP(hidden=(5,)).layers}, "another one at all 9 inputs"),
    ):
        examined = r2.subject(model.apply, params, **{"layers": model.layers} | changed)
        with pytest.raises(ValueError, match=message):
            r2.certify(examined, X, threat, k=2)


@pytest.mark.standard_promotion
def test_training_in_one_call_is_that_of_the_epochs(compilations):
    model, y = r2.models.MLP(hidden=(5,)), (X[:, 0] > 0).astype(int)
    start = model.init(jax.random.key(0), X[0])
    goal = r2.objective("r2et", model.apply, k=2)
    asked = {"num_epochs": 3, "key": jax.random.key(1), "batch_size": 4}
    weights = {"curvature": 0.03, "gap": 1.0}
    trained = r2.train(goal, start, X, y, weights=weights, **asked)
    optimizer = r2.training.adam(1e-3)
    epochs = r2.training.train_epochs(goal, optimizer, num_epochs=3, batch_size=4)
    state = r2.training.init_state(start, optimizer, key=jax.random.key(1))
    expected = jax.jit(epochs)(state, np.float32([1.0, 0.03]), X, y).params
    jax.tree.map(np.testing.assert_array_equal, trained, expected)
    before = compilations()
    r2.train(goal, trained, X, y, weights=(2.0, 0.1), **asked)
    assert compilations() == before
    for wrong, message in (
        ({"gap": 1.0}, r"must name .*\('gap', 'curvature'\), got \('gap',\)"),
        ((1.0,), r"one for each of the penalties .*got shape \(1,\)"),
        ((1.0, -1.0), "must be finite and at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            r2.train(goal, start, X, y, weights=wrong, **asked)
    with pytest.raises(ValueError, match="Objective as objectives.objective gives it"):
        r2.train(model.apply, start, X, y, **asked)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", ["at", "rat", "cert_rank"])
def test_an_objective_takes_what_it_needs_from_a_subject(name):
    """Its stand-in, read from the program, and its layers."""
    activation = "softplus" if name == "cert_rank" else "leaky_relu"
    model = r2.models.MLP(hidden=(5,), activation=activation)
    params, y = model.init(jax.random.key(0), X[0]), (X[:, 0] > 0).astype(int)
    read = r2.objective(name, r2.subject(model, params), k=2)
    said = r2.objective(
        name,
        model.apply,
        k=2,
        surrogate=model.surrogate(rho=3.0).apply,
        layers=model.layers,
    )
    weights, key = np.ones(len(read.terms), np.float32), jax.random.key(3)
    values = [
        float(jax.jit(made.loss)(params, X, y, weights, key=key))
        for made in (read, said)
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
    if name == "at":
        hidden = r2.objective(name, model.apply, k=2)
        other = jax.jit(hidden.loss)(params, X, y, weights, key=key)
        assert abs(float(other) - values[0]) > 1e-4
