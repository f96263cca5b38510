"""How tight a certificate is for its time: certified P@k against seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.certify import lirpa
from experiments.problems.registry import Problem
from experiments.store.numbers import measured, summary
from r2et_jax import certificates
from r2et_jax.bounds import Policy
from r2et_jax.certificates.exact import is_piecewise_linear
from r2et_jax.execution import balanced_size
from r2et_jax.subject import Subject, subject

VARIANT = "variant"
# Metrics apart from those of the certificate that is reported.
CERTIFIED, SECONDS = "variant_p@k", "variant_seconds"
# Of the program of the gradient, for any network.
PROGRAMS = {
    "intervals": {"policy": Policy(slope="flat", quadratic=False)},
    "chords": {"policy": Policy(slope="chord")},
    "best slope": {"policy": Policy()},
    "best slope, 64 cells": {"policy": Policy(num_cells=64)},
    "products by intervals": {"policy": Policy(quadratic=False)},
    "no shared symbols": {"policy": Policy(max_symbols=0)},
    "4 pairs over 4 slabs": {"policy": Policy(), "num_pairs": 4, "num_slabs": 4},
    "16 pairs over 4 slabs": {"policy": Policy(), "num_pairs": 16, "num_slabs": 4},
}
# Inputs at a time, at most.
_BATCH_SIZE = 8
# Of one hidden layer's own bounds.
LAYERS = {f"layers, {n} slabs": {"num_slabs": n} for n in (1, 4, 16, 48)}
# Seconds of branch and bound, an input.
SEARCHES = (0.05, 0.5)
# The better of these, pair by pair.
_SLOPES = ("intervals", "chords", "best slope")


def measure(
    problem: Problem, model: Any, params: Any, *, k: int, epsilon: float, num_test: int
) -> dict[str, list[dict[str, Any]]]:
    """Variant -> its records: certified P@k of the test inputs, seconds an input.

    Args:
      problem: a table.
      model: the Flax module.
      params: its parameters.
      k: size of the top set.
      epsilon: budget of the l2 ball.
      num_test: test inputs, at most.
    """
    x = np.asarray(problem.inputs("test", num_test).x)
    ball = problem.threat_model(epsilon, norm="l2")
    examined = subject(model, params)
    measured_by = {}
    size = balanced_size(len(x), _BATCH_SIZE)
    separations, spent = [], 0.0
    ways = {**PROGRAMS, **(LAYERS if examined.layers is not None else {})}
    for name, options in ways.items():

        def run(x, options=options):
            return certificates.certify(
                examined, x, ball, k=k, batch_size=size, **options
            )

        made, seconds = _timed(run, x, size)
        measured_by[name] = _records(made.precision, seconds)
        if name in _SLOPES:
            separations.append(made.separation)
            spent += seconds
            features = made.features
    best = np.max(separations, axis=0)
    measured_by["better of three slopes"] = _records(_precision(best, features), spent)
    if not lirpa.why_not(model, ball):
        measured_by[lirpa.NAME] = _by_lirpa(model, params, x, epsilon, features, size)
    if examined.layers is not None and is_piecewise_linear(examined):
        measured_by.update(_searched(examined, x, ball, k))
    return measured_by


def _precision(separation, features):
    """P@k [m] of features whose separation from as many others is above 0."""
    n, k = separation.shape[2], separation.shape[1]
    others = np.arange(n) != features[:, :, None]
    below = ((separation > 0) & others).sum(axis=2)
    return (below >= n - k).mean(axis=1)


def _by_lirpa(model, params, x, epsilon, features, size):
    def logit(x):
        return model.apply(params, x)[0]

    gradients = np.asarray(jax.vmap(jax.grad(logit))(x))
    run = lirpa.separations(model, params, gradients, features)
    separation, seconds = _timed(lambda x: run(x, epsilon), x, size)
    return _records(_precision(separation, features), seconds)


def _searched(examined: Subject, x, ball, k):
    bounds = {}
    for limit in SEARCHES:
        made = certificates.exact_certificate(examined, x, ball, k=k, max_seconds=limit)
        name = f"branch and bound, {limit:g} s"
        bounds[name] = _records(made.lower, made.seconds.mean())
    return bounds


def _timed(run: Callable[[Any], Any], x, size: int) -> tuple[Any, float]:
    """What a compiled certificate finds, and its seconds an input.

    Before, two chunks of that size compile it.
    """
    run(x[: 2 * size])
    start = time.perf_counter()
    made = run(x)
    return made, (time.perf_counter() - start) / len(x)


def _records(precision, seconds: float) -> list[dict[str, Any]]:
    return [
        summary(CERTIFIED, precision),
        measured(SECONDS, seconds, None, len(precision)),
    ]
