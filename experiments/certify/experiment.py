"""Certified and attacked P@k against the budget: what of the robustness is provable.

Trains methods (or finds their models), bounds the P@k of every test input from below
over the whole ball, and attacks the same inputs and the same map with the strongest
attack at the same budget. Certified > attacked would disprove the bound; such inputs
are counted.

    python -m experiments.certify --datasets=adult --methods=vanilla,sp,skip+cert_rank
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from experiments.certify import report as certify_report
from experiments.console import flags
from experiments.loop import parts, setup
from experiments.measures.evaluation import PER_INPUT, STRONGEST, strongest
from experiments.measures.numbers import each, measured, summary
from experiments.models.fitting import LOGISTIC
from experiments.problems import presets
from experiments.problems.registry import problem
from r2et_jax import certificates, datasets, metrics, objectives, threat
from r2et_jax.execution import map_batched

# Inputs that are certified at a time: their pairs stay within the cache.
_BATCH_SIZE = 8
# Of shares of k that are multiples of 1/k.
_ROUNDING = 1e-4
FLAGS = flags.describe(
    "certify",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": {
            "smoke": "vanilla,skip+cert_rank",
            "standard": "vanilla,sp,wd,cert_rank,skip+cert_rank",
            "paper": "logistic,vanilla,sp,wd,r2et,r2et_nh,cert_rank,skip+cert_rank",
        },
        "attacks": STRONGEST,
        "k": str(presets.TABULAR_K),
        "epsilon": ".1,.25,.5,1",
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=datasets.names(),
        methods=(*objectives.NAMES, LOGISTIC),
        attacks=(STRONGEST,),
    )
    chosen = [parts.choose(problem(data), common) for data in setup.load(common)]
    folder, store = setup.open_folder(
        common, (part.found for part in chosen), experiment=FLAGS.experiment
    )
    for found, own, k in parts.in_turn(chosen):
        _measure_dataset(found, k, own, store)
    for path in certify_report.write_report(folder, store, common):
        print(path)


def _measure_dataset(found, k, common, store):
    settings = found.protocol(common.preset)
    x = found.inputs("test", settings.num_test).x
    for one in parts.models(
        FLAGS.experiment, found, k, common, description="certify", by_seed=True
    ):
        clean = {**one.fields, "attack": "none", "epsilon": None}
        if not store.has(**clean):
            test = found.dataset.test
            store.append({**clean, **_clean(one.model, one.params, test)})
        for epsilon in common.epsilon:
            cell = {**one.fields, "attack": STRONGEST, "epsilon": epsilon}
            if not store.has(**cell):
                measurements = measure(
                    one.model,
                    one.params,
                    x,
                    k=k,
                    epsilon=epsilon,
                    budget=settings.strongest_budget,
                )
                store.append([{**cell, **record} for record in measurements])


def _clean(model, params, split) -> dict[str, Any]:
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
