"""Do constrained attacks differ from the unconstrained one, and to what end?"""

from __future__ import annotations

import numpy as np

from experiments.constrained_attack import report
from experiments.report import statistics
from experiments.report.exhibit import Verdict
from experiments.report.judging import Question, main_method
from experiments.store import records

_RULES = ("gda", "hedge", "qp", "fixed")


def _derived(store, dataset, options):
    """What compares the attacks of each run, of the first budget and main method."""
    recorded = store.select(
        dataset=dataset,
        method=main_method(options.methods),
        k=options.k[0],
        epsilon=options.epsilon[0],
        seed=options.seeds,
    )
    return report.derive(recorded)


def _by_rule(recorded, weighting, reduce):
    """Run -> a number of one rule, from its values over the rule's settings."""
    values: dict = {}
    for r in records.select(recorded, weighting=weighting):
        value = records.number(r["value"])
        values.setdefault((r["seed"], r["fold"]), []).append(value)
    return {run: reduce(of) for run, of in values.items()}


def _judge_front(store, dataset, options):
    recorded = records.select(_derived(store, dataset, options), metric="front")
    shares = {rule: _by_rule(recorded, rule, max) for rule in _RULES}
    if not shares["gda"]:
        return None
    settings = {
        rule: len(
            {
                (r["learning_rate"], r["ranking_weight"])
                for r in records.select(recorded, weighting=rule)
            }
        )
        for rule in shares
    }
    shown = ", ".join(
        f"{rule} {sum(of.values()):.0f}/{len(of)} (of {settings[rule]})"
        for rule, of in shares.items()
        if of
    )
    share = np.mean(list(shares["gda"].values()))
    verdict = True if share == 1 else False if share <= 0.5 else None
    text = f"runs with a setting on the front (of so many settings): {shown}"
    return Verdict(verdict, text)


def _judge_saved(store, dataset, options):
    recorded = _derived(store, dataset, options)
    pair = [
        _by_rule(records.select(recorded, metric=metric), "gda", np.mean)
        for metric in ("unconstrained_at_equal", "sensitivity_at_equal")
    ]
    if not all(pair):
        return None
    saved = statistics.difference(*pair)
    whole = np.mean(list(pair[0].values()))
    text = (
        f"the unconstrained attack changes {whole:.3f}, gda "
        f"{statistics.shown(saved, '.3f')} fewer"
    )
    verdict = statistics.above(saved, 0)
    nothing = _NOTHING if verdict is None and whole < 0.01 else ""
    return Verdict(verdict, text, nothing)


_NOTHING = (
    "Where the unconstrained attack changes hardly any prediction on its way to that "
    "P@k, there is nothing to save."
)
QUESTIONS = (
    Question(
        "Gradient descent-ascent of the weights (gda) is on the front of P@k against "
        "sensitivity.",
        "one of its learning rates is not dominated at the last iterate: held in every "
        "run, did not hold in half of them or fewer",
        _judge_front,
        "Its weights move to the constraint once the class is at risk, and then give "
        "up P@k that other rules keep; see the figure.",
        exact=True,
        figure="front",
    ),
    Question(
        "At the same P@k a constrained attack changes fewer predictions.",
        "predictions that the unconstrained attack changes minus those that gda does, "
        "mean over its learning rates, above 0",
        _judge_saved,
        _NOTHING,
        ours=True,
        figure="front",
    ),
)
