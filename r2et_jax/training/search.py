"""The search of one method's grid: training in blocks, measuring, pruning, choosing.

It can be killed at any moment: every block ends with a checkpoint of all that the
next one needs, from which a restart ends with the same models, bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.training.epochs import TrainState
from r2et_jax.training.resume import Checkpoints
from r2et_jax.training.selection import admissible, select
from r2et_jax.types import Params


class Candidates(Protocol):
    """What measures models on validation data; parameters have leading axes."""

    def auc(self, params: Params, /) -> np.ndarray:
        """Validation AUC, of the leading axes' shape."""

    def precision(self, params: Params, wanted: np.ndarray, /) -> np.ndarray:
        """Validation P@k of the models that a mask of that shape wants, else NaN."""


class Plan(NamedTuple):
    """One method's search over penalty weights.

    Attributes:
      run: `run(states, weights, x, y) -> states`, one block of epochs of a grid.
      weights: settings of the grid, as tuples of penalty weights.
      terms: names of the penalties, in the order of the weights.
      num_blocks: blocks in the whole training.
      block_epochs: epochs in a block.
      pruning: pairs (share of the training, share of the settings that goes on).
      tolerances: validation AUC that a chosen checkpoint may give up, each of them.
      with_start: whether the parameters at the start are a candidate too.
      patience: blocks without another choice after which training stops, or None to
        train to the end.
    """

    run: Callable[..., TrainState]
    weights: list[tuple[float, ...]]
    terms: tuple[str, ...]
    num_blocks: int
    block_epochs: int
    pruning: tuple[tuple[float, float], ...]
    tolerances: tuple[float, ...]
    with_start: bool
    patience: int | None = None


class Progress(NamedTuple):
    """What a search carries from block to block; NumPy arrays throughout.

    Attributes:
      states: training states [S, A] of the settings that are still trained.
      auc: validation AUC [S, 1 + blocks · W] of every candidate, the start first, then
        block by block; NaN where there is none.
      precision: validation P@k of the admissible ones, NaN elsewhere.
      best: parameters [S, T] of the choice so far.
    """

    states: TrainState
    auc: np.ndarray
    precision: np.ndarray
    best: Params


class Searched(NamedTuple):
    """What a search has found, and all that it measured.

    Attributes:
      params: parameters [S, T] of the choices.
      choices: of each seed and tolerance, what was chosen: weights, epoch, validation
        AUC and P@k, the number of admissible candidates, of settings tried and of
        settings trained to the end, and whether none was admissible (`fallback`: the
        parameters are then the first ones and not to be used).
      auc: validation AUC [S, 1 + blocks · W] of every candidate, the start first, then
        block by block; NaN where there is none.
      precision: validation P@k of the admissible ones, NaN elsewhere.
      num_blocks: blocks that were trained.
    """

    params: Params
    choices: list[list[dict[str, Any]]]
    auc: np.ndarray
    precision: np.ndarray
    num_blocks: int


def search(
    plan: Plan,
    states: TrainState,
    x: Any,
    y: Any,
    *,
    candidates: Candidates,
    reference_auc: np.ndarray,
    checkpoints: Checkpoints,
    track: Callable[[range], Iterable[int]],
) -> Searched:
    """Train a grid and choose by the one rule, seed by seed and tolerance by tolerance.

    Args:
      plan: the search.
      states: initial states [S, W] of the grid.
      x, y: training data.
      candidates: measures models on validation data.
      reference_auc: the vanilla model's validation AUC [S].
      checkpoints: where the progress is kept; deleted by the caller, after it has
        saved what is returned here.
      track: wraps the blocks that are left in a progress bar.

    Returns:
      `Searched`, the chosen parameters and all that was measured.

    Example:
      >>> searched = search(  # doctest: +SKIP
      ...     plan, states, x, y, candidates=candidates, reference_auc=auc,
      ...     checkpoints=checkpoints, track=tqdm,
      ... )
    """
    num_settings = len(plan.weights)
    shape = len(reference_auc), 1 + plan.num_blocks * num_settings
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], states.params)
    num_tolerances = len(plan.tolerances)
    progress = Progress(
        states,
        np.full(shape, np.nan),
        np.full(shape, np.nan),
        jax.tree.map(
            lambda leaf: np.repeat(leaf[:, None], num_tolerances, axis=1), start
        ),
    )
    alive, done, seconds = list(range(num_settings)), 0, []
    whole = progress

    def template(extra):
        num_alive = len(extra["alive"])
        return whole._replace(states=_only(whole.states, range(num_alive)))

    restored = checkpoints.restore(template)
    if restored is not None:
        progress, done = restored.state, restored.epoch
        alive, seconds = restored.extra["alive"], restored.extra["seconds"]
    elif plan.with_start:
        _measure(progress, plan, start, slice(0, 1), candidates, reference_auc)
    weights = np.asarray(plan.weights, np.float32).reshape(num_settings, -1)
    for block in track(range(done, plan.num_blocks)):
        if _is_stale(progress, plan, reference_auc, done):
            break
        began = time.perf_counter()
        states = plan.run(progress.states, jnp.asarray(weights[alive]), x, y)
        spent = (time.perf_counter() - began) / (len(alive) * shape[0])
        seconds.append(spent / plan.block_epochs)
        progress = progress._replace(states=states)
        here = 1 + block * num_settings + np.array(alive)
        params = jax.tree.map(np.asarray, states.best_params)
        _measure(progress, plan, params, here, candidates, reference_auc)
        keep = _share_kept(plan, block + 1)
        if len(alive) > math.ceil(keep * num_settings):
            stay = _best_settings(progress, plan, alive, reference_auc, block, keep)
            progress = progress._replace(states=_only(progress.states, stay))
            alive = [alive[i] for i in stay]
        checkpoints.save(
            block + 1, progress, extra={"alive": alive, "seconds": seconds}
        )
        done = block + 1
    # The first block compiles: the median leaves it out.
    usual = float(np.median(seconds))
    choices = _choices(progress, plan, reference_auc)
    effort = {
        "settings_tried": num_settings,
        "settings_left": len(alive),
        "train_seconds": usual,
    }
    choices = [[{**c, **effort} for c in row] for row in choices]
    return Searched(progress.best, choices, progress.auc, progress.precision, done)


def _measure(progress, plan, params, where, candidates, reference_auc):
    """Enter candidates [S, ...] into the tables, and keep those that now lead."""
    num_seeds = len(reference_auc)
    grid = jax.tree.map(
        lambda leaf: leaf if isinstance(where, np.ndarray) else leaf[:, None], params
    )
    auc = candidates.auc(grid)
    wanted = np.stack(
        [
            admissible(
                auc[s],
                reference_auc=reference_auc[s],
                tolerance=max(plan.tolerances),
            )
            for s in range(num_seeds)
        ]
    )
    precision = candidates.precision(grid, wanted)
    progress.auc[:, where], progress.precision[:, where] = auc, precision
    columns = np.arange(progress.auc.shape[1])[where].tolist()
    for s in range(num_seeds):
        for t, choice in enumerate(_select(progress, plan, s, reference_auc)):
            if choice.index in columns:
                column = columns.index(choice.index)
                for kept, leaf in zip(
                    jax.tree.leaves(progress.best), jax.tree.leaves(grid), strict=True
                ):
                    kept[s, t] = leaf[s, column]


def _select(progress, plan, s, reference_auc):
    return [
        select(
            progress.auc[s],
            progress.precision[s],
            reference_auc=reference_auc[s],
            tolerance=tolerance,
        )
        for tolerance in plan.tolerances
    ]


def _is_stale(progress, plan, reference_auc, done: int) -> bool:
    """Whether no choice is of the last blocks, as many as the patience."""
    if plan.patience is None:
        return False
    last = 0
    for s in range(len(reference_auc)):
        for choice in _select(progress, plan, s, reference_auc):
            if choice.index:
                last = max(last, 1 + (choice.index - 1) // len(plan.weights))
    return done - last >= plan.patience


def _share_kept(plan: Plan, blocks_done: int) -> float:
    reached = [
        keep
        for share, keep in plan.pruning
        if blocks_done >= math.ceil(share * plan.num_blocks)
    ]
    return min(reached, default=1.0)


def _best_settings(progress, plan, alive, reference_auc, block, keep):
    """Positions among `alive` of the settings that go on.

    A setting counts by the best admissible P@k that it has reached so far, −1 without
    one, as the mean over seeds and tolerances; then by its present AUC.
    """
    num_settings = len(plan.weights)
    scores = []
    for setting in alive:
        columns = 1 + setting + num_settings * np.arange(block + 1)
        reached = []
        for s, reference in enumerate(reference_auc):
            auc, precision = progress.auc[s, columns], progress.precision[s, columns]
            for tolerance in plan.tolerances:
                choice = select(
                    auc, precision, reference_auc=reference, tolerance=tolerance
                )
                reached.append(-1.0 if choice.index is None else choice.precision)
        present = np.mean(progress.auc[:, columns[-1]])
        # NaN, of a setting that diverged, would leave the order to chance.
        scores.append((np.mean(reached), -np.inf if np.isnan(present) else present))
    order = sorted(range(len(alive)), key=lambda i: scores[i], reverse=True)
    return sorted(order[: math.ceil(keep * num_settings)])


def _only(states, stay):
    """The states of some settings; key and epoch have no axis of them."""

    def chosen(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, list(stay)], tree)

    return states._replace(
        params=chosen(states.params),
        optimizer_state=chosen(states.optimizer_state),
        reference=chosen(states.reference),
        num_nonfinite=chosen(states.num_nonfinite),
        average=chosen(states.average),
    )


def _choices(progress, plan, reference_auc):
    num_settings = len(plan.weights)
    rows = []
    for s, reference in enumerate(reference_auc):
        row = []
        for choice in _select(progress, plan, s, reference_auc):
            label = {"weights": {}, "epoch": 0}
            fallback = choice.index is None
            if not fallback and choice.index > 0:
                block, setting = divmod(choice.index - 1, num_settings)
                weights = plan.weights[setting]
                label = {
                    "weights": dict(zip(plan.terms, weights, strict=True)),
                    "epoch": (block + 1) * plan.block_epochs,
                }
            row.append(
                {
                    **label,
                    "valid_auc": float(reference) if fallback else choice.auc,
                    "valid_precision": None if fallback else choice.precision,
                    "num_admissible": choice.num_admissible,
                    "fallback": fallback,
                }
            )
        rows.append(row)
    return rows
