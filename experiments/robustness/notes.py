"""A note on each method of the robustness experiment, written from its numbers."""

from __future__ import annotations

import math

from experiments.problems import presets
from experiments.problems.methods import family
from experiments.problems.registry import LOGISTIC
from experiments.report import statistics
from experiments.report.results import (
    LEADING,
    Results,
    leading_attack,
    split_references,
)
from experiments.store.output import PRESENTATION
from r2et_jax import metrics, objectives
from r2et_jax.metrics.statistics import CONFIDENCE

_TOLERANCE = presets.MAIN_TOLERANCE


def notes(results: Results) -> str:
    """Accuracy, explanation, robustness, cost and command of each method."""
    options, k = results.options, results.k
    datasets = next(filter(None, split_references(options.datasets)))
    text = (
        f"# What each method does, k = {k}\n\n"
        f"On {', '.join(datasets)}; checkpoints with validation AUC within "
        f"{_TOLERANCE} of vanilla's; attacks of {options.norm} budget ε = "
        f"{max(options.epsilon):g}. "
        "Mean ± standard error over runs (seeds, folds averaged; of one seed its "
        "folds); a difference is the method minus vanilla, run by run, and clear where "
        f"p < {1 - CONFIDENCE:.2g} by Student's t, corrected by Holm's method over the "
        "data sets. Each command repeats one method alone beside vanilla.\n"
    )
    return text + "".join(
        f"\n{_note(results, datasets, method)}" for method in options.methods
    )


def describe(method: str) -> str:
    """What a method is; the parts of a sum joined."""
    if method == LOGISTIC:
        return "logistic regression, whose ranking cannot change"
    return objectives.method(method).description


def command(results: Results, method: str) -> str:
    """The command that trains and attacks this method alone, beside vanilla."""
    options = results.options
    names = ",".join(dict.fromkeys(["vanilla", method]))
    whole, reference = split_references(options.datasets)
    if not whole:
        whole, reference = reference, ()
    again = any(method in results.measured(d, _TOLERANCE) for d in reference)
    flags = {
        "datasets": whole, "methods": [names],
        "reference_methods": [names] if again else [], "attacks": options.attacks,
        "k": options.k, "epsilon": [f"{e:g}" for e in options.epsilon],
        "seeds": options.seeds, "preset": [options.preset],
    }  # fmt: skip
    for name, value in options.config.items():
        if isinstance(value, dict):
            continue  # what the data sets chose for themselves
        if name not in {*flags, *PRESENTATION, "data_dir"} and value is not None:
            flags[name] = value if isinstance(value, (list, tuple)) else [value]
    flags["output_dir"] = [f"results/robustness_{method}"]
    shown = [f"--{name}={','.join(map(str, items))}" for name, items in flags.items()]
    return " ".join(["python -m experiments.robustness", *shown])


def _note(results, datasets, method):
    options, k = results.options, results.k
    attacked = [name for name in LEADING if name in options.attacks]
    attacked = attacked or [leading_attack(options.attacks)]
    clean = {"attack": "none"}
    sentences = [
        _against(results, datasets, method, "AUC", "auc", clean),
        *(
            _against(results, datasets, method, f"P@{k} under {name}", "p@k",
                     {"attack": name, "epsilon": max(options.epsilon)})
            for name in attacked
        ),
    ]  # fmt: skip
    corrected = {"attack": attacked[0], "epsilon": max(options.epsilon)}
    level = [
        _level(results, datasets, method, f"P@{k}⁺ under {attacked[0]}", "p@k+",
               corrected),
        _level(results, datasets, method, "Same", "same", clean),
        _level(results, datasets, method, "Null", "null", clean),
    ]  # fmt: skip
    lines = [
        *sentences,
        " ".join(filter(None, level)),
        _cost(results, datasets, method),
    ]
    body = "".join(f"- {line}\n" for line in lines if line)
    return (
        f"## {method}\n\n{describe(method)[:1].upper()}{describe(method)[1:]} "
        f"({family(method)}).\n\n{body}\n```\n{command(results, method)}\n```\n"
    )


def _against(results, datasets, method, name, metric, where):
    """A quantity as a difference from vanilla, or as it is for vanilla itself."""
    where = {"tolerance": _TOLERANCE, **where}
    if method == "vanilla" or "vanilla" not in results.options.methods:
        return _level(results, datasets, method, name, metric, where)
    gains = {
        dataset: statistics.difference(
            results.cells(dataset, method, metric, **where),
            results.cells(dataset, "vanilla", metric, **where),
        )
        for dataset in datasets
    }
    gains = {dataset: gain for dataset, gain in gains.items() if gain.runs}
    if not gains:
        return ""
    parts = [
        f"{dataset} {statistics.shown(gain, '+.3f')} "
        f"(to {results.mean(dataset, method, metric, **where):.3f})"
        for dataset, gain in gains.items()
    ]
    text = f"{name} against vanilla: {', '.join(parts)}"
    judged = metrics.verdicts(gains.values())
    known = sum(gain.runs > 1 for gain in gains.values())
    counts = [("higher", judged.count(True)), ("lower", judged.count(False))]
    clear = [f"clearly {word} on {n} of {known}" for word, n in counts if n]
    if known:
        text += "; " + (", ".join(clear) or "no clear difference")
    return text + "."


def _level(results, datasets, method, name, metric, where):
    where = {"tolerance": _TOLERANCE, **where}
    parts = []
    for dataset in datasets:
        estimate = results.estimate(dataset, method, metric, **where)
        if estimate.runs:
            parts.append(f"{dataset} {statistics.shown(estimate, '.3f')}")
    return f"{name}: {', '.join(parts)}." if parts else ""


def _cost(results, datasets, method):
    """Time of training; `experiments.cost` has the ratios, measured side by side."""
    times = []
    for dataset in datasets:
        seconds, tried = (
            results.mean(dataset, method, metric, tolerance=_TOLERANCE)
            for metric in ("train_seconds", "settings_tried")
        )
        if not math.isnan(seconds):
            times.append(f"{dataset} {1e3 * seconds:.3g} ms")
            beside = f", {tried:.0f} settings side by side" if tried > 1 else ""
    if not times:
        return ""
    return f"Training, each epoch of one model{beside}: {', '.join(times)}."
