"""ERAttack in PyTorch, batched and input by input: what the library is timed against.

The model is the library's MLP with LeakyReLU and one logit, with the same weights.
Needs the extra `compare`; importing this module without PyTorch raises ImportError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from r2et_jax.models.activations import LEAKY_SLOPE

Layers = list[tuple[torch.Tensor, torch.Tensor]]


def layers_of(params: Mapping[str, Any]) -> Layers:
    """The weights [out, in] and biases [out] of an `MLP`'s dense layers, in order."""
    tree = params["params"]
    return [
        (
            torch.tensor(np.asarray(tree[f"Dense_{i}"]["kernel"]).T.copy()),
            torch.tensor(np.asarray(tree[f"Dense_{i}"]["bias"])),
        )
        for i in range(len(tree))
    ]


def logits(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    """z of a batch of inputs: [B, n] to [B]."""
    for weight, bias in layers[:-1]:
        x = F.leaky_relu(F.linear(x, weight, bias), LEAKY_SLOPE)
    return F.linear(x, *layers[-1])[:, 0]


def attack_batched(
    layers: Layers,
    x: torch.Tensor,
    *,
    k: int,
    epsilon: float,
    num_steps: int,
    step_size: float = 1e-3,
    track_every: int = 10,
) -> torch.Tensor:
    """ERAttack on a batch by double backward through autograd.

    What the library's `er` does: the mean gap of the saliency, without forming pairs,
    and every `track_every` steps P@k, the best input so far and the trace.

    Args:
      layers: see `layers_of`; no gradient is taken in them.
      x: clean inputs [B, n].
      k: size of the top set.
      epsilon: l2 budget.
      num_steps: number of steps.
      step_size: length of a step as a share of the budget.
      track_every: steps between two evaluations.

    Returns:
      Perturbed inputs [B, n] after the last step.

    Source: R2ET (arXiv 2212.14106), ERAttack.
    """
    n = x.shape[1]
    sign = torch.where(logits(layers, x) > 0, 1.0, -1.0)

    def saliency(point, create_graph):
        probability = torch.sigmoid(sign * logits(layers, point)).sum()
        (g,) = torch.autograd.grad(probability, point, create_graph=create_graph)
        return g.abs()

    clean = saliency(x.detach().requires_grad_(), False)
    top = torch.zeros_like(x, dtype=torch.bool)
    top.scatter_(1, clean.topk(k, dim=1).indices, True)
    weights = torch.where(top, 1 / k, -1 / (n - k))
    perturbed, best = x.clone(), x.clone()
    lowest = torch.ones(len(x))
    trace = []
    for step in range(num_steps):
        point = perturbed.requires_grad_()
        gap = (saliency(point, True) * weights).sum()
        (direction,) = torch.autograd.grad(gap, point)
        with torch.no_grad():
            norm = direction.norm(dim=1, keepdim=True).clamp_min(1e-37)
            delta = point - step_size * epsilon * direction / norm - x
            delta *= epsilon / delta.norm(dim=1, keepdim=True).clamp_min(epsilon)
            perturbed = x + delta
        if (step + 1) % track_every == 0:
            now = saliency(perturbed.detach().requires_grad_(), False)
            kept = top.gather(1, now.topk(k, dim=1).indices)
            precision = kept.sum(dim=1) / k
            lower = precision < lowest
            best = torch.where(lower[:, None], perturbed, best)
            lowest = torch.where(lower, precision, lowest)
            trace.append((gap.detach(), precision))
    return perturbed


def attack_tuned(
    layers: Layers,
    x: torch.Tensor,
    *,
    k: int,
    epsilon: float,
    num_steps: int,
    step_size: float = 1e-3,
) -> torch.Tensor:
    """The bare steps of `attack_batched`, tuned by hand.

    The mean gap's gradient in x is taken with c ⊙ sign(g) as the cotangent of g, so
    that autograd neither records nor reverses the saliency and the sum over pairs.
    Nothing is tracked: no P@k, no best input, no trace.

    Args:
      layers: see `layers_of`; no gradient is taken in them.
      x: clean inputs [B, n].
      k: size of the top set.
      epsilon: l2 budget.
      num_steps: number of steps.
      step_size: length of a step as a share of the budget.

    Returns:
      Perturbed inputs [B, n].

    Source: R2ET (arXiv 2212.14106), ERAttack.
    """
    n = x.shape[1]
    sign = torch.where(logits(layers, x) > 0, 1.0, -1.0)
    ones = torch.ones_like(sign)

    def gradient(point, create_graph):
        probability = torch.sigmoid(sign * logits(layers, point))
        return torch.autograd.grad(probability, point, ones, create_graph=create_graph)[
            0
        ]

    g = gradient(x.detach().requires_grad_(), False)
    top = g.abs().topk(k, dim=1).indices
    weights = torch.full_like(x, -1 / (n - k)).scatter_(1, top, 1 / k)
    delta = torch.zeros_like(x)
    for _ in range(num_steps):
        point = (x + delta).requires_grad_()
        g = gradient(point, True)
        (direction,) = torch.autograd.grad(g, point, weights * g.detach().sign())
        norm = direction.norm(dim=1, keepdim=True).clamp_min_(1e-37)
        delta.addcdiv_(direction, norm, value=-step_size * epsilon)
        norm = delta.norm(dim=1, keepdim=True).clamp_min_(epsilon)
        delta.mul_(epsilon / norm)
    return x + delta


def attack_one_by_one(
    layers: Layers,
    x: torch.Tensor,
    *,
    k: int,
    epsilon: float,
    num_steps: int,
    step_size: float = 1e-3,
) -> torch.Tensor:
    """The same attack as published code runs it: a loop over inputs and iterations.

    Arguments and result as in `attack_batched`.
    """
    perturbed = []
    for clean in x.split(1):
        sign = 1.0 if logits(layers, clean)[0] > 0 else -1.0
        top = rest = None
        point = clean
        for _ in range(num_steps):
            point = point.detach().requires_grad_()
            probability = torch.sigmoid(sign * logits(layers, point))[0]
            (g,) = torch.autograd.grad(probability, point, create_graph=True)
            saliency = g[0].abs()
            if top is None:
                order = saliency.argsort(descending=True)
                top, rest = order[:k], order[k:]
            gap = saliency[top].mean() - saliency[rest].mean()
            (direction,) = torch.autograd.grad(gap, point)
            with torch.no_grad():
                norm = direction.norm().clamp_min(1e-37)
                delta = point - step_size * epsilon * direction / norm - clean
                delta *= epsilon / delta.norm().clamp_min(epsilon)
                point = clean + delta
        perturbed.append(point.detach())
    return torch.cat(perturbed)
