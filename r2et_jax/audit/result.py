"""What the audit says of a model on given inputs."""

from __future__ import annotations

import collections
from typing import NamedTuple

import numpy as np

from r2et_jax import metrics


class Audit(NamedTuple):
    """How stable the explanations of a model are on m inputs.

    An input without a ranking is left out of every mean, and its entries are NaN: where
    the log-odds or a value of the explanation is not finite, or no value is positive.
    Where fewer than k values are positive, P@k is the share of those.

    Attributes:
      precision: lowest P@k that `strongest` reached on each input [m]; an upper bound
        of what an adversary leaves.
      precision_same_class: the same among inputs whose predicted class stayed [m].
      perturbed: the inputs that reached `precision` [m, n].
      maps: clean explanations [m, n].
      top_k: clean top-k features [m, k], the largest first.
      kept: whether each of them has positive saliency and stayed in the top k of
        `perturbed`, boolean [m, k].
      same: mean top-k overlap between different inputs; near 1 the explanation hardly
        depends on the input, and a high precision says little. NaN where fewer than two
        distinct inputs have a ranking.
      noise_precision: P@k under random noise of norm 1e-6 [m]; below 1 the input sits
        on a kink or a tie.
      vanished: share of inputs at which the gradient of the ranking is exactly zero
        on all features that may move: attacks by the model's own gradient are blind
        there, and go through its smooth stand-in.
      predicted: the class of each clean input [m].
      excluded: why an input is left out, texts [m], empty where it is not.
      num_positive: features with positive saliency, integers [m].
      tied: whether the k-th and the (k+1)-th value are positive and equal, so that the
        top set depends on the features' order, boolean [m].
      moved: whether the threat model moved the clean input inside, boolean [m].
    """

    precision: np.ndarray
    precision_same_class: np.ndarray
    perturbed: np.ndarray
    maps: np.ndarray
    top_k: np.ndarray
    kept: np.ndarray
    same: float
    noise_precision: np.ndarray
    vanished: float
    predicted: np.ndarray
    excluded: np.ndarray
    num_positive: np.ndarray
    tied: np.ndarray
    moved: np.ndarray

    def __str__(self) -> str:
        k, m = self.top_k.shape[1], len(self.precision)
        counted = self.excluded == ""
        if not counted.any():
            lines = [f"P@{k} not available: no input has a ranking"]
        else:
            same = f"{self.same:.3f} between different inputs"
            if np.isnan(self.same):
                same = "overlap between inputs not available (only one)"
            n = f"{m} input{'s' * (m > 1)}"
            n = n if counted.all() else f"{counted.sum()} of {n}"
            lines = [
                f"P@{k} {_mean(self.precision)} under attack "
                f"({_mean(self.precision_same_class)} with the class kept), "
                f"{_mean(self.noise_precision)} under noise of norm 1e-6, "
                f"{same}; {n}"
            ]
        reasons = collections.Counter(self.excluded[~counted].tolist())
        if len(np.unique(self.predicted[counted])) == 1 < counted.sum():
            # Outputs of another kind than logits may never change sign.
            lines.append(f"all are predicted as class {self.predicted[counted][0]}")
        lines += [f"left out: {n} of {m} inputs, {why}" for why, n in reasons.items()]
        silent = int(np.sum(counted & ~np.isfinite(self.noise_precision)))
        fewer = int(np.sum(counted & (self.num_positive < k)))
        for n, what in (
            (fewer, f"have fewer than {k} features with saliency: P@{k} is over those"),
            (int(self.tied.sum()), f"are tied between ranks {k} and {k + 1}"),
            (silent, "have no ranking under the noise, and are left out there"),
            (int(self.moved.sum()), "were outside of the box and were moved inside"),
        ):
            lines += [f"{n} of {m} inputs {what}"] * bool(n)
        return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    return f"{metrics.mean_and_stderr(values).mean:.3f}"
