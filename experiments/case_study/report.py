"""Table, figures and their captions of a case study, from records and arrays alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.case_study.measure import ALL, load_arrays
from experiments.problems.registry import LOGISTIC
from experiments.report import exhibit, judging, statistics, tables
from experiments.store import output, records
from r2et_jax import metrics, objectives, plots
from r2et_jax.metrics.statistics import CONFIDENCE, Estimate
from r2et_jax.metrics.summary import distinct_inputs, means_by_unit
from r2et_jax.plots._explained import Explained

# The method that a headline sets against the first one, if it is there.
_OURS, _BASE = "r2et", "vanilla"
# Gain in P@k that is seen without counting: more than one feature in eight.
_VISIBLE = 0.15
# Change of a pixel up to which an image looks the same on a page.
_UNSEEN = 0.25
_MOST_NAMES = 5
_DPI = 90
_KINDS = {"image": "pixels", "graph": "edges", "tabular": "features"}


def write_report(folder: Path, store: records.RecordStore, studies) -> list[Path]:
    """Write table.md, table.csv, the figures and captions.json; returns their paths."""
    names = [study.problem.name for study in studies]
    recorded = store.select(dataset=names)
    with_truth = bool(records.select(recorded, metric="truth_precision"))
    table = tables.pivot(
        recorded,
        rows=("dataset", "k", "example", "input", "method"),
        columns=_columns(with_truth),
    )
    notes = [_rule(study, store) for study in studies]
    tables.write_table(folder, table, notes=[*notes, *_notes(with_truth)])
    captions, written, claims = {}, [folder / "table.md", folder / "table.csv"], []
    for study in studies:
        arrays = {
            m: load_arrays(folder, {**study.cell, "method": m}) for m in study.methods
        }
        claims.append(_claim(study, store, arrays))
        for number in _numbers(study, store):
            example = Drawn(study, number, store, arrays)
            path = folder / f"case_study_{study.problem.name}_{number}.png"
            output.save_figure(path, example.figure(), dpi=_DPI)
            captions[path.name] = example.caption()
            written.append(path)
    path = folder / "captions.json"
    text = json.dumps(captions, indent=2, ensure_ascii=False) + "\n"
    output.write_text_atomic(path, text)
    exhibited = exhibit.write(
        folder,
        title="Explanations before and after the attack",
        claims=claims,
        figures={folder / name: caption for name, caption in captions.items()},
        tables=[folder / "table.md"],
        typed=studies[0].options.typed,
        settings=judging.settings(
            store,
            [study.options._replace(seeds=(study.cell["seed"],)) for study in studies],
            tolerances=dict.fromkeys(study.cell["tolerance"] for study in studies),
            error="the standard error over inputs",
        ),
    )
    return [*written, path, exhibited]


def _claim(study, store: records.RecordStore, arrays) -> exhibit.Claim:
    """What is drawn, in numbers; judged by all inputs that were attacked."""
    k = study.cell["k"]
    examples = _numbers(study, store)
    shown = []
    for method in study.methods:
        recorded = store.select(**study.cell, method=method, metric="p@k")
        drawn = records.select(recorded, example=examples)
        (mean,) = records.select(recorded, example=ALL)
        values = ", ".join(_short(r["value"]) for r in drawn)
        shown.append(f"{method} {values} (mean of all {_short(mean['value'])})")
    held, cause = None, f"{_OURS} and {_BASE} were not both drawn."
    if _OURS in arrays and _BASE in arrays:
        held = statistics.above(gain(arrays[_OURS], arrays[_BASE]), _VISIBLE)
        cause = ""
        if _is_vanilla(study, store, _OURS):
            cause = f"Selection by validation data left {_OURS} as vanilla pretrained."
    numbers = (
        f"P@{k} of the {len(examples)} drawn inputs under {study.cell['attack']}, seed "
        f"{study.cell['seed']}: {'; '.join(shown)}"
    )
    verdict = exhibit.Verdict(held, numbers, cause)
    return exhibit.Claim(
        "The difference in robustness is visible at a glance.",
        f"{_OURS}'s mean over all attacked inputs more than {_VISIBLE:g} above "
        f"{_BASE}'s, beyond a {CONFIDENCE:.0%} interval over different inputs, "
        "paired, so that any input may show it",
        (exhibit.Case(study.problem.name, None, verdict),),
        "The penalty does little here.",
    )


def gain(ours, base) -> Estimate:
    """Advantage in P@k of one model over another, over different inputs.

    Inputs of which either has no value are left out; the table counts them.
    """
    units = distinct_inputs(ours.x)
    means = means_by_unit(ours.precision - base.precision, units)
    return metrics.estimate(means[np.isfinite(means)], over="inputs")


def _is_vanilla(study, store, method: str) -> bool:
    """Whether the chosen model is the vanilla one, from which others are retrained."""
    whole = store.select(**study.cell, method=method, example=ALL)
    chosen = {r["metric"]: records.number(r["value"]) for r in whole}
    if chosen.get("fallback"):
        return True
    trained_as = objectives.method(method) if method != LOGISTIC else None
    untrained = method != _BASE and chosen.get("epoch") == 0
    # Smooth activations and skips are pretrained by themselves.
    return untrained and not (
        trained_as is None or trained_as.smooth or trained_as.skip
    )


class Drawn:
    """One example of a data set: its figure, headline and caption.

    Args:
      study: what is drawn of the data set.
      number: of the example.
      store: the records.
      arrays: method -> what the attack found of all inputs.
    """

    def __init__(self, study, number: int, store: records.RecordStore, arrays):
        self.study, self.number = study, number
        self.problem = study.problem
        self.k, self.kind = study.cell["k"], study.problem.view.kind
        chosen = store.select(**study.cell, example=number)
        self.example = chosen[0]
        self.values = {
            method: {
                r["metric"]: records.number(r["value"])
                for r in records.select(chosen, method=method)
            }
            for method in study.methods
        }
        self.mean = {
            r["method"]: r["value"]
            for r in store.select(**study.cell, example=ALL, metric="p@k")
        }
        self.as_vanilla = {m for m in study.methods if _is_vanilla(study, store, m)}
        i = self.example["input"]
        self.pairs = {}
        for method, attacked in arrays.items():
            tops = attacked.tops(self.k)[:, i]
            maps = attacked.clean_map[i], attacked.best_map[i]
            inputs = attacked.x[i], attacked.perturbed[i]
            self.pairs[method] = tuple(
                Explained(*map(self._shaped, leaves))
                for leaves in zip(maps, tops, inputs, strict=True)
            )

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        """An image [height, width(, channels)], or its map; all else is flat."""
        if self.kind != "image":
            return values
        height, width = self.problem.shape[:2]
        colours = values.size // (height * width)
        shape = (height, width, colours) if colours > 1 else (height, width)
        return values.reshape(shape)

    def figure(self) -> Figure:
        """The explanations under all methods."""
        dataset = self.problem.dataset
        drawn = {self._label(method): pair for method, pair in self.pairs.items()}
        if self.kind == "image":
            return plots.marked_images(drawn, **self._compared(), title=self.headline())
        if self.kind == "graph":
            return plots.circular_graphs(
                drawn,
                edges=dataset.edges,
                num_nodes=dataset.num_nodes,
                truth=dataset.truth,
                truth_name="where the classes truly differ",
                nodes=dataset.regions,
                title=self.headline(),
            )
        return plots.explained_bars(
            drawn,
            dataset.columns,
            xlabel="share of the saliency",
            title=self.headline(),
        )

    def _compared(self) -> dict[str, Any]:
        """The partner, if there is one, as arguments of the figure."""
        if not self.problem.view.paired:
            return {}
        partner = self.problem.inputs("test", self.example["attacked"]).partner
        same = "the same class" if self.example["label"] else "another class"
        return {
            "partner": self._shaped(np.asarray(partner[self.example["input"]])),
            "partner_title": f"compared with\n({same})",
        }

    def headline(self) -> str:
        """What the figure shows, in two lines."""
        largest = max(values["linf"] for values in self.values.values())
        moved = any(values["p@k"] < 1 for values in self.values.values())
        if self.kind == "image" and largest <= _UNSEEN:
            text = "The image looks the same"
            text += (
                "; the explanation does not" if moved else "; so does what explains it"
            )
        else:
            what = {"image": "pixel", "graph": "edge", "tabular": "feature"}[self.kind]
            text = f"No {what} changes by more than {_short(largest)}"
            text += (
                f"; the top {self.k} do change" if moved else f"; the top {self.k} stay"
            )
        first, *others = self.study.methods
        shown = [first, *others[-1:]]
        if _OURS in others:
            shown[1] = _OURS
        numbers = (f"{_short(self.values[m]['p@k'])} ({m})" for m in shown)
        text += f"\nShare of the top {self.k} that stays (P@{self.k}): "
        return text + " vs ".join(numbers)

    def _label(self, method: str) -> str:
        values = self.values[method]
        name = f"{method} (= vanilla)" if method in self.as_vanilla else method
        lines = [
            name,
            f"P@{self.k}  {_short(values['p@k'])}",
            f"p({self._class()})  {_change(values, 'probability')}",
        ]
        if "truth_precision" in values:
            lines.append(f"truth precision  {_change(values, 'truth_precision')}")
        if self.kind == "tabular":
            return ",  ".join(lines)
        return "\n".join(lines)

    def _class(self) -> str:
        label = self.example["label"]
        if self.problem.view.paired:
            return "same" if label else "different"
        if self.kind == "image":
            return self.problem.classes[label]
        return f"class {label}"

    def caption(self) -> str:
        """What is drawn, how it was chosen, and the numbers, as text."""
        cell, example = self.study.cell, self.example
        sentences = [
            f"{self.headline()}.".replace("\n", ". "),
            f"{self.problem.name}, test input {example['input']}: its top {self.k} "
            f"{_KINDS[self.kind]} before and after the attack {cell['attack']}, "
            f"{self.problem.view.norm} budget {cell['epsilon']:g}, under models of "
            f"seed {cell['seed']}.",
            f"Chosen by rule: quantile {example['quantile']:g} in the order of "
            f"{self.study.methods[0]}'s P@{self.k} after the attack, of the "
            f"{example['eligible']} of {example['attacked']} test inputs that all "
            "methods classify correctly.",
        ]
        if self.kind == "image" and not self.problem.view.paired:
            sentences.append(f"The image is of the class {self._class()}.")
        elif self.kind == "image":
            label = "the same class as" if example["label"] else "another class than"
            sentences.append(
                f"The image is of {label} its partner, which is unchanged."
            )
        truth = getattr(self.problem.dataset, "truth", None)
        if truth is not None:
            best = min(self.k, truth.sum()) / self.k
            sentences.append(
                f"Truth precision: share of the top {self.k} among the {truth.sum()} "
                f"edges in which the classes truly differ; at most {_short(best)}, by "
                f"chance {_short(truth.mean())}."
            )
        sentences += [self._numbers_of(method) for method in self.study.methods]
        return " ".join(sentences)

    def _numbers_of(self, method: str) -> str:
        values = self.values[method]
        text = (
            f"{method}: P@{self.k} {_short(values['p@k'])} (mean of all attacked "
            f"inputs {_short(records.number(self.mean[method]))}), probability of the "
            f"predicted class {_change(values, 'probability')}, change of the input "
            f"{values['l2']:.2g} in l2, {values['linf']:.2g} at most"
        )
        if "truth_precision" in values:
            text += f", truth precision {_change(values, 'truth_precision')}"
        if self.kind != "image":
            before, after = (explained.top for explained in self.pairs[method])
            for word, mask in (("leave", before & ~after), ("enter", after & ~before)):
                text += f"; {mask.sum()} {word}{self._names(mask)}"
        if method in self.as_vanilla:
            text += "; selection by validation data left these as vanilla's"
        return f"{text}."

    def _names(self, mask: np.ndarray) -> str:
        columns = self.problem.dataset.columns
        names = [columns[i] for i in np.flatnonzero(mask)]
        if not 0 < len(names) <= _MOST_NAMES:
            return ""
        return f" ({', '.join(names)})"


def _numbers(study, store: records.RecordStore) -> list[int]:
    return [
        r["example"]
        for r in store.select(**study.cell, method=study.methods[0], metric="p@k")
        if r["example"] != ALL
    ]


def _columns(with_truth: bool) -> list[tables.ColumnSpec]:
    columns = [
        tables.ColumnSpec("P@k", {"metric": "p@k"}),
        tables.ColumnSpec("p before", {"metric": "probability"}),
        tables.ColumnSpec("p after", {"metric": "probability_attacked"}),
        tables.ColumnSpec("‖δ‖₂", {"metric": "l2"}),
        tables.ColumnSpec("‖δ‖∞", {"metric": "linf"}),
    ]
    if with_truth:
        columns += [
            tables.ColumnSpec("truth before", {"metric": "truth_precision"}),
            tables.ColumnSpec("truth after", {"metric": "truth_precision_attacked"}),
        ]
    return columns


def _rule(study, store: records.RecordStore) -> str:
    recorded = store.select(**study.cell, method=study.methods[0], metric="p@k")
    chosen = [r for r in recorded if r["example"] != ALL]
    shown = ", ".join(f"{r['input']} ({r['quantile']:g})" for r in chosen)
    cell = study.cell
    return (
        f"{study.problem.name}: attack {cell['attack']}, "
        f"{study.problem.view.norm} budget {cell['epsilon']:g}, seed {cell['seed']}, "
        f"tolerance {cell['tolerance']:g}. "
        f"Examples, the same for all methods: of the {chosen[0]['eligible']} of "
        f"{chosen[0]['attacked']} test inputs that all methods classify correctly, in "
        f"the order of {study.methods[0]}'s P@{cell['k']} after the attack, those at "
        f"the quantiles in parentheses: {shown}."
    )


def _notes(with_truth: bool) -> list[str]:
    notes = [
        f"example {ALL}: mean over all attacked test inputs.",
        "p: probability of the class that is predicted before the attack; δ: the "
        "change of the input.",
    ]
    if with_truth:
        notes.append(
            "truth: share of the top k in which the classes truly differ, before and "
            "after the attack."
        )
    return notes


def _change(values: dict[str, float], metric: str) -> str:
    return f"{_short(values[metric])} → {_short(values[f'{metric}_attacked'])}"


def _short(value: Any) -> str:
    """Two digits without a leading zero, more for what is smaller than .1."""
    value = float(value)
    text = f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"
    return text[1:] if text.startswith("0.") else text
