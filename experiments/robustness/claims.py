"""The claims on robustness, judged on each data set at the main tolerance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.measures.evaluation import STRONGEST
from experiments.problems import methods, presets
from experiments.problems.methods import family
from experiments.report import judging, statistics
from experiments.report.exhibit import Verdict, together
from experiments.report.judging import Question
from experiments.robustness.results import REFERENCE, Results
from experiments.store.records import RecordStore, number
from r2et_jax import metrics
from r2et_jax.metrics.statistics import differences, over_runs

TITLE = "How much of the top k survives attacks"
WEIGHT_DECAY = ("wd", "wd_decoupled")
# What R2ET was compared with where it was published, but for weight decay.
COMPARED = frozenset(name for name, row in methods.ROWS.items() if row.beside)
OTHERS = methods.names("baseline").difference(WEIGHT_DECAY)
# Its own forms: sums with other methods, and thickness by itself, prove nothing of it.
FORMS = frozenset(n for n in methods.names("R2ET") if n.startswith("r2et"))
PUBLISHED_ATTACK = "er"
_TOLERANCE = presets.MAIN_TOLERANCE
# By kind of data, why weight decay is not beaten.
_DECAY = {
    "tabular": "Tuned weight decay makes networks of tables nearly linear (R² lin), "
    "and the ranking of a linear model never changes.",
    "image": "Weight decay lowers the curvature of the whole network. R2ET moves "
    "towards one ranking for all inputs (same) and to pixels that are zero (bg).",
    "graph": "Few validation graphs turn most settings of a penalty down by their AUC.",
}
_BELOW_CHANCE = (
    "Under attack both keep less of an input's top k than other inputs have of it."
)
_ONE_RANKING = (
    "A model with one ranking for all inputs (same = 1) leaves nothing to correct."
)
_NOTHING_LEARNT = "The models have learnt nothing whose explanation could be robust."
# What tells a model that evades the question: column of the table, metric.
_SIGNS = {
    "tabular": ("R² lin", "linear_r2"),
    "image": ("bg", "bg"),
    "graph": ("same", "same"),
}


def write_exhibit(
    folder: Path, store: RecordStore, groups: Sequence, written: Sequence[Path]
) -> Path:
    """Write the exhibit of all data sets; arguments as of `judging.write_exhibit`."""
    return judging.write_exhibit(
        folder,
        store,
        groups,
        written,
        title=TITLE,
        questions=questions(store, groups),
        figures={
            "p_at_k_by_method": "P@k under the strongest attack of every method, "
            "sorted; hollow: overlap of the top k between different inputs.",
            "p_at_k_by_epsilon": "P@k against the budget of the attack: vanilla and "
            "the best baseline, R2ET variant and method of ours by validation P@k.",
        },
    )


def questions(store: RecordStore, groups: Iterable) -> list[Question]:
    """The claims on every data set with every k.

    Args:
      store: the records.
      groups: the flags of each group of data sets.
    """
    by_data = {}
    for options in groups:
        for k in options.k:
            results = Results(store, options, k=k)
            by_data |= dict.fromkeys(((name, k) for name in options.datasets), results)
    asked = []
    for attack, name, others, which in (
        (
            PUBLISHED_ATTACK,
            "the published ERAttack",
            COMPARED,
            "each method run here that it was published beside",
        ),
        (STRONGEST, "the strongest attack", OTHERS, "every other baseline run here"),
    ):
        # The figure shows the strongest attack, which the papers do not have.
        ours = attack == STRONGEST
        figure = "p_at_k_by_method" if ours else None
        asked += [
            Question(
                f"Under {name} R2ET keeps more of the top k than {which} (weight decay "
                "apart).",
                "P@k of the R2ET variant with the best validation P@k, minus that of "
                "each of them, above 0",
                functools.partial(_against_others, by_data, attack, others),
                "Where no penalty helps much, the AUC leaves little room to give up.",
                figure=figure,
                ours=ours,
            ),
            Question(
                f"Under {name} R2ET keeps more of the top k than weight decay that is "
                "tuned with equal effort.",
                "P@k of the best R2ET variant minus that of the better weight decay, "
                "both by validation P@k, above 0",
                functools.partial(_against_decay, by_data, attack, FORMS.__contains__),
                "See R² lin, same and bg.",
                figure=figure,
                ours=ours,
            ),
        ]
    return [
        *asked,
        Question(
            "Methods of this project keep more of the top k than tuned weight decay.",
            "P@k under the strongest attack of the best of ours minus that of the "
            "better weight decay, both by validation P@k, above 0",
            functools.partial(_against_decay, by_data, STRONGEST, _is_ours),
            "See R² lin, same and bg.",
            figure="p_at_k_by_method",
            ours=True,
        ),
        Question(
            "R2ET stays ahead of vanilla when P@k is corrected for the overlap between "
            "different inputs.",
            "P@k⁺ = (P@k − same)/(1 − same) of each run under the strongest attack, "
            "the best R2ET variant minus vanilla, above 0",
            functools.partial(_corrected, by_data),
            "R2ET moves towards one ranking for all inputs (same): what it keeps "
            "under attack is largely what every input has.",
            ours=True,
        ),
        Question(
            "The MSE attack is weaker than ERAttack.",
            "P@k under mse minus P@k under er, mean over the methods, above 0",
            functools.partial(_mse_weaker, by_data),
            "With one output and kinks the Hessian has rank one almost everywhere, so "
            "that both attacks move along nearly the same direction; the MSE attack "
            "starts at random.",
        ),
        Question(
            "The strongest attack lowers P@k below the published ERAttack.",
            "vanilla's P@k under er minus that under strongest, above 0",
            functools.partial(_strongest_lower, by_data),
            "Where nearly nothing is left to lower, or too few evaluations were given.",
            ours=True,
        ),
        Question(
            "Under attack the top edges of R2ET's models still name more of those in "
            "which the classes truly differ than vanilla's do.",
            "precision against the truth under the strongest attack, the best R2ET "
            "variant by validation P@k minus vanilla, above 0",
            functools.partial(_truth_kept, by_data),
            "A steadier ranking is not a truer one: what R2ET keeps under attack it "
            "need not have had before.",
            ours=True,
        ),
    ]


def _against_others(by_data, attack, names, store, dataset, options):
    del store
    results = by_data[dataset, options.k[0]]
    ours = _best(results, dataset, attack, FORMS.__contains__)
    values = _precision(results, dataset, attack, ours)
    others = {
        name: of
        for name in options.methods
        if name in names and (of := _precision(results, dataset, attack, name))
    }
    if not values or not others or dataset.endswith(REFERENCE):
        return None
    gains = {name: statistics.difference(values, of) for name, of in others.items()}
    # One that is not finite first: it decides.
    least = min(gains, key=lambda name: np.nan_to_num(gains[name].mean, nan=-np.inf))
    text = (
        f"{ours} {statistics.shown(gains[least], '+.3f')} against {least}, of "
        f"{', '.join(others)}{_started(results, dataset, ours)}"
    )
    verdict = together(metrics.verdicts(gains.values()))
    return _unless_nothing_learnt(results, dataset, options, verdict, text)


def _against_decay(by_data, attack, candidates, store, dataset, options):
    del store
    results = by_data[dataset, options.k[0]]
    ours = _best(results, dataset, attack, candidates)
    decay = _best(results, dataset, attack, WEIGHT_DECAY.__contains__)
    if None in (ours, decay) or dataset.endswith(REFERENCE):
        return None
    gain = statistics.difference(
        *(_precision(results, dataset, attack, name) for name in (ours, decay))
    )
    shown = (ours, decay, "vanilla")
    text = (
        f"{ours} minus {decay} {statistics.shown(gain, '+.3f')}, "
        f"AUC {_levels(results, dataset, 'auc', shown)}"
    )
    column, metric = _SIGNS[options.kind]
    text += f", {column} {_levels(results, dataset, metric, shown)}"
    text += _started(results, dataset, ours)
    verdict = statistics.above(gain, 0)
    cause = _DECAY[options.kind] if verdict is False else ""
    return _unless_nothing_learnt(results, dataset, options, verdict, text, cause)


def _started(results, dataset, method) -> str:
    """Says of how many runs the chosen model is what training began with."""
    epochs = results.get(dataset, method, "epoch", tolerance=_TOLERANCE)
    same = [number(record["value"]) for record in epochs].count(0)
    text = f" (in {same} of {len(epochs)} runs {method} was left as pretrained)"
    return text if same else ""


def _corrected(by_data, store, dataset, options):
    del store
    results = by_data[dataset, options.k[0]]
    ours = _best(results, dataset, STRONGEST, FORMS.__contains__)
    if ours is None or dataset.endswith(REFERENCE):
        return None
    first, second = (
        _precision(results, dataset, STRONGEST, name, "p@k+")
        for name in (ours, "vanilla")
    )
    gain = statistics.difference(first, second)
    if not gain.runs:
        return None
    same = _levels(results, dataset, "same", (ours, "vanilla"))
    if gain.num_nonfinite:
        text = (
            f"{ours}, same {same} (without a value in {gain.num_nonfinite} "
            f"of {gain.runs} runs)"
        )
        return _unless_nothing_learnt(
            results, dataset, options, None, text, _ONE_RANKING
        )
    levels = [over_runs(values).mean for values in (first, second)]
    text = (
        f"{ours} {levels[0]:.2f} less vanilla {levels[1]:.2f}: "
        f"{statistics.shown(gain, '+.2f')}, same {same}"
    )
    verdict = statistics.above(gain, 0)
    cause = _BELOW_CHANCE if not verdict and max(levels) < 0 else ""
    return _unless_nothing_learnt(results, dataset, options, verdict, text, cause)


def _mse_weaker(by_data, store, dataset, options):
    del store
    results = by_data[dataset, options.k[0]]
    gaps: dict = {}
    count = 0
    for method in results.measured(dataset, _TOLERANCE):
        pair = [
            _precision(results, dataset, attack, method)
            for attack in ("mse", PUBLISHED_ATTACK)
        ]
        if family(method) == "linear" or not all(pair):
            continue
        count += 1
        for cell, gap in differences(*pair).items():
            gaps.setdefault(cell, []).append(gap)
    if not count or dataset.endswith(REFERENCE):
        return None
    gap = over_runs({cell: sum(v) / len(v) for cell, v in gaps.items()})
    text = f"{statistics.shown(gap, '+.3f')} over {count} methods"
    return _unless_nothing_learnt(
        results, dataset, options, statistics.above(gap, 0), text
    )


def _strongest_lower(by_data, store, dataset, options):
    del store
    results = by_data[dataset, options.k[0]]
    pair = [
        _precision(results, dataset, attack, "vanilla")
        for attack in (PUBLISHED_ATTACK, STRONGEST)
    ]
    if not all(pair) or dataset.endswith(REFERENCE):
        return None
    gap = statistics.difference(*pair)
    text = f"{statistics.shown(gap, '+.3f')}, down to {_average(pair[1]):.3f}"
    return _unless_nothing_learnt(
        results, dataset, options, statistics.above(gap, 0), text
    )


def _truth_kept(by_data, store, dataset, options):
    del store
    results, metric = by_data[dataset, options.k[0]], "truth_precision"
    ours = _best(results, dataset, STRONGEST, FORMS.__contains__)
    attacked = {
        method: _precision(results, dataset, STRONGEST, method, metric)
        for method in (ours, "vanilla")
    }
    if not all(attacked.values()):
        return None
    gain = statistics.difference(*attacked.values())
    levels = (
        f"{method} {results.mean(dataset, method, metric, tolerance=_TOLERANCE):.3f} "
        f"before and {_average(after):.3f} after"
        for method, after in attacked.items()
    )
    text = f"{statistics.shown(gain, '+.3f')} ({', '.join(levels)})"
    return _unless_nothing_learnt(
        results, dataset, options, statistics.above(gain, 0), text
    )


def _unless_nothing_learnt(results, dataset, options, held, numbers, cause=""):
    """Of graph models at chance it cannot be told how robust they are."""
    judged = Verdict(held, numbers, cause)
    if options.kind != "graph":
        return judged
    auc = statistics.of_records(
        results.get(dataset, "vanilla", "auc", tolerance=_TOLERANCE)
    )
    if auc.runs == 1 or statistics.above(auc, 0.5):
        return judged
    chance = f"vanilla's AUC {statistics.shown(auc)} is at chance"
    numbers = f"{numbers} (nothing was learnt: {chance})"
    return Verdict(None, numbers, _NOTHING_LEARNT)


def _is_ours(method: str) -> bool:
    return family(method) == "ours"


def _best(results, dataset, attack, admits: Callable[[str], bool]) -> str | None:
    """Of the attacked ones, the method with the highest P@k of validation inputs."""
    known = {
        name: results.mean(dataset, name, "valid_p@k", tolerance=_TOLERANCE)
        for name in results.options.methods
        if admits(name) and _precision(results, dataset, attack, name)
    }
    known = {name: value for name, value in known.items() if value == value}
    return max(known, key=known.__getitem__) if known else None


def _precision(
    results: Results,
    dataset: str,
    attack: str,
    method: str | None,
    metric: str = "p@k",
) -> Mapping:
    """(seed, fold) -> P@k at the largest budget; empty if it was not measured."""
    if method is None:
        return {}
    budget = max(results.options.epsilon)
    where = {"tolerance": _TOLERANCE, "attack": attack, "epsilon": budget}
    return results.cells(dataset, method, metric, **where)


def _levels(results, dataset, metric, methods) -> str:
    levels = (results.mean(dataset, m, metric, tolerance=_TOLERANCE) for m in methods)
    pairs = zip(levels, methods, strict=True)
    return " / ".join(f"{m} {value:.3f}" for value, m in pairs if value == value)


def _average(values: Mapping) -> float:
    return over_runs(values).mean
