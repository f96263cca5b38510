"""What attacks return: one type for all of them, with what only some know beside it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import check_count
from r2et_jax.types import Array


class Best(NamedTuple):
    """The tracked input with the lowest P@k, the first one of several.

    Attributes:
      perturbed: input [n].
      precision: its P@k; NaN where the clean map is all zeros.
      step: the step after which it was seen; 0 is the clean input. `strongest` does not
        use it.
    """

    perturbed: Array
    precision: Array
    step: Array


class Steps(NamedTuple):
    """What an attack of one run tells of its steps.

    Attributes:
      last: the input after the last step [n].
      last_precision: its P@k.
      last_logits: its logits [C].
      last_class_changed: whether it has another predicted class than the clean input.
      objective: trace of the goal, one for each tracked step [num_tracked].
      precision: trace of P@k at the tracked steps [num_tracked].
      tied: whether the clean map is tied between ranks k and k+1.
      num_nonfinite: tracked inputs whose explanation or logits are not finite.
    """

    last: Array
    last_precision: Array
    last_logits: Array
    last_class_changed: Array
    objective: Array
    precision: Array
    tied: Array
    num_nonfinite: Array


class Rounds(NamedTuple):
    """What `strongest` tells of its members and rounds, for a batch of m inputs.

    Attributes:
      member_precision: lowest valid P@k of each member [members, m]; 1 where it was
        not run because the input was at 0 already, or the member suits other models.
      winner: the member that first reached the best value [m], an index, −1 if none
        lowered it.
      evaluations: evaluations spent on each input [m], see `Member.cost`.
      left_out: names of the members that did not fit into the evaluations.
      curve_evaluations: those spent on an input after each stage [c].
      curve: P@k of every input after each stage [c, m].
    """

    member_precision: np.ndarray
    winner: np.ndarray
    evaluations: np.ndarray
    left_out: tuple[str, ...]
    curve_evaluations: np.ndarray
    curve: np.ndarray


class AttackResult(NamedTuple):
    """What an attack on one input found (or on a batch, with a leading axis m).

    Attributes:
      best: the best valid input, as the threat model's prediction rule has it; its
        parts are also `perturbed` and `precision`.
      best_same_class: the best one among those whose predicted class stayed.
      clean_map, best_map: explanations of the clean and of the best valid input [n].
      clean_logits, best_logits: their logits [C].
      class_changed: whether the best valid input has another predicted class.
      prediction_change: total variation between the class probabilities of both, in
        [0, 1].
      vanished: share of steps whose gradient was exactly zero, in [0, 1]; a random draw
        counts as a step that did not vanish.
      manipulated_at: first tracked step (of `strongest`, evaluations) after which a
        top-k feature had left; 0 if none did, a censored input.
      details: `Steps` of an attack of one run, `Rounds` of `strongest`.
    """

    best: Best
    best_same_class: Best
    clean_map: Array
    best_map: Array
    clean_logits: Array
    best_logits: Array
    class_changed: Array
    prediction_change: Array
    vanished: Array
    manipulated_at: Array
    details: Steps | Rounds

    @property
    def perturbed(self) -> Array:
        """The best valid input [n]."""
        return self.best.perturbed

    @property
    def precision(self) -> Array:
        """Its P@k."""
        return self.best.precision


def manipulation_epoch(
    precision: Array, *, share: float = 1.0, track_every: int = 1
) -> Array:
    """The first tracked step at which P@k was below a share.

    With a share of 1 that is the first loss of a top-k feature. Of a large top set one
    is lost at once, and a smaller share tells inputs apart.

    Args:
      precision: P@k at the tracked steps [..., T], `Steps.precision`.
      share: in (0, 1].
      track_every: steps between two tracked ones.

    Returns:
      The steps, int32 [...]; 0 of a censored input, whose P@k never was.

    Raises:
      ValueError: for a share outside of (0, 1] or track_every < 1.

    Example:
      >>> precision = jnp.array([[1.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
      >>> print(manipulation_epoch(precision, track_every=10))
      [30  0]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    check_count("track_every", track_every)
    below = jnp.asarray(precision) < share
    first = (jnp.argmax(below, axis=-1) + 1) * track_every
    return jnp.where(jnp.any(below, axis=-1), first, 0).astype(jnp.int32)
