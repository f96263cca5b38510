"""The protocol of training, selection and evaluation, for each preset."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from r2et_jax import objectives


class Protocol(NamedTuple):
    """How much is trained and measured.

    Attributes:
      pretrain_epochs: epochs of the vanilla model.
      epochs: further epochs with a method's penalty, from the vanilla parameters.
      eval_every: epochs between two checkpoints that may be chosen.
      batch_size: examples in a batch of training.
      learning_rate: Adam's, for both parts.
      grid: penalty -> weights that are tried, for methods with one penalty.
      paired: the same for methods with several, which try all combinations.
      num_valid: validation inputs under the selection attack, at most.
      num_test: test inputs under attack, at most.
      strongest_budget: gradient evaluations of `strongest` for each input.
      everywhere: attacks that run at every budget ε, the others at the largest alone;
        None for all.
      pruning: pairs (share of the epochs, share of a grid's settings that go on), the
        same for every method; empty trains all settings to the end.
      schedule: `pretrain` begins with vanilla parameters; `scratch` with random ones,
        and trains for as many epochs in all.
      reference: the model whose ranking the penalties keep: `self`, `previous_epoch`
        or `vanilla`.
      learning_rate_schedule: `constant` or `cosine`.
      clip_norm: largest norm of a gradient, or None.
      average_decay: decay of the average of the parameters, step by step, or None.
      max_models: models of a seed that train at once, or None for the library's choice.
      num_train: training examples that are used, the first ones, or None for all.
      k_prime: pairs of the forms that take the smallest gaps, or None for
        `default_k_prime`.
    """

    pretrain_epochs: int
    epochs: int
    eval_every: int
    batch_size: int
    learning_rate: float
    grid: Mapping[str, tuple[float, ...]]
    paired: Mapping[str, tuple[float, ...]]
    num_valid: int
    num_test: int
    strongest_budget: int
    everywhere: tuple[str, ...] | None
    pruning: tuple[tuple[float, float], ...] = ()
    schedule: str = "pretrain"
    reference: str = "self"
    learning_rate_schedule: str = "constant"
    clip_norm: float | None = None
    average_decay: float | None = None
    max_models: int | None = None
    num_train: int | None = None
    k_prime: int | None = None


# Sums of methods that stand in the full table.
SUMS = ("wd+r2et_nh", "r2et_nh+logit_h", "skip+cert_rank")
SCHEDULES = ("pretrain", "scratch")
REFERENCES = ("self", "previous_epoch", "vanilla")
# Half of the settings go on after a fifth of the epochs, a quarter after two fifths.
HALVING = ((0.2, 0.5), (0.4, 0.25))

# Validation AUC that a chosen checkpoint may give up against the vanilla model.
TOLERANCES = (0.01, 0.003)
MAIN_TOLERANCE = TOLERANCES[0]
# Sharpness of the smooth stand-in for a piecewise-linear activation in attacks.
SURROGATE_RHO = 3.0
# Features in the top set of tabular data, as published.
TABULAR_K = 8

# Every tuned method tries twelve settings: equal effort. Methods with two penalties
# take every combination of _PAIRED: four of a ranking term, three of any other.
_GRID = {
    "l2": (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 4.5e-2, 6e-2),
    "gap": (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0),
    "exp_gap": (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0),
    "mm_gap": (0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
    "curvature": (0.003, 0.006, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0),
    "radius": (3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2),
    "adv_hinge": (1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6),
    "adv_loss": (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0),
    "decay": (0.06, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0),
    "frobenius_squared": (3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1, 3, 10, 30),
    "certified_gap": (0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 1, 2),
    "thickness": (0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 6.0, 10.0),
}
_GRID |= {
    "curvature_fd": _GRID["curvature"],
    "frobenius": _GRID["curvature"],
    "spectral": _GRID["curvature"],
    "logit_curvature": _GRID["curvature"],
    "cross_lipschitz": _GRID["curvature"],
    "gradient_change": _GRID["adv_loss"],
    "ig_change": _GRID["adv_loss"],
    "adv_gap": _GRID["gap"],
    "anchored_gap": _GRID["mm_gap"],
    "mm_gap_k": _GRID["mm_gap"],
    "mm_exp_gap": _GRID["exp_gap"],
    "radius_hinge": _GRID["adv_loss"],
}
_PAIRED = {
    "l2": (1e-3, 3e-3, 1e-2),
    "gap": (1.0, 2.0, 3.0, 6.0),
    "exp_gap": (0.1, 0.3, 0.6, 1.0),
    "mm_gap": (0.3, 0.6, 1.0, 2.0),
    "curvature": (0.01, 0.03, 0.1),
    "radius": (0.003, 0.01, 0.03, 0.1),
    "adv_hinge": (0.003, 0.01, 0.03, 0.1),
    "adv_loss": (0.1, 0.3, 1.0),
    "decay": (0.1, 0.3, 1.0),
    "frobenius_squared": (0.1, 1.0, 10.0),
    "certified_gap": (0.03, 0.1, 0.3, 1.0),
    "thickness": (0.1, 0.3, 1.0, 3.0),
    # No weight, but the step of est_h_fd: a tiny one misses every kink.
    "tau": (1e-1, 1e-2, 1e-4, 1e-6),
}
_PAIRED |= {
    "curvature_fd": _PAIRED["curvature"],
    "frobenius": _PAIRED["curvature"],
    "spectral": _PAIRED["curvature"],
    "logit_curvature": _PAIRED["curvature"],
    "cross_lipschitz": _PAIRED["curvature"],
    "gradient_change": _PAIRED["adv_loss"],
    "ig_change": _PAIRED["adv_loss"],
    "adv_gap": _PAIRED["gap"],
    "anchored_gap": _PAIRED["mm_gap"],
    "mm_gap_k": _PAIRED["mm_gap"],
    "mm_exp_gap": _PAIRED["exp_gap"],
    "radius_hinge": (0.1, 0.3, 1.0, 3.0),
}

PRESETS = {
    "smoke": Protocol(
        pretrain_epochs=20,
        epochs=20,
        eval_every=10,
        batch_size=64,
        learning_rate=1e-2,
        grid={name: weights[5:6] for name, weights in _GRID.items()},
        paired={name: weights[1:2] for name, weights in _PAIRED.items()},
        num_valid=50,
        num_test=50,
        strongest_budget=4200,
        everywhere=("er_surrogate",),
    ),
    "standard": Protocol(
        pretrain_epochs=40,
        epochs=40,
        eval_every=4,
        batch_size=256,
        learning_rate=1e-3,
        grid=_GRID,
        paired=_PAIRED,
        num_valid=500,
        num_test=500,
        strongest_budget=12_000,
        everywhere=("er_surrogate",),
        pruning=HALVING,
    ),
    "paper": Protocol(
        pretrain_epochs=300,
        epochs=300,
        eval_every=20,
        batch_size=256,
        learning_rate=1e-3,
        grid=_GRID,
        paired=_PAIRED,
        num_valid=500,
        num_test=1000,
        strongest_budget=16_000,
        everywhere=None,
    ),
}


def default_k_prime(k: int, num_features: int) -> int:
    """Pairs of R2ET-mm: half of k, since k′ = k is all pairs where n = 2k (compas).

    At most n − k, the features outside the top set.
    """
    return max(1, min(k // 2, num_features - k))


def weight_grid(method: str, protocol: Protocol) -> list[tuple[float, ...]]:
    """All combinations of penalty weights of a method; one empty one without any."""
    terms = objectives.method(method).terms
    grid = protocol.grid if len(terms) == 1 else protocol.paired
    return list(itertools.product(*(grid[term] for term in terms)))
