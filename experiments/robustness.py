"""Robustness of the top-k explanation: methods × data sets × seeds × attacks × ε.

Trains every method, chooses its checkpoints on validation data by one rule, attacks
the explanations of test inputs and writes records, a table and figures.

    python -m experiments.robustness --datasets=adult,bank,compas
"""

from __future__ import annotations

from typing import Any

from experiments.common import cli, flags, protocol, records, setup
from experiments.common.evaluation import STRONGEST, Evaluator
from experiments.common.fitting import LOGISTIC
from experiments.common.progress import track
from experiments.common.robustness_report import summary, write_report
from r2et_jax import attacks, datasets, objectives

_METHODS = "vanilla,wd,sp,est_h,r2et_nh,r2et,r2et_mm_nh,r2et_mm"
FLAGS = flags.define_common(
    "robustness",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": {
            "smoke": f"{LOGISTIC},vanilla,wd,r2et_nh,r2et",
            "standard": f"{LOGISTIC},{_METHODS}",
            "paper": f"{LOGISTIC},{_METHODS}",
        },
        "attacks": {
            "smoke": f"er,er_surrogate,mse,random,{STRONGEST}",
            "standard": f"er,er_surrogate,mse,random,{STRONGEST}",
            "paper": f"er,er_segment,er_surrogate,mse,random,{STRONGEST}",
        },
        "k": str(protocol.TABULAR_K),
        "epsilon": {
            "smoke": "0.5,1",
            "standard": ".1,.25,.5,1",
            "paper": ".1,.25,.5,1",
        },
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
)


def main(argv):
    del argv
    common = FLAGS.read(
        datasets=datasets.names(),
        methods=(*objectives.NAMES, LOGISTIC),
        attacks=(*attacks.NAMES, STRONGEST),
    )
    loaded, folder, store = setup.open_run(common, experiment=FLAGS.experiment)
    for dataset in loaded:
        for k in common.k:
            _measure_dataset(dataset, k, common, store)
    written = write_report(folder, store, common)
    for k in common.k:
        print(summary(store, common, k))
    print("\n".join(map(str, [folder / "records.jsonl", *written])))


def _measure_dataset(dataset, k, common, store):
    settings = protocol.PRESETS[common.preset]
    fitter = setup.fitter(dataset, k, common)
    evaluators = {}
    for method in common.methods:
        fitted = fitter.fit(method)
        cells = [
            (s, t)
            for s in range(len(common.seeds))
            for t in range(len(protocol.TOLERANCES))
        ]
        for s, t in track(
            cells, description=f"{dataset.name} {method} attack", show=common.progress
        ):
            model, params = fitted.at(s, t)
            if model not in evaluators:
                evaluators[model] = Evaluator(
                    dataset,
                    model,
                    k=k,
                    num_test=settings.num_test,
                    strongest_budget=settings.strongest_budget,
                )
            fields = setup.model_fields(
                FLAGS.experiment,
                dataset,
                model,
                method=method,
                seed=common.seeds[s],
                k=k,
                tolerance=protocol.TOLERANCES[t],
            )
            _measure_model(
                fields, params, fitted.choices[s][t], evaluators[model], common, store
            )


def _measure_model(fields, params, choice, evaluator, common, store):
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        found = [{**clean, **record} for record in evaluator.clean(params)]
        store.append([*found, *_choice_records(clean, choice)])
    same = records.number(store.select(**clean, metric="same")[0]["value"])
    settings = protocol.PRESETS[common.preset]
    for name in common.attacks:
        everywhere = name != STRONGEST or settings.strongest_everywhere
        for epsilon in common.epsilon if everywhere else [max(common.epsilon)]:
            cell = {**fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                found = evaluator.attacked(params, name, epsilon, same=same)
                store.append([{**cell, **record} for record in found])


def _choice_records(cell: dict[str, Any], choice: dict[str, Any]):
    """What selection chose, as records."""
    chosen = {
        "epoch": choice["epoch"],
        "valid_auc": choice["valid_auc"],
        "valid_p@k": choice["valid_precision"],
        "num_admissible": choice["num_admissible"],
        "fallback": float(choice["fallback"]),
        **{f"weight_{term}": w for term, w in choice["weights"].items()},
    }
    return [
        {**cell, "metric": name, "value": float(value), "stderr": None, "n": 1}
        for name, value in chosen.items()
        if value is not None
    ]


if __name__ == "__main__":
    cli.run(main)
