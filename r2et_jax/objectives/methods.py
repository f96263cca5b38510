"""The methods of training, and the named penalties that they are summed from.

To add one: its penalty, a function in a module of this folder, to `TERMS`, where it is
a new one, and its name to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from r2et_jax.checks import check_in
from r2et_jax.objectives import (
    adversarial,
    certified,
    curvature_penalties,
    gradient_penalties,
    penalties,
    ratios,
    thickness,
)
from r2et_jax.types import ApplyFn, Array


class Setting(NamedTuple):
    """What the penalties of one objective share.

    Attributes:
      k: size of the top set.
      k_prime: pairs of the forms that take the smallest gaps.
      surrogate: smooth stand-in of the model, for attacks inside a penalty.
      epsilon: radius of perturbations inside a penalty, l2, in units of x.
      layers: `layers(params)`, the weights of a network with one hidden layer, or None.
      split: the model in two parts, the inner piecewise linear or not, or None.
      channels: neighbouring values of x whose saliencies are summed and ranked as one.
    """

    k: int
    k_prime: int
    surrogate: ApplyFn
    epsilon: float
    layers: certified.Layers | None = None
    split: curvature_penalties.Split | None = None
    channels: int = 1

    @property
    def ranked(self) -> dict[str, int]:
        """What is ranked, as keywords."""
        return {"k": self.k, "channels": self.channels}

    @property
    def smallest(self) -> dict[str, int]:
        """The same of forms that take the smallest gaps."""
        return {**self.ranked, "k_prime": self.k_prime}


class Weights(NamedTuple):
    """The weights of a penalty that a search tries, the same effort for every method.

    Attributes:
      alone: of the one penalty of a method: twelve.
      beside: where there are others, of which all combinations are tried: four of a
        ranking term, three of any other.
      share: whether the penalty falls as 1/n, as a mean over gaps of a saliency that
        sums to 1: of inputs with more features it takes larger weights.
    """

    alone: tuple[float, ...] = (
        0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0
    )  # fmt: skip
    beside: tuple[float, ...] = (0.1, 0.3, 1.0)
    share: bool = False


class Term(NamedTuple):
    """A named penalty.

    Attributes:
      build: `build(apply, setting) -> penalty` of one example, or None.
      on_params: `on_params(params) -> scalar`, or None.
      of_label: whether the penalty takes the label for its class; else the prediction.
      random: whether it takes a keyword `key`.
      ramped: whether it takes a keyword `progress`.
      decay: whether it is decoupled weight decay: no part of the loss, its weight is
        for the optimiser.
      number: whether it is no penalty: its weight is a number that another one takes.
      numbers: the names of such numbers, which the penalty takes as keywords.
      most: `most(setting) -> int or None`, of how many examples of a batch, its first,
        the penalty's mean is taken, where it costs far more than the loss of all.
      weights: that a search tries.
    """

    build: Callable[[ApplyFn, Setting], penalties.Penalty] | None = None
    on_params: Callable[[Any], Array] | None = None
    of_label: bool = False
    random: bool = False
    ramped: bool = False
    decay: bool = False
    number: bool = False
    numbers: tuple[str, ...] = ()
    most: Callable[[Setting], int | None] | None = None
    weights: Weights = Weights()


def _inner(setting: Setting) -> adversarial.InnerAttack:
    return adversarial.InnerAttack(
        setting.surrogate, setting.epsilon, channels=setting.channels
    )


def _certified(apply: ApplyFn, setting: Setting) -> penalties.Penalty:
    if setting.channels != 1:
        raise ValueError(
            f"cert_rank ranks single inputs, got channels = {setting.channels}"
        )
    if setting.layers is None:
        return certified.program_hinge(apply, k=setting.k, epsilon=setting.epsilon)
    return certified.certified_hinge(
        setting.layers, k=setting.k, epsilon=setting.epsilon
    )


def _bounded_examples(setting: Setting) -> int | None:
    return certified.BOUNDED_EXAMPLES if setting.layers is None else None


# Weights that were chosen on tables.
_L2 = Weights(
    (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 4.5e-2, 6e-2),
    (1e-3, 3e-3, 1e-2),
)
_DECAY = Weights(
    (0.06, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0),
    (0.1, 0.3, 1.0),
)
_GAP = Weights(
    (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0),
    (1.0, 2.0, 3.0, 6.0),
    share=True,
)
_EXPONENTIAL = Weights(
    (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0),
    (0.1, 0.3, 0.6, 1.0),
)
_SMALLEST = Weights(
    (0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
    (0.3, 0.6, 1.0, 2.0),
    share=True,
)
_CURVATURE = Weights(
    (0.003, 0.006, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0),
    (0.01, 0.03, 0.1),
)
_RADIUS = Weights(
    (3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2),
    (0.003, 0.01, 0.03, 0.1),
)
_HINGE = Weights(
    (1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6),
    (0.003, 0.01, 0.03, 0.1),
)
_SQUARED = Weights(
    (3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1, 3, 10, 30),
    (0.1, 1.0, 10.0),
)
_CERTIFIED = Weights(
    (0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 1, 2),
    (0.03, 0.1, 0.3, 1.0),
)
_THICKNESS = Weights(
    (0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 6.0, 10.0),
    (0.1, 0.3, 1.0, 3.0),
)

TERMS: dict[str, Term] = {
    "l2": Term(on_params=penalties.squared_weights, weights=_L2),
    "decay": Term(decay=True, weights=_DECAY),
    "gap": Term(lambda apply, s: penalties.mean_gap(apply, **s.ranked), weights=_GAP),
    "exp_gap": Term(
        lambda apply, s: penalties.exponential_gap(apply, **s.ranked),
        weights=_EXPONENTIAL,
    ),
    "mm_gap": Term(
        lambda apply, s: penalties.smallest_pairs(apply, **s.smallest),
        weights=_SMALLEST,
    ),
    "mm_gap_k": Term(
        lambda apply, s: penalties.smallest_pairs(apply, **s.ranked), weights=_SMALLEST
    ),
    "mm_exp_gap": Term(
        lambda apply, s: penalties.exponential_smallest(apply, **s.smallest),
        weights=_EXPONENTIAL,
    ),
    "anchored_gap": Term(
        lambda apply, s: penalties.anchored_pairs(apply, **s.smallest),
        weights=_SMALLEST,
    ),
    "curvature": Term(
        lambda apply, s: penalties.directional_curvature(apply), weights=_CURVATURE
    ),
    "curvature_fd": Term(
        lambda apply, s: penalties.directional_difference(apply),
        numbers=("tau",),
        weights=_CURVATURE,
    ),
    # The step of est_h_fd: a tiny one misses every kink.
    "tau": Term(number=True, weights=Weights((), (1e-1, 1e-2, 1e-4, 1e-6))),
    "frobenius": Term(
        lambda apply, s: curvature_penalties.frobenius_curvature(apply, split=s.split),
        weights=_CURVATURE,
    ),
    "frobenius_squared": Term(
        lambda apply, s: curvature_penalties.squared_curvature(apply),
        random=True,
        weights=_SQUARED,
    ),
    "spectral": Term(
        lambda apply, s: curvature_penalties.spectral_curvature(apply, split=s.split),
        weights=_CURVATURE,
    ),
    "logit_curvature": Term(
        lambda apply, s: curvature_penalties.relative_curvature(apply),
        weights=_CURVATURE,
    ),
    "radius": Term(
        lambda apply, s: ratios.mean_radius(apply, **s.smallest), weights=_RADIUS
    ),
    "radius_hinge": Term(
        lambda apply, s: ratios.radius_hinge(apply, **s.smallest, margin=s.epsilon),
        weights=Weights(beside=(0.1, 0.3, 1.0, 3.0)),
    ),
    "cross_lipschitz": Term(
        lambda apply, s: gradient_penalties.cross_lipschitz(apply), weights=_CURVATURE
    ),
    "gradient_change": Term(
        lambda apply, s: gradient_penalties.gradient_change(apply, step=s.epsilon),
        of_label=True,
    ),
    "ig_change": Term(
        lambda apply, s: gradient_penalties.attribution_change(
            apply, epsilon=s.epsilon
        ),
        of_label=True,
    ),
    "adv_loss": Term(
        lambda apply, s: adversarial.adversarial_loss(apply, _inner(s), k=s.k),
        of_label=True,
    ),
    "adv_gap": Term(
        lambda apply, s: adversarial.adversarial_gap(apply, _inner(s), k=s.k),
        weights=_GAP,
    ),
    "adv_hinge": Term(
        lambda apply, s: adversarial.adversarial_hinge(
            apply, _inner(s)._replace(start=0.3), k=s.k
        ),
        random=True,
        weights=_HINGE,
    ),
    "thickness": Term(
        lambda apply, s: thickness.negative_thickness(apply, **s.ranked),
        random=True,
        weights=_THICKNESS,
    ),
    "certified_gap": Term(
        _certified, ramped=True, most=_bounded_examples, weights=_CERTIFIED
    ),
}
# Those that take ε, the radius of an l2 ball.
_IN_A_BALL = {
    "adv_gap", "adv_hinge", "adv_loss", "certified_gap", "gradient_change", "ig_change",
    "radius_hinge",
}  # fmt: skip


class Method(NamedTuple):
    """A method of training.

    Attributes:
      description: what it is, in a line.
      terms: names of its penalties, each with a weight of its own.
      smooth: whether its model has softplus in place of a piecewise-linear
        activation.
      skip: whether its model has a linear part beside the network.
      attacked: whether its cross-entropy is at the input that a ranking attack found,
        in place of the clean one.
    """

    description: str
    terms: tuple[str, ...] = ()
    smooth: bool = False
    skip: bool = False
    attacked: bool = False

    @property
    def in_a_ball(self) -> bool:
        """Whether it looks at an l2 ball around each input."""
        return self.attacked or not _IN_A_BALL.isdisjoint(self.terms)


METHODS: dict[str, Method] = {
    "vanilla": Method("cross-entropy alone"),
    "wd": Method("coupled L2 of the weight matrices", ("l2",)),
    "wd_decoupled": Method(
        "weight decay apart from the loss and from Adam's scaling (AdamW)", ("decay",)
    ),
    "sp": Method(
        "softplus activations, no penalty",
        smooth=True,
    ),
    "skip": Method(
        "a linear part aᵀx beside the network, no penalty",
        skip=True,
    ),
    "est_h": Method(
        "‖Hv‖₂ of the probability, v the sign of its gradient, exact product",
        ("curvature",),
    ),
    "est_h_fd": Method(
        "the same by a finite difference of step τ, its second weight",
        ("curvature_fd", "tau"),
    ),
    "exact_h": Method("‖H‖_F of the probability, exact", ("frobenius",)),
    "hutchinson_h": Method(
        "‖H‖_F² of the probability, the square, by Hutchinson's unbiased "
        "estimate from 4 random probes",
        ("frobenius_squared",),
    ),
    "ssr": Method("largest |eigenvalue| of the probability's Hessian", ("spectral",)),
    "logit_h": Method(
        "‖∇²u v‖₂/‖∇u‖₂ of the log-odds u, softplus activations",
        ("logit_curvature",),
        smooth=True,
    ),
    "cl": Method(
        "‖∇z_a − ∇z_b‖₂², mean over pairs of classes (cross-Lipschitz)",
        ("cross_lipschitz",),
    ),
    "cure": Method(
        "‖∇ℓ(x + εz) − ∇ℓ(x)‖₂² along the sign z of the loss's gradient (CURE)",
        ("gradient_change",),
    ),
    "ig_norm": Method(
        "largest ‖IG(x, x′)‖₁ of the loss over the ball, 3 steps (IG-NORM)",
        ("ig_change",),
    ),
    "at": Method(
        "cross-entropy at an input that 3 steps on the mean gap found, in place "
        "of that at the clean one",
        attacked=True,
    ),
    "at_mixed": Method(
        "the same with a weight, added to that at the clean one", ("adv_loss",)
    ),
    "adv_gap": Method(
        "−mean gap at an input that 3 steps on the mean gap found", ("adv_gap",)
    ),
    "rat": Method(
        "hinge on the clean top-k set at an input that 3 steps on the smooth "
        "P@k found from a random start",
        ("adv_hinge",),
    ),
    "r2et": Method("−mean gap + ‖Hv‖₂", ("gap", "curvature")),
    "r2et_nh": Method("−mean gap", ("gap",)),
    "r2et_exp": Method("mean exp(−gap/θ) + ‖Hv‖₂", ("exp_gap", "curvature")),
    "r2et_mm": Method("−mean of the k′ smallest gaps + ‖Hv‖₂", ("mm_gap", "curvature")),
    "r2et_mm_nh": Method("−mean of the k′ smallest gaps", ("mm_gap",)),
    "r2et_mm_k": Method("r2et_mm with the published k′ = k", ("mm_gap_k", "curvature")),
    "r2et_mm_exp": Method(
        "mean exp(−gap/θ) of the k′ smallest gaps + ‖Hv‖₂", ("mm_exp_gap", "curvature")
    ),
    "r2et_anchored": Method(
        "−mean gap of 2k′ pairs with the last feature inside + ‖Hv‖₂",
        ("anchored_gap", "curvature"),
    ),
    "ratio": Method(
        "−mean gap/slope of the k′ border pairs, of the probability", ("radius",)
    ),
    "ratio_hinge": Method(
        "relu(ε − gap/slope) of the k′ border pairs, of the log-odds, softplus "
        "activations",
        ("radius_hinge",),
        smooth=True,
    ),
    "mc_thickness": Method(
        "−thickness with a smoothed indicator over all pairs, 2 Gaussian draws, "
        "a point on each segment",
        ("thickness",),
    ),
    "cert_rank": Method(
        "relu(.1 − certified gap/mean |g|) of the 5 × 5 border pairs over the "
        "ball of radius ε, ramped up over the first half, softplus activations",
        ("certified_gap",),
        smooth=True,
    ),
}
NAMES = tuple(METHODS)
DESCRIPTIONS = {name: entry.description for name, entry in METHODS.items()}


def method(name: str) -> Method:
    """The method of that name, or the sum of several joined by `+`.

    Args:
      name: a name of `NAMES`, or several joined by `+`.

    Returns:
      `Method`: the penalties of all parts, and what they ask of the model.

    Raises:
      ValueError: for an unknown name, with the known ones, or a repeated penalty.

    Example:
      >>> method("wd+r2et_nh").terms
      ('l2', 'gap')
    """
    if not isinstance(name, str):
        raise ValueError(f"method must be a text, got {name!r}")
    parts = name.split("+")
    for part in parts:
        check_in("method", part, NAMES)
    terms = tuple(term for part in parts for term in METHODS[part].terms)
    if len(set(terms)) != len(terms):
        raise ValueError(f"method {name!r} names a penalty twice: {terms}")
    return Method(
        "; plus ".join(METHODS[part].description for part in parts),
        terms,
        smooth=any(METHODS[part].smooth for part in parts),
        skip=any(METHODS[part].skip for part in parts),
        attacked=any(METHODS[part].attacked for part in parts),
    )
