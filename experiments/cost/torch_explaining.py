"""Networks, explanations and a metric in PyTorch, Captum and Quantus.

What explanations of the library are timed against: the library's networks with their
weights. Needs the extra `compare`; importing this module without PyTorch raises
ImportError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from r2et_jax.models.activations import LEAKY_SLOPE


def _copy(layer: nn.Module, weight: Any, bias: Any) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.ascontiguousarray(weight)))
        layer.bias.copy_(torch.tensor(np.asarray(bias)))
    return layer


def _dense(layer: Mapping[str, Any], weight: Any = None) -> nn.Module:
    kernel = np.asarray(layer["kernel"]) if weight is None else weight
    return _copy(nn.Linear(*kernel.shape), kernel.T, layer["bias"])


def mlp(params: Mapping[str, Any]) -> nn.Module:
    """The library's `MLP` with LeakyReLU: [B, n] to logits [B, C]."""
    tree = params["params"]
    dense = [_dense(tree[f"Dense_{i}"]) for i in range(len(tree))]
    layers = [
        part for layer in dense[:-1] for part in (layer, nn.LeakyReLU(LEAKY_SLOPE))
    ]
    return nn.Sequential(*layers, dense[-1]).eval()


def cnn(params: Mapping[str, Any]) -> nn.Module:
    """The library's `CNN` on images of one channel: [B, 1, H, W] to logits [B, C]."""
    tree = params["params"]

    def conv(layer, window):
        kernel = np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)
        made = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:])
        return _copy(made, kernel, layer["bias"]), nn.ReLU(), nn.MaxPool2d(window)

    # Flax lays the numbers of an image out with the channels innermost.
    first = np.asarray(tree["Dense_0"]["kernel"])
    channels = np.asarray(tree["Conv_1"]["bias"]).size
    side = round((first.shape[0] / channels) ** 0.5)
    moved = first.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
    dense = [_dense(tree["Dense_0"], moved.reshape(first.shape))]
    dense += [_dense(tree[f"Dense_{i}"]) for i in (1, 2)]
    return nn.Sequential(
        *conv(tree["Conv_0"], 2),
        *conv(tree["Conv_1"], 3),
        nn.Flatten(),
        dense[0],
        nn.ReLU(),
        dense[1],
        nn.ReLU(),
        dense[2],
    ).eval()


def captum(
    name: str, net: nn.Module, x: torch.Tensor, *, points: int, sigma: float, size: int
) -> Callable[[], torch.Tensor]:
    """An explanation of the first logit by Captum, as the library defines it.

    Args:
      name: "gradient", "smooth_grad" or "integrated_gradients".
      net: the network.
      x: inputs [B, ...].
      points: draws of SmoothGrad, points of the midpoint rule of Integrated Gradients.
      sigma: standard deviation of the draws.
      size: draws of SmoothGrad at a time, or points of Integrated Gradients (Captum
        counts these over all inputs).

    Returns:
      `run() -> maps`, of x's shape; of Integrated Gradients signed.
    """
    from captum import attr

    if name == "gradient":
        made = attr.Saliency(net)
        return lambda: made.attribute(x.clone().requires_grad_(), target=0)
    if name == "integrated_gradients":
        made = attr.IntegratedGradients(net)
        return lambda: made.attribute(
            x,
            target=0,
            n_steps=points,
            method="riemann_middle",
            internal_batch_size=size * len(x),
        )
    made = attr.NoiseTunnel(attr.Saliency(net))
    return lambda: made.attribute(
        x.clone().requires_grad_(),
        nt_type="smoothgrad",
        nt_samples=points,
        nt_samples_batch_size=size,
        stdevs=sigma,
        target=0,
    )


def quantus(
    net: nn.Module, x: np.ndarray, *, draws: int, radius: float
) -> Callable[[], Any]:
    """Quantus' `MaxSensitivity` of Captum's saliency: `run() -> values [B]`.

    Args:
      net: a network of two logits, of which the first is explained.
      x: inputs [B, n].
      draws: explanations of each.
      radius: of the l∞ ball of the draws.
    """
    import quantus as library
    from captum import attr

    def explain(model, inputs, targets, **_):
        inputs = torch.tensor(np.array(inputs), dtype=torch.float32)
        attributed = attr.Saliency(model).attribute(inputs.requires_grad_(), target=0)
        return attributed.numpy()

    metric = library.MaxSensitivity(
        nr_samples=draws,
        lower_bound=radius,
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
    )
    rows = x[:, None]
    chosen = np.zeros(len(x), int)
    flat = nn.Sequential(nn.Flatten(), net).eval()
    return lambda: metric(
        model=flat,
        x_batch=rows,
        y_batch=chosen,
        a_batch=None,
        explain_func=explain,
        batch_size=len(x),
    )
