"""The whole question in one call: can the top features of *this* model be trusted?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import attacks, metrics, ranking, saliency, score
from r2et_jax.checks import check_k, check_model
from r2et_jax.threat import ThreatModel, threat_model
from r2et_jax.types import ApplyFn, Array, Params, SaliencyFn

_NOISE = 1e-6


class Audit(NamedTuple):
    """How stable the explanations of a model are on m inputs.

    Attributes:
      precision: lowest P@k that `strongest` reached on each input [m]; an upper bound
        of what an adversary leaves.
      precision_same_class: the same among inputs whose predicted class stayed [m].
      perturbed: the inputs that reached `precision` [m, n].
      maps: clean explanations [m, n].
      top_k: clean top-k features [m, k], the largest first.
      kept: whether each of them stayed in the top k of `perturbed`, boolean [m, k].
      same: mean top-k overlap between different inputs; near 1 the explanation hardly
        depends on the input, and a high precision says little.
      noise_precision: P@k under random noise of norm 1e-6 [m]; below 1 the input sits
        on a kink or a tie.
      vanished: share of inputs at which the gradient of the ranking is exactly zero:
        attacks by gradients are blind there unless `smoothed` is given.
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

    def __str__(self) -> str:
        k = self.top_k.shape[1]
        return (
            f"P@{k} {np.nanmean(self.precision):.3f} under attack "
            f"({np.nanmean(self.precision_same_class):.3f} with the class kept), "
            f"{np.nanmean(self.noise_precision):.3f} under noise of norm 1e-6, "
            f"{self.same:.3f} between different inputs; {len(self.precision)} inputs"
        )


def audit(
    apply: ApplyFn,
    params: Params,
    x: Array,
    *,
    k: int,
    threat: ThreatModel | None = None,
    smoothed: Callable[[float], ApplyFn] | None = None,
    explainer: Callable[..., SaliencyFn] = saliency.gradient,
    budget: int = attacks.DEFAULT_BUDGET,
    seed: int = 0,
) -> Audit:
    """Attack the top-k explanation of a model on given inputs, as hard as we know how.

    Args:
      apply: any model, `apply(params, x) -> logits [C]` for one input; C = 1 is a
        binary model with one logit.
      params: its parameters, a pytree.
      x: inputs [m, n], m ≥ 2.
      k: size of the top set, in 1…n−1.
      threat: what the adversary may do; the l2 ball of radius 1 by default, which
        suits standardised columns.
      smoothed: `smoothed(rho) -> apply`, the model with smooth activations of
        sharpness ρ. Give it for piecewise-linear networks (ReLU), whose own gradient
        of the ranking may vanish; see `Audit.vanished`.
      explainer: factory of the explanation, such as `saliency.gradient`.
      budget: gradient evaluations for each input.
      seed: of the random starts.

    Returns:
      `Audit`; print it for a summary.

    Raises:
      ValueError: for x of another shape, a value of x that is not finite, k out of
        range, or a model that does not take such inputs to logits [C].

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(activation="softplus")
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> params = model.init(jax.random.key(1), x[0])
      >>> report = audit(model.apply, params, x, k=2, budget=4200)
      >>> report.top_k.shape
      (4, 2)
    """
    x = np.asarray(x)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x must be inputs [m, n] with m ≥ 2, got shape {x.shape}")
    check_k(k, x.shape[1])
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"x[{row}, {column}] is {x[row, column]}, not finite")
    check_model(apply, params, x[0])
    threat = threat_model() if threat is None else threat
    members = attacks.default_ensemble(
        apply,
        (lambda rho: apply) if smoothed is None else smoothed,
        k=k,
        norm=threat.norm,
        explainer=explainer,
    )
    run = attacks.compile_strongest(members, budget=budget)
    found = run(params, x, threat, key=jax.random.key(seed))
    explain = explainer(score.log_odds(apply))
    look = jax.jit(jax.vmap(_look(apply, explain, k), (None, 0, 0, 0)))
    keys = jax.random.split(jax.random.key(seed), len(x))
    maps, top, kept, noisy, flat = (
        np.asarray(part) for part in look(params, x, found.best.perturbed, keys)
    )
    return Audit(
        precision=found.best.precision,
        precision_same_class=found.best_same_class.precision,
        perturbed=found.best.perturbed,
        maps=maps,
        top_k=top,
        kept=kept,
        same=float(metrics.mean_topk_overlap(jnp.asarray(maps), k=k)),
        noise_precision=noisy,
        vanished=float(flat.mean()),
    )


def _look(apply, explain, k):
    """Explanation, top set, what an attack kept of it, and the guards, of one input."""

    def look(params, x, perturbed, key):
        target = score.predicted_class(apply(params, x))
        values = explain(params, x, target)
        mask = ranking.positive_top_k_mask(values, k=k)
        top = ranking.top_k_indices(values, k=k)
        after = explain(params, perturbed, target)
        kept = ranking.positive_top_k_mask(after, k=k)[top]
        noise = jax.random.normal(key, x.shape, x.dtype)
        noisy = explain(params, x + _NOISE * noise / jnp.linalg.norm(noise), target)
        weights = ranking.mean_gap_weights(ranking.top_k_mask(values, k=k), k=k)

        def gap(x):
            return ranking.weighted_sum(explain(params, x, target), weights)

        flat = ~jnp.any(jax.grad(gap)(x) != 0)
        return values, top, kept, ranking.top_k_overlap(mask, noisy, k=k), flat

    return look
