"""Whether the l_p distance of explanations tells how their top-k features changed.

Perturbs each test input in several ways within one budget: random directions, and what
attacks found. Of two perturbations of one input, distance misleads about the ranking
where the one that moves the saliency less keeps fewer of the top-k features: a
discordant pair.

    python -m experiments.motivation --datasets=adult,bank,compas
    python -m experiments.motivation --datasets=mnist
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.console import flags
from experiments.loop import parts, runs
from experiments.measures import evaluation
from experiments.measures.numbers import summary
from experiments.problems import presets
from experiments.problems.registry import Problem, View
from experiments.report import tables
from experiments.store import output, records
from r2et_jax import (
    attacks,
    metrics,
    objectives,
    plots,
    ranking,
    score,
    threat,
)
from r2et_jax.context import in_context
from r2et_jax.execution import example_keys, map_batched

NORMS = ("l1", "l2", "linf")
_L2 = NORMS.index("l2")
RANDOM = "random"
# Random directions of each input.
NUM_DIRECTIONS = 16
_BATCH_SIZE = 128
# Share of discordant pairs that is clearly above none.
_CLEARLY = 0.1
# Top sets up to this size are drawn feature by feature.
_MOST_BARS = 16
_ROLES = ("clean", "nearer", "farther")
_FIGURES = {
    "distance": "Perturbed inputs by l2 distance of the saliency and share of the top "
    "features that stays; A and B are of one input, A nearer but keeping fewer.",
    "example": "Saliency of one input before and after the perturbations A and B: A "
    "moves it less and changes more of its top features.",
}
# Test inputs of which single points are kept for figures.
_DRAWN = 40


def _define(values):
    parts.define_of_pairs(values)


FLAGS = flags.describe(
    "motivation",
    defaults={
        "datasets": runs.DATASETS,
        "methods": {
            "smoke": "vanilla,r2et",
            "standard": "vanilla,wd,sp,r2et_nh,r2et",
            "paper": "vanilla,wd,sp,r2et_nh,r2et",
        },
        "attacks": f"{RANDOM},er_surrogate,mse",
        "k": str(presets.TABULAR_K),
        "epsilon": "1",
        "seeds": runs.SEEDS,
    },
    own=parts.OF_PAIRS,
    define=_define,
)


def main(values):
    common = FLAGS.read(
        values,
        datasets=parts.known_datasets(values["data_dir"].value),
        methods=objectives.NAMES,
        attacks=attacks.SINGLE,
    )
    runs.check_single(common, ("k", "epsilon"))
    chosen = [parts.choose_largest(found, common) for found in parts.problems(common)]
    runs.run(
        common,
        chosen,
        parts.LARGEST,
        _measure_dataset,
        write_report,
        experiment=FLAGS.experiment,
        title="Distance of explanations against overlap of their top features",
        questions=[_question()],
        figures=_FIGURES,
    )


def _question():
    return runs.Question(
        "The l_p distance of two explanations misleads about their ranking: the "
        "smaller distance can go with the smaller overlap of the top features.",
        f"more than {_CLEARLY:.0%} of pairs are discordant in each norm",
        judge,
        "Where the whole ranking moves with the map, its distance tells it.",
        figure="distance",
    )


def _measure_dataset(found, k, common, store):
    (epsilon,) = common.epsilon
    for one in parts.models(FLAGS.experiment, found, k, common, description="perturb"):
        cell = {**one.fields, "attack": "+".join(common.attacks), "epsilon": epsilon}
        if not store.has(**cell):
            moved = perturb(found, one.model, one.params, k=k, common=common)
            units = found.inputs("test", len(moved.clean)).units
            measurements = measure(moved, units)
            # One run of each method is drawn.
            if one.fields["seed"] == common.seeds[0] and found.fold == 0:
                names = found.dataset.columns
                if len(names) != found.num_features:  # channels of pixels
                    names = [f"pixel {i}" for i in range(found.num_features)]
                measurements += [*points(moved), *example(moved, names, k=k)]
            store.append([{**cell, **record} for record in measurements])


class Moved(NamedTuple):
    """Perturbed inputs of each of m inputs, and what became of their explanations.

    Attributes:
      sources: p names, of the attack that each perturbed input is from.
      clean: saliency of the clean inputs [m, n].
      maps: of the perturbed ones [m, p, n].
      distance: between the two [m, norms, p], in the order of `NORMS`.
      overlap: share of the clean top-k that stays [m, p]; NaN without a ranking.
      discordance: of each kind of pairs, with entries [m, norms].
      kendall, spearman: correlation of distance and overlap [m, norms], −1 if the
        distance told all.
    """

    sources: tuple[str, ...]
    clean: np.ndarray
    maps: np.ndarray
    distance: np.ndarray
    overlap: np.ndarray
    discordance: dict[str, metrics.Discordance]
    kendall: np.ndarray
    spearman: np.ndarray


def perturb(found: Problem, model: Any, params: Any, *, k: int, common) -> Moved:
    """Perturb test inputs, all within one budget.

    Of each attack that the flags name these are the best and the last input; `RANDOM`
    stands for `NUM_DIRECTIONS` random directions.
    """
    view, (epsilon,) = found.view, common.epsilon
    named = [name for name in common.attacks if name != RANDOM]
    x, partner, _ = found.inputs("test", found.protocol(common.preset).num_test)
    budget, context = found.budget(epsilon), view.context(model, params, partner)
    key = jax.random.key(0)
    perturbed = [np.zeros((len(x), 0, x.shape[1]), np.float32)]
    for name in named:
        run = evaluation.compiled_attack(model, name, k, view, budget=0)
        result = run(params, x, budget, key=key, context=context)
        # Where nothing was better than the clean input, the last one stands twice: a
        # tie in all that is compared.
        moved = result.best.step[:, None] > 0
        best = np.where(moved, result.perturbed, result.details.last)
        perturbed.append(np.stack([best, result.details.last], axis=1))
    num_random = NUM_DIRECTIONS if RANDOM in common.attacks else 0
    run = _compare(model, k, view, num_random)
    out = run(params, x, np.concatenate(perturbed, axis=1), budget, key, context)
    sources = [RANDOM] * num_random + [name for name in named for _ in range(2)]
    return Moved(tuple(sources), *jax.tree.map(np.asarray, out))


@functools.lru_cache
def _compare(model: Any, k: int, view: View, num_random: int):
    """Compiled `run(params, x [m, n], attacked [m, q, n], threat, key, context)`.

    Returns the fields of `Moved` but its sources, of random directions and attacked.
    """
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def compared(distance, overlap):
        drawn = jnp.arange(overlap.size) < num_random
        kinds = {"all": None, "random": drawn[:, None] & drawn}
        kinds |= {"mixed": drawn[:, None] ^ drawn, "attacks": ~(drawn[:, None] | drawn)}
        found = {
            kind: metrics.discordance(distance, overlap, pairs=pairs)
            for kind, pairs in kinds.items()
        }
        kendall = metrics.kendall(distance, overlap)
        return found, kendall, metrics.spearman(distance, overlap)

    def run(params, x, attacked, budget, key, context):
        def one(x, attacked, key, context):
            both = in_context(params, context)
            target = score.predicted_class(apply(both, x))
            clean = explain(both, x, target)
            mask = ranking.positive_top_k_mask(clean, k=k)
            draw = jax.vmap(lambda key: threat.sample_boundary(budget, x, key=key))
            perturbed = jnp.concatenate(
                [draw(jax.random.split(key, num_random)), attacked]
            )
            maps = jax.vmap(lambda moved: explain(both, moved, target))(perturbed)
            overlap = jax.vmap(lambda m: ranking.top_k_overlap(mask, m, k=k))(maps)
            change = jnp.abs(maps - clean)
            norms = jnp.sum(change, 1), jnp.linalg.norm(change, axis=1)
            distance = jnp.stack([*norms, jnp.max(change, 1)])
            told = jax.vmap(compared, (0, None))(distance, overlap)
            return clean, maps, distance, overlap, *told

        size = view.batch_size or _BATCH_SIZE
        keys = example_keys(key, len(x))
        return map_batched(one, (x, attacked, keys, context), batch_size=size)

    return jax.jit(run)


def measure(moved: Moved, units: Any = None) -> list[dict[str, Any]]:
    """The records of one model: metric, value, stderr, n, with `norm` and `pairs`.

    `units` as of `summary`.
    """
    mean = functools.partial(summary, units=units)
    found = [mean("p@k_lowest", moved.overlap.min(axis=1))]
    for source in dict.fromkeys(moved.sources):
        here = np.array([name == source for name in moved.sources])
        each = moved.overlap[:, here].mean(axis=1)
        found.append({**mean("p@k", each), "source": source})
    rows = np.arange(len(moved.overlap))
    for i, norm in enumerate(NORMS):
        farthest = moved.overlap[rows, moved.distance[:, i].argmax(axis=1)]
        cells = [
            mean("kendall", moved.kendall[:, i]),
            mean("spearman", moved.spearman[:, i]),
            mean("p@k_farthest", farthest),
        ]
        for kind, pairs in moved.discordance.items():
            for metric, values in pairs._asdict().items():
                cells.append({**mean(metric, values[:, i]), "pairs": kind})
        found += [{**cell, "norm": norm} for cell in cells]
    return found


def points(moved: Moved) -> list[dict[str, Any]]:
    """l2 distance and overlap of the first inputs' perturbations, for a figure."""
    found = []
    for source in dict.fromkeys(moved.sources):
        here = np.array([name == source for name in moved.sources])
        both = {"distance": moved.distance[:, _L2], "overlap": moved.overlap}
        for quantity, values in both.items():
            values = values[:_DRAWN, here].ravel()
            record = runs.listed("points", np.nanmean(values), values.size, values)
            found.append({**record, "source": source, "quantity": quantity})
    return found


def example(moved: Moved, names, *, k: int) -> list[dict[str, Any]]:
    """The most misleading pair of one input; nothing if there is none.

    Of all pairs where one perturbed input is nearer than the other in all norms and
    keeps fewer of the top-k, the one with the largest product of the difference of
    overlaps and the relative one of l2 distances.
    """
    distance, overlap = moved.distance, moved.overlap
    # [m, i, j]: the perturbed input i is nearer than j, and j keeps more.
    nearer = (distance[..., :, None] < distance[..., None, :]).all(axis=1)
    more = np.where(nearer, overlap[:, None, :] - overlap[:, :, None], 0)
    if not (more > 0).any():
        return []
    l2 = np.maximum(distance[:, _L2], 1e-12)
    most = np.nan_to_num(more * (1 - l2[:, :, None] / l2[:, None, :])).argmax()
    i, near, far = np.unravel_index(most, more.shape)
    maps = dict(zip(_ROLES, (moved.clean[i], *moved.maps[i, [near, far]]), strict=True))
    tops = [np.argsort(-values, kind="stable")[:k] for values in maps.values()]
    shown = np.unique(np.concatenate(tops))
    found = []
    for (role, values), place in zip(maps.items(), (None, near, far), strict=True):
        kept = 1.0 if place is None else overlap[i, place]
        record = runs.listed("example", kept, 1, values[shown])
        record |= {"role": role, "input": int(i)}
        record["features"] = ";".join(names[feature] for feature in shown)
        if place is not None:
            record["source"] = moved.sources[place]
            record |= zip(NORMS, map(float, distance[i, :, place]), strict=True)
        found.append(record)
    return found


def write_report(
    folder: Path, store: records.RecordStore, common, *, part: str = ""
) -> list[Path]:
    """Write the table, and for each data set the figures, from the records alone."""
    (k,) = common.k
    chosen = {"dataset": common.datasets, "method": common.methods, "k": k}
    name = f"table_{part}" if part else "table"
    table = tables.pivot(store.select(**chosen), columns=_columns(k))
    tables.write_table(folder, table, notes=_notes(common), name=name)
    written = [folder / f"{name}.{kind}" for kind in ("md", "csv")]
    for dataset in common.datasets:
        method = runs.main_method(common.methods)
        here = store.select(dataset=dataset, method=method, k=k)
        scatter, bars = (folder / f"{name}_{dataset}.png" for name in _FIGURES)
        output.save_figure(scatter, _scatter(here, k))
        written.append(scatter)
        if k <= _MOST_BARS and records.select(here, metric="example"):
            output.save_figure(bars, _bars(here, k))
            written.append(bars)
    return written


def _columns(k):
    l2 = {"norm": "l2"}
    columns = {
        f"discordant, {norm}": {"metric": "discordant", "norm": norm, "pairs": "all"}
        for norm in NORMS
    }
    for kind in ("random", "mixed", "attacks"):
        columns[f"{kind}, l2"] = {"metric": "discordant", "pairs": kind, **l2}
    columns |= {
        "tied": {"metric": "tied", "pairs": "all", **l2},
        "τ, l2": {"metric": "kendall", **l2},
        "ρ, l2": {"metric": "spearman", **l2},
        f"P@{k} farthest, l2": {"metric": "p@k_farthest", **l2},
        f"lowest P@{k}": {"metric": "p@k_lowest"},
    }
    return [tables.ColumnSpec(name, filters) for name, filters in columns.items()]


def _notes(common):
    (k,), (epsilon,) = common.k, common.epsilon
    return (
        f"Of each test input {NUM_DIRECTIONS} random directions, and the best and the "
        f"last input of each attack ({', '.join(common.attacks)}), all within the "
        f"{common.norm} budget ε = {epsilon:g}.",
        "discordant: of two perturbed inputs of one input, the one whose saliency (of "
        f"sum 1) is nearer to the clean one in the norm keeps fewer of the top {k}; "
        "share of the pairs that differ in both, mean over inputs: 0 if the distance "
        "tells the ranking, .5 if it tells nothing.",
        "random, attacks: of pairs of two random directions, of two results of attacks;"
        " mixed: one of each. tied: pairs that are equal in either, left out.",
        "τ, ρ: Kendall's and Spearman's correlation of distance and overlap, mean over "
        "inputs; −1 if the distance tells the ranking.",
        f"P@{k} farthest: of the perturbed input with the largest distance; lowest: of "
        "the one that keeps fewest.",
    )


def _scatter(found, k):
    """All perturbations of some inputs, and the example's pair."""
    series: dict[str, dict[str, np.ndarray]] = {}
    for record in records.select(found, metric="points"):
        values = np.array([records.number(v) for v in record["values"]])
        series.setdefault(record["source"], {})[record["quantity"]] = values
    # Overlaps are multiples of 1/k: spread, so that points do not hide each other.
    rng = np.random.default_rng(0)
    for pair in series.values():
        pair["overlap"] += rng.uniform(-0.25, 0.25, pair["overlap"].size) / k
    title = "{dataset}, {method}: the nearer explanation need not be the more alike"
    chosen = _example(found)
    if chosen:
        near, far = (chosen[role]["value"] * k for role in _ROLES[1:])
        title += f"\nOne input: A is nearer and keeps {near:.0f} of {k}, B {far:.0f}"
    figure = plots.scatter(
        {name: (pair["distance"], pair["overlap"]) for name, pair in series.items()},
        xlabel="l2 distance of the saliency from the clean one",
        ylabel=f"share of the top {k} that stays (P@{k})",
        title=title.format_map(found[0]),
        size=(7.4, 4.2),
    )
    (axes,) = figure.axes
    for mark, role in zip("AB", _ROLES[1:], strict=True) if chosen else ():
        point = chosen[role]["l2"], chosen[role]["value"]
        axes.plot(*point, "o", color="white", ms=15, mec="black", mew=1.6)
        axes.text(*point, mark, ha="center", va="center", fontweight="bold")
    return figure


def _bars(found, k):
    """The saliency of the example before and after, panel by panel."""
    chosen = _example(found)
    explained = {}
    for role, record in chosen.items():
        values = np.array(record["values"])
        top = np.zeros(values.size, bool)
        top[np.argsort(-values, kind="stable")[:k]] = True
        explained[role] = plots.Explained(values, top & (values > 0))
    panels = {}
    for mark, role in zip("AB", _ROLES[1:], strict=True):
        distance, kept = chosen[role]["l2"], chosen[role]["value"] * k
        label = f"{mark}: l2 distance {distance:.2g}, keeps {kept:.0f} of {k}"
        panels[label] = explained["clean"], explained[role]
    return plots.explained_bars(
        panels,
        chosen["clean"]["features"].split(";"),
        xlabel="share of the saliency",
        title=f"{found[0]['dataset']}: A moves it less than B, but keeps less of its "
        f"top {k}",
    )


def _example(found):
    return {r["role"]: r for r in records.select(found, metric="example")}


def judge(store, dataset: str, common) -> tuple[bool | None, str]:
    """Whether vanilla's discordant pairs are clearly more than none in every norm."""
    (k,), method = common.k, runs.main_method(common.methods)

    def mean(metric, **at):
        here = {"dataset": dataset, "k": k, "method": method, "metric": metric}
        return runs.of_records(store.select(**here, **at))

    shares = {norm: mean("discordant", norm=norm, pairs="all") for norm in NORMS}
    shown = ", ".join(f"{norm} {runs.shown(v, '.0%')}" for norm, v in shares.items())
    farthest, lowest = mean("p@k_farthest", norm="l2"), mean("p@k_lowest")
    text = (
        f"{dataset}: {shown} of pairs ({method}, {lowest.runs} runs); the perturbation "
        f"farthest in l2 keeps {farthest.mean:.2f} of the top {k}, the worst "
        f"{lowest.mean:.2f}"
    )
    return runs.together(runs.above(v, _CLEARLY) for v in shares.values()), text
