"""Tables, figure and claims on hyperparameters, from the records alone."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report import statistics, tables
from experiments.report.exhibit import Verdict, together
from experiments.report.judging import Question
from experiments.sensitivity.measure import BASELINE, FACTORS
from experiments.store import output, records
from experiments.store.records import Record, RecordStore
from r2et_jax import metrics
from r2et_jax.metrics.statistics import Estimate, over_runs
from r2et_jax.plots._panels import Panel, panels

# Differences of P@k up to this are of no account.
MARGIN = 0.05
# A weight should work over so many times its smallest value.
DECADE = 10.0
# Overlap of the top k between inputs from which nearly all have the same.
_ONE_RANKING = 0.98
_VANILLA = "vanilla"
_SHORT = {"k": "k = ", "k_prime": "k′ = "}
_TITLES = {
    "k": "k, in training and measurement",
    "k_prime": "k′, number of pairs",
    "lambda_1": "λ₁ of the ranking term",
    "lambda_2": "λ₂ of the curvature",
    "schedule": "begins with",
    "reference": "keeps the ranking of",
}
_WORDS = {
    "pretrain": "vanilla\nmodel",
    "scratch": "random\nweights",
    "self": "itself",
    "previous_epoch": "previous\nepoch",
    "vanilla": "vanilla\nmodel",
}
TITLE = "What R2ET's hyperparameters change"


def write_report(
    folder: Path, store: RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write one table for each factor and one figure for each data set.

    Args:
      folder: where to.
      store: the records.
      options: the flags of the run, or of the part of it that is reported.
      part: name of that part, which the files' names then have.

    Returns:
      Paths of what was written, the Markdown of all tables first.
    """
    attack, written, text = options.attacks[0], [], []
    for k in options.k:
        suffix = (f"_{part}" if part else "") + (f"_k{k}" if len(options.k) > 1 else "")
        recorded = derive(_chosen(store, options))
        for factor in _factors(options):
            here = records.select(recorded, factor=factor)
            if not here:
                continue
            rows = ("dataset", "method", "level")
            rows += ("weight",) * factor.startswith("lambda")
            table = tables.pivot(here, rows=rows, columns=_columns(attack, factor))
            path = folder / f"table{suffix}_{factor}.csv"
            output.write_text_atomic(path, tables.to_csv(table))
            written.append(path)
            text += [f"## {_heading(factor, k)}\n", tables.to_markdown(table)]
        for dataset in options.datasets:
            here = records.select(recorded, dataset=dataset)
            path = folder / f"sensitivity_{dataset}{suffix}.png"
            output.save_figure(path, _figure(here, dataset, k, options))
            written.append(path)
    path = folder / f"table{'_' * bool(part)}{part}.md"
    notes = "".join(f"- {note}\n" for note in _notes(options))
    output.write_text_atomic(path, "\n".join([*text, notes]))
    return [path, *written]


def _chosen(store, options) -> list[Record]:
    return store.select(
        dataset=options.datasets, method=options.methods, seed=options.seeds
    )


def _factors(options) -> Sequence[str]:
    return [name for name in FACTORS if name in options.config["factors"]]


def derive(recorded: Iterable[Record]) -> list[Record]:
    """The records, with the metric `difference`, paired by seed and fold.

    For the factor k it is P@k minus vanilla's at the same k, for the others P@k minus
    that of the default level.
    """
    recorded = list(recorded)
    index: dict[tuple, dict[Any, Record]] = {}
    for record in records.select(recorded, metric="p@k"):
        index.setdefault(_key(record), {})[record["seed"], record["fold"]] = record
    defaults = {
        key[:-1]: here
        for key, here in index.items()
        if next(iter(here.values()))["default"]
    }
    derived = []
    for key, here in index.items():
        dataset, _, factor, level = key
        others = defaults.get(key[:-1], {})
        if factor == "k":
            others = index.get((dataset, _VANILLA, factor, level), {})
        if others is here:
            continue
        for run in here.keys() & others.keys():
            pair = [records.number(r[run]["value"]) for r in (here, others)]
            value = {"metric": "difference", "value": pair[0] - pair[1], "stderr": None}
            derived.append({**here[run], **value})
    return recorded + derived


def _key(record: Record) -> tuple:
    return tuple(record[name] for name in ("dataset", "method", "factor", "level"))


def _heading(factor: str, k: int) -> str:
    names = {
        "k": "k, trained with it and measured at it",
        "schedule": "From a vanilla model, or from scratch",
        "reference": "Whose ranking the penalties keep",
    }
    text = names.get(factor, _TITLES[factor])
    return text if factor == "k" else f"{text}; k = {k}"


def _columns(attack: str, factor: str) -> list[tables.ColumnSpec]:
    spec = tables.ColumnSpec
    than = "− vanilla" if factor == "k" else "− default"
    return [
        spec("AUC", {"metric": "auc"}),
        spec(f"P@k {attack}", {"metric": "p@k"}),
        spec(than, {"metric": "difference"}, format="+.3f"),
        spec("same", {"metric": "same"}),
        spec("epoch", {"metric": "epoch"}, format=".1f"),
        spec("fallback", {"metric": "fallback"}, format=".2f"),
    ]


def _notes(options) -> list[str]:
    return [
        f"P@k under {options.attacks[0]} at {options.norm} ≤ {max(options.epsilon):g}, "
        "of checkpoints by the one selection rule.",
        "− default: minus the level that the other tables keep, − vanilla: minus the "
        "vanilla model at the same k; paired by seed.",
        "same: overlap of the top k between different inputs, which grows with k.",
        "Weights in multiples of the middle of the preset's grid; each is a fit of its "
        "own. The other tables search a short grid, so that their numbers may lie "
        "below those of the robustness experiment.",
        "fallback: share of seeds without a checkpoint whose validation AUC is within "
        "the tolerance: they take the vanilla model.",
    ]


def _figure(recorded, dataset, k, options):
    drawn = []
    for factor in _factors(options):
        here = records.select(recorded, factor=factor, metric="p@k")
        if not here:
            continue
        levels = _levels(here)
        series = {}
        if _VANILLA in options.methods:
            wanted = {"method": _VANILLA, "metric": "p@k"}
            flat = records.select(recorded, factor=BASELINE, **wanted)
            pairs = [_mean(flat)] * len(levels)
            if factor == "k":
                by_k = records.select(recorded, factor="k", **wanted)
                pairs = [_mean(records.select(by_k, level=level)) for level in levels]
            series[_VANILLA] = _vectors(pairs)
        for method in options.methods:
            of_method = records.select(here, method=method)
            if of_method and method != _VANILLA:
                pairs = [
                    _mean(records.select(of_method, level=level)) for level in levels
                ]
                series[method] = _vectors(pairs)
        default = next((r["level"] for r in here if r["default"]), None)
        drawn.append(
            Panel(
                _TITLES[factor],
                [_WORDS.get(level, level) for level in levels],
                series,
                _WORDS.get(default, default),
            )
        )
    budget = f"{options.attacks[0]}, {options.norm} ≤ {max(options.epsilon):g}"
    return panels(
        drawn,
        ylabel="P@k under attack",
        title=f"{dataset}, {budget}: one hyperparameter at a time (default: shaded)",
        baseline=_VANILLA,
    )


def _levels(recorded: Iterable[Record]) -> list[str]:
    """Levels from low to high, names as they were tried."""

    def place(level):
        try:
            return float(level.removeprefix("×"))
        except ValueError:
            return 0.0

    return sorted(dict.fromkeys(r["level"] for r in recorded), key=place)


def _mean(recorded) -> tuple[float, float]:
    return statistics.of_records(recorded)[:2]


def _vectors(pairs) -> tuple[np.ndarray, np.ndarray]:
    mean, error = np.array(pairs).T
    return mean, error


def _compared(factor, store, dataset, options) -> dict[str, list[Record]]:
    """Method -> its records of one factor, with differences; of those that have any."""
    recorded = derive(store.select(dataset=dataset, factor=factor, seed=options.seeds))
    measured = {record["method"] for record in records.select(recorded, metric="p@k")}
    return {
        method: records.select(recorded, method=method)
        for method in options.methods
        if method in measured and method != _VANILLA
    }


def _judge(factor, sign, verdict, store, dataset, options):
    """The verdicts on all differences of a factor, and the differences as text."""
    judged, texts = [], []
    for method, of_method in _compared(factor, store, dataset, options).items():
        differences = records.select(of_method, metric="difference")
        numbers = []
        for level in _levels(differences):
            estimate = statistics.of_records(records.select(differences, level=level))
            estimate = estimate._replace(mean=sign * estimate.mean)
            judged.append(estimate)
            which = level if sign > 0 else f"default − {level}"
            told = statistics.shown(estimate, "+.3f")
            text = f"{_SHORT.get(factor, '')}{which} {told}"
            same = records.select(of_method, level=level, metric="same")
            if factor == "k" and statistics.of_records(same).mean >= _ONE_RANKING:
                text += " (one ranking for nearly all inputs)"
            numbers.append(text)
        if numbers:
            texts.append(f"{method}: {', '.join(numbers)}")
    if not judged:
        return None
    verdicts = verdict(judged)
    held = f"{verdicts.count(True)} of {len(verdicts)}"
    return Verdict(together(verdicts), f"{'; '.join(texts)}: {held} hold")


def _not_below(estimates: Sequence[Estimate]) -> list[bool | None]:
    return metrics.verdicts(estimates, -MARGIN)


def _within(estimates: Sequence[Estimate]) -> list[bool | None]:
    other = [estimate._replace(mean=-estimate.mean) for estimate in estimates]
    both = zip(_not_below(estimates), _not_below(other), strict=True)
    return list(map(together, both))


def plateau(
    means: dict[float, statistics.Cells], margin: float = MARGIN
) -> tuple[float, float, bool | None]:
    """How wide the weights are whose P@k is at most a margin below the best.

    The neighbouring weights around the one with the best mean.

    Args:
      means: weight -> (seed, fold) -> P@k.
      margin: of P@k.

    Returns:
      Lowest and highest weight of the plateau by means, and whether it spans `DECADE`:
      True if the weights that are surely on it do, False if even those that may be on
      it do not, else None.
    """
    weights = sorted(means)
    average = [over_runs(means[weight]).mean for weight in weights]
    best = int(np.argmax(np.nan_to_num(average, nan=-np.inf)))
    highest = means[weights[best]]
    falls = [statistics.difference(means[weight], highest) for weight in weights]

    def ends(on):
        low = high = best
        while low > 0 and on(falls[low - 1]):
            low -= 1
        while high + 1 < len(weights) and on(falls[high + 1]):
            high += 1
        return weights[low], weights[high]

    def wide(on):
        low, high = ends(on)
        return high >= DECADE * low * (1 - 1e-6)

    low, high = ends(lambda fall: fall.mean >= -margin)
    if wide(lambda fall: statistics.above(fall, -margin) is True):
        return low, high, True
    possible = wide(lambda fall: statistics.above(fall, -margin) is not False)
    return low, high, None if possible else False


_WIDE = {
    True: "surely as wide",
    False: "surely narrower",
    None: "within the errors it may be as wide",
}


def _judge_weight(factor, store, dataset, options):
    verdicts, texts = [], []
    for method, of_method in _compared(factor, store, dataset, options).items():
        of_method = records.select(of_method, metric="p@k")
        weights = sorted({record["weight"] for record in of_method})
        each = [records.select(of_method, weight=weight) for weight in weights]
        means = dict(zip(weights, map(statistics.cells, each), strict=True))
        low, high, wide = plateau(means)
        verdicts.append(wide)
        texts.append(
            f"{method} {low:g} … {high:g} by the means (weights tried: "
            f"{min(means):g} … {max(means):g}), {_WIDE[wide]}"
        )
    if not verdicts:
        return None
    return Verdict(together(verdicts), "; ".join(texts))


_OF_WEIGHTS = (
    f"the weights around the best one whose P@k is at most {MARGIN:g} lower span a "
    f"factor of {DECADE:g}"
)
QUESTIONS = (
    Question(
        "R2ET is stable in the number k′ of pairs.",
        f"P@k within ±{MARGIN:g} of that at the default k′, for every k′",
        functools.partial(_judge, "k_prime", 1, _within),
        "A single pair is a noisier aim than several, and all pairs look away from the "
        "border of the top k; the grid of weights is short.",
        figure="sensitivity",
    ),
    Question(
        "Retraining a vanilla model does no worse than training from scratch.",
        f"P@k of retrained minus scratch, not {MARGIN:g} lower; as many epochs in all",
        functools.partial(_judge, "schedule", -1, _not_below),
        "From scratch the penalty acts over all epochs, twice as many as after "
        "pretraining.",
        figure="sensitivity",
    ),
    Question(
        "Keeping the model's own ranking does no worse than keeping that of the "
        "previous epoch or of the vanilla model.",
        f"P@k with its own minus P@k with the other, not {MARGIN:g} lower",
        functools.partial(_judge, "reference", -1, _not_below),
        "A ranking that does not move is a steadier aim.",
        ours=True,
        figure="sensitivity",
    ),
    Question(
        "The weight of the ranking term needs no fine tuning.",
        _OF_WEIGHTS,
        functools.partial(_judge_weight, "lambda_1"),
        "A small weight does little; with a large one the AUC lasts for a few epochs "
        "only (columns epoch, fallback).",
        ours=True,
        figure="sensitivity",
    ),
    Question(
        "The weight of the curvature needs no fine tuning.",
        _OF_WEIGHTS,
        functools.partial(_judge_weight, "lambda_2"),
        "A large weight takes the gradient of the ranking term's place.",
        ours=True,
        figure="sensitivity",
    ),
    Question(
        "R2ET keeps more of the top k than vanilla for every k that it is trained for.",
        "P@k minus vanilla's at the same k, above 0",
        functools.partial(_judge, "k", 1, metrics.verdicts),
        "With nearly all features in the top k much of it stays by chance.",
        ours=True,
        figure="sensitivity",
    ),
)
