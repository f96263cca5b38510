"""Constrained attacks: P@k against sensitivity, five weightings × learning rates.

A constrained attack lowers the overlap of the top-k features while it keeps the
predicted class. Every model is attacked by every weighting of the two objectives;
P@k and sensitivity (the share of inputs whose predicted class changed) are those of
one and the same perturbed input.

    python -m experiments.constrained_attack --datasets=adult,bank,compas
"""

from __future__ import annotations

import numpy as np
from absl import flags as absl_flags

from experiments.common import (
    cli,
    constrained,
    constrained_report,
    flags,
    protocol,
    setup,
)
from experiments.common.fitting import LOGISTIC
from experiments.common.measured import summary
from experiments.common.progress import track
from r2et_jax import checks, datasets, objectives
from r2et_jax.attacks.constrained import WEIGHTINGS

ATTACK = "constrained"
FLAGS = flags.define_common(
    "constrained_attack",
    defaults={
        "datasets": {
            "smoke": "breast_cancer",
            "standard": "adult,bank,compas",
            "paper": "adult,bank,compas",
        },
        "methods": "vanilla",
        "attacks": ATTACK,
        "k": str(protocol.TABULAR_K),
        "epsilon": "1",
        "seeds": {"smoke": "0,1", "standard": "0,1,2,3,4", "paper": "0,1,2,3,4"},
    },
)
_LISTS = {
    "weightings": (
        "rules for the weights of the objectives",
        ",".join(WEIGHTINGS),
    ),
    "learning_rates": (
        "learning rates of the weights, for gda and hedge",
        {"smoke": ".1,1", "standard": ".01,.1,1", "paper": ".003,.01,.03,.1,.3,1"},
    ),
    "ranking_weights": (
        "weights of the ranking objective, for fixed weights",
        {
            "smoke": ".5,.9",
            "standard": ".1,.3,.5,.7,.9",
            "paper": ".05,.1,.3,.5,.7,.9,.95",
        },
    ),
}
for _name, (_meaning, _default) in _LISTS.items():
    _shown = _default if isinstance(_default, str) else "by preset"
    absl_flags.DEFINE_list(
        _name,
        None,
        f"{_meaning}, comma-separated (default: {_shown})",
        allow_override=True,
    )


def main(argv):
    del argv
    common = FLAGS.read(
        datasets=datasets.names(),
        methods=(*objectives.NAMES, LOGISTIC),
        attacks=(ATTACK,),
    )
    given = {name: _given(name, common.preset) for name in _LISTS}
    variants = _variants(given)
    common = common._replace(config={**common.config, **given})
    loaded, folder, store = setup.open_run(common, experiment=FLAGS.experiment)
    for dataset, k in setup.in_turn(loaded, common):
        _measure_dataset(dataset, k, common, variants, store)
    for path in constrained_report.write_report(folder, store, common):
        print(path)


def _given(name: str, preset: str) -> list[str]:
    """The entries of a list flag, or the preset's."""
    value = absl_flags.FLAGS[name].value
    if value is not None:
        return value
    return flags.by_preset(_LISTS[name][1], preset).split(",")


def _variants(given) -> list[constrained.Variant]:
    rates = flags.parse_floats("learning_rates", given["learning_rates"])
    weights = flags.parse_floats("ranking_weights", given["ranking_weights"])
    for rate in rates:
        checks.check_positive("learning rate", rate)
    if any(weight > 1 for weight in weights):
        raise ValueError(f"--ranking_weights must lie in 0…1, got {max(weights)}")
    names = flags.parse_names("weightings", given["weightings"], known=WEIGHTINGS)
    return constrained.variants(names, rates, weights)


def _measure_dataset(dataset, k, common, variants, store):
    settings = protocol.PRESETS[common.preset]
    fitter = setup.fitter(dataset, k, common)
    x = dataset.test.x[: settings.num_test]
    main_tolerance = protocol.TOLERANCES.index(protocol.MAIN_TOLERANCE)
    for method in common.methods:
        fitted = fitter.fit(method)
        cells = [
            (s, epsilon) for s in range(len(common.seeds)) for epsilon in common.epsilon
        ]
        for s, epsilon in track(
            cells, description=f"{dataset.name} {method} attack", show=common.progress
        ):
            model, params = fitted.at(s, main_tolerance)
            fields = setup.model_fields(
                FLAGS.experiment,
                dataset,
                model,
                method=method,
                seed=common.seeds[s],
                k=k,
                tolerance=protocol.MAIN_TOLERANCE,
            )
            fields |= {"attack": ATTACK, "epsilon": epsilon}
            if not store.has(**fields):
                store.append(_cell(fields, model, params, x, variants))


def _cell(fields, model, params, x, variants):
    """The records of one model at one budget, for all variants."""
    found, base = [], None
    for variant in variants:
        trajectory = constrained.run(
            model, params, x, variant, k=fields["k"], epsilon=fields["epsilon"]
        )
        base = trajectory if base is None else base
        cell = {**fields, **variant._asdict()}
        found += [{**cell, **record} for record in _measured(trajectory, base)]
    return found


def _measured(trajectory, base):
    """Records of one attack; the metrics' names are those of the other experiments."""
    rows = np.arange(len(trajectory.precision))
    # The first iterate is the random start, no work of the attack's.
    precision, changed = trajectory.precision[:, 1:], trajectory.changed[:, 1:]
    filled = np.where(np.isnan(precision), np.inf, precision)
    best = np.argmin(filled, axis=1)
    kept = np.min(np.where(changed, 1.0, precision), axis=1)
    found = [
        summary("p@k_last", precision[:, -1]),
        summary("sensitivity_last", changed[:, -1]),
        summary("p@k", precision[rows, best]),
        summary("sensitivity", changed[rows, best]),
        summary("p@k_same_class", kept),
        summary("objective_ranking", trajectory.goal),
        summary("objective_prediction", trajectory.scaled),
        summary("kl", trajectory.divergence[:, -1]),
        summary("ranking_weight_last", trajectory.ranking_weight),
        summary("difference", constrained.difference(trajectory, base)),
        summary("length", np.linalg.norm(trajectory.delta, axis=1)),
        summary("nonfinite", trajectory.num_nonfinite),
    ]
    for t in range(trajectory.precision.shape[1]):
        step = {"step": t * constrained.TRACK_EVERY}
        for metric, values in (
            ("p@k_trace", trajectory.precision[:, t]),
            ("sensitivity_trace", trajectory.changed[:, t]),
        ):
            found.append({**summary(metric, values), **step})
    return found


if __name__ == "__main__":
    cli.run(main)
