"""Certified and attacked P@k of one model at one budget."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import numpy as np

from experiments.certify import variants
from experiments.loop import parts
from experiments.measures.evaluation import PER_INPUT, compiled_attack
from experiments.measures.evaluation import STRONGEST as STRONGEST
from experiments.models import trained
from experiments.problems import presets
from experiments.problems.registry import Problem
from experiments.problems.sizes import by_size
from experiments.store.numbers import each, measured, summary
from r2et_jax import certificates
from r2et_jax.certificates.exact import is_piecewise_linear
from r2et_jax.execution import balanced_size
from r2et_jax.subject import Subject, subject

# Inputs of tables that are certified at a time: their pairs stay within the cache. One
# image or graph fills it by itself.
_BATCH_SIZE = 8
# Of shares of k that are multiples of 1/k.
_ROUNDING = 1e-4


class Certifier:
    """Certifies and attacks models of one architecture on the test inputs of a problem.

    Args:
      problem: the data.
      model: the Flax module.
      k: size of the top set, the largest one where inputs have their own.
      num_test: test inputs, at most.
      strongest_evaluations: gradient evaluations of `strongest` for each input.
    """

    def __init__(
        self,
        problem: Problem,
        model: Any,
        *,
        k: int,
        num_test: int,
        strongest_evaluations: int,
    ):
        self.problem, self.model, self.k = problem, model, k
        self.view = problem.view
        inputs = problem.inputs("test", num_test)
        self.x, self.partner, _ = inputs
        self.units = inputs.units
        self.sizes = problem.top_sizes(self.x, k)
        self.strongest_evaluations = strongest_evaluations

    def clean(self, params: Any) -> list[dict[str, Any]]:
        """AUC on all test inputs."""
        auc = trained.test_auc(self.problem, self.model, params)
        count = len(self.problem.dataset.test.y)
        return [measured("auc", auc, None, count)]

    def measure(
        self, params: Any, epsilon: float, *, exact_seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """The records of one model at one budget: metric, value, stderr, n.

        Args:
          params: its parameters.
          epsilon: budget of the l2 ball.
          exact_seconds: time of the exact search for each input; None for none.
        """
        ball = self.problem.threat_model(epsilon, norm="l2")
        context = self.view.context(self.model, params, self.partner)
        certified, matches, seconds = self._certified(params, ball, context)
        attacked, moved = self._attacked(params, ball, context)
        # An input without an explanation has a P@k of NaN, which nothing is above.
        above = certified > attacked + _ROUNDING
        mean = functools.partial(summary, units=self.units)
        records = [
            mean("certified_p@k", certified),
            mean("certified_share", certified > 1 - _ROUNDING),
            mean("p@k", attacked),
            mean("attacked_share", attacked > 1 - _ROUNDING),
            mean("gap", attacked - certified),
            measured("violations", above.sum(), None, len(above)),
            measured("mismatched", (~matches).sum(), None, len(above)),
            measured("seconds", seconds, None, len(above)),
            each("certified_" + PER_INPUT, certified, self.units),
            each(PER_INPUT, attacked, self.units),
        ]
        if exact_seconds is not None and self._is_exact(params):
            records += self._exact(params, ball, moved, attacked, exact_seconds)
        return records

    def _subject(self, params: Any, context: Any) -> Subject:
        # A table's module brings the layers that its own bounds need.
        if self.view.tabular:
            return subject(self.model, params)
        return self.view.attacked(self.model, params, context)

    def _certified(self, params, ball, context):
        """Certified P@k [m], whether layers are the model's [m], seconds an input."""
        batch = _BATCH_SIZE if self.view.tabular else 1
        spent = []

        def run(k, rows):
            context_of = jax.tree.map(lambda leaf: leaf[rows], context)
            examined, x = self._subject(params, context_of), self.x[rows]

            # Chunks of one size, so that what is timed is compiled before.
            size = balanced_size(len(x), batch)

            def certify(count):
                first = jax.tree.map(lambda leaf: leaf[:count], examined.context)
                some = examined.at(examined.params, first)
                return certificates.certify(some, x[:count], ball, k=k, batch_size=size)

            certify(2 * size)
            start = time.perf_counter()
            certified = certify(len(x))
            spent.append(time.perf_counter() - start)
            return certified.precision, certified.matches

        precision, matches = by_size(self.sizes, run)
        return np.asarray(precision), np.asarray(matches), sum(spent) / len(self.x)

    def _attacked(self, params, ball, context):
        """P@k under attack [m], and the perturbed inputs [m, n]."""

        def run(k, rows):
            attack = compiled_attack(
                self.model,
                STRONGEST,
                k,
                self.view,
                evaluations=self.strongest_evaluations,
            )
            context_of = jax.tree.map(lambda leaf: leaf[rows], context)
            key = jax.random.key(0)
            best = attack(params, self.x[rows], ball, key=key, context=context_of).best
            return best.precision, best.perturbed

        precision, perturbed = by_size(self.sizes, run)
        return np.asarray(precision), np.asarray(perturbed)

    def _is_exact(self, params) -> bool:
        return self.view.tabular and is_piecewise_linear(subject(self.model, params))

    def _exact(self, params, ball, start, attacked, max_seconds):
        exact = certificates.exact_certificate(
            subject(self.model, params),
            self.x,
            ball,
            k=self.k,
            start=start,
            max_seconds=max_seconds,
        )
        above = exact.lower > attacked + _ROUNDING
        mean = functools.partial(summary, units=self.units)
        return [
            mean("exact_lower", exact.lower),
            mean("exact_upper", exact.upper),
            mean("exact_closed", exact.closed),
            mean("exact_seconds", exact.seconds),
            measured("exact_slowest", exact.seconds.max(), None, len(above)),
            measured("exact_violations", above.sum(), None, len(above)),
            each("exact_lower_inputs", exact.lower, self.units),
        ]


def measure_dataset(problem, k, options, store, exact):
    """Record what is not there yet of one data set with one k, model by model."""
    settings = problem.protocol(options.preset)
    limit = presets.CERTIFIED_INPUTS.get((options.preset, problem.view.kind))
    limit = settings.num_test if limit is None else limit
    certifiers = {}
    for chosen in parts.models(
        problem,
        k,
        options,
        description="certify",
        tolerances=(float(options.given["tolerance"]),),
        by_seed=True,
    ):
        if chosen.model not in certifiers:
            certifiers[chosen.model] = Certifier(
                problem,
                chosen.model,
                k=k,
                num_test=limit,
                strongest_evaluations=settings.strongest_evaluations,
            )
        certifier = certifiers[chosen.model]
        clean = {**chosen.fields, "attack": "none", "epsilon": None}
        if not store.has(**clean):
            records = certifier.clean(chosen.params)
            store.append([{**clean, **record} for record in records])
        _measure_variants(problem, chosen, k, limit, options, store)
        for epsilon in options.epsilon:
            cell = {**chosen.fields, "attack": STRONGEST, "epsilon": epsilon}
            if not store.has(**cell):
                seconds = options.given["exact_seconds"] if epsilon in exact else None
                records = certifier.measure(
                    chosen.params, epsilon, exact_seconds=seconds
                )
                store.append([{**cell, **record} for record in records])


def _measure_variants(problem, chosen, k, num_test, options, store):
    epsilon = options.given["variants"]
    if epsilon is None or not problem.view.tabular:
        return
    shared = {**chosen.fields, "attack": "none", "epsilon": epsilon}
    if store.select(**shared):
        return
    records = variants.measure(
        problem,
        chosen.model,
        chosen.params,
        k=k,
        epsilon=epsilon,
        num_test=min(num_test, presets.VARIANT_INPUTS),
    )
    store.append(
        [
            {**shared, variants.VARIANT: name, **record}
            for name, measurements in records.items()
            for record in measurements
        ]
    )
