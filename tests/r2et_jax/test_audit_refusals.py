"""Bad input to the audit: each kind is a ValueError that says what to do."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from flax import nnx

from r2et_jax import saliency, threat
from r2et_jax.audit import audit
from r2et_jax.models import MLP
from r2et_jax.models.gcn import sparse_graph
from r2et_jax.subject import subject

WEIGHTS = jnp.array([4.0, 3.0, -2.0, 1.0])
X = np.asarray(jax.random.normal(jax.random.key(0), (6, 4)))


def linear(w, x):
    return jnp.dot(w, x)[None]


def two_classes(w, x):
    return jax.nn.softmax(jnp.stack([jnp.dot(w, x), x[0]]))


def wide(x, at, value):
    x = x.astype(np.float64)
    x[at] = value
    return x


def foreign_module():
    """An object as of Equinox, whose parameters and functions are its leaves."""

    class Module:
        pass

    Module.__module__ = "equinox._module"
    return type("Net", (Module,), {"__call__": lambda self, x: x[:1]})()


class Tiny(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.layer(x)


@dataclasses.dataclass
class Fields:
    a: np.ndarray


GRAPH = sparse_graph(np.ones(2), np.array([[0, 1], [1, 2]]), 3)
REFUSED = {
    # inputs
    "one without an axis": ({"x": X[0]}, r"x must be inputs \[m, n\].*shape \(4,\)"),
    "none": ({"x": X[:0]}, r"m ≥ 1, got shape \(0, 4\)"),
    "nan": ({"x": wide(X, (2, 1), np.nan)}, r"x\[2, 1\] is nan"),
    "overflow": ({"x": wide(X, (0, 3), 1e39)}, r"x\[0, 3\] is inf in float32"),
    "text": ({"x": np.full((2, 4), "1")}, "real numbers, got dtype <U1"),
    "texts in a frame": (
        {"x": np.array([[1.0, 2, 3, 4], [1, 2, "red", 4]], object)},
        r"dtype object, 'red' at \[1, 2\]: datasets.from_frame and",
    ),
    "objects": ({"x": np.full((2, 4), None)}, "real numbers, got dtype object"),
    "complex": ({"x": X + 1j}, "real numbers, got dtype complex"),
    "features": ({"x": X[:, :3]}, r"does not take an input of shape \(3,\)"),
    "lengths": (
        {"x": {"a": X, "b": X[:2]}},
        r"the same number of inputs, got \[2, 6\]",
    ),
    "nan in a dict": (
        {"x": {"a": X, "b": wide(X, (1, 0), np.nan)}},
        r"x\['b'\]\[1, 0\] is nan",
    ),
    "no arrays": ({"x": {}}, "x must hold at least one array, got {}"),
    "graphs": ({"x": GRAPH}, "got a GraphsTuple, which joins graphs.*of edges"),
    "list of graphs": ({"x": [GRAPH, GRAPH]}, "got a GraphsTuple, which joins graphs"),
    "list of dicts": (
        {"x": [{"a": row} for row in X]},
        "a list of 6 dict: stack them, jax.tree.map",
    ),
    "dataclass": ({"x": Fields(X)}, "got a Fields: give an array, or a dict"),
    "ragged": ({"x": [[1.0, 2.0], [3.0]]}, r"x must be an array \[m, ...\]"),
    "channels of rows": ({"channel_axis": -1}, "channel_axis must be an axis.*got -1"),
    "channels beyond": (
        {"x": X.reshape(6, 2, 2), "channel_axis": 2, "apply": lambda w, x: w[:1]},
        r"an axis of one input of shape \(2, 2\), got 2",
    ),
    "image of rows": ({"x": X.reshape(6, 1, 2, 2)}, r"input of shape \(1, 2, 2\)"),
    # names, groups, outputs
    "names": ({"names": ["a", "b"]}, "as many as the features, 4, got 2"),
    "names twice": ({"names": ["a", "b", "a", "c"]}, "names must differ, got 'a'"),
    "groups": ({"groups": [(2, 9)]}, r"different columns in 0…3, got \(\(2, 9\),\)"),
    "groups of others": (
        {"groups": [(0, 1)], "explainer": saliency.gradient_times_input},
        "groups are explained by the gradient",
    ),
    "target": ({"target": 2}, "target must be a class index in 0…1, got 2"),
    "target half": (
        {"target": 0.5},
        "target must be an integer of at least 0, got 0.5",
    ),
    "several values": (
        {"apply": lambda w, x: w * x, "output": "regression"},
        "of 4 outputs one is explained: say target=, one of 0…3",
    ),
    "value beyond": (
        {"apply": lambda w, x: w * x, "output": "regression", "target": 4},
        "target must be an output in 0…3, got 4",
    ),
    "class of a value": (
        {
            "output": "regression",
            "threat": threat.threat_model(prediction="same_class"),
        },
        "a regression has no class that stays.*got 'same_class'",
    ),
    "batches": ({"batched": True}, r"does not take an input of shape \(4,\)"),
    "budgets": ({"epsilons": 0.5}, r"epsilons must be a sequence.*got 0.5"),
    "a budget": ({"epsilons": (0.5, -1)}, "each of epsilons must be nonnegative.*-1"),
    "progress": ({"progress": "bar"}, "progress must be True.* function.*got 'bar'"),
    # k, key, evaluations
    "k of n": ({"k": 4}, "k must lie in 1…n−1 = 1…3"),
    "k half": ({"k": 2.5}, "k must be an integer, got 2.5"),
    "seed": ({"key": 0}, r"key must be one key, such as jax.random.key\(0\), got 0"),
    "keys": ({"key": jax.random.split(jax.random.key(0))}, "key must be one key"),
    "evaluations": ({"evaluations": 20}, "evaluations must allow at least one member"),
    "certify": ({"certify": "yes"}, "certify must be True, False or .auto., got .yes."),
    "output as an array": ({"output": np.zeros(2)}, "unknown output array"),
    "certify as an array": ({"certify": np.zeros(2)}, "certify must be True, False"),
    "evaluations text": ({"evaluations": "all"}, "evaluations must be an integer"),
    # the model
    "scalar": ({"apply": lambda w, x: jnp.dot(w, x)}, r"logits of shape \[C\]"),
    "classes": ({"apply": lambda w, x: x > 0}, "logits, which are floats, got .*bool"),
    "no function": ({"apply": "linear"}, "model must be .*function.*'linear'"),
    "no params": (
        {"apply": MLP(), "params": None},
        "(?s)does not take an input of shape.*its params are a NoneType",
    ),
    "params without": (
        {"apply": lambda w, x: x @ w["v"], "params": {"w": WEIGHTS}},
        r"'v'; its params are a dict of \['w'\]",
    ),
    "nnx as params": ({"params": Tiny()}, "params must not.*flax.nnx.*adapters.nnx"),
    "nnx as apply": ({"apply": Tiny(), "params": None}, "model must not.*adapters.nnx"),
    "equinox": ({"params": foreign_module()}, "Net of equinox: .*adapters.equinox"),
    "functions": ({"params": {"act": nn.relu}}, r"pytree of arrays.*params\['act'\]"),
    "texts": ({"params": [WEIGHTS, "w"]}, r"pytree of arrays, got 'w'.*params\[1\]"),
    # what it returns
    "probability": (
        {"apply": lambda w, x: jax.nn.sigmoid(linear(w, x))},
        r"lie in \[0, 1\] as probabilities do .*output='probabilities'",
    ),
    "probabilities": ({"apply": two_classes}, "pass output='probabilities'"),
    "no probability": ({"output": "probabilities"}, r"must lie in \[0, 1\], got -"),
    "no distribution": (
        {
            "apply": lambda w, x: jax.nn.sigmoid(w[:3] * x[:3]),
            "output": "probabilities",
        },
        "must sum to 1, got a sum of",
    ),
    "output": ({"output": "scores"}, "unknown output 'scores'; known: auto"),
    # threat, explainer, stand-in
    "number as threat": ({"threat": 0.5}, r"threat_model\('l2', 0.5\), got 0.5"),
    "box": (
        {"threat": threat.threat_model("l2", 0.1, lower=10.0, upper=11.0)},
        r"x\[0, 0\] is .*outside .*\[10, 11\] \(6 of 6 inputs.*clip=True",
    ),
    "box of another n": (
        {"threat": threat.threat_model(lower=[-9.0] * 3)},
        r"lower of shape \(3,\), expected \(4,\)",
    ),
    "frozen of another n": (
        {"threat": threat.threat_model(frozen=[1], num_features=9)},
        r"movable of shape \(9,\), expected \(4,\)",
    ),
    "group beyond": (
        {"threat": threat.threat_model(groups=[(2, 4)], group_rule="simplex")},
        "feature 4 in a one-hot group, expected indices in 0…3",
    ),
    "explainer": ({"explainer": "gradient"}, "explainer must be .*got 'gradient'"),
    "explanation": (
        {"explainer": saliency.gradient(lambda w, x, c: linear(w, x)[0])},
        "explainer must be a factory of explanations",
    ),
    "without key": (
        {"explainer": saliency.smooth_grad},
        "needs its key bound: lambda score",
    ),
    "map of numbers": (
        {"explainer": lambda score, normalize=True: lambda w, x, c: jnp.sum(x)},
        r"whose maps have shape \(\)",
    ),
    "k of channels": ({"explainer": saliency.of_pixels(2)}, "1…n−1 = 1…1"),
    "smoothed": ({"smoothed": linear}, "smoothed must be a function of the sharpness"),
    "smoothed model": ({"smoothed": MLP()}, "smoothed must be a function"),
    "smoothed other": (
        {"smoothed": lambda rho: lambda w, x: x},
        "a model of the same outputs",
    ),
    # another thing altogether
    "k of nothing": ({"k": None}, "k must be an integer, got None"),
    "several k": ({"k": np.array([1, 2])}, r"k must be an integer, got array\(\[1, 2"),
    "k of no feature": ({"k": 0}, "k must lie in 1…n−1 = 1…3 .* got k = 0"),
    "k below": ({"k": -1}, "got k = -1"),
    "x is none": ({"x": None}, r"x must be an array \[m, ...\] .*got a NoneType"),
    "x is a path": ({"x": "data.csv"}, "x must be an array .*got a str"),
    "x has masked values": (
        {"x": np.ma.masked_array(X, X > 10 * X.min())},
        "x has [0-9]+ masked values: fill them",
    ),
    "x holds dates": ({"x": X.astype("datetime64[D]")}, "got dtype datetime64"),
    "names are a number": ({"names": 4}, "names must be a sequence of texts, got 4"),
    "names are numbers": ({"names": [1, 2, 3, 4]}, r"sequence of texts, got \[1, 2,"),
    "groups are a number": ({"groups": 3}, "a sequence of one-hot groups, got 3"),
    "groups of names": ({"groups": [("a", "b")]}, "got the name 'a'"),
    "groups overlap": ({"groups": [(0, 1), (1, 2)]}, r"not overlap, got \(\(0, 1\)"),
    "classes beyond": (
        {"classes": ["a", "b", "c"]},
        r"classes must be as many as the model's, 2, got \('a', 'b', 'c'\)",
    ),
    "classes of a value": (
        {"classes": ["a", "b"], "output": "regression"},
        r"a regression has no classes, got \['a', 'b'\]",
    ),
    "batched is a text": ({"batched": "no"}, "batched must be True or False, got 'no'"),
    "a huge budget": ({"epsilons": [1e300]}, "epsilons must be finite in float32"),
    "budget is NaN": ({"epsilons": [np.nan]}, "must be nonnegative and finite, got n"),
    "threat is a text": ({"threat": "l2"}, r"threat_model\('l2', 0.5\), got 'l2'"),
    "nothing may move": (
        {"threat": threat.threat_model(frozen=range(4), num_features=4)},
        "must let a column change, got all 4 frozen",
    ),
    "complex outputs": (
        {"apply": lambda w, x: linear(w, x).astype(complex)},
        "got dtype complex",
    ),
    "objects in params": (
        {"params": np.array([1, None], object)},
        r"params must be a pytree of arrays, got array\(\[1, None\]",
    ),
    "params of another model": (
        {"apply": MLP(), "params": {}},
        r"does not take an input of shape \(4,\): .*kernel",
    ),
    "a tuple": ({"apply": lambda w, x: (x, w)}, "logits of shape .*, got tuple"),
    "a dict": ({"apply": lambda w, x: {"z": x}}, "logits of shape .*, got dict"),
    "classes alone": (
        {"apply": lambda w, x: jnp.round(linear(w, x)).astype(int)},
        "logits, which are floats, got dtype int32",
    ),
    "a model of NumPy": (
        {"apply": lambda w, x: np.asarray(x)},
        r"a function of JAX.*r2et_jax.adapters.black_box\(predict, x\).*\[4\]$",
    ),
    "x has keys of two kinds": (
        {"x": {1: X, "a": X}},
        r"the keys of x must be of one kind, got \[1, 'a'\]",
    ),
    "x is sparse": ({"x": scipy.sparse.csr_matrix(X)}, "got a csr_matrix"),
    "x is far": (
        {"x": 1e9 * (1 + np.abs(X))},
        r"a change of ε = 1 can move, got magnitudes of 1.* 64 away: standardise",
    ),
    "an empty name": (
        {"names": ["a", " ", "c", "d"]},
        r"names must not be empty, got \('a', ' ', 'c', 'd'\)",
    ),
    "names in a dict": ({"names": dict.fromkeys("abcd")}, "must be a sequence of text"),
    "a short mask": (
        {"groups": [np.array([True, False])]},
        r"groups\[0\] must be .*mask \[n\] with n = 4, got a mask of 2",
    ),
    "groups in a dict": ({"groups": {"colour": (0, 1)}}, "must be indices.*'colour'"),
    "a truth value as target": ({"target": True}, "integer of at least 0, got True"),
    "a target for each": ({"target": np.zeros(6, int)}, "integer of at least 0, got"),
    "epsilons in a dict": ({"epsilons": {0.1: 1}}, r"sequence of budgets.*\{0.1: 1\}"),
    "epsilons nested": ({"epsilons": [[0.1]]}, r"nonnegative and finite, got \[0.1\]"),
    "epsilons are true": ({"epsilons": [True]}, "nonnegative and finite, got True"),
    "key of another shape": ({"key": np.zeros(3, np.uint32)}, "key must be one key"),
    "threat is a class": ({"threat": threat.ThreatModel}, "must be a threat model"),
    "progress of no arguments": (
        {"progress": lambda: None},
        r"progress\(done, total, what\), got .*too many positional arguments",
    ),
    "a map of integers": (
        {"explainer": lambda score, normalize=True: lambda w, x, c: jnp.arange(4)},
        "whose maps must be floats, got dtype int32",
    ),
    "a map of complex": (
        {"explainer": lambda score, normalize=True: lambda w, x, c: x.astype(complex)},
        "whose maps must be floats, got dtype complex64",
    ),
    "it branches by value": (
        {"apply": lambda w, x: w[:1] if x[0] > 0 else x[:1]},
        "must not branch on the values.*jax.numpy.where.*black_box",
    ),
    "no class at all": ({"apply": lambda w, x: x[:0]}, r"shape \[C\], got \(0,\)"),
    "it returns nothing": ({"apply": lambda w, x: None}, r"\[C\], got NoneType"),
    "it takes x alone": ({"apply": lambda x: x[:1]}, "takes 1 positional argument"),
    "it raises": ({"apply": lambda w, x: {}["scale"]}, r"shape \(4,\): 'scale'"),
    "swapped": ({"apply": X, "x": WEIGHTS}, r"x must be inputs .*got shape \(4,\)"),
    "a class as model": ({"apply": MLP, "params": {}}, "make an instance of it, MLP"),
    "names of pixels": (
        {"explainer": saliency.of_pixels(2), "k": 1, "names": "abc"},
        "names must be a sequence of texts, got 'abc'",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_named(change, message):
    arguments = {"apply": linear, "params": WEIGHTS, "x": X, "k": 2, **change}
    apply, params, x = (arguments.pop(name) for name in ("apply", "params", "x"))
    with pytest.raises(ValueError, match=message):
        audit(apply, params, x, **arguments)


def test_what_a_subject_says_is_not_said_twice():
    examined = subject(linear, WEIGHTS)
    given = {"target": 1, "names": np.array(list("abcd")), "groups": np.array([[0, 1]])}
    for name, value in {**given, "batched": True}.items():
        with pytest.raises(ValueError, match=f"a subject has its own {name}"):
            audit(examined, X, k=2, **{name: value})
    with pytest.raises(ValueError, match="one entry for each of the 6 inputs"):
        audit(subject(linear, WEIGHTS, context=np.zeros(3)), X, k=2)


@pytest.mark.standard_promotion  # Optax's momentum divides by a counted power
def test_what_is_taken_as_it_is_meant():
    """A bound key, integers, logits that happen to lie in [0, 1], a raw key."""

    def explainer(score, **options):
        explain = saliency.smooth_grad(score, num_samples=2, **options)
        return functools.partial(explain, key=jax.random.key(0))

    def inside(w, x):
        return 0.5 + 0.1 * jnp.tanh(0.1 * linear(w, x))

    report = audit(
        inside,
        WEIGHTS,
        np.array([[1, 0, 0, 0], [0, 1, 1, 0]]),
        k=2,
        explainer=explainer,
        output="logits",
        evaluations=1000,
        key=jax.random.PRNGKey(0),
    )
    np.testing.assert_array_equal(report.precision, 1)
    assert report.perturbed.dtype == np.float32
