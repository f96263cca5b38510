"""Attacks on the explanations of saved models, each named by its folder.

Measures the models that `python -m experiments.train` has written, or any other with
as many logits that `r2et_jax.saved.save` has, on test inputs of the data set on which
they were trained: P@k under every attack at every budget, and the guards against
cheating. Models of images and graphs are attacked in their data set's norm, at its own
budgets where --epsilon is not given.

    python -m experiments.attack --model=results/train/models/adult-r2et-seed0-\
tolerance0.01 --attacks=er,er_surrogate,strongest --epsilon=1
    python -m experiments.attack --model=results/train/models/hiv-r2et_nh-seed0-\
tolerance0.01-fold0
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from experiments.attack.measure import Target, measure
from experiments.attack.report import write_report
from experiments.console import flags
from experiments.loop import asked, parts, setup
from experiments.measures.evaluation import Evaluator
from experiments.models import trained
from experiments.problems import presets, views
from experiments.problems.registry import Problem, problem
from r2et_jax import attacks, checks, datasets
from r2et_jax.training.packing import params_sha256


def _define(values):
    asked.define_absent_edges(values)
    absl_flags.DEFINE_list(
        "model", None, "folders of saved models, comma-separated", flag_values=values
    )


FLAGS = flags.describe(
    "attack",
    defaults=presets.FLAGS["attack"],
    further=("model", "absent_edges"),
    define=_define,
)


def main(values):
    options = asked.read(FLAGS, values, methods=None, attacks=attacks.NAMES)
    for name in ("methods", "seeds"):
        if getattr(options, name):
            raise ValueError(f"--{name} has no use here: --model names the models")
    targets = _targets(options)
    chosen = [
        parts.Part(target.data, options._replace(epsilon=target.epsilon))
        for target in targets
    ]
    config = parts.with_choices(options.config, chosen, ("epsilon",))
    folder, store = setup.open_folder(
        options._replace(config=config),
        (part.problem for part in chosen),
    )
    evaluators: dict[Any, Evaluator] = {}
    for target in targets:
        for k in target.k:
            measure(target, k, evaluators, options, store)
    written = write_report(folder, store, targets, options)
    print("\n".join(map(str, [store.path, *written])))


def _targets(options) -> list[Target]:
    """The models with their data, all of them checked before any is attacked."""
    given = options.given["model"]
    if not given:
        raise ValueError("--model must name the folder of at least one saved model")
    folders = flags.parse_names("model", given)
    if len(options.datasets) > 1:
        raise ValueError(
            f"--datasets takes one name here, got {','.join(options.datasets)}"
        )
    loaded: dict[tuple[str, int], Problem] = {}
    targets = []
    for folder in map(Path, folders):
        model = trained.read(folder)
        told = model.description
        name = options.datasets[0] if options.datasets else told.get("dataset")
        if name is None:
            raise ValueError(
                f"the model in {folder} does not name its data set: give --datasets"
            )
        trained_on = name == told.get("dataset")
        fold = told.get("fold", 0) if trained_on else 0
        if (name, fold) not in loaded:
            checks.check_in("dataset", name, asked.known_datasets(options.data_dir))
            part = {"fold": fold} if fold else {}
            dataset = datasets.load(name, data_dir=options.data_dir, **part)
            loaded[name, fold] = problem(dataset, **parts.of_graphs(options))
        data = loaded[name, fold]
        if trained_on:
            trained.check_data(told, data, folder=folder)
        trained.check_takes(model, data, folder=folder)
        sizes = options.k or tuple(filter(None, [told.get("k", data.k)]))
        if not sizes:
            raise ValueError(f"the model in {folder} does not name its k: give --k")
        chosen = parts.choose(
            data,
            options._replace(k=sizes),
            **({} if data.view.tabular else {"epsilon": data.epsilon[options.preset]}),
        )
        fields = {
            # A model from elsewhere is known by its folder.
            "method": told.get("method", folder.resolve().name),
            "seed": told.get("seed"),
            "tolerance": told.get("tolerance"),
            "schedule": told.get("schedule"),
            "trained_on": told.get("dataset"),
            "params_sha256": params_sha256(model.params),
        }
        module = model.model
        if data.absent == "free":
            # A model that leaves nodes without edges out does not see new edges.
            module = views.anywhere(module)
        targets.append(
            Target(data, module, model.params, sizes, chosen.options.epsilon, fields)
        )
    kinds = {target.data.view.kind for target in targets}
    for value in parts.of_graphs(options).values():
        names = tuple({target.data.name for target in targets})
        parts.check_use(
            "absent_edges", value, "graph", kinds, options._replace(datasets=names)
        )
    return targets
