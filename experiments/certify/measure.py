"""Certified and attacked P@k of one model at one budget."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from experiments.measures.evaluation import PER_INPUT, strongest
from experiments.measures.numbers import each, measured, summary
from r2et_jax import certificates, metrics, threat
from r2et_jax.execution import map_batched

# Inputs that are certified at a time: their pairs stay within the cache.
_BATCH_SIZE = 8
# Of shares of k that are multiples of 1/k.
_ROUNDING = 1e-4


def clean_auc(model, params, split) -> dict[str, Any]:
    logits = np.asarray(model.apply(params, split.x))[:, 0]
    return measured("auc", metrics.roc_auc(split.y, logits), None, len(split.y))


def measure(
    model: Any, params: Any, x: np.ndarray, *, k: int, epsilon: float, budget: int
) -> list[dict[str, Any]]:
    """The records of one model at one budget: metric, value, stderr, n.

    Args:
      model: the Flax module.
      params: its parameters.
      x: inputs [m, n].
      k: size of the top set.
      epsilon: budget of the l2 ball.
      budget: gradient evaluations of the attack for each input.
    """
    ball = threat.threat_model("l2", epsilon)
    certified, matches = map(np.asarray, certify(model, k)(params, x, ball))
    run = strongest(model, k, budget)
    attacked = run(params, x, ball, key=jax.random.key(0)).best.precision
    # An input without an explanation has a P@k of NaN, which nothing is above.
    above = certified > attacked + _ROUNDING
    return [
        summary("certified_p@k", certified),
        summary("certified_share", certified > 1 - _ROUNDING),
        summary("p@k", attacked),
        summary("attacked_share", attacked > 1 - _ROUNDING),
        summary("gap", attacked - certified),
        measured("violations", above.sum(), None, len(x)),
        measured("mismatched", (~matches).sum(), None, len(x)),
        each("certified_" + PER_INPUT, certified),
        each(PER_INPUT, attacked),
    ]


@functools.lru_cache
def certify(model: Any, k: int):
    """The compiled certificate on a module: `run(params, x [m, n], threat)`.

    It returns certified P@k [m], and whether the layers are the module's [m].
    """
    one = certificates.ranking_certificate(model.apply, model.layers, k=k)

    def run(params, x, ball):
        def each(x):
            found = one(params, x, ball)
            return found.precision, found.matches

        return map_batched(each, (x,), batch_size=_BATCH_SIZE)

    return jax.jit(run)
