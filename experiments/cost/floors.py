"""The fewest FLOPs that a training step can take, by method, with their derivation.

Counted in passes through the network, as the algorithm of a method prescribes them: its
steps, points and probes, not what our code does with them. A pass is one product with
each weight matrix for one example. These cost one pass each: the forward pass; its
reverse to the input, which is the gradient g; a tangent of either; and the products
that give the gradient in the weights. A reverse that ends at the weights omits the
first layer's product with the cotangent: an inner pass. A vanilla step is hence
2 passes and 1 inner one, 3 in a deep network and 2 in one with a wide input.

Each intermediate result is counted once, though several derivatives need it. Terms that
are not passes are stated apart: rankings, random numbers, pairs of features.
Activations, norms and the optimiser are left out: the floor has none of them.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from r2et_jax import objectives
from r2et_jax.objectives import (
    adversarial,
    certified,
    curvature_penalties,
    gradient_penalties,
    thickness,
)


class Network(NamedTuple):
    """What the count depends on.

    Attributes:
      num_features: n.
      hidden: widths of the hidden layers.
      num_logits: C.
      skip: whether a linear part goes from the input to the logits.
      k, k_prime: sizes of the ranking terms.
      number: FLOPs that XLA counts for one random number.
    """

    num_features: int
    hidden: tuple[int, ...]
    num_logits: int
    skip: bool
    k: int
    k_prime: int
    number: float = 0.0

    @property
    def inner(self) -> float:
        """FLOPs of a pass through all layers but the first."""
        widths = (*self.hidden, self.num_logits)
        return 2.0 * sum(a * b for a, b in zip(widths, widths[1:], strict=False))

    @property
    def whole(self) -> float:
        """FLOPs of a pass."""
        first = (*self.hidden, self.num_logits)[0] + self.skip * self.num_logits
        return 2.0 * self.num_features * first + self.inner


class Gradient(enum.IntEnum):
    """What is done with the gradient g at x, which all terms share."""

    NONE = 0
    CONSTANT = 1  # ranked, or a direction: without derivative
    INNER = 2  # its cotangents in the hidden layers are differentiated
    WHOLE = 3  # g itself is differentiated


# (passes, inner passes, words)
_GRADIENTS = {
    Gradient.NONE: (0, 0, ""),
    Gradient.CONSTANT: (1, 0, "g 1"),
    Gradient.INNER: (1, 2, "g 1, its reverse through hidden layers"),
    Gradient.WHOLE: (3, 0, "g 1 and its reverse 2"),
}


class Floor(NamedTuple):
    """What a penalty costs beyond a vanilla step and the gradient g at x.

    Attributes:
      gradient: what it does with g.
      passes: passes, `passes(network)`.
      words: how they come about.
      inner: inner passes, likewise.
      rankings: rankings of n features: for each of n² pairs two comparisons,
        a choice between them by the index and a sum.
      numbers: random numbers, `numbers(network)`.
      pairs: FLOPs on pairs of features, `pairs(network)`.
    """

    gradient: Gradient = Gradient.NONE
    passes: Callable[[Network], float] = lambda _: 0
    words: str = ""
    inner: Callable[[Network], float] = lambda _: 0
    rankings: int = 0
    numbers: Callable[[Network], float] = lambda _: 0
    pairs: Callable[[Network], float] = lambda _: 0


class Count(NamedTuple):
    """The floor of one training step for one example.

    Attributes:
      flops: all of it.
      passes: the passes, inner ones as the share of a pass that they are.
      extra: FLOPs of the terms that are not passes.
      derivation: in words.
    """

    flops: float
    passes: float
    extra: float
    derivation: str


def _default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


_STEPS = _default(adversarial.InnerAttack, "num_steps")
_PROBES = _default(curvature_penalties.squared_curvature, "num_samples")
_IG = gradient_penalties.attribution_change
_IG_STEPS, _IG_POINTS = _default(_IG, "num_steps"), _default(_IG, "num_points")
_THICK = thickness.negative_thickness
_DRAWS = _default(_THICK, "num_draws")
_POINTS = _DRAWS * _default(_THICK, "num_points")
_BORDER = _default(certified.certified_hinge, "num_border")

# A Hessian-vector product and its derivative in the weights: tangent 1, tangent of g 1,
# the reverse of this one 2, of the other one 1 and an inner one.
_PRODUCT = 5
# The gradient at another point and its derivative in the weights: forward 1, g 1, the
# reverse of g 2, of the forward pass 1 and an inner one.
_POINT = 5
# One step of an attack on a ranking: forward 1, g 1, and the reverse of both to the
# input 2.
_ATTACK = 4


def _fixed(passes: float) -> Callable[[Network], float]:
    return lambda _: passes


def _certified(network: Network) -> float:
    """FLOPs on the border pairs that `cert_rank` bounds, for every hidden unit.

    Forward, a pair takes a difference, a magnitude and a sum for both signs of the
    feature outside, 6; a border feature the product of its weights with the slopes'
    middles, 2, and half widths, 1.

    In reverse only the larger of a pair's two spreads has a cotangent: the sign, its
    product with that, and a sum for each of the two features, 4. A border feature: the
    cotangents of its weights by the middle and by the half width, added, 3; its part in
    those of the middles, 2, and of the half widths, 2; the sum into the weight that it
    was picked from, 1.
    """
    inside = min(_BORDER, network.k)
    outside = min(_BORDER, network.num_features - network.k)
    each = (6 + 4) * inside * outside + (3 + 8) * (inside + outside)
    return each * sum(network.hidden)


_RANKED = Floor(Gradient.WHOLE, rankings=1)
_JACOBIAN = Floor(
    Gradient.WHOLE,
    lambda net: 3 * (net.num_logits - 1),
    "3 for every further logit",
)
_ATTACKED = f"{_STEPS} steps × 4 (forward, g, reverse of both to the input)"

FLOORS: dict[str, Floor] = {
    "l2": Floor(),
    "decay": Floor(),
    "gap": _RANKED,
    "exp_gap": _RANKED,
    "mm_gap": _RANKED,
    "mm_gap_k": _RANKED,
    "mm_exp_gap": _RANKED,
    "anchored_gap": _RANKED,
    "curvature": Floor(
        Gradient.INNER, _fixed(_PRODUCT), "Hv: tangents 2, reverse 3", _fixed(1)
    ),
    "curvature_fd": Floor(
        Gradient.WHOLE,
        _fixed(_POINT),
        "the second point: forward 1, g 1, reverse 3",
        _fixed(1),
    ),
    "tau": Floor(),
    # Of a piecewise-linear network, as the method is trained: H = Jᵀ M J.
    "frobenius": _JACOBIAN,
    "frobenius_squared": Floor(
        Gradient.INNER,
        _fixed(_PROBES * _PRODUCT),
        f"{_PROBES} probes × 5 (tangents 2, reverse 3)",
        _fixed(_PROBES),
        numbers=lambda net: _PROBES * net.num_features,
    ),
    "spectral": Floor(
        Gradient.CONSTANT,
        lambda net: net.num_logits - 1 + 2,
        "1 for every further logit; ∂z/∂u: tangent 1, reverse 1",
        _fixed(1),
    ),
    "logit_curvature": Floor(
        Gradient.WHOLE, _fixed(_PRODUCT), "∇²u v: tangents 2, reverse 3", _fixed(1)
    ),
    # A piecewise-linear network's log-odds have no curvature: ‖∇h‖ comes from g alone.
    "radius": _RANKED,
    "radius_hinge": Floor(
        Gradient.WHOLE,
        lambda net: net.k_prime * _PRODUCT,
        "k′ pairs × 5 (tangents 2, reverse 3)",
        lambda net: net.k_prime,
        rankings=1,
    ),
    "cross_lipschitz": _JACOBIAN,
    "gradient_change": Floor(
        Gradient.WHOLE,
        _fixed(_POINT),
        "the second point: forward 1, g 1, reverse 3",
        _fixed(1),
    ),
    "ig_change": Floor(
        Gradient.CONSTANT,
        _fixed(_IG_POINTS * (_IG_STEPS * _ATTACK + _POINT)),
        f"{_IG_STEPS} steps × {_IG_POINTS} points × 4 (forward, g, reverse of both to "
        f"the input); {_IG_POINTS} points × 5 (forward, g, reverse 3)",
        _fixed(_IG_POINTS),
    ),
    "adv_loss": Floor(
        Gradient.CONSTANT,
        _fixed(_STEPS * _ATTACK + 2),
        f"{_ATTACKED}; forward and reverse at x + δ 2",
        _fixed(1),
        rankings=1,
    ),
    "adv_gap": Floor(
        Gradient.CONSTANT,
        _fixed(_STEPS * _ATTACK + _POINT),
        f"{_ATTACKED}; g and its reverse at x + δ 5",
        _fixed(1),
        rankings=1,
    ),
    "adv_hinge": Floor(
        Gradient.CONSTANT,
        _fixed(_STEPS * _ATTACK + _POINT),
        f"{_ATTACKED}; g and its reverse at x + δ 5",
        _fixed(1),
        rankings=1 + _STEPS,
        numbers=lambda net: net.num_features,
    ),
    "thickness": Floor(
        Gradient.CONSTANT,
        _fixed(_POINTS * _POINT),
        f"{_POINTS} points × 5 (forward, g, reverse 3)",
        _fixed(_POINTS),
        rankings=1,
        numbers=lambda net: _DRAWS * net.num_features,
        # Difference, sigmoid and sum of each, and as many in reverse.
        pairs=lambda net: 6 * _POINTS * net.k * (net.num_features - net.k),
    ),
    "certified_gap": Floor(
        Gradient.WHOLE,
        rankings=1,
        pairs=_certified,
    ),
}

# In place of the cross-entropy at x: a vanilla step's passes are those at x + δ.
_REPLACED = Floor(
    Gradient.CONSTANT,
    _fixed(_STEPS * _ATTACK + 1),
    f"{_ATTACKED}; forward at x 1",
    rankings=1,
)


def floor(method: str, network: Network) -> Count | None:
    """The floor of one training step of a method for one example; None if the count of
    one of its penalties is not derived here.

    The penalties of a sum share the gradient at x and its ranking.

    Args:
      method: a name of `objectives.NAMES`, or several joined by `+`.
      network: the network and the sizes of the ranking terms.
    """
    trained_as = objectives.method(method)
    if not FLOORS.keys() >= set(trained_as.terms):
        return None
    terms = [FLOORS[term] for term in trained_as.terms] + [
        _REPLACED
    ] * trained_as.attacked
    gradient = max((term.gradient for term in terms), default=Gradient.NONE)
    passes, inner, words = _GRADIENTS[gradient]
    passes += 2 + sum(term.passes(network) for term in terms)
    inner += 1 + sum(term.inner(network) for term in terms)
    rankings = max((min(term.rankings, 1) for term in terms), default=0)
    rankings += sum(max(term.rankings - 1, 0) for term in terms)
    numbers = sum(term.numbers(network) for term in terms)
    pairs = sum(term.pairs(network) for term in terms)
    extra = 4 * rankings * network.num_features**2 + numbers * network.number + pairs
    spoken = ["vanilla 2", words, *(term.words for term in terms), f"inner {inner:g}"]
    if rankings:
        spoken.append(f"{rankings} × 4n² to rank")
    if numbers:
        spoken.append(f"{numbers:g} random numbers")
    if pairs:
        spoken.append(f"pairs {pairs:g} FLOPs")
    network_flops = passes * network.whole + inner * network.inner
    return Count(
        network_flops + extra,
        network_flops / network.whole,
        extra,
        "; ".join(filter(None, spoken)),
    )
