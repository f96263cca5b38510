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
from typing import Any, NamedTuple

from absl import flags as absl_flags

from experiments.console import flags
from experiments.console.progress import track
from experiments.loop import parts, setup
from experiments.measures.evaluation import STRONGEST, Evaluator
from experiments.models import trained
from experiments.problems import views
from experiments.problems.registry import Problem, problem
from experiments.report import tables
from r2et_jax import attacks, checks, datasets, training
from r2et_jax.types import Params


def _define(values):
    parts.define_absent_edges(values)
    absl_flags.DEFINE_list(
        "model", None, "folders of saved models, comma-separated", flag_values=values
    )


FLAGS = flags.describe(
    "attack",
    defaults={
        "datasets": "",
        "attacks": f"er,er_surrogate,{STRONGEST}",
        "epsilon": "1",
    },
    own=("model", "absent_edges"),
    define=_define,
)


class Subject(NamedTuple):
    """A model under attack.

    Attributes:
      data: whose test inputs are attacked.
      model: the Flax module.
      params: its parameters.
      k: sizes of the top set.
      epsilon: budgets.
      fields: what its records say of it, k aside.
    """

    data: Problem
    model: Any
    params: Params
    k: tuple[int, ...]
    epsilon: tuple[float, ...]
    fields: dict[str, Any]


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        attacks=attacks.NAMES,
    )
    for name in ("methods", "seeds"):
        if getattr(common, name):
            raise ValueError(f"--{name} has no use here: --model names the models")
    subjects = _subjects(common)
    chosen = [
        parts.Part(subject.data, common._replace(epsilon=subject.epsilon))
        for subject in subjects
    ]
    config = parts.with_choices(common.config, chosen, ("epsilon",))
    folder, store = setup.open_folder(
        common._replace(config=config),
        (part.found for part in chosen),
        experiment=FLAGS.experiment,
    )
    evaluators: dict[Any, Evaluator] = {}
    for subject in subjects:
        for k in subject.k:
            _measure(subject, k, evaluators, common, store)
    written = _write_report(folder, store, subjects, common)
    print("\n".join(map(str, [store.path, *written])))


def _subjects(common) -> list[Subject]:
    """The models with their data, all of them checked before any is attacked."""
    given = common.given["model"]
    if not given:
        raise ValueError("--model must name the folder of at least one saved model")
    folders = flags.parse_names("model", given)
    if len(common.datasets) > 1:
        raise ValueError(
            f"--datasets takes one name here, got {','.join(common.datasets)}"
        )
    loaded: dict[tuple[str, int], Problem] = {}
    subjects = []
    for folder in map(Path, folders):
        model = trained.read(folder)
        told = model.description
        name = common.datasets[0] if common.datasets else told.get("dataset")
        if name is None:
            raise ValueError(
                f"the model in {folder} does not name its data set: give --datasets"
            )
        own = name == told.get("dataset")
        fold = told.get("fold", 0) if own else 0
        if (name, fold) not in loaded:
            checks.check_in("dataset", name, parts.known_datasets(common.data_dir))
            part = {"fold": fold} if fold else {}
            found = datasets.load(name, data_dir=common.data_dir, **part)
            loaded[name, fold] = problem(found, **parts.of_graphs(common))
        data = loaded[name, fold]
        if own:
            trained.check_data(told, data, folder=folder)
        trained.check_takes(model, data, folder=folder)
        sizes = common.k or tuple(filter(None, [told.get("k", data.k)]))
        if not sizes:
            raise ValueError(f"the model in {folder} does not name its k: give --k")
        chosen = parts.choose(
            data,
            common._replace(k=sizes),
            **({} if data.view.tabular else {"epsilon": data.epsilon[common.preset]}),
        )
        fields = {
            # A model from elsewhere is known by its folder.
            "method": told.get("method", folder.resolve().name),
            "seed": told.get("seed"),
            "tolerance": told.get("tolerance"),
            "schedule": told.get("schedule"),
            "trained_on": told.get("dataset"),
            "params_sha256": training.params_sha256(model.params),
        }
        module = model.model
        if data.absent == "free":
            # A model that leaves nodes without edges out does not see new edges.
            module = views.anywhere(module)
        subjects.append(
            Subject(data, module, model.params, sizes, chosen.own.epsilon, fields)
        )
    kinds = {subject.data.view.kind for subject in subjects}
    for value in parts.of_graphs(common).values():
        names = tuple({subject.data.name for subject in subjects})
        parts.check_use(
            "absent_edges", value, "graph", kinds, common._replace(datasets=names)
        )
    return subjects


def _measure(subject, k, evaluators, common, store):
    """All records of one model and k that are not there yet."""
    data, model, params = subject.data, subject.model, subject.params
    cell = data.name, data.fold, model, k
    if cell not in evaluators:
        settings = data.protocol(common.preset)
        evaluators[cell] = Evaluator(
            data,
            model,
            k=k,
            num_test=settings.num_test,
            strongest_budget=settings.strongest_budget,
        )
    evaluator = evaluators[cell]
    fields = _fields(subject, k)
    clean = {**fields, "attack": "none", "epsilon": 0.0}
    if not store.has(**clean):
        store.append([{**clean, **record} for record in evaluator.clean(params)])
    cells = [(name, epsilon) for name in common.attacks for epsilon in subject.epsilon]
    for name, epsilon in track(
        cells,
        description=f"{data.name} {fields['method']} attack",
        show=common.progress,
    ):
        cell = {**fields, "attack": name, "epsilon": epsilon}
        if not store.has(**cell):
            found = evaluator.attacked(params, name, epsilon)
            store.append([{**cell, **record} for record in found])


def _fields(subject: Subject, k: int) -> dict[str, Any]:
    told = dict(subject.fields)
    own = {name: told.pop(name) for name in ("method", "seed", "tolerance", "schedule")}
    return {
        **setup.model_fields(FLAGS.experiment, subject.data, subject.model, k=k, **own),
        **told,
    }


def _write_report(folder, store, subjects, common) -> list[Path]:
    """Write and print a table for every k; returns the paths."""
    sizes = sorted({k for subject in subjects for k in subject.k})
    written = []
    folds = any(subject.data.view.kind == "graph" for subject in subjects)
    keys = "dataset", *["fold"] * folds, "method", "seed", "tolerance", "params"
    for k in sizes:
        here = [subject for subject in subjects if k in subject.k]
        epsilon = tuple(dict.fromkeys(e for subject in here for e in subject.epsilon))
        common = common._replace(epsilon=epsilon)
        cells = []
        for subject in here:
            fields = _fields(subject, k)
            # Two folders may hold one model.
            if fields not in cells:
                cells.append(fields)
        found = [
            {**record, "params": record["params_sha256"][:8]}
            for fields in cells
            for record in store.select(**fields)
        ]
        main = _columns(common, k)
        table = tables.pivot(
            found,
            rows=keys,
            columns=[*main, *_of_attacks("changed", "sensitivity", common)],
        )
        name = f"table_k{k}" if len(sizes) > 1 else "table"
        tables.write_table(folder, table, name=name)
        written += [folder / f"{name}.md", folder / f"{name}.csv"]
        shown = [row[: len(main)] for row in table.cells]
        print(tables.to_text(table._replace(columns=tuple(main), cells=shown)), end="")
    return written


def _columns(common, k: int) -> list[tables.ColumnSpec]:
    spec = tables.ColumnSpec
    return [
        spec("AUC", {"metric": "auc", "attack": "none"}),
        spec("same", {"metric": "same", "attack": "none"}),
        *_of_attacks(f"P@{k}", "p@k", common),
    ]


def _of_attacks(heading, metric, common):
    return [
        tables.ColumnSpec(
            f"{heading} {name} ε={epsilon:g}",
            {"metric": metric, "attack": name, "epsilon": epsilon},
        )
        for name in common.attacks
        for epsilon in common.epsilon
    ]
