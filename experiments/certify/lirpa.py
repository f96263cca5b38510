"""Bounds of auto_LiRPA on the gradient of the same network over the same ball.

Its release on the package index, 0.3, is older than today's PyTorch and NumPy; the
names that it misses there are given back to it. The gradient is written out as a
network of its own, for activations whose derivatives auto_LiRPA bounds.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from r2et_jax import models

NAME = "auto_LiRPA, CROWN"
_ACTIVATIONS = ("softplus", "tanh")
# Fewer symbols than that are no matter of memory for these networks.
_OPTIONS = {"sparse_intermediate_bounds": False, "conv_mode": "matrix"}


def why_not(model: Any, threat: Any) -> str:
    """Why auto_LiRPA bounds nothing of it, in words; empty where it does."""
    for package in ("torch", "auto_LiRPA"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if type(model) is not models.MLP or model.num_outputs != 1 or not model.hidden:
        return "it is written out for an MLP of one logit alone"
    if model.activation not in _ACTIVATIONS:
        return f"no rule for the derivative of {model.activation}"
    rules = threat.lower, threat.upper, threat.movable, threat.groups or None
    if any(rule is not None for rule in rules) or threat.absent != "free":
        return "it has balls alone, no box, groups or frozen columns"
    return ""


def separations(
    model: models.MLP, params: Any, gradients: np.ndarray, features: np.ndarray
) -> Callable[[np.ndarray, float], np.ndarray]:
    """`run(x [m, n], epsilon)`: lower bounds on |g_i| − |g_j| over l2 balls [m, k, n].

    Args:
      model: for which `why_not` is empty.
      params: its parameters.
      gradients: at the clean inputs [m, n], whose signs count.
      features: top features of each input [m, k].
    """
    library = _imported()
    import torch

    net = _gradient(model, params)
    n, k = gradients.shape[1], features.shape[1]

    def run(x, epsilon):
        m = len(x)
        rows = np.arange(m)[:, None]
        each = np.zeros((m, k, n, 2, n), np.float32)
        signs = np.sign(gradients[rows, features[:m]])
        each[rows, np.arange(k), :, :, features[:m]] += signs[:, :, None, None]
        each[:, :, np.arange(n), 0, np.arange(n)] -= 1
        each[:, :, np.arange(n), 1, np.arange(n)] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            center = torch.tensor(np.asarray(x, np.float32))
            bounded = library.BoundedModule(net, center, bound_opts=_OPTIONS)
            ball = library.PerturbationLpNorm(norm=2, eps=epsilon)
            lower, _ = bounded.compute_bounds(
                x=(library.BoundedTensor(center, ball),),
                C=torch.tensor(each.reshape(m, -1, n)),
                method="CROWN",
                bound_upper=False,
            )
        return lower.detach().numpy().reshape(m, k, n, 2).min(axis=3)

    return run


def _gradient(model: models.MLP, params: Any):
    """∂logit/∂x as a PyTorch module: forwards, then backwards by hand."""
    import torch

    dense = [params["params"][f"Dense_{i}"] for i in range(len(model.hidden) + 1)]
    weights = [torch.tensor(np.array(layer["kernel"])) for layer in dense]
    biases = [torch.tensor(np.array(layer["bias"])) for layer in dense]
    rho = model.rho

    class Gradient(torch.nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip(weights[:-1], biases[:-1], strict=True))
            self.forwards = torch.nn.ModuleList(_linear(w.T, b) for w, b in pairs)
            self.backwards = torch.nn.ModuleList(_linear(w) for w, _ in pairs)

        def forward(self, x):
            slopes = []
            for i, layer in enumerate(self.forwards):
                z = layer(x)
                if model.activation == "tanh":
                    x = torch.tanh(z)
                    slopes.append(1 - x * x)
                    continue
                slopes.append(torch.sigmoid(rho * z))
                if i + 1 < len(self.forwards):
                    x = torch.log(1 + torch.exp(rho * z)) / rho
            back = slopes[-1] * weights[-1][:, 0]
            for layer, slope in zip(self.backwards[:0:-1], slopes[-2::-1], strict=True):
                back = layer(back) * slope
            return self.backwards[0](back)

    return Gradient()


def _linear(weight, bias=None):
    import torch

    layer = torch.nn.Linear(*weight.shape[::-1], bias=bias is not None)
    layer.weight.data = weight.contiguous()
    if bias is not None:
        layer.bias.data = bias
    return layer


def _imported() -> types.SimpleNamespace:
    """What is used of auto_LiRPA, after the repairs that its release 0.3 needs."""
    import torch

    # Where it is imported from there, and not the module that torch.onnx shows.
    symbolic_helper = importlib.import_module("torch.onnx.symbolic_helper")
    gone = types.ModuleType("numpy.lib.arraysetops")
    gone.isin = np.isin
    sys.modules.setdefault(gone.__name__, gone)
    if not hasattr(symbolic_helper, "_set_opset_version"):
        symbolic_helper._set_opset_version = lambda version: None
    if not hasattr(torch._C.Node, "__getitem__"):
        torch._C.Node.__getitem__ = lambda node, name: getattr(node, node.kindOf(name))(
            name
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from auto_LiRPA import BoundedModule, BoundedTensor
        from auto_LiRPA.perturbations import PerturbationLpNorm
    named = BoundedModule._named_members
    if "remove_duplicate" not in named.__code__.co_varnames:

        def members(self, get, prefix="", recurse=True, remove_duplicate=True):
            return named(self, get, prefix, recurse)

        BoundedModule._named_members = members
    return types.SimpleNamespace(
        BoundedModule=BoundedModule,
        BoundedTensor=BoundedTensor,
        PerturbationLpNorm=PerturbationLpNorm,
    )
