"""ERAttack in PyTorch on networks of images: what the library is timed against.

The networks are the library's, with the same weights. Needs the extra `compare`;
importing this module without PyTorch raises ImportError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Logits = Callable[[torch.Tensor], torch.Tensor]
# The order of an image's numbers in memory, under PyTorch's names.
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def _tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values))


def _kernel(layer: Mapping[str, Any], layout: str) -> torch.Tensor:
    """[height, width, in, out] to [out, in, height, width]."""
    kernel = _tensor(layer["kernel"]).permute(3, 2, 0, 1)
    return kernel.contiguous(memory_format=LAYOUTS[layout])


def _dense(layer: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return _tensor(layer["kernel"]).T.contiguous(), _tensor(layer["bias"])


def _image(x: torch.Tensor, shape: tuple[int, int, int], layout: str) -> torch.Tensor:
    """Flat images with the channels innermost to [B, channels, height, width]."""
    images = x.view(-1, *shape).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=LAYOUTS[layout])


def siamese_cnn(params: Mapping[str, Any], *, layout: str = "contiguous"):
    """The library's `CNN` in its `Siamese` network.

    Args:
      params: of the network.
      layout: a key of `LAYOUTS`.

    Returns:
      `of_pairs(partner [B, d]) -> logits`, for the partners' embeddings; and
      `logits(x [B, n]) -> [B, 1]`.
    """
    tree = params["params"]
    encoder = tree["encoder"]
    convolutions = [
        (_kernel(encoder[name], layout), _tensor(encoder[name]["bias"]))
        for name in ("Conv_0", "Conv_1")
    ]
    scale, bias = _tensor(tree["scale"]), _tensor(tree["bias"])
    dense = [_dense(encoder[f"Dense_{i}"]) for i in range(3)]
    # Flax lays the 3 × 3 × 16 numbers out with the channels innermost.
    first = dense[0][0].reshape(-1, 3, 3, 16).permute(0, 3, 1, 2).flatten(1)
    dense[0] = first.contiguous(), dense[0][1]

    def embed(x):
        x = _image(x, (28, 28, 1), layout)
        for (kernel, offset), window in zip(convolutions, (2, 3), strict=True):
            x = F.max_pool2d(F.relu(F.conv2d(x, kernel, offset)), window)
        x = x.flatten(1)
        for weight, offset in dense[:-1]:
            x = F.relu(F.linear(x, weight, offset))
        return F.linear(x, *dense[-1])

    def of_pairs(partner: torch.Tensor) -> Logits:
        other = F.normalize(partner, dim=1)

        def logits(x):
            cosine = (F.normalize(embed(x), dim=1) * other).sum(dim=1, keepdim=True)
            return scale * cosine + bias

        return logits

    return of_pairs


def resnet9(
    params: Mapping[str, Any],
    *,
    shape: tuple[int, int, int] = (32, 32, 3),
    num_groups: int = 8,
    layout: str = "channels_last",
) -> Logits:
    """The library's `ResNet9`: `logits(x [B, n]) -> [B, C]`.

    Args:
      params: of the network.
      shape, num_groups: its attributes.
      layout: a key of `LAYOUTS`.
    """
    tree = params["params"]
    kernels = [_kernel(tree[f"Conv_{i}"], layout) for i in range(8)]
    norms = [
        tuple(_tensor(tree[f"GroupNorm_{i}"][name]) for name in ("scale", "bias"))
        for i in range(8)
    ]
    last = _dense(tree["Dense_0"])

    def block(x, i):
        x = F.conv2d(x, kernels[i], padding=1)
        return F.relu(F.group_norm(x, num_groups, *norms[i], eps=1e-5))

    def logits(x):
        x = block(_image(x, shape, layout), 0)
        x = F.max_pool2d(block(x, 1), 2)
        x = x + block(block(x, 2), 3)
        x = F.max_pool2d(block(x, 4), 2)
        x = F.max_pool2d(block(x, 5), 2)
        x = x + block(block(x, 6), 7)
        return F.linear(F.max_pool2d(x, 4).flatten(1), *last)

    return logits


def attack(
    logits: Logits,
    x: torch.Tensor,
    *,
    k: int,
    epsilon: float,
    num_steps: int,
    step_size: float = 1e-3,
    track_every: int | None = 10,
) -> torch.Tensor:
    """ERAttack on a batch by double backward through autograd.

    The mean gap's gradient in x is taken with c ⊙ sign(g) as the cotangent of g, so
    that autograd records neither the absolute value nor the sum over pairs.

    Args:
      logits: the network, each row of which depends on the same row of its input.
      x: clean inputs [B, n].
      k: size of the top set.
      epsilon: l2 budget.
      num_steps: number of steps.
      step_size: length of a step as a share of the budget.
      track_every: steps between two evaluations of P@k and the best input; None for
        the bare steps.

    Returns:
      Perturbed inputs [B, n] after the last step.

    Source: R2ET (arXiv 2212.14106), ERAttack.
    """
    with torch.no_grad():
        clean = logits(x)
    binary = clean.shape[1] == 1
    if binary:
        sign = torch.where(clean[:, 0] > 0, 1.0, -1.0)
    else:
        target = clean.argmax(dim=1, keepdim=True)

    def gradient(point, create_graph):
        z = logits(point)
        if binary:
            probability = torch.sigmoid(sign * z[:, 0])
        else:
            probability = torch.softmax(z, dim=1).gather(1, target)
        return torch.autograd.grad(probability.sum(), point, create_graph=create_graph)[
            0
        ]

    n = x.shape[1]
    g = gradient(x.detach().requires_grad_(), False)
    top = torch.zeros_like(x, dtype=torch.bool)
    top.scatter_(1, g.abs().topk(k, dim=1).indices, True)
    weights = torch.where(top, 1 / k, -1 / (n - k))
    delta, best, lowest = torch.zeros_like(x), x.clone(), torch.ones(len(x))
    for step in range(num_steps):
        point = (x + delta).requires_grad_()
        g = gradient(point, True)
        (direction,) = torch.autograd.grad(g, point, weights * g.detach().sign())
        norm = direction.norm(dim=1, keepdim=True).clamp_min_(1e-37)
        delta.addcdiv_(direction, norm, value=-step_size * epsilon)
        norm = delta.norm(dim=1, keepdim=True).clamp_min_(epsilon)
        delta.mul_(epsilon / norm)
        if track_every is not None and (step + 1) % track_every == 0:
            perturbed = x + delta
            now = gradient(perturbed.detach().requires_grad_(), False).abs()
            kept = top.gather(1, now.topk(k, dim=1).indices)
            precision = kept.sum(dim=1) / k
            lower = precision < lowest
            best = torch.where(lower[:, None], perturbed, best)
            lowest = torch.where(lower, precision, lowest)
    return x + delta
