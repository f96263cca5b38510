"""How much is trained and measured of each kind of data, by preset.

Four kinds: "tabular"; "image" and "graph", pairs of them; and "single", images by
themselves. The numbers stand in `presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from experiments.problems import presets
from r2et_jax import objectives
from r2et_jax.training.weights import scaled, settings


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
      strongest_evaluations: gradient evaluations of `strongest` for each input.
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
    strongest_evaluations: int
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


# Of tables.
PRESETS = {name: Protocol(**fields) for name, fields in presets.PROTOCOLS.items()}


def default_k_prime(k: int, num_features: int) -> int:
    """Pairs of R2ET-mm: half of k, since k′ = k is all pairs where n = 2k (compas).

    At most n − k, the features outside the top set.
    """
    return max(1, min(k // 2, num_features - k))


def weight_grid(method: str, protocol: Protocol) -> list[tuple[float, ...]]:
    """All combinations of penalty weights of a method; one empty one without any."""
    terms = objectives.method(method).terms
    return settings(terms, protocol.grid if len(terms) == 1 else protocol.paired)


def methods(preset: str, kind: str) -> tuple[str, ...]:
    """The methods that are trained where none is named."""
    names = (
        presets.STRUCTURED_SMOKE if preset == "smoke" else presets.STRUCTURED_METHODS
    )
    if kind == "image":
        return names
    return tuple(presets.ESTIMATED.get(name, name) for name in names)


def protocol(preset: str, kind: str, num_features: int) -> Protocol:
    """A preset's protocol for images and graphs.

    Every tuned method tries four settings: every third weight of the tabular grid or
    those of images, two of each of two penalties. Weights of mean gaps grow with n, as
    the gaps fall.

    Args:
      preset: "smoke", "standard" or "paper".
      kind: "image", "graph" or "single".
      num_features: features that are ranked.
    """
    tabular = PRESETS[preset]
    if preset == "smoke":
        grid, paired = tabular.grid, tabular.paired
    else:
        grid = {term: weights[1::3] for term, weights in tabular.grid.items()}
        paired = {term: weights[::2] for term, weights in tabular.paired.items()}
    grid, paired = scaled(grid, num_features), scaled(paired, num_features)
    if kind != "graph" and preset != "smoke":
        grid |= {term: alone for term, (alone, _) in presets.IMAGE_WEIGHTS.items()}
        paired |= {term: beside for term, (_, beside) in presets.IMAGE_WEIGHTS.items()}
    return tabular._replace(grid=grid, paired=paired, **presets.CHANGES[preset, kind])


def budgets(
    kind: str, *, small: bool, norm: str = "l2"
) -> Mapping[str, tuple[float, ...]]:
    """The budgets of the attacks by preset, l2 or l∞ of images and l∞ of graphs.

    Args:
      kind: "image", "graph" or "single".
      small: whether the images are smaller than those of the published models.
      norm: of the budgets of images.
    """
    name = "linf" if kind == "graph" or norm == "linf" else "small" if small else "l2"
    grid = presets.BUDGETS[name]
    return {"smoke": grid[1:], "standard": grid, "paper": grid}
