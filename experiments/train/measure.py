"""Trains methods, and saves their models with what was selected."""

from __future__ import annotations

from experiments.loop import setup
from experiments.models import trained
from experiments.problems import presets


def train(fitter, method, options, folder, store):
    """Train one method and save its models; returns their folders."""
    data = fitter.problem
    fitted = fitter.fit(method)
    folders = []
    for s, seed in enumerate(options.seeds):
        for t, tolerance in enumerate(presets.TOLERANCES):
            model, params = fitted.at(s, t)
            choice = fitted.choices[s][t]
            fields = setup.model_fields(
                options.experiment,
                data,
                model,
                method=method,
                seed=seed,
                k=fitter.k,
                tolerance=tolerance,
                schedule=fitter.protocol.schedule,
            )
            cell = {**fields, "attack": "none", "epsilon": 0.0}
            auc = trained.test_auc(data, model, params)
            description = {
                **trained.describe_data(data),
                **{n: fields[n] for n in ("method", "schedule", "seed", "tolerance")},
                "k": fitter.k,
                "choice": choice,
                "auc": auc,
                "training": fitted.config,
            }
            name = f"{data.name}-{method}-seed{seed}-tolerance{tolerance}"
            name += f"-fold{data.fold}" if data.view.kind == "graph" else ""
            name += f"-k{fitter.k}" if len(options.k) > 1 else ""
            folders.append(folder / "models" / name)
            sha256 = trained.write(folders[-1], model, params, description)
            if store.has(**cell):
                _check_same(store, cell, sha256)
                continue
            cell["params_sha256"] = sha256
            record = {"metric": "auc", "value": auc, "stderr": None}
            record["n"] = len(data.dataset.test.y)
            store.append([{**cell, **record}, *trained.choice_records(cell, choice)])
    return folders


def _check_same(store, cell, sha256):
    """Raise if the records are of other parameters than those at hand."""
    (record,) = store.select(**cell, metric="auc")
    if record["params_sha256"] != sha256:
        raise ValueError(
            f"{store.path} is of other parameters of {cell['method']}, seed "
            f"{cell['seed']} (SHA-256 {record['params_sha256'][:12]}…, now "
            f"{sha256[:12]}…): trained on another machine, or by other software? "
            "Choose another --output_dir"
        )
