"""A user's own model, trained further until its top features hold under attack."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import objectives, training
from r2et_jax.audit import asked as asked_lib
from r2et_jax.audit.examples import Examples, examples
from r2et_jax.audit.hardened import Hardened
from r2et_jax.audit.layout import of_rows
from r2et_jax.audit.progress import as_progress
from r2et_jax.audit.selecting import (
    QUALITIES,
    Candidates,
    Nowhere,
    history_of,
    program_sha256,
    quality_of,
)
from r2et_jax.audit.whole import audit
from r2et_jax.checks import (
    adapter_of,
    as_folder,
    check_count,
    check_in,
    check_k,
    check_key,
    check_nonnegative,
)
from r2et_jax.saliency.grouped import variables
from r2et_jax.subject import Subject
from r2et_jax.threat import ThreatModel, threat_model
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.training import weights as weights_lib
from r2et_jax.training.packing import params_sha256
from r2et_jax.training.search import Plan, search
from r2et_jax.types import Array

_VERSION = 2


def harden(
    model: Subject | Any,
    *given: Any,
    k: int,
    method: str = "r2et",
    tolerance: float = 0.01,
    quality: str = "accuracy",
    threat: ThreatModel | None = None,
    weights: Mapping[str, Sequence[float]] | None = None,
    num_epochs: int = 40,
    eval_every: int = 4,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    patience: int | None = 4,
    num_valid: int | None = 500,
    num_test: int | None = 200,
    epsilons: Sequence[float] | None = None,
    evaluations: int | None = None,
    channel_axis: int | str | None = "auto",
    folder: str | os.PathLike[str] | None = None,
    key: Array | None = None,
    progress: bool | Callable[[int, int, str], None] | None = None,
) -> Hardened:
    """Train a model further with a method's penalty, and keep the best checkpoint.

    From the parameters that are given, one model is trained for each setting of the
    penalty weights; after a fifth of the epochs half of them go on, after two fifths a
    quarter. Among all checkpoints, the given model included, that lose at most the
    tolerance on validation data, the one with the highest validation P@k under one
    fixed attack is chosen; of equal ones the one that predicts better, then the first.
    The test part has no say in it: both models are audited on it, by other attacks.

    Args:
      model: a `Subject` or a model of another library that `r2et_jax.adapters` knows,
        followed by data; or a Flax Linen module or `apply(params, x) -> logits [C]` for
        one input, followed by params and data.
      *given: (data,), or (params, data): params, a pytree of arrays, the trained model;
        data, a `datasets.Dataset`; a pair (x [m, ...], y [m]), or batches of such
        pairs: a DataLoader, an iterator, a function of no arguments that returns one;
        or a mapping of "train", and where they are there "valid" and "test", to any of
        the latter two. An absent part is 15 % of what there is. Batches are gathered,
        at most 4 GiB of them, in an order that does not hang on theirs.
        Inputs are as the model takes them and as in `audit`, labels are integers.
      k: size of the top set; the penalties rank single columns also where a subject
        has groups, whose variables the selection and the audits rank.
      method: one of `objectives.NAMES`, or several joined by `+`. Those that train
        another architecture (`objectives.METHODS`) want the model to be such a one.
      tolerance: how much of the quality on validation data a checkpoint may give up.
      quality: "accuracy" or "auc".
      threat: what the adversary may do, in the selection and in the audits; the l2
        ball of radius 1 by default, which suits standardised columns. Its ε is the
        radius in penalties that look at a ball, always one in l2: another norm warns.
      weights: penalty -> the weights that are tried, in all combinations; by default
        those of the experiments, twelve settings, which suit standardised columns; on
        other inputs than tables those of mean gaps grow with the number of features.
      num_epochs: epochs of further training, a multiple of eval_every.
      eval_every: epochs between two checkpoints.
      batch_size: examples in a batch.
      learning_rate: of Adam.
      patience: checkpoints in a row, eval_every epochs apart, after which the training
        stops early where no setting gave a better one on validation data; None trains
        to the end.
      num_valid: validation inputs under attack, the first ones, or None for all.
      num_test: test inputs that are audited, the first ones, None for all; 0 for no
        audits.
      epsilons, evaluations: as in `audit`.
      channel_axis: as in `audit`; the last axis where penalties are to rank pixels.
      folder: where the search is kept, so that after a kill the same call goes on, and
        ends with the same result; a call with other arguments refuses it.
      key: of the order of the examples and of random starts; `jax.random.key(0)` by
        default.
      progress: True for a bar on stderr; or a function, called as
        `progress(done, total, what)` before each of the stages.

    Returns:
      `Hardened`; print it for what changed, and whether it changed by one ranking for
      all inputs.

    Raises:
      ValueError: for a model that cannot be trained (a black box, a regression, one
        with contexts), data that are not what is said above, arguments out of range, a
        folder of another search; whatever the objective, the attack or the audit
        refuses.

    Example:
      >>> from r2et_jax.models import MLP
      >>> x = jax.random.normal(jax.random.key(0), (60, 6))
      >>> model, y = MLP(hidden=(4,)), (x[:, 0] > 0).astype(int)
      >>> params = model.init(jax.random.key(1), x[0])
      >>> hard = harden(
      ...     model, params, (x, y), k=2, weights={"gap": (1.0,), "curvature": (0.1,)},
      ...     num_epochs=2, eval_every=1, num_test=0,
      ... )
      >>> hard.chosen.admissible
      True

    Source: the selection rule is that of the experiments, see R2ET (arXiv 2212.14106).
    """
    _check_numbers(
        num_epochs=num_epochs,
        eval_every=eval_every,
        batch_size=batch_size,
        patience=patience,
        num_valid=num_valid,
        evaluations=evaluations,
    )
    if num_test is not None:
        check_count("num_test", num_test, minimum=0)
    check_nonnegative("tolerance", tolerance)
    check_in("quality", quality, QUALITIES)
    folder = None if folder is None else as_folder("folder", folder)
    if num_epochs % eval_every:
        raise ValueError(
            f"num_epochs must be a multiple of eval_every = {eval_every}, got "
            f"{num_epochs}"
        )
    key = jax.random.key(0) if key is None else key
    check_key(key)
    threat = threat_model() if threat is None else threat
    check_threat(threat)
    num_budgets = len(asked_lib.budgets(threat, epsilons))
    if not given:
        raise ValueError(
            "harden takes harden(subject, data, k=…) or harden(model, params, data, "
            "k=…), got no data"
        )
    data = examples(given[-1], channel_axis)
    examined = _subject(model, given[:-1], data)
    ranked = _in_rows(examined, data)
    check_k(k, _num_explained(examined, data))
    under_attack, tested = data.valid.first(num_valid), data.test.first(num_test)
    for part in (under_attack, tested):
        if len(part.y):
            check_inputs(threat, part.x)

    terms = objectives.method(method).terms
    _warn_of_norm(method, threat)
    tried = weights_lib.settings(terms, _grid(terms, weights, data))
    objective = _objective(method, examined, data, k, threat)
    candidates = Candidates(ranked, data.valid, under_attack, threat, k, quality)
    reference = candidates.auc(jax.tree.map(lambda leaf: leaf[None], examined.params))
    if not np.isfinite(reference).all():
        raise ValueError(
            f"the model that is given must have a validation {quality}, got "
            f"{reference[0]}: are its outputs finite, and both classes there?"
        )
    optimizer = training.adam(learning_rate)
    run = training.compile_grid(
        objective,
        optimizer,
        num_epochs=eval_every,
        batch_size=batch_size,
        total_epochs=num_epochs,
    )
    states = training.grid_states(
        jax.tree.map(lambda leaf: leaf[None], examined.params),
        optimizer,
        keys=jnp.stack([jax.random.fold_in(key, 1)]),
        num_weights=len(tried),
    )
    plan = Plan(
        run,
        tried,
        terms,
        num_epochs // eval_every,
        eval_every,
        weights_lib.HALVING,
        (float(tolerance),),
        with_start=True,
        patience=patience,
    )
    stages = 2 * (num_budgets + 4) * bool(len(tested.y))
    tell = _teller(progress, plan.num_blocks + stages)
    config = {
        "version": _VERSION,
        "model": program_sha256(ranked, data.train.x[0]),
        "params": params_sha256(examined.params),
        "explainer": repr(getattr(ranked.form.explainer, "__qualname__", "")),
        "data": {name: getattr(data, name).sha256 for name in ("train", "valid")},
        "k": int(k),
        "method": method,
        "tolerance": float(tolerance),
        "quality": quality,
        "threat": params_sha256(threat),
        "norm": threat.norm,
        "weights": tried,
        "num_epochs": num_epochs,
        "eval_every": eval_every,
        "batch_size": batch_size,
        "learning_rate": float(learning_rate),
        "patience": patience,
        "num_valid": len(under_attack.y),
        "key": list(asked_lib.key_words(key)),
    }

    def track(blocks: range) -> Iterator[int]:
        for block in blocks:
            tell(block, f"training, epoch {block * eval_every} of {num_epochs}")
            yield block

    searched = search(
        plan,
        states,
        jnp.asarray(data.train.x),
        jnp.asarray(data.train.y),
        candidates=candidates,
        reference_auc=reference,
        checkpoints=Nowhere()
        if folder is None
        else training.Checkpoints(folder / "search", config=config),
        track=track,
    )
    history = history_of(searched, plan, float(reference[0]))
    chosen = next(trial for trial in history if trial.chosen)
    params = examined.params
    if chosen.epoch:
        # Back in what holds them: a search keeps NumPy arrays.
        params = jax.tree.map(
            lambda leaf, old: jnp.asarray(leaf[0, 0], jnp.result_type(old)),
            searched.params,
            params,
        )
    audits = [None, None]
    if len(tested.y):
        for i, some in enumerate((examined.params, params)):
            start = plan.num_blocks + i * stages // 2

            def report(done, total, what, start=start):
                if done < total:
                    tell(start + done, what)

            audits[i] = audit(
                examined.at(some),
                tested.given,
                k=k,
                threat=threat,
                epsilons=epsilons,
                evaluations=evaluations,
                channel_axis=channel_axis,
                key=key,
                progress=report,
            )
    tell(plan.num_blocks + stages, "done")
    return Hardened(
        subject=examined.at(params),
        params=params,
        start=examined.params,
        k=k,
        method=method,
        tolerance=float(tolerance),
        quality=quality,
        num_epochs=num_epochs,
        num_trained=searched.num_blocks * eval_every,
        history=history,
        test_before=quality_of(ranked, examined.params, data.test),
        test_after=quality_of(ranked, params, data.test),
        before=audits[0],
        after=audits[1],
    )


def _check_numbers(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None or name not in ("patience", "num_valid", "evaluations"):
            check_count(name, value)


def _subject(model: Any, params: tuple, data: Examples) -> Subject:
    """The model to be trained, with the names of a data set's columns."""
    is_subject = isinstance(model, Subject)
    alone = is_subject or adapter_of(model) not in (None, "linen")
    if len(params) != (0 if alone else 1):
        raise ValueError(
            "harden takes harden(subject, data, k=…) or harden(model, params, data, "
            f"k=…), got {1 + len(params)} arguments after a {type(model).__name__}"
        )
    if is_subject:
        examined = model
    elif alone:
        few = data.train.first(8).given
        examined = asked_lib.adapted(model, few, names=data.names)
    else:
        examined = asked_lib.subject_of_parts(
            model,
            params[0],
            data.layout,
            data.train.x,
            names=data.names,
            groups=(),
            classes=None,
            output="auto",
            target=None,
            batched=False,
            smoothed=None,
            explainer=None,
        )
    refused = (
        (not examined.form.differentiable, "a black box has no gradients to train by"),
        (examined.output == "regression", "methods train classifiers, no regression"),
        (examined.context is not None, "models with contexts, as of pairs, are not"),
    )
    for wrong, why in refused:
        if wrong:
            raise ValueError(
                f"harden trains a classifier with parameters and one input, got "
                f"another model: {why}"
            )
    leaves = jax.tree_util.tree_leaves_with_path(examined.params)
    for path, leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                "params must hold floats to be trained, got "
                f"{jnp.result_type(leaf)} at params{jax.tree_util.keystr(path)}"
            )
    if not leaves:
        raise ValueError("params must hold parameters to be trained, got none")
    if examined.names is None and data.names is not None and not examined.groups:
        examined = dataclasses.replace(examined, names=data.names)
    return examined.at(jax.tree.map(jnp.asarray, examined.params))


def _in_rows(examined: Subject, data: Examples) -> Subject:
    """The model of inputs in rows, as it is explained in the selection."""
    explained = asked_lib.explained(examined, data.layout)
    form = of_rows(explained.form, data.layout)
    return Subject(examined.params, form, output="logits")


def _num_explained(examined: Subject, data: Examples) -> int:
    if examined.groups:
        return len(variables(examined.groups, data.layout.size))
    return math.prod(data.layout.explained)


def _grid(terms: tuple[str, ...], weights: Any, data: Examples) -> Any:
    if weights is None:
        usual = weights_lib.GRID if len(terms) == 1 else weights_lib.PAIRED
        if data.layout.is_plain:
            return usual
        return weights_lib.scaled(usual, math.prod(data.layout.explained))
    if not isinstance(weights, Mapping) or set(weights) != set(terms):
        raise ValueError(
            f"weights must give the weights to try of each of the penalties {terms}, "
            f"got {weights!r}"
        )
    for name, values in weights.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
            raise ValueError(
                f"weights[{name!r}] must be a sequence of weights to try, got "
                f"{values!r}"
            )
        for value in values:
            check_nonnegative(f"each of weights[{name!r}]", value)
    return {name: tuple(map(float, values)) for name, values in weights.items()}


def _objective(method, examined, data: Examples, k: int, threat: ThreatModel):
    layout, n = data.layout, data.train.x.shape[1]
    channels = 1
    if layout.channel_axis is not None:
        (shape,) = layout.shapes
        if layout.channel_axis != len(shape) - 1:
            raise ValueError(
                "penalties sum the last axis of an input alone: channel_axis must be "
                f"−1 or None, got {layout.channel_axis} of shape {shape}"
            )
        channels = shape[-1]
    count = n // channels
    trained = dataclasses.replace(examined, form=of_rows(examined.form, layout))
    return objectives.objective(
        method,
        trained,
        k=k,
        k_prime=max(1, min(k // 2, count - k)),
        epsilon=float(threat.epsilon),
        channels=channels,
    )


def _warn_of_norm(method: str, threat: ThreatModel) -> None:
    if threat.norm != "l2" and objectives.method(method).in_a_ball:
        warnings.warn(
            f"{method} trains within l2 balls of ε = {float(threat.epsilon):g}, which "
            f"the threat model's {threat.norm} ball holds and goes beyond",
            stacklevel=3,
        )


def _teller(progress: Any, total: int) -> Callable[[int, str], None]:
    progress = as_progress(progress)

    def tell(done: int, what: str) -> None:
        if progress is not None:
            progress(done, total, what)

    return tell
