"""Perturbed inputs of one model: distance, overlap and discordance of maps."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.loop import parts
from experiments.measures import evaluation
from experiments.problems import presets
from experiments.problems.registry import Problem, View
from experiments.store.numbers import listed, summary
from r2et_jax import metrics, ranking, score
from r2et_jax.context import in_context
from r2et_jax.execution import example_keys, kept, map_batched
from r2et_jax.metrics.discordance import Discordance
from r2et_jax.metrics.discordance import discordance as measure_discordance
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.threat.geometry import sample_boundary

NORMS = ("l1", "l2", "linf")
_L2 = NORMS.index("l2")
RANDOM = "random"
_BATCH_SIZE = 128
ROLES = ("clean", "nearer", "farther")
# Test inputs of which single points are kept for figures.
_DRAWN = 40


class Moved(NamedTuple):
    """Perturbed inputs of each of m inputs, and what became of their explanations.

    Attributes:
      sources: p names, of the attack that each perturbed input is from.
      clean: saliency of the clean inputs [m, n].
      maps: of the perturbed ones [m, p, n].
      distance: between the two [m, norms, p], in the order of `NORMS`.
      overlap: share of the clean top-k that stays [m, p]; NaN without a ranking.
      discordance: of each choice of pairs, with entries [m, norms].
      kendall, spearman: correlation of distance and overlap [m, norms], −1 if the
        distance told all.
    """

    sources: tuple[str, ...]
    clean: np.ndarray
    maps: np.ndarray
    distance: np.ndarray
    overlap: np.ndarray
    discordance: dict[str, Discordance]
    kendall: np.ndarray
    spearman: np.ndarray


def perturb(problem: Problem, model: Any, params: Any, *, k: int, options) -> Moved:
    """Perturb test inputs, all within one budget.

    Of each attack that the flags name these are the best and the last input; `RANDOM`
    stands for `presets.NUM_DIRECTIONS` random directions.
    """
    view, (epsilon,) = problem.view, options.epsilon
    named = [name for name in options.attacks if name != RANDOM]
    x, partner, _ = problem.inputs("test", problem.protocol(options.preset).num_test)
    ball, context = (
        problem.threat_model(epsilon),
        view.context(model, params, partner),
    )
    key = jax.random.key(0)
    perturbed = [np.zeros((len(x), 0, x.shape[1]), np.float32)]
    for name in named:
        run = evaluation.compiled_attack(model, name, k, view, evaluations=0)
        result = run(params, x, ball, key=key, context=context)
        # Where nothing was better than the clean input, the last one stands twice: a
        # tie in all that is compared.
        moved = result.best.step[:, None] > 0
        best = np.where(moved, result.perturbed, result.details.last)
        perturbed.append(np.stack([best, result.details.last], axis=1))
    num_random = presets.NUM_DIRECTIONS if RANDOM in options.attacks else 0
    run = _compare(model, k, view, num_random)
    out = run(params, x, np.concatenate(perturbed, axis=1), ball, key, context)
    sources = [RANDOM] * num_random + [name for name in named for _ in range(2)]
    return Moved(tuple(sources), *jax.tree.map(np.asarray, out))


@kept
def _compare(model: Any, k: int, view: View, num_random: int):
    """Compiled `run(params, x [m, n], attacked [m, q, n], threat, key, context)`.

    Returns the fields of `Moved` but its sources, of random directions and attacked.
    """
    apply = view.apply(model)
    explain = view.explainer(score.log_odds(apply))

    def compared(distance, overlap):
        drawn = jnp.arange(overlap.size) < num_random
        sets = {"all": None, "random": drawn[:, None] & drawn}
        sets |= {"mixed": drawn[:, None] ^ drawn, "attacks": ~(drawn[:, None] | drawn)}
        statistics = {
            name: measure_discordance(distance, overlap, pairs=pairs)
            for name, pairs in sets.items()
        }
        kendall = metrics.kendall(distance, overlap)
        return statistics, kendall, metrics.spearman(distance, overlap)

    def run(params, x, attacked, ball, key, context):
        def chosen(x, attacked, key, context):
            both = in_context(params, context)
            target = score.predicted_class(apply(both, x))
            clean = explain(both, x, target)
            mask = positive_top_k_mask(clean, k=k)
            draw = jax.vmap(lambda key: sample_boundary(ball, x, key=key))
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
        return map_batched(chosen, (x, attacked, keys, context), batch_size=size)

    return jax.jit(run)


def measure(moved: Moved, units: Any = None) -> list[dict[str, Any]]:
    """The records of one model: metric, value, stderr, n, with `norm` and `pairs`.

    `units` as of `summary`.
    """
    mean = functools.partial(summary, units=units)
    records = [mean("p@k_lowest", moved.overlap.min(axis=1))]
    for source in dict.fromkeys(moved.sources):
        here = np.array([name == source for name in moved.sources])
        each = moved.overlap[:, here].mean(axis=1)
        records.append({**mean("p@k", each), "source": source})
    rows = np.arange(len(moved.overlap))
    for i, norm in enumerate(NORMS):
        farthest = moved.overlap[rows, moved.distance[:, i].argmax(axis=1)]
        cells = [
            mean("kendall", moved.kendall[:, i]),
            mean("spearman", moved.spearman[:, i]),
            mean("p@k_farthest", farthest),
        ]
        for name, pairs in moved.discordance.items():
            for metric, values in pairs._asdict().items():
                cells.append({**mean(metric, values[:, i]), "pairs": name})
        records += [{**cell, "norm": norm} for cell in cells]
    return records


def points(moved: Moved) -> list[dict[str, Any]]:
    """l2 distance and overlap of the first inputs' perturbations, for a figure."""
    records = []
    for source in dict.fromkeys(moved.sources):
        here = np.array([name == source for name in moved.sources])
        both = {"distance": moved.distance[:, _L2], "overlap": moved.overlap}
        for quantity, values in both.items():
            values = values[:_DRAWN, here].ravel()
            record = listed("points", np.nanmean(values), values.size, values)
            records.append({**record, "source": source, "quantity": quantity})
    return records


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
    maps = dict(zip(ROLES, (moved.clean[i], *moved.maps[i, [near, far]]), strict=True))
    tops = [np.argsort(-values, kind="stable")[:k] for values in maps.values()]
    shown = np.unique(np.concatenate(tops))
    records = []
    for (role, values), place in zip(maps.items(), (None, near, far), strict=True):
        kept = 1.0 if place is None else overlap[i, place]
        record = listed("example", kept, 1, values[shown])
        record |= {"role": role, "input": int(i)}
        record["features"] = ";".join(names[feature] for feature in shown)
        if place is not None:
            record["source"] = moved.sources[place]
            record |= zip(NORMS, map(float, distance[i, :, place]), strict=True)
        records.append(record)
    return records


def measure_dataset(problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    (epsilon,) = options.epsilon
    for chosen in parts.models(problem, k, options, description="perturb"):
        cell = {
            **chosen.fields,
            "attack": "+".join(options.attacks),
            "epsilon": epsilon,
        }
        if not store.has(**cell):
            moved = perturb(problem, chosen.model, chosen.params, k=k, options=options)
            units = problem.inputs("test", len(moved.clean)).units
            measurements = measure(moved, units)
            # One run of each method is drawn.
            if chosen.fields["seed"] == options.seeds[0] and problem.fold == 0:
                names = problem.dataset.columns
                if len(names) != problem.num_features:  # channels of pixels
                    names = [f"pixel {i}" for i in range(problem.num_features)]
                measurements += [*points(moved), *example(moved, names, k=k)]
            store.append([{**cell, **record} for record in measurements])
