"""Which test inputs a case study shows, and what is kept and recorded of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.console.progress import track
from experiments.loop import setup
from experiments.measures.evaluation import PER_INPUT, compiled_attack
from experiments.models import trained
from experiments.problems import presets
from experiments.store import numbers
from experiments.store.output import write_atomic
from experiments.store.records import MEASURED
from r2et_jax import score
from r2et_jax.metrics.ground_truth import truth_precision
from r2et_jax.metrics.summary import distinct_inputs
from r2et_jax.ranking.topk import positive_top_k_mask

# Value of the field `example` in records over all inputs.
ALL = "all"
_LOWEST, _HIGHEST = 0.1, 0.9


class Attacked(NamedTuple):
    """All attacked test inputs of one method.

    Attributes:
      x, y: inputs [m, n] and labels [m].
      perturbed: the inputs that the attack found [m, n].
      precision: their P@k [m].
      clean_map, best_map: the maps before and after [m, n].
      clean_logits, best_logits: the logits before and after [m, C].
    """

    x: np.ndarray
    y: np.ndarray
    perturbed: np.ndarray
    precision: np.ndarray
    clean_map: np.ndarray
    best_map: np.ndarray
    clean_logits: np.ndarray
    best_logits: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class of the clean input is the label [m]."""
        return np.asarray(score.predicted_class(self.clean_logits)) == self.y

    def probabilities(self) -> np.ndarray:
        """Of the clean input's predicted class, before and after [2, m]."""
        logits = jnp.asarray(np.stack([self.clean_logits, self.best_logits]))
        target = np.asarray(score.predicted_class(self.clean_logits))
        shares = np.asarray(score.class_probabilities(logits))
        return shares[:, np.arange(len(target)), target]

    def tops(self, k: int) -> np.ndarray:
        """Masks of the top sets before and after [2, m, n]."""
        maps = jnp.stack([jnp.asarray(self.clean_map), jnp.asarray(self.best_map)])
        top = jax.vmap(jax.vmap(lambda values: positive_top_k_mask(values, k=k)))
        return np.asarray(top(maps))


class Example(NamedTuple):
    """A chosen input.

    Attributes:
      number: 1 for the one with the lowest P@k.
      index: of the test input.
      quantile: at which it stands.
      eligible: number of inputs among which it was chosen.
      attacked: number of inputs in all.
    """

    number: int
    index: int
    quantile: float
    eligible: int
    attacked: int


def attack_inputs(problem, model, params, cell, settings) -> Attacked:
    # The inputs and the key of the robustness experiment: its numbers are these.
    inputs = problem.inputs("test", settings.num_test)
    run = compiled_attack(
        model,
        cell["attack"],
        cell["k"],
        problem.view,
        evaluations=settings.strongest_evaluations,
    )
    result = run(
        params,
        inputs.x,
        problem.threat_model(cell["epsilon"]),
        key=jax.random.key(0),
        context=problem.view.context(model, params, inputs.partner),
    )
    return Attacked(
        x=np.asarray(inputs.x),
        y=np.asarray(inputs.y),
        perturbed=np.asarray(result.best.perturbed),
        precision=np.asarray(result.best.precision),
        clean_map=np.asarray(result.clean_map),
        best_map=np.asarray(result.best_map),
        clean_logits=np.asarray(result.clean_logits),
        best_logits=np.asarray(result.best_logits),
    )


def choose(correct: np.ndarray, precision: np.ndarray, count: int) -> list[Example]:
    """Inputs at even quantiles .1 … .9 of the first method's P@k; the median if one.

    Eligible is what every method classifies correctly and explains. They are put in
    the order of the first method's P@k after the attack, ties by index; the one at
    quantile q of m has position ⌊qm⌋, counted from 0.

    Args:
      correct: [methods, inputs], bool.
      precision: P@k [methods, inputs], NaN where a map is zero.
      count: number of inputs.

    Raises:
      ValueError: if there are too few eligible inputs.
    """
    eligible = np.flatnonzero(correct.all(axis=0) & np.isfinite(precision).all(axis=0))
    order = eligible[np.argsort(precision[0, eligible], kind="stable")]
    quantiles = np.linspace(_LOWEST, _HIGHEST, count) if count > 1 else [0.5]
    # Rounded, for 0.9·m to be no less than it is.
    positions = [int(round(q * len(order), 9)) for q in quantiles]
    if len(order) < count or len(set(positions)) < count:
        raise ValueError(
            f"--num_examples={count} is too many: all methods classify and explain "
            f"{len(order)} of {correct.shape[1]} test inputs correctly"
        )
    return [
        Example(number, int(order[at]), float(q), len(order), correct.shape[1])
        for number, (q, at) in enumerate(zip(quantiles, positions, strict=True), 1)
    ]


def array_path(folder: Path, cell: dict[str, Any]) -> Path:
    """Where the arrays behind the records of a method are kept."""
    return folder / "arrays" / f"{cell['dataset']}_{cell['method']}.npz"


def save_arrays(folder: Path, cell: dict[str, Any], attacked: Attacked) -> None:
    """Write the arrays, atomically."""
    path = array_path(folder, cell)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **attacked._asdict())
    write_atomic(path, buffer.getvalue())


def load_arrays(folder: Path, cell: dict[str, Any]) -> Attacked:
    """Read them again.

    Raises:
      ValueError: if the file is missing or damaged, although its cell was recorded.
    """
    path = array_path(folder, cell)
    try:
        with np.load(path, allow_pickle=False) as file:
            return Attacked(**{name: file[name] for name in Attacked._fields})
    # Of zipfile, zlib and NumPy, each of which has its own for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} belongs to the records and cannot be read ({error}); restore it "
            "or choose another --output_dir"
        ) from error


def whole_records(fields, attacked: Attacked, dataset: Any) -> list[dict[str, Any]]:
    """What is recorded of all attacked inputs."""
    units = distinct_inputs(attacked.x)
    recorded = [
        numbers.summary("p@k", attacked.precision, units),
        numbers.each(PER_INPUT, attacked.precision),
        numbers.each("correct", attacked.correct),
    ]
    for metric, maps in _truth_maps(attacked, dataset):
        precision = truth_precision(dataset.truth, maps, k=fields["k"], units=units)
        recorded.append(numbers.summarised(metric, precision))
    return [{**fields, **record} for record in recorded]


def example_records(
    shared, example: Example, attacked: Attacked, dataset: Any
) -> list[dict[str, Any]]:
    """What is recorded of one chosen input under one method."""
    i = example.index
    change = np.abs(attacked.perturbed[i].astype(float) - attacked.x[i])
    before, after = attacked.probabilities()[:, i]
    values = {
        "p@k": attacked.precision[i],
        "probability": before,
        "probability_attacked": after,
        "l2": np.linalg.norm(change),
        "linf": change.max(),
    }
    for metric, maps in _truth_maps(attacked, dataset):
        precision = truth_precision(dataset.truth, maps[i][None], k=shared["k"])
        values[metric] = precision.mean
    fields = {
        **shared,
        "example": example.number,
        "input": i,
        "label": int(attacked.y[i]),
        "quantile": example.quantile,
        "eligible": example.eligible,
        "attacked": example.attacked,
    }
    return [
        {**fields, **numbers.measured(name, value, None, 1)}
        for name, value in values.items()
    ]


def _truth_maps(attacked: Attacked, dataset: Any):
    if getattr(dataset, "truth", None) is None:
        return ()
    return (
        ("truth_precision", attacked.clean_map),
        ("truth_precision_attacked", attacked.best_map),
    )


def attack_methods(study, folder, store):
    """Attack all test inputs under every method, and keep what was found."""
    problem, k = study.problem, study.cell["k"]
    fitter = setup.fitter(problem, k, study.options)
    tolerance = presets.TOLERANCES.index(study.cell["tolerance"])
    for method in track(
        study.methods,
        description=f"{problem.name} case study",
        show=study.options.progress,
    ):
        cell = {**study.cell, "method": method}
        if store.has(**cell, example=ALL):
            continue
        fitted = fitter.fit(method)
        model, params = fitted.at(0, tolerance)
        attacked = attack_inputs(problem, model, params, cell, fitter.protocol)
        save_arrays(folder, cell, attacked)
        fields = setup.model_fields(
            study.options.experiment,
            problem,
            model,
            method=method,
            seed=cell["seed"],
            k=k,
            tolerance=cell["tolerance"],
            schedule=fitter.protocol.schedule,
        )
        fields |= cell | {"example": ALL, "input": None}
        choice = fitted.choices[0][tolerance]
        store.append(
            [
                *whole_records(fields, attacked, problem.dataset),
                *trained.choice_records(fields, choice),
            ]
        )


def choose_examples(study, count, folder, store):
    """Record the chosen inputs, the same ones under every method."""
    cells = [{**study.cell, "method": method} for method in study.methods]
    if all(store.has(**cell, example=1) for cell in cells):
        return
    attacked_by = [load_arrays(folder, cell) for cell in cells]
    examples = choose(
        np.stack([attack.correct for attack in attacked_by]),
        np.stack([attack.precision for attack in attacked_by]),
        count,
    )
    for cell, attacked in zip(cells, attacked_by, strict=True):
        if store.has(**cell, example=1):
            continue
        whole = store.select(**cell, example=ALL, metric="p@k")[0]
        shared = {
            name: value
            for name, value in whole.items()
            if name not in ("metric", *MEASURED)
        }
        store.append(
            [
                record
                for attack in examples
                for record in example_records(
                    shared, attack, attacked, study.problem.dataset
                )
            ]
        )
