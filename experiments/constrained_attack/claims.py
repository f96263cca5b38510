"""Do constrained attacks differ from the unconstrained one, and to what end?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.constrained_attack import measure as constrained
from experiments.constrained_attack import report as constrained_report
from experiments.loop import runs
from experiments.store import records
from r2et_jax import metrics

# One setting of every rule, the same on all data sets.
VARIANTS = (
    constrained.Variant("fixed", ranking_weight=0.5),
    constrained.Variant("gda", learning_rate=0.1),
    constrained.Variant("hedge", learning_rate=0.1),
    constrained.Variant("qp"),
)
_RULES = ("gda", "hedge", "qp", "fixed")
# A perturbation is another one from this distance on, in units of the budget.
_DISTANCE = 0.01


def constrained_differs(
    model: Any, params: Sequence[Any], x: Any, *, k: int, epsilon: float
) -> dict[str, dict[str, float]]:
    """Compare every rule with the unconstrained attack, mean over models.

    Args:
      model: the module.
      params: parameters, one set for each seed.
      x: inputs under attack [m, n].
      k: size of the top set.
      epsilon: l2 budget.

    Returns:
      weighting -> numbers. All have `p@k_last` and `sensitivity_last`, both of the
      last iterate. The constrained ones also have

      * `difference`: mean ‖δ − δ_unconstrained‖/ε of the last iterates, and
        `differing`, the share of inputs where it is above .01;
      * at the lowest P@k that both attacks reach along their iterations, `equal_p@k`,
        `sensitivity_at_equal` and `unconstrained_at_equal`;
      * `mean_sensitivity` and `mean_unconstrained`, means over the levels of P@k down
        to that one;
      * `saved`: unconstrained_at_equal − sensitivity_at_equal, its standard error over
        seeds `saved_stderr` (NaN for one seed), and the smallest one, `worst_saved`: a
        seed on which the unconstrained attack changes hardly any prediction at that
        P@k leaves nothing to save;
      * `holds`: 1 if `difference` is above .01 and `saved` above 0 by the one rule
        over runs, which one seed cannot tell, else 0.
    """
    runs = [_compare(model, one, x, k=k, epsilon=epsilon) for one in params]
    found = {}
    for weighting in runs[0]:
        each = {
            key: [run[weighting][key] for run in runs] for key in runs[0][weighting]
        }
        found[weighting] = {key: float(np.mean(values)) for key, values in each.items()}
        if "saved" in each:
            saved = metrics.estimate(each["saved"])
            differs = found[weighting]["difference"] > _DISTANCE
            holds = differs and metrics.verdicts([saved])[0] is True
            found[weighting] |= {
                "saved_stderr": saved.stderr,
                "worst_saved": min(each["saved"]),
                "holds": float(holds),
            }
    return found


def _compare(model, params, x, *, k, epsilon):
    base = constrained.run(
        model, params, x, constrained.UNCONSTRAINED, k=k, epsilon=epsilon
    )
    base_curve = constrained.curve(base)
    found = {"unconstrained": _last(base_curve)}
    for variant in VARIANTS:
        trajectory = constrained.run(model, params, x, variant, k=k, epsilon=epsilon)
        curve = constrained.curve(trajectory)
        equal = constrained.at_equal_precision(*curve, *base_curve)
        distances = constrained.difference(trajectory, base)
        found[variant.weighting] = {
            **_last(curve),
            "difference": float(distances.mean()),
            "differing": float((distances > _DISTANCE).mean()),
            "equal_p@k": equal.level,
            "sensitivity_at_equal": equal.sensitivity,
            "unconstrained_at_equal": equal.other,
            "mean_sensitivity": equal.mean,
            "mean_unconstrained": equal.other_mean,
            "saved": equal.other - equal.sensitivity,
        }
    return found


def _last(curve):
    precision, changed = curve
    return {
        "p@k_last": float(precision[-1]),
        "sensitivity_last": float(changed[-1]),
    }


def _derived(store, dataset, common):
    """What compares the attacks of each run, of the first budget and main method."""
    found = store.select(
        dataset=dataset,
        method=runs.main_method(common.methods),
        k=common.k[0],
        epsilon=common.epsilon[0],
        seed=common.seeds,
    )
    return constrained_report.derive(found)


def _by_rule(found, weighting, reduce):
    """Run -> a number of one rule, from its values over the rule's settings."""
    values: dict = {}
    for r in records.select(found, weighting=weighting):
        value = records.number(r["value"])
        values.setdefault((r["seed"], r["fold"]), []).append(value)
    return {run: reduce(of) for run, of in values.items()}


def _judge_front(store, dataset, common):
    found = records.select(_derived(store, dataset, common), metric="front")
    shares = {rule: _by_rule(found, rule, max) for rule in _RULES}
    if not shares["gda"]:
        return None
    settings = {
        rule: len(
            {
                (r["learning_rate"], r["ranking_weight"])
                for r in records.select(found, weighting=rule)
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
    text = f"{dataset}, runs with a setting on the front (of so many settings): {shown}"
    return verdict, text


def _judge_saved(store, dataset, common):
    found = _derived(store, dataset, common)
    pair = [
        _by_rule(records.select(found, metric=metric), "gda", np.mean)
        for metric in ("unconstrained_at_equal", "sensitivity_at_equal")
    ]
    if not all(pair):
        return None
    saved = runs.difference(*pair)
    whole = np.mean(list(pair[0].values()))
    text = (
        f"{dataset} the unconstrained attack changes {whole:.3f}, gda "
        f"{runs.shown(saved, '.3f')} fewer"
    )
    verdict = runs.above(saved, 0)
    nothing = (_NOTHING,) if verdict is None and whole < 0.01 else ()
    return verdict, text, *nothing


_NOTHING = (
    "Where the unconstrained attack changes hardly any prediction on its way to that "
    "P@k, there is nothing to save."
)
QUESTIONS = (
    runs.Question(
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
    runs.Question(
        "At the same P@k a constrained attack changes fewer predictions.",
        "predictions that the unconstrained attack changes minus those that gda does, "
        "mean over its learning rates, above 0",
        _judge_saved,
        _NOTHING,
        ours=True,
        figure="front",
    ),
)
