"""The named penalties that objectives are summed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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


TERMS: dict[str, Term] = {
    "l2": Term(on_params=penalties.squared_weights),
    "decay": Term(decay=True),
    "gap": Term(lambda apply, s: penalties.mean_gap(apply, **s.ranked)),
    "exp_gap": Term(lambda apply, s: penalties.exponential_gap(apply, **s.ranked)),
    "mm_gap": Term(lambda apply, s: penalties.smallest_pairs(apply, **s.smallest)),
    "mm_gap_k": Term(lambda apply, s: penalties.smallest_pairs(apply, **s.ranked)),
    "mm_exp_gap": Term(
        lambda apply, s: penalties.exponential_smallest(apply, **s.smallest)
    ),
    "anchored_gap": Term(
        lambda apply, s: penalties.anchored_pairs(apply, **s.smallest)
    ),
    "curvature": Term(lambda apply, s: penalties.directional_curvature(apply)),
    "curvature_fd": Term(
        lambda apply, s: penalties.directional_difference(apply), numbers=("tau",)
    ),
    "tau": Term(number=True),
    "frobenius": Term(
        lambda apply, s: curvature_penalties.frobenius_curvature(apply, split=s.split)
    ),
    "frobenius_squared": Term(
        lambda apply, s: curvature_penalties.squared_curvature(apply), random=True
    ),
    "spectral": Term(
        lambda apply, s: curvature_penalties.spectral_curvature(apply, split=s.split)
    ),
    "logit_curvature": Term(
        lambda apply, s: curvature_penalties.relative_curvature(apply)
    ),
    "radius": Term(lambda apply, s: ratios.mean_radius(apply, **s.smallest)),
    "radius_hinge": Term(
        lambda apply, s: ratios.radius_hinge(apply, **s.smallest, margin=s.epsilon)
    ),
    "cross_lipschitz": Term(lambda apply, s: gradient_penalties.cross_lipschitz(apply)),
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
        lambda apply, s: adversarial.adversarial_gap(apply, _inner(s), k=s.k)
    ),
    "adv_hinge": Term(
        lambda apply, s: adversarial.adversarial_hinge(
            apply, _inner(s)._replace(start=0.3), k=s.k
        ),
        random=True,
    ),
    "thickness": Term(
        lambda apply, s: thickness.negative_thickness(apply, **s.ranked), random=True
    ),
    "certified_gap": Term(_certified, ramped=True, most=_bounded_examples),
}
