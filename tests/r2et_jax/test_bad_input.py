"""Bad input at every door: an error that names it, or a finding that is counted.

What single modules refuse, their own tests say, and `test_audit_refusals` 110 kinds of
the audit's; these are what a user hands over that is another thing altogether.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters, certificates, datasets, metrics, saliency, threat
from r2et_jax.audit import compare
from r2et_jax.audit.command import main
from r2et_jax.models import MLP

WEIGHTS = jnp.array([4.0, 3.0, -2.0, 1.0])
X = np.asarray(jax.random.normal(jax.random.key(0), (6, 4)))
DATA = np.tile(X, (10, 1)) + np.arange(60, dtype=np.float32)[:, None], np.arange(60) % 2
LABELLED = {"age": np.arange(60.0), "paid": [0, 1] * 30}


class Tensor:
    """As of torch: NumPy does not know its dtype."""

    class dtype:
        def __repr__(self):
            return "torch.float32"

    dtype, shape, ndim = dtype(), (6, 4), 2

    def detach(self):
        return self

    def cpu(self):
        return X

    def __len__(self):
        return 6


def linear(w, x):
    return jnp.dot(w, x)[None]


def ask(apply=linear, params=WEIGHTS, x=X, k=2, **options):
    return r2.audit(apply, params, x, k=k, evaluations=1000, **options)


def harden(apply=linear, params=WEIGHTS, data=DATA, **options):
    options = {"method": "r2et_nh", "num_test": 0, "num_epochs": 4, **options}
    return r2.harden(apply, params, data, k=2, **options)


def frame(columns=LABELLED, **options):
    return datasets.from_frame(columns, **{"target": "paid", "name": "own", **options})


def csv(folder, content, **options):
    (folder / "own.csv").write_bytes(content.encode("latin-1"))
    return datasets.from_csv(folder / "own.csv", **{"target": "y", **options})


@pytest.fixture(scope="module")
def report():
    return ask()


# Of everything else: name -> (call of (a folder, an audit), what is said).
CALLS = {
    "budget below zero": (
        lambda *_: threat.threat_model("l2", -1),
        "epsilon must be nonnegative and finite, got -1",
    ),
    "budget is NaN": (
        lambda *_: threat.threat_model("l2", np.nan),
        "epsilon must be nonnegative and finite, got nan",
    ),
    "budgets": (
        lambda *_: threat.threat_model("l2", np.array([1.0, 2.0])),
        r"epsilon must be nonnegative and finite, got array\(\[1., 2.\]\)",
    ),
    "explained NaN": (
        lambda *_: r2.explain(r2.subject(linear, WEIGHTS), X * np.nan),
        "x must be finite, got NaN or infinity in 6 of 6 rows",
    ),
    "explained integers": (
        lambda *_: r2.explain(r2.subject(linear, WEIGHTS), X.astype(int)),
        "x must hold floats, got dtype int64",
    ),
    "attacked integers": (
        lambda *_: r2.attack("mse", k=2)(
            r2.subject(linear, WEIGHTS),
            X.astype(int),
            threat.threat_model(),
            key=jax.random.key(0),
        ),
        "x must hold floats of NumPy or JAX, got dtype int64 in a ndarray: numpy.asa",
    ),
    "a tensor": (
        lambda *_: r2.explain(r2.subject(linear, WEIGHTS), Tensor()),
        "x must hold floats of NumPy or JAX, got dtype torch.float32 in a Tensor",
    ),
    "explained class": (
        lambda *_: r2.explain(r2.subject(linear, WEIGHTS), X, target=7),
        r"target must be 6 class indices in 0…1, got \[7\]",
    ),
    "a function explained": (
        lambda *_: r2.explain(linear, X),
        r"such as subject\(model, params\), got a function",
    ),
    "nothing explained": (
        lambda *_: r2.explain(r2.subject(linear, WEIGHTS), None),
        r"x must be a batch \[m, ...\] of inputs, got None",
    ),
    "a function certified": (
        lambda *_: r2.certify(linear, X, threat.threat_model(), k=2),
        r"subject\(model, params\), got a function",
    ),
    "bounds are texts": (
        lambda *_: threat.threat_model(lower="0"),
        "lower must hold numbers, got '0'",
    ),
    "budget is true": (
        lambda *_: threat.threat_model("l2", True),
        "epsilon must be nonnegative and finite, got True",
    ),
    "clip is a text": (
        lambda *_: threat.threat_model(clip="yes"),
        "unknown answer of clip 'yes'; known: False, True",
    ),
    "penalty below zero": (
        lambda *_: threat.threat_model(prediction="penalized", penalty=-1),
        "penalty must be nonnegative and finite, got -1",
    ),
    "k of an objective": (
        lambda *_: r2.objective("r2et", linear, k=-1),
        "k must be an integer of at least 1, got -1",
    ),
    "cache in a number": (lambda *_: r2.cache(3), "cache must be a folder, got 3"),
    "level is true": (
        lambda _, audit: audit.check(True),
        r"min_precision must lie in \[0, 1\], got True",
    ),
    # the gate, the page, the comparison
    "level is a list": (
        lambda _, audit: audit.check([0.9]),
        r"min_precision must lie in \[0, 1\], got \[0.9\]",
    ),
    "levels": (
        lambda _, audit: audit.check(np.array([0.1, 0.2])),
        r"min_precision must lie in \[0, 1\], got array\(\[0.1, 0.2\]\)",
    ),
    "level is NaN": (lambda _, audit: audit.check(np.nan), "got nan"),
    "at is a text": (
        lambda _, audit: audit.check(0.9, at="half"),
        "measured at ε = 1, got 'half'",
    ),
    "folder is a number": (
        lambda _, audit: audit.save(3),
        r"folder must be a path, got 3 \(int\)",
    ),
    "a list of audits": (
        lambda _, audit: compare([audit, audit]),
        "a mapping of at least two names to audits, got a list of 2$",
    ),
    "an audit alone": (
        lambda _, audit: compare({"a": audit}),
        "a mapping of at least two names to audits, got a dict of 1$",
    ),
    # tables
    "another separator": (
        lambda folder, _: csv(folder, "a;b;y\n1;2;0\n"),
        "own.csv: values must be separated by commas, got ';'",
    ),
    "another coding": (
        lambda folder, _: csv(folder, "a,y\n1,n\xe9e\n"),
        "own.csv must be a CSV file in UTF-8, got .*0xe9",
    ),
    "csv is a number": (
        lambda *_: datasets.from_csv(3, target="y"),
        "path must be a path, got 3",
    ),
    "several targets": (
        lambda *_: frame(target=["paid"]),
        r"own: target must be one name, got \['paid'\]",
    ),
    "label is dropped": (
        lambda *_: frame(drop=["paid"]),
        "drop names 'paid', which is the target and no feature",
    ),
    "label is a feature": (
        lambda *_: frame({**LABELLED, "again": [0, 1] * 30}),
        "column 'again' equals the target 'paid' in every row",
    ),
    "column is a number": (
        lambda *_: frame({**LABELLED, "fee": 3}),
        "column 'fee' must hold a value for each row, got 3",
    ),
    "no name": (lambda *_: frame(name=None), "name must be a text, got None"),
    "saved number": (
        lambda folder, _: datasets.save_npz(folder / "own.npz", 3),
        "dataset must be a Dataset, got a int",
    ),
    "swapped": (
        lambda folder, _: datasets.save_npz(datasets.breast_cancer(), folder),
        r"path must be a path, got Dataset\(.*\.\.\. \(Dataset\)$",
    ),
    "no rows": (
        lambda *_: frame({"age": [], "paid": []}),
        "own: expected rows below the columns' names, got none",
    ),
    # hardening
    "one class": (
        lambda *_: harden(data=(DATA[0], np.zeros(60, int))),
        r"training examples of at least two classes, got \[0\] alone",
    ),
    "no method": (lambda *_: harden(method=None), "method must be a text, got None"),
    "weights of texts": (
        lambda *_: harden(weights={"gap": ("x",)}),
        r"each of weights\['gap'\] must be nonnegative and finite, got 'x'",
    ),
    "weights below zero": (
        lambda *_: harden(weights={"gap": (-1.0,)}),
        r"each of weights\['gap'\] must be nonnegative and finite, got -1",
    ),
    "search in a number": (
        lambda *_: harden(folder=3),
        "folder must be a path, got 3",
    ),
    "labels of texts": (
        lambda *_: harden(data=(DATA[0], np.full(60, "no"))),
        "data: y must be 60 class indices, integers .*got <U2",
    ),
    "labels beyond": (
        lambda *_: harden(data=(DATA[0], 5 * (np.arange(60) % 2))),
        r"labels must be 9 class indices in 0…1, got \[5\]",
    ),
    # black boxes
    "a box that fails": (
        lambda *_: adapters.black_box(lambda x: 1 / 0, X),
        r"predict does not take inputs of shape \(6, 4\): ZeroDivisionError",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_every_other_door_names_it(call, message, tmp_path, report):
    with pytest.raises(ValueError, match=message):
        call(tmp_path, report)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("model", "broken:net", r"cannot import 'broken' \(RuntimeError: no weights"),
        ("model", "typed:net", r"cannot import 'typed' \(SyntaxError"),
        ("model", "made:make", r"made:make\(\) raised KeyError: 'weights'"),
        ("model", "made:three", "must name a subject, .* got a tuple"),
        ("seed", "99999999999999999999", "--seed must lie in 0…2³²−1, got 9999"),
        ("output_dir", "data.csv", "--output_dir must be a folder, got the file data"),
        ("data", "latin.csv", "latin.csv must be a CSV file in UTF-8"),
    ],
)
def test_the_command_says_it_in_a_line(
    flag, value, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text("raise RuntimeError('no weights')\n")
    (tmp_path / "typed.py").write_text("net = (\n")
    (tmp_path / "made.py").write_text(
        "def make():\n    raise KeyError('weights')\n\n"
        "def net(w, x):\n    return (w * x).sum()[None]\n\n"
        "import numpy as np\nw = np.ones(2, np.float32)\n"
        "model, three = (net, w), (net, w, w)\n"
    )
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    (tmp_path / "latin.csv").write_bytes(b"a,b\n1,\xe9\n")
    flags = {"model": "made:model", "data": "data.csv", "k": 1, flag: value}
    assert main([f"--{name}={given}" for name, given in flags.items()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("r2et-audit: ")
    assert re.search(message, line), line


@pytest.mark.standard_promotion  # Optax's momentum divides by a counted power
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"params": WEIGHTS * np.nan}, "left out: 6 of 6 inputs, whose output is not "),
        ({"apply": lambda w, x: w[:1]}, "6 of 6 inputs, whose explanation is zero"),
        (
            {"x": X * np.array([1, 1, 1, 1e9], np.float32)},
            "6 of 6 inputs hold values so large that float32 rounds changes of ε = 1",
        ),
        (
            {"threat": threat.threat_model("l2", 0.0)},
            "ε = 0 lets nothing change, so that the top 2 stay whatever the model is",
        ),
    ],
    ids=["params are NaN", "constant", "one column is far", "no budget"],
)
def test_what_the_numbers_show_is_counted_and_said(change, finding):
    assert finding in str(ask(**change))


@pytest.mark.standard_promotion  # Optax's momentum divides by a counted power
def test_an_explainer_of_its_own_features_names_those():
    pixels = saliency.of_pixels(2)
    asked = ask(explainer=pixels, k=1).asked
    assert asked.names == ("feature 0", "feature 1") and asked.explained_shape == (2,)
    named = ask(explainer=pixels, k=1, names=["left", "right"])
    assert named.asked.names == ("left", "right")


def _mlp():
    model = MLP(activation="relu")
    params = model.init(jax.random.key(0), X[0])
    return model, params, r2.subject(model, params)


NARROW, KEY, BALL = X[:, :3], jax.random.key(0), threat.threat_model()
# Every door that takes a subject and a batch.
DOORS = {
    "explain": lambda subject, x: r2.explain(subject, x),
    "attack": lambda subject, x: r2.attack("er", k=2)(subject, x, BALL, key=KEY),
    "strongest": lambda subject, x: r2.attack("strongest", k=2, evaluations=1000)(
        subject, x, BALL, key=KEY
    ),
    "certify": lambda subject, x: r2.certify(subject, x, BALL, k=2),
    "radii": lambda subject, x: certificates.certified_radii(
        subject, x, BALL, k=2, largest=1.0
    ),
    "exact": lambda subject, x: certificates.exact_certificate(subject, x, BALL, k=2),
    "thickness": lambda subject, x: r2.thickness(subject, x, BALL, k=2, key=KEY),
    "sensitivity": lambda subject, x: metrics.sensitivity_max(
        subject, x, BALL, key=KEY
    ),
    "lipschitz": lambda subject, x: metrics.local_lipschitz(subject, x, BALL, key=KEY),
}


@pytest.mark.parametrize("door", DOORS)
def test_inputs_that_the_model_does_not_take(door):
    _, _, subject = _mlp()
    with pytest.raises(ValueError, match=r"does not take an input of shape \(3,\)"):
        DOORS[door](subject, NARROW)
    with pytest.raises(ValueError, match="numbers|floats"):
        DOORS[door](subject, X.astype(str))


# The exact worst case is for subjects with layers, explained by the gradient.
@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"exact"}))
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": [[1, 9]]}, r"groups\[0\] must hold features in 0…3, got \[1, 9\]"),
        ({"explainer": saliency.smooth_grad}, r"key bound .*partial\(explainer\("),
    ],
    ids=["groups", "key"],
)
def test_subjects_that_do_not_fit_the_inputs(door, options, message):
    with pytest.raises(ValueError, match=message):
        DOORS[door](r2.subject(linear, WEIGHTS, **options), X)


def test_a_stand_in_that_is_the_model_itself_is_no_function_of_the_sharpness():
    subject = r2.subject(linear, WEIGHTS, smoothed=lambda w, x: linear(w, x))
    attack = r2.attack("er_surrogate", k=2, num_steps=2)
    with pytest.raises(ValueError, match="smoothed must be a function of the sharp"):
        attack(subject, X, r2.threat_model("l2", 0.1), key=jax.random.key(0))


@pytest.mark.parametrize("listed", ["x", "y"])
def test_lists_in_place_of_arrays_to_train_on(listed):
    x, y = DATA
    given = {"x": x, "y": y, listed: {"x": x, "y": y}[listed].tolist()}
    goal = r2.objective("vanilla", linear, k=2)
    with pytest.raises(ValueError, match="must be arrays of examples .*numpy.asarray"):
        r2.train(goal, WEIGHTS, **given, num_epochs=1, key=jax.random.key(0))


def test_training_on_what_the_model_does_not_take():
    model, params, _ = _mlp()
    objective = r2.objective("vanilla", model.apply, k=2)
    y = np.array(["no", "yes"] * 3)
    with pytest.raises(ValueError, match="does not take an input of shape"):
        r2.train(objective, params, NARROW, y == "yes", num_epochs=1, key=KEY)
    with pytest.raises(ValueError, match="y must be class indices .*such as 'no'"):
        r2.train(objective, params, X, y, num_epochs=1, key=KEY)


def _loop(w, x):
    start = (w @ x, 0)
    return jax.lax.while_loop(
        lambda c: c[1] < 3, lambda c: (c[0] * x.sum(), c[1] + 1), start
    )[0][None]


def _callback(w, x):
    shape = jax.ShapeDtypeStruct((1,), x.dtype)
    return jax.pure_callback(np.asarray, shape, (w @ x)[None])


@pytest.mark.parametrize("apply", [_loop, _callback])
def test_a_model_without_a_gradient_is_not_the_explainers_fault(apply):
    with pytest.raises(ValueError, match="the model must have a gradient by x"):
        ask(apply)


def test_numbers_with_a_comma_are_no_categories(tmp_path):
    lines = "\n".join(f'"0,{i % 7}",{i % 2}' for i in range(60))
    with pytest.raises(ValueError, match="row 0, column 'a' is '0,0': write decimals"):
        csv(tmp_path, f"a,y\n{lines}")
    with pytest.warns(UserWarning, match="7 distinct ones"):
        data = csv(tmp_path, f"a,y\n{lines}", categories=["a"])
    assert len(data.groups[0]) == 7
