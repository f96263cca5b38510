"""Models that train otherwise than they predict: running averages, no dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2et_jax as r2
from r2et_jax import adapters
from tests.r2et_jax import foreign
from tests.r2et_jax.foreign import HIDDEN, N

pytestmark = pytest.mark.standard_promotion

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(7, N)).astype(np.float32)
OWN = foreign.weights(num_outputs=3)
SCALE, SHIFT, MEAN = DRAW.normal(size=(3, HIDDEN)).astype(np.float32)
VARIANCE = DRAW.uniform(0.3, 3, HIDDEN).astype(np.float32)
EPSILON = 1e-3


def expected(x):
    """dense → batch normalisation by its running averages → ReLU → dense."""
    normal = (x @ OWN[0] + OWN[1] - MEAN) / np.sqrt(VARIANCE + EPSILON)
    return np.maximum(normal * SCALE + SHIFT, 0) @ OWN[2] + OWN[3]


def linen():
    nn = foreign.library("linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            x = nn.Dense(HIDDEN, name="first")(x)
            x = nn.BatchNorm(use_running_average=not train, epsilon=EPSILON)(x)
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
            return nn.Dense(3, name="last")(x)

    params = {
        "first": {"kernel": OWN[0], "bias": OWN[1]},
        "BatchNorm_0": {"scale": SCALE, "bias": SHIFT},
        "last": {"kernel": OWN[2], "bias": OWN[3]},
    }
    statistics = {"BatchNorm_0": {"mean": MEAN, "var": VARIANCE}}
    return (Net(), {"params": params, "batch_stats": statistics})


def nnx():
    nnx = foreign.library("nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(N, HIDDEN, rngs=rngs)
            self.norm = nnx.BatchNorm(HIDDEN, epsilon=EPSILON, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(HIDDEN, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    net = Net(nnx.Rngs(0))
    net.norm.scale, net.norm.bias = nnx.Param(SCALE), nnx.Param(SHIFT)
    net.norm.mean, net.norm.var = nnx.BatchStat(MEAN), nnx.BatchStat(VARIANCE)
    for layer, kernel, bias in ((net.first, *OWN[:2]), (net.last, *OWN[2:])):
        layer.kernel, layer.bias = nnx.Param(kernel), nnx.Param(bias)
    return (net,)


def equinox():
    equinox = foreign.library("equinox")

    class Net(equinox.Module):
        first: equinox.nn.Linear
        norm: equinox.nn.BatchNorm
        drop: equinox.nn.Dropout
        last: equinox.nn.Linear
        note: str = "texts and numbers are no parameters"

        def __init__(self, key):
            self.first = equinox.nn.Linear(N, HIDDEN, key=key)
            self.norm = equinox.nn.BatchNorm(HIDDEN, "batch", EPSILON, mode="ema")
            self.drop = equinox.nn.Dropout(0.5)
            self.last = equinox.nn.Linear(HIDDEN, 3, key=key)

        def __call__(self, x, state):
            x, state = self.norm(self.first(x), state)
            return self.last(self.drop(jax.nn.relu(x))), state

    net, state = equinox.nn.make_with_state(Net)(jax.random.key(0))
    values = [OWN[0].T, OWN[1], SCALE, SHIFT, OWN[2].T, OWN[3]]
    net = equinox.tree_at(
        lambda net: [
            leaf
            for layer in (net.first, net.norm, net.last)
            for leaf in (layer.weight, layer.bias)
        ],
        net,
        [jnp.asarray(value) for value in values],
    )
    averages = jnp.asarray(MEAN), jnp.asarray(VARIANCE)
    return (net,), {"state": state.set(net.norm.ema_state_index, averages)}


def keras():
    layers = foreign.library("keras").layers
    net = foreign.library("keras").Sequential(
        [
            layers.Input((N,)),
            layers.Dense(HIDDEN),
            layers.BatchNormalization(epsilon=EPSILON),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    net.set_weights([*OWN[:2], SCALE, SHIFT, MEAN, VARIANCE, *OWN[2:]])
    return (net,)


def torch():
    torch = foreign.library("torch")
    net = torch.nn.Sequential(
        torch.nn.Linear(N, HIDDEN),
        torch.nn.BatchNorm1d(HIDDEN, eps=EPSILON),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(HIDDEN, 3),
    )
    values = {
        "0.weight": OWN[0].T,
        "0.bias": OWN[1],
        "1.weight": SCALE,
        "1.bias": SHIFT,
        "1.running_mean": MEAN,
        "1.running_var": VARIANCE,
        "1.num_batches_tracked": np.array(1),
        "4.weight": OWN[2].T,
        "4.bias": OWN[3],
    }
    values = {name: torch.tensor(np.array(value)) for name, value in values.items()}
    net.load_state_dict(values)
    return (net,)


@pytest.mark.parametrize("build", [linen, nnx, equinox, keras, torch])
def test_batch_statistics_are_fixed_and_dropout_is_off(build):
    given, options = build(), {}
    if build is equinox:
        given, options = given
    subject = getattr(adapters, build.__name__)(*given, X, **options)
    for _ in range(2):
        values = jax.vmap(subject.apply, (None, 0))(subject.params, X)
        np.testing.assert_allclose(values, expected(X), rtol=1e-4, atol=1e-5)
    # What training moves are the parameters alone, in its four layers' eight arrays.
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(subject.params))
    assert sizes == sorted([*(leaf.size for leaf in OWN), SCALE.size, SHIFT.size])
    # The model itself is as it was: still training.
    if build is torch:
        assert given[0].training
    if build is nnx:
        assert not given[0].drop.deterministic


def test_programs_are_found_again_where_all_is_equal(compilations):
    model, variables = linen()
    r2.explain(adapters.linen(model, variables, batched=False), X)
    before = compilations()
    twice = jax.tree.map(lambda leaf: 2 * leaf, variables["params"])
    changed = {"params": twice, "batch_stats": variables["batch_stats"]}
    r2.explain(adapters.linen(model, changed, batched=False), X)
    assert compilations() == before
    changed = jax.tree.map(lambda leaf: 2 * leaf, variables)
    r2.explain(adapters.linen(model, changed, batched=False), X)
    assert compilations() > before


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_model_of_batches_alone_is_recognised(kind):
    images = DRAW.normal(size=(2, 5, 5, 1)).astype(np.float32)
    if kind == "linen":
        nn = foreign.library("linen")

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.relu(nn.Conv(3, (3, 3))(x))
                return nn.Dense(2)(x.reshape((x.shape[0], -1)))

        net = Net()
        variables = net.init(jax.random.key(0), images)
        subject = adapters.linen(net, variables, images)
        expected = net.apply(variables, images)
    else:
        nnx = foreign.library("nnx")

        class Net(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
                self.dense = nnx.Linear(75, 2, rngs=rngs)

            def __call__(self, x):
                x = nnx.relu(self.conv(x))
                return self.dense(x.reshape((x.shape[0], -1)))

        net = Net(nnx.Rngs(0))
        subject, expected = adapters.nnx(net, images), net(images)
    assert subject.apply.batched and subject.shape == (5, 5, 1)
    values = jax.vmap(subject.apply, (None, 0))(subject.params, images)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_takes_both_ways_otherwise_asks_which():
    nnx = foreign.library("nnx")

    class Net(nnx.Module):
        def __call__(self, x):
            return x.sum(axis=0) if x.ndim == 2 else x.sum(axis=1)

    sequences = DRAW.normal(size=(2, 4, 3)).astype(np.float32)

    class Doubled(Net):
        def __call__(self, x):
            return super().__call__(x) * x.ndim

    assert not adapters.nnx(Net(), sequences).apply.batched  # both, with one result
    with pytest.raises(ValueError, match="with other results .*say batched=True"):
        adapters.nnx(Doubled(), sequences)
    made = adapters.nnx(Doubled(), sequences, batched=True)
    values = made.apply(made.params, sequences[0])
    np.testing.assert_allclose(values, 3 * sequences[0].sum(axis=0), rtol=1e-5)


def test_a_call_that_draws_or_writes_is_refused():
    nn = foreign.library("linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, mode="fit"):
            return nn.Dense(1)(nn.Dropout(0.5, deterministic=mode != "fit")(x))

    net = Net()
    variables = net.init(jax.random.key(0), X[0], mode="use")
    with pytest.raises(ValueError, match="(?s)neither by itself .*dropout"):
        adapters.linen(net, variables, X)
    made = adapters.linen(net, variables, X, call={"mode": "use"})
    alone = net.apply(variables, X, mode="use")
    values = jax.vmap(made.apply, (None, 0))(made.params, X)
    np.testing.assert_allclose(values, alone, rtol=1e-5)


def test_keras_outputs_are_taken_for_what_the_last_layer_says():
    layers = foreign.library("keras").layers
    for activation, units in (("softmax", 3), ("sigmoid", 1), (None, 3)):
        net = foreign.library("keras").Sequential(
            [layers.Input((N,)), layers.Dense(units, activation)]
        )
        subject = adapters.keras(net, X)
        kernel, bias = (np.asarray(variable.value) for variable in net.weights)
        logits = X @ kernel + bias
        values = jax.vmap(subject.apply, (None, 0))(subject.params, X)
        if activation == "softmax":
            logits -= jax.nn.logsumexp(logits, axis=1, keepdims=True)
        np.testing.assert_allclose(values, logits, rtol=1e-3, atol=1e-4)
        assert subject.output == ("probabilities" if activation else "auto")
    unbuilt = foreign.library("keras").Sequential([layers.Dense(1)])
    with pytest.raises(ValueError, match="no weights yet: call it on inputs"):
        adapters.keras(unbuilt, X)


def test_keras_on_another_backend_is_refused(monkeypatch):
    keras_library = foreign.library("keras")
    (model,) = foreign.keras(foreign.weights())
    monkeypatch.setattr(keras_library.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="on 'tensorflow': set os.environ"):
        adapters.keras(model, X)
