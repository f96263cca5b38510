"""One network in every library that there is an adapter for, from the same weights."""

import os

import numpy as np
import pytest

# Keras reads it when it is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")

N, HIDDEN = 6, 8


def weights(num_outputs=1, seed=1):
    """Kernels [in, out] and biases of a network with one hidden layer of ReLUs."""
    draw = np.random.default_rng(seed)
    shapes = ((N, HIDDEN), (HIDDEN,), (HIDDEN, num_outputs), (num_outputs,))
    return [draw.normal(size=shape).astype(np.float32) for shape in shapes]


def library(name):
    """The library of an adapter; the test is skipped where it is not installed."""
    imported = {"nnx": "flax.nnx", "linen": "flax.linen"}.get(name, name)
    imported_library = pytest.importorskip(imported, reason=f"{name} is not installed")
    if name == "torch":
        pytest.importorskip("torchax", reason="torchax is not installed")
    return imported_library


def linen(arrays):
    from r2et_jax.models import MLP

    layers = {
        f"Dense_{i}": {"kernel": arrays[2 * i], "bias": arrays[2 * i + 1]}
        for i in (0, 1)
    }
    return MLP((HIDDEN,), len(arrays[3]), "relu"), {"params": layers}


def nnx(arrays):
    nnx = library("nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(N, HIDDEN, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(HIDDEN, len(arrays[3]), rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.first(x))))

    net = Net(nnx.Rngs(0))
    for layer, kernel, bias in ((net.first, *arrays[:2]), (net.last, *arrays[2:])):
        layer.kernel = nnx.Param(kernel)
        layer.bias = nnx.Param(bias)
    return (net,)


def equinox(arrays):
    equinox = library("equinox")
    import jax

    net = equinox.nn.MLP(N, len(arrays[3]), HIDDEN, 1, key=jax.random.key(0))
    values = [arrays[0].T, arrays[1], arrays[2].T, arrays[3]]
    return (
        equinox.tree_at(
            lambda net: [
                leaf for arrays in net.layers for leaf in (arrays.weight, arrays.bias)
            ],
            net,
            [jax.numpy.asarray(value) for value in values],
        ),
    )


def keras(arrays):
    layers = library("keras").layers
    net = library("keras").Sequential(
        [
            layers.Input((N,)),
            layers.Dense(HIDDEN, "relu"),
            layers.Dropout(0.5),
            layers.Dense(len(arrays[3])),
        ]
    )
    net.set_weights(arrays)
    return (net,)


def torch(arrays):
    torch = library("torch")
    net = torch.nn.Sequential(
        torch.nn.Linear(N, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(HIDDEN, len(arrays[3])),
    )
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), arrays, strict=True):
            parameter.copy_(torch.tensor(np.array(value.T)))
    return (net,)


def sklearn(arrays):
    from sklearn.neural_network import MLPClassifier

    net = MLPClassifier((HIDDEN,), max_iter=2, random_state=0)
    draw = np.random.default_rng(0).normal(size=(12, N))
    labels = np.arange(12) % max(len(arrays[3]), 2)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not converge
        net.fit(draw, labels)
    net.coefs_, net.intercepts_ = list(arrays[::2]), list(arrays[1::2])
    return (net,)


# Adapter -> `make(weights)`, what it takes before x.
NETWORKS = {
    "linen": linen,
    "nnx": nnx,
    "equinox": equinox,
    "keras": keras,
    "torch": torch,
    "sklearn": sklearn,
}
