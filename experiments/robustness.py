"""Robustness of the top-k explanation: methods × data sets × seeds × attacks × ε.

Trains every method, chooses its checkpoints on validation data by one rule, attacks
the explanations of test inputs and writes records, a table and figures.

    python -m experiments.robustness --datasets=adult,bank,compas
    python -m experiments.robustness --datasets=mnist
    python -m experiments.robustness --datasets=planted,hiv
"""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.common import (
    cli,
    flags,
    protocol,
    records,
    setup,
    trained,
    training_flags,
)
from experiments.common.evaluation import PER_INPUT, STRONGEST, Evaluator
from experiments.common.fitting import LOGISTIC
from experiments.common.output import write_text_atomic
from experiments.common.problems import POOLINGS, Problem, problem
from experiments.common.progress import track
from experiments.common.robustness_report import summary, write_report
from r2et_jax import attacks, checks, datasets, objectives

# Attacks whose P@k of every input is kept, for comparisons between methods.
_COMPARED = (STRONGEST, "er_surrogate")
# Flags whose default is a data set's own choice for pairs.
_OWN = ("methods", "k", "epsilon", "seeds")
_OF_PAIRS = ("folds", "pooling")
# What the report says of a data set's attacks.
_OF_VIEW = ("kind", "norm", "num_steps")
_METHODS = ",".join([LOGISTIC, *objectives.NAMES, *protocol.SUMS])
_MAIN = f"{LOGISTIC},vanilla,wd,sp,exact_h,r2et_nh,r2et,r2et_mm,skip+cert_rank"
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
            "standard": _METHODS,
            "paper": _METHODS,
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
    own=(*training_flags.NAMES, *_OF_PAIRS),
)
training_flags.define_training()
absl_flags.DEFINE_list(
    "reference_methods",
    None,
    "methods that are also measured with one reference level of each category dropped "
    f"(default: smoke none; standard, paper {_MAIN})",
    allow_override=True,
)
absl_flags.DEFINE_list(
    "folds",
    None,
    "parts of the cross-validation of graphs that are the test part (default: smoke 0; "
    "standard, paper 0,1,2,3,4)",
    allow_override=True,
)
absl_flags.DEFINE_enum(
    "pooling",
    None,
    POOLINGS,
    "of the convolutional network for images (default: max)",
    allow_override=True,
)


def main(argv):
    del argv
    common = FLAGS.read(
        datasets=(*datasets.names(), *datasets.names("pairs")),
        methods=(*objectives.NAMES, LOGISTIC),
        attacks=(*attacks.NAMES, STRONGEST),
    )
    reduced = _reference_methods(common)
    asked = common.datasets
    if reduced:
        found = (name + datasets.REFERENCE_SUFFIX for name in asked)
        more = tuple(n for n in found if n in datasets.names() and n not in asked)
        common = common._replace(datasets=(*asked, *more))
    config = {**common.config, "reference_methods": list(reduced)}
    # What is of no account for tables must not tell their runs apart.
    config = {n: v for n, v in config.items() if n not in _OF_PAIRS or v is not None}
    parts = [
        (found, _own_choices(found, common._replace(config=config)))
        for found in _problems(common)
    ]
    chosen = {
        found.name: {name: list(getattr(own, name)) for name in _OWN}
        for found, own in parts
        if found.view.paired
    }
    if chosen:
        config["by_dataset"] = chosen
    folder, store = setup.open_folder(
        common._replace(config=config), experiment=FLAGS.experiment
    )
    last = None
    for found, own in parts:
        methods = own.methods if found.name in asked else reduced
        for k in own.k:
            # The folds of one data set share their programs.
            if last not in (None, (found.name, k)):
                setup.free_programs()
            last = found.name, k
            _measure_dataset(found, k, own._replace(methods=methods), store)
    written = _report(parts, folder, store)
    print("\n".join(map(str, [folder / "records.jsonl", *written])))


def _problems(common) -> list[Problem]:
    given = absl_flags.FLAGS["folds"].value
    if given is None:
        given = ["0"] if common.preset == "smoke" else list("01234")
    loaded = setup.load(common, folds=flags.parse_ints("folds", given, minimum=0))
    pooling = absl_flags.FLAGS["pooling"].value or POOLINGS[0]
    return [problem(dataset, pooling=pooling) for dataset in loaded]


def _own_choices(found: Problem, common):
    """The flags for one data set: what was not given is its own choice.

    Raises:
      ValueError: k out of range, or a method that does not train such networks.
    """
    if found.view.paired:
        own = {
            "methods": found.methods(common.preset, common.methods),
            "k": (found.k,),
            "epsilon": found.epsilon[common.preset],
            "seeds": found.seeds(common.preset, common.seeds),
        }
        given = [name for name in _OWN if absl_flags.FLAGS[name].value is not None]
        for name in given:
            del own[name]
        view = {name: getattr(found.view, name) for name in _OF_VIEW}
        common = common._replace(datasets=(found.name,), **own, **view)
        for method in common.methods:
            found.check_method(method)
    for k in common.k:
        checks.check_k(k, found.num_features)
    return common


def _report(parts, folder, store):
    """Write and print the results, apart for data sets of other settings."""
    groups = {}
    for found, own in parts:
        same = own.kind, own.norm, *(getattr(own, name) for name in _OWN)
        names, _ = groups.setdefault(same, ([], own))
        if found.name not in names:
            names.append(found.name)
    written, text = [], []
    for names, own in groups.values():
        own = own._replace(datasets=tuple(names))
        name = "tabular" if own.kind == "tabular" else "_".join(names)
        several = len(groups) > 1
        written += write_report(folder, store, own, part=name if several else "")
        for k in own.k:
            print(summary(store, own, k))
            if several:
                file = f"table_{name}" + (f"_k{k}" if len(own.k) > 1 else "") + ".md"
                content = (folder / file).read_text(encoding="utf-8")
                text.append(f"# {', '.join(names)}, k = {k}\n\n{content}")
    if text:
        written.append(folder / "table.md")
        write_text_atomic(written[-1], "\n".join(text))
    return written


def _reference_methods(common) -> tuple[str, ...]:
    """Those of the flag, else the preset's that are measured at all."""
    given = absl_flags.FLAGS["reference_methods"].value
    if given is not None:
        names = [name for name in given if name]
        known = (*objectives.NAMES, LOGISTIC)
        return flags.parse_names("reference_methods", names, known=known, sums=True)
    if common.preset == "smoke":
        return ()
    return tuple(name for name in _MAIN.split(",") if name in common.methods)


def _measure_dataset(found, k, common, store):
    fitter = setup.fitter(found, k, common)
    settings = fitter.protocol
    evaluators = {}
    for method in common.methods:
        fitted = fitter.fit(method)
        cells = [
            (s, t)
            for s in range(len(common.seeds))
            for t in range(len(protocol.TOLERANCES))
        ]
        for s, t in track(
            cells, description=f"{found.name} {method} attack", show=common.progress
        ):
            model, params = fitted.at(s, t)
            if model not in evaluators:
                evaluators[model] = Evaluator(
                    found,
                    model,
                    k=k,
                    num_test=settings.num_test,
                    strongest_budget=settings.strongest_budget,
                )
            fields = setup.model_fields(
                FLAGS.experiment,
                found,
                model,
                method=method,
                seed=common.seeds[s],
                k=k,
                tolerance=protocol.TOLERANCES[t],
                schedule=settings.schedule,
            )
            _measure_model(
                fields,
                params,
                fitted.choices[s][t],
                evaluators[model],
                common,
                store,
                settings.everywhere,
            )


def _measure_model(fields, params, choice, evaluator, common, store, everywhere):
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        found = [{**clean, **record} for record in evaluator.clean(params)]
        store.append([*found, *trained.choice_records(clean, choice)])
    same = records.number(store.select(**clean, metric="same")[0]["value"])
    for name in common.attacks:
        largest = [max(common.epsilon)]
        main = fields["tolerance"] == protocol.MAIN_TOLERANCE
        whole = everywhere is None or (name in everywhere and main)
        for epsilon in common.epsilon if whole else largest:
            cell = {**fields, "attack": name, "epsilon": epsilon}
            if not store.has(**cell):
                found = evaluator.attacked(params, name, epsilon, same=same)
                if name not in _COMPARED or epsilon != max(common.epsilon):
                    found = [r for r in found if r["metric"] != PER_INPUT]
                store.append([{**cell, **record} for record in found])


if __name__ == "__main__":
    cli.run(main)
