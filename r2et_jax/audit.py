"""The whole question in one call: can the top features of *this* model be trusted?"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import attacks, metrics, ranking, saliency, score
from r2et_jax.checks import check_in, check_k, check_key, check_model
from r2et_jax.threat import (
    ThreatModel,
    are_inside,
    check_inputs,
    movable_features,
    threat_model,
)
from r2et_jax.types import ApplyFn, Array, Params, SaliencyFn

OUTPUTS = ("auto", "logits", "probabilities")
_NOISE = 1e-6
# Inputs that are scaled to see what a model returns far away, and the factors.
_PROBES, _FACTORS = 16, (-10.0, 10.0, 100.0)


class Audit(NamedTuple):
    """How stable the explanations of a model are on m inputs.

    An input without a ranking is left out of every mean, and its entries are NaN: where
    the log-odds or a value of the explanation is not finite, or no value is positive.
    Where fewer than k values are positive, P@k is the share of those.

    Attributes:
      precision: lowest P@k that `strongest` reached on each input [m]; an upper bound
        of what an adversary leaves.
      precision_same_class: the same among inputs whose predicted class stayed [m].
      perturbed: the inputs that reached `precision` [m, n].
      maps: clean explanations [m, n].
      top_k: clean top-k features [m, k], the largest first.
      kept: whether each of them has positive saliency and stayed in the top k of
        `perturbed`, boolean [m, k].
      same: mean top-k overlap between different inputs; near 1 the explanation hardly
        depends on the input, and a high precision says little. NaN where fewer than two
        distinct inputs have a ranking.
      noise_precision: P@k under random noise of norm 1e-6 [m]; below 1 the input sits
        on a kink or a tie.
      vanished: share of inputs at which the gradient of the ranking is exactly zero
        on all features that may move: attacks by the model's own gradient are blind
        there, and go through its smooth stand-in.
      predicted: the class of each clean input [m].
      excluded: why an input is left out, texts [m], empty where it is not.
      num_positive: features with positive saliency, integers [m].
      tied: whether the k-th and the (k+1)-th value are positive and equal, so that the
        top set depends on the features' order, boolean [m].
      moved: whether the threat model moved the clean input inside, boolean [m].
    """

    precision: np.ndarray
    precision_same_class: np.ndarray
    perturbed: np.ndarray
    maps: np.ndarray
    top_k: np.ndarray
    kept: np.ndarray
    same: float
    noise_precision: np.ndarray
    vanished: float
    predicted: np.ndarray
    excluded: np.ndarray
    num_positive: np.ndarray
    tied: np.ndarray
    moved: np.ndarray

    def __str__(self) -> str:
        k, m = self.top_k.shape[1], len(self.precision)
        counted = self.excluded == ""
        if not counted.any():
            lines = [f"P@{k} not available: no input has a ranking"]
        else:
            same = f"{self.same:.3f} between different inputs"
            if np.isnan(self.same):
                same = "overlap between inputs not available (only one)"
            n = f"{m} input{'s' * (m > 1)}"
            n = n if counted.all() else f"{counted.sum()} of {n}"
            lines = [
                f"P@{k} {_mean(self.precision)} under attack "
                f"({_mean(self.precision_same_class)} with the class kept), "
                f"{_mean(self.noise_precision)} under noise of norm 1e-6, "
                f"{same}; {n}"
            ]
        reasons = collections.Counter(self.excluded[~counted].tolist())
        if len(np.unique(self.predicted[counted])) == 1 < counted.sum():
            # Outputs of another kind than logits may never change sign.
            lines.append(f"all are predicted as class {self.predicted[counted][0]}")
        lines += [f"left out: {n} of {m} inputs, {why}" for why, n in reasons.items()]
        silent = int(np.sum(counted & ~np.isfinite(self.noise_precision)))
        fewer = int(np.sum(counted & (self.num_positive < k)))
        for n, what in (
            (fewer, f"have fewer than {k} features with saliency: P@{k} is over those"),
            (int(self.tied.sum()), f"are tied between ranks {k} and {k + 1}"),
            (silent, "have no ranking under the noise, and are left out there"),
            (int(self.moved.sum()), "were outside of the box and were moved inside"),
        ):
            lines += [f"{n} of {m} inputs {what}"] * bool(n)
        return "\n".join(lines)


def _mean(values: np.ndarray) -> str:
    return f"{metrics.mean_and_stderr(values).mean:.3f}"


def audit(
    apply: ApplyFn,
    params: Params,
    x: Array,
    *,
    k: int,
    threat: ThreatModel | None = None,
    smoothed: Callable[[float], ApplyFn] | None = None,
    explainer: Callable[..., SaliencyFn] = saliency.gradient,
    output: str = "auto",
    budget: int = attacks.DEFAULT_BUDGET,
    key: Array | None = None,
) -> Audit:
    """Attack the top-k explanation of a model on given inputs, as hard as we know how.

    Args:
      apply: any model, `apply(params, x) -> logits [C]` for one input; C = 1 is a
        binary model with one logit.
      params: its parameters, a pytree of arrays.
      x: finite inputs [m, n], m ≥ 1; integers are taken as floats.
      k: size of the top set, in 1…n−1.
      threat: what the adversary may do; the l2 ball of radius 1 by default, which
        suits standardised columns.
      smoothed: `smoothed(rho) -> apply`, the model with smooth activations of
        sharpness ρ, for attacks to take gradients of. By default it is read from the
        model's own program, see `programs.smooth`.
      explainer: factory of the explanation, such as `saliency.gradient`.
      output: what `apply` and `smoothed(rho)` return: "logits", or "probabilities" [C]
        (C = 1: of class 1), which are converted. "auto" takes logits, and refuses
        outputs that look like probabilities.
      budget: gradient evaluations for each input.
      key: of the random starts; `jax.random.key(0)` by default.

    Returns:
      `Audit`; print it for a summary, with what was left out and why.

    Raises:
      ValueError: for x of another shape or kind, a value of x that is not finite or
        lies outside of the threat model's box, k out of range, a model that does not
        take such inputs to logits [C], and any other argument that is not what is
        said above.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(activation="softplus")
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> params = model.init(jax.random.key(1), x[0])
      >>> report = audit(model.apply, params, x, k=2, budget=4200)
      >>> report.top_k.shape
      (4, 2)
    """
    x = _as_inputs(x)
    check_model(apply, params, x[0])
    check_in("output", output, OUTPUTS)
    if smoothed is not None:
        _check_smoothed(smoothed, apply, params, x[0])
    threat = threat_model() if threat is None else threat
    if not isinstance(threat, ThreatModel):
        raise ValueError(
            f"threat must be a threat model, such as threat_model('l2', 0.5), got "
            f"{threat!r}"
        )
    check_inputs(threat, x)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    if output != "logits":
        _check_output(output, apply, params, x)
    if output == "probabilities":
        apply, smoothed = _to_logits(apply, smoothed)
    _check_explainer(explainer, apply, params, x[0], k)
    explainer = _passing_nan(explainer)
    members = attacks.default_ensemble(
        apply, smoothed, k=k, explainer=explainer, budget=budget
    )
    run = attacks.compile_strongest(members, budget=budget)
    found = run(params, x, threat, key=key)
    log_odds = score.log_odds(apply)
    look = _look(apply, log_odds, explainer, k)
    look = jax.jit(jax.vmap(look, (None, None, 0, 0, 0)))
    keys = jax.random.split(key, len(x))
    seen = look(params, threat, x, found.best.perturbed, keys)
    seen = _Seen(*map(np.asarray, seen))
    excluded = np.select(
        [~np.isfinite(seen.score), ~np.isfinite(seen.maps).all(1), seen.positive == 0],
        [
            "whose output is not finite",
            "whose explanation is not finite",
            "whose explanation is zero everywhere",
        ],
        "",
    )
    counted = excluded == ""
    return Audit(
        precision=np.where(counted, found.best.precision, np.nan),
        precision_same_class=np.where(counted, found.best_same_class.precision, np.nan),
        perturbed=found.best.perturbed,
        maps=seen.maps,
        top_k=seen.top_k,
        kept=seen.kept & counted[:, None],
        same=_same(seen.maps[counted], x[counted], k),
        noise_precision=np.where(counted, seen.noise_precision, np.nan),
        vanished=float(seen.flat[counted].mean()) if counted.any() else np.nan,
        predicted=seen.predicted,
        excluded=excluded,
        num_positive=seen.positive,
        tied=counted & (seen.positive > k) & seen.tied,
        moved=~are_inside(threat, x).all(axis=1),
    )


def _same(maps: np.ndarray, x: np.ndarray, k: int) -> float:
    """Mean overlap of the top sets of distinct inputs; NaN if there is only one."""
    _, first = np.unique(x, axis=0, return_index=True)
    if len(first) < 2:
        return float("nan")
    return float(metrics.mean_topk_overlap(jnp.asarray(maps[first]), k=k))


def _as_inputs(x: Array) -> np.ndarray:
    """Finite floats [m, n] in a type of JAX's."""
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x must be inputs [m, n] with m ≥ 1, got shape {x.shape}")
    real = jnp.issubdtype(x.dtype, jnp.floating)
    if not real and x.dtype.kind not in "biu":
        raise ValueError(f"x must hold real numbers, got dtype {x.dtype}")
    with np.errstate(over="ignore"):  # what overflows is named below
        x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype if real else float))
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(
            f"x[{row}, {column}] is {x[row, column]} in {x.dtype}, not finite"
        )
    return x


def _check_smoothed(smoothed, apply, params, x) -> None:
    message = (
        "smoothed must be a function of the sharpness that returns a model of the same "
        "outputs, such as lambda rho: model.surrogate(rho=rho).apply, got "
        f"{smoothed!r}"
    )
    try:
        smooth = smoothed(1.0)
        same = jax.eval_shape(smooth, params, x) == jax.eval_shape(apply, params, x)
    except Exception as error:
        raise ValueError(f"{message}; rho = 1 gives: {error}") from error
    if not same:
        raise ValueError(message)


def _check_explainer(explainer, apply, params, x, k) -> None:
    message = (
        "explainer must be a factory of explanations, called as saliency.gradient is: "
        f"explainer(score, normalize=True)(params, x, target) -> [n], got {explainer!r}"
    )
    if not callable(explainer):
        raise ValueError(message)
    target = jnp.zeros((), jnp.int32)
    log_odds = score.log_odds(apply)
    try:
        explain = explainer(log_odds, normalize=False)
        shape = jax.eval_shape(explain, params, x, target).shape
        jax.eval_shape(explainer(log_odds), params, x, target)
    except Exception as error:
        if "'key'" in str(error):
            message += (
                ". One that draws noise needs its key bound: lambda score, **options: "
                "functools.partial(saliency.smooth_grad(score, **options), key=key)"
            )
        raise ValueError(f"{message}; calling it gives: {error}") from error
    if len(shape) != 1:
        raise ValueError(f"{message}, whose maps have shape {shape}")
    check_k(k, shape[0])


def _check_output(output, apply, params, x) -> None:
    """Raise where the outputs look like another kind than was said."""
    far = [factor * x[:_PROBES] for factor in _FACTORS if output == "auto"]
    rows = np.concatenate([x, *far])
    values = np.asarray(jax.jit(jax.vmap(apply, (None, 0)))(params, rows))
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return
    least, most = values.min(), values.max()
    got = f"{least:g} … {most:g}"
    if output == "probabilities":
        sums = values.sum(axis=1)
        if least < 0 or most > 1 + 1e-5:
            raise ValueError(f"probabilities must lie in [0, 1], got {got}")
        if values.shape[1] > 1 and np.abs(sums - 1).max() > 1e-2:
            worst = sums[np.abs(sums - 1).argmax()]
            raise ValueError(f"probabilities must sum to 1, got a sum of {worst:g}")
    elif least >= 0 and most <= 1 and (values != values[0]).any():
        raise ValueError(
            f"apply must return logits, but all its outputs, also far from x, lie in "
            f"[0, 1] as probabilities do ({got}): pass output='probabilities' to have "
            "them converted, or output='logits' if they are logits"
        )


def _to_logits(apply, smoothed):
    """A model of probabilities and its smooth stand-ins as models of logits."""
    if smoothed is None:
        return score.logits_of_probabilities(apply), None
    return (
        score.logits_of_probabilities(apply),
        lambda rho: score.logits_of_probabilities(smoothed(rho)),
    )


def _passing_nan(explainer):
    """An explainer whose maps are NaN where the score is.

    A branch that returns NaN has the gradient zero: a map without saliency, which would
    pass for a ranking that an attack has destroyed.
    """

    def of_score(score, **options):
        explain = explainer(score, **options)

        def saliency(params, x, target, /):
            poison = jnp.where(jnp.isnan(score(params, x, target)), jnp.nan, 1)
            return explain(params, x, target) * poison

        return saliency

    return of_score


class _Seen(NamedTuple):
    """What one look at an input and at its perturbed form shows."""

    score: np.ndarray
    predicted: np.ndarray
    maps: np.ndarray
    top_k: np.ndarray
    kept: np.ndarray
    noise_precision: np.ndarray
    flat: np.ndarray
    positive: np.ndarray
    tied: np.ndarray


def _look(apply, log_odds, explainer, k):
    """Explanation, top set, what an attack kept of it, and the guards, of one input."""
    explain = explainer(log_odds)

    def look(params, threat, x, perturbed, key):
        target = score.predicted_class(apply(params, x))
        values = explain(params, x, target)
        mask = ranking.positive_top_k_mask(values, k=k)
        top = ranking.top_k_indices(values, k=k)
        after = explain(params, perturbed, target)
        kept = (mask & ranking.positive_top_k_mask(after, k=k))[top]
        noise = jax.random.normal(key, x.shape, x.dtype)
        noisy = explain(params, x + _NOISE * noise / jnp.linalg.norm(noise), target)
        weights = ranking.mean_gap_weights(ranking.top_k_mask(values, k=k), k=k)

        def gap(x):
            return ranking.weighted_sum(explain(params, x, target), weights)

        movable = movable_features(threat, x)
        slope = jnp.where(True if movable is None else movable, jax.grad(gap)(x), 0)
        return _Seen(
            score=log_odds(params, x, target),
            predicted=target,
            maps=values,
            top_k=top,
            kept=kept,
            noise_precision=ranking.top_k_overlap(mask, noisy, k=k),
            flat=~jnp.any(slope != 0),
            positive=jnp.sum(values > 0),
            tied=ranking.border_tie(values, k=k),
        )

    return look
