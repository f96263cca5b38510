"""Hand-made records of the robustness experiment, with known answers."""

from pathlib import Path

from experiments.console.flags import Options
from experiments.robustness import comparisons
from experiments.robustness.results import Results
from experiments.store import records as records_module

SEEDS = (0, 1, 2)
METHODS = ("logistic", "vanilla", "wd", "sp", "r2et", "wd+r2et_nh", "rat")
DATASETS = ("adult", "adult_ref")
# P@8 of every test input, the validation value and clean numbers of each method; wd
# is the best baseline on validation inputs, sp would be on test inputs.
MADE = {
    #              P@8   valid  auc   same  null  R²
    "logistic": (1.0, 1.0, 0.75, 1.0, 0.25, 1.0),
    "vanilla": (0.25, 0.25, 0.90, 0.5, 0.25, 0.90),
    "wd": (0.5, 0.875, 0.85, 0.75, 0.25, 0.984375),
    "sp": (0.625, 0.75, 0.90, 0.5, 0.36, 0.90),
    "r2et": (0.75, 0.75, 0.80, 0.953125, 0.34375, 0.90),
    "wd+r2et_nh": (0.5, 0.625, 0.80, 0.75, 0.25, 0.979),
    "rat": (0.375, 0.5, 0.80, 0.75, 0.25, 0.90),
}


class Store(list):
    """What a report needs of a store."""

    def select(self, **filters):
        return records_module.select(self, **filters)


def settings(tmp_path=Path("."), **changes):
    options = Options(
        datasets=DATASETS, methods=METHODS, attacks=("er_surrogate", "strongest"),
        k=(8,), epsilon=(0.5, 1.0), seeds=SEEDS, data_dir=tmp_path,
        models_dir=tmp_path, output_dir=tmp_path, preset="smoke", progress=False,
        config={},
    )  # fmt: skip
    return options._replace(**changes)


def made_records(*, inputs=True):
    """The records of a run in which only the seed's share of 1/64 varies."""
    return Store(
        record
        for dataset in DATASETS
        for method in METHODS
        for seed in SEEDS
        for tolerance in (0.01, 0.003)
        for record in model_records(dataset, method, seed, tolerance, inputs)
    )


def model_records(dataset, method, seed, tolerance, inputs):
    level, valid, auc, same, null, linear = MADE[method]
    if dataset.endswith("_ref"):
        level -= {"r2et": 0.25}.get(method, 0.0) + (seed / 64 if method == "sp" else 0)
    fields = {
        "experiment": "robustness", "dataset": dataset, "model": "mlp",
        "method": method, "schedule": "pretrain", "seed": seed, "fold": 0, "k": 8,
        "tolerance": tolerance, "attack": "none", "epsilon": 0.0, "stderr": None,
        "n": 40,
    }  # fmt: skip
    shift = 0.0 if method == "logistic" else seed / 64
    clean = {"auc": auc + shift, "same": same, "null": null, "linear_r2": linear}
    clean |= {"valid_p@k": valid, "valid_auc": auc, "epoch": 6.0}
    clean["fallback"] = float(method == "rat" and seed == 0)
    if "wd" in method:
        clean["weight_l2"] = 0.0625
    result = [{**fields, "metric": name, "value": v} for name, v in clean.items()]
    noise = {"attack": "noise", "epsilon": 1e-6, "metric": "p@k", "value": 1.0}
    result.append({**fields, **noise})
    for attack in ("er_surrogate", "strongest"):
        for epsilon in (0.5, 1.0):
            cell = {**fields, "attack": attack, "epsilon": epsilon}
            value = level + (1 - epsilon) * (1 - level)
            measured = {"p@k": value, "p@k+": value - 0.5, "p@k_same_class": value}
            measured |= {"aauc": auc, "sensitivity": 0.125}
            result += [{**cell, "metric": m, "value": v} for m, v in measured.items()]
            path = {"metric": "p@k_curve", "evaluations": 100, "value": value}
            trace = {"metric": "p@k_trace", "step_share": 1.0, "value": value}
            result.append({**cell, **(path if attack == "strongest" else trace)})
            if inputs and epsilon == 1.0:
                # A pattern that all methods share, so that differences are constant.
                values = [value + (i % 3 - 1) / 8 for i in range(39)]
                result.append(
                    {**cell, "metric": "p@k_inputs", "value": value, "values": values}
                )
    return result


def compare(store, **changes):
    results = Results(store, settings(**changes), k=8)
    return comparisons.compare_all(results, (0.01,))


def row(compared, method, *, dataset="adult", attack="strongest"):
    (match,) = [
        r
        for r in compared.rows
        if (r.dataset, r.attack, r.method) == (dataset, attack, method)
    ]
    return match
