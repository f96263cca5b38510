"""The largest change of an explanation within a threat model, found by ascent.

The published estimates take the largest of some random draws, which in many dimensions
stay far below it. Here the draws are where ascent begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r2et_jax import score
from r2et_jax.attacks.descent import move
from r2et_jax.attacks.optimizers import steepest
from r2et_jax.attacks.protocols import SURROGATE_RHO
from r2et_jax.checks import check_count, check_key, check_positive
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.numerics import safe_norm
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel, sample
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.types import Array

# First and last step, as shares of the budget.
_STEPS = 0.3, 0.01
# Sharpness of the stand-in, start by start: none is the best for every network.
_SHARPER = 1.0, 4.0
# Nearer than this share of the budget, rounding is a part of the quotient.
_NEAREST = 0.01
_BATCH_SIZE = 64


class LargestChange(NamedTuple):
    """The largest change of every explanation of a batch that was found.

    Attributes:
      value: the largest one over draws and ascents [m]; nan where the clean explanation
        is not finite. It is what was found: the true maximum may be larger.
      sampled: the largest one over the draws alone, the published estimate [m].
      perturbed: the input that has it [m, n]; the clean one where nothing changed.
      num_nonfinite: perturbed inputs that were left out, since their explanation is not
        finite [m].
    """

    value: np.ndarray
    sampled: np.ndarray
    perturbed: np.ndarray
    num_nonfinite: np.ndarray


def sensitivity_max(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    key: Array,
    num_draws: int = 20,
    num_starts: int = 4,
    num_steps: int = 50,
    rho: float = SURROGATE_RHO,
    batch_size: int = _BATCH_SIZE,
) -> LargestChange:
    """The largest relative change of an explanation within a threat model.

        max over x′ in B(x) of ‖I(x′) − I(x)‖₂ / ‖I(x)‖₂

    The class that is explained is the one predicted at x. The best of num_draws uniform
    draws in the ball are where projected ascent on the distance begins, through the
    smooth stand-in of a kinked model; each iterate is judged by the model itself.

    Args:
      subject: the model, with its explainer; maps over their sum by default, see
        `saliency`. Of a black box, which has no gradients, only the draws are taken.
      x: inputs [m, n].
      threat: the threat model, with its ball B; under the rule "same_class" inputs of
        another class do not count.
      key: random key; an input's draws depend on its index alone.
      num_draws: draws of each input, at least 1.
      num_starts: draws that ascent begins at, at most num_draws.
      num_steps: steps of each ascent, at least 1.
      rho: sharpness ρ of the smooth stand-in, which every other start has four times.
      batch_size: inputs at a time; num_draws explanations of each are held at once.

    Returns:
      `LargestChange`; its `sampled` is Captum's `sensitivity_max` and Quantus'
      `MaxSensitivity`, whose balls are those of l∞. A map of zeros has the norm 1, as
      in Captum.

    Raises:
      ValueError: for counts below 1, more starts than draws, rho ≤ 0, inputs that the
        threat model does not fit.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> model = MLP()
      >>> examined = subject(model, model.init(jax.random.key(1), x[0]))
      >>> change = sensitivity_max(examined, x, threat_model(), key=jax.random.key(2))
      >>> bool((change.value > change.sampled).all())
      True

    Source: Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations",
    definition 2, by Monte Carlo there.
    """
    counts = num_draws, num_starts, num_steps
    return _largest(
        "relative", subject, x, threat, key, counts=counts, rho=rho, size=batch_size
    )


def local_lipschitz(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    key: Array,
    num_draws: int = 20,
    num_starts: int = 4,
    num_steps: int = 50,
    rho: float = SURROGATE_RHO,
    batch_size: int = _BATCH_SIZE,
) -> LargestChange:
    """The largest change of an explanation over the distance, within a threat model.

        max over x′ in B(x) of ‖I(x′) − I(x)‖₂ / ‖x′ − x‖₂

    As `sensitivity_max`, by ascent on the quotient. Inputs nearer than a hundredth of
    the budget do not count: there rounding would be a part of the quotient.

    Args:
      subject, x, threat, key: as in `sensitivity_max`.
      num_draws, num_starts, num_steps, rho, batch_size: as in `sensitivity_max`.

    Returns:
      `LargestChange`; its `sampled` is Quantus' `LocalLipschitzEstimate` but for the
      draws, which are of a Gaussian there, without a ball, and for the maps, which
      Quantus divides by their largest value in the batch unless `normalise=False`.

    Raises:
      ValueError: as `sensitivity_max`.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> model = MLP()
      >>> examined = subject(model, model.init(jax.random.key(1), x[0]))
      >>> change = local_lipschitz(examined, x, threat_model(), key=jax.random.key(2))
      >>> bool((change.value > change.sampled).all())
      True

    Source: Alvarez-Melis & Jaakkola 2018, "On the robustness of interpretability
    methods", equation 2.
    """
    counts = num_draws, num_starts, num_steps
    return _largest(
        "quotient", subject, x, threat, key, counts=counts, rho=rho, size=batch_size
    )


def _largest(kind, subject, x, threat, key, *, counts, rho, size):
    check_threat(threat)
    score.check_takes(subject, x)
    check_inputs(threat, x)
    check_key(key)
    check_positive("rho", rho)
    names = ("num_draws", "num_starts", "num_steps", "batch_size")
    for name, count in zip(names, (*counts, size), strict=True):
        check_count(name, count)
    if counts[1] > counts[0]:
        raise ValueError(
            f"num_starts must be at most num_draws = {counts[0]}, got {counts[1]}"
        )
    run = _compiled(subject.form, kind, *counts, rho, size)
    index = np.arange(len(x), dtype=np.uint32)
    return run((subject.params, threat, key), (x, index, subject.context))


class _Best(NamedTuple):
    value: Array
    perturbed: Array
    num_nonfinite: Array


class _Place(NamedTuple):
    """What `move` reads of a `Context` and of a `State`."""

    clean: Array
    threat: ThreatModel


class _Walk(NamedTuple):
    perturbed: Array
    optimizer_state: Any


@kept
def _compiled(
    form: Form, kind, num_draws, num_starts, num_steps, rho, batch_size
) -> Callable[..., LargestChange]:
    explain = form.saliency()
    first, last = _STEPS
    rate = optax.exponential_decay(first, num_steps, last / first)
    optimizer = steepest(rate)

    def quotient(change, clean_map, x, perturbed):
        """The change, over what it is measured by."""
        by = safe_norm(clean_map) if kind == "relative" else safe_norm(perturbed - x)
        return safe_norm(change) / jnp.where(by > 0, by, 1)

    def of_example(params, threat, key, x, index, context):
        params = in_context(params, context)
        target = score.predicted_class(form.apply(params, x))
        clean_map = explain(params, x, target)
        nearest = _NEAREST * threat.epsilon.astype(x.dtype)

        def judge(perturbed):
            change = explain(params, perturbed, target) - clean_map
            finite = jnp.all(jnp.isfinite(change))
            now = score.predicted_class(form.apply(params, perturbed))
            valid = finite & ((now == target) | (threat.prediction != "same_class"))
            if kind == "quotient":
                valid &= safe_norm(perturbed - x) >= nearest
            value = quotient(change, clean_map, x, perturbed)
            return jnp.where(valid, value, 0), ~finite

        def climb(start, sharpness):
            place = _Place(x, threat)
            seen = form.explainer(score.log_odds(form.stand_in(sharpness)))
            seen_map = seen(params, x, target)

            def objective(perturbed):
                change = seen(params, perturbed, target) - seen_map
                return -quotient(change, seen_map, x, perturbed)

            def step(carry, _):
                walk, best = carry
                gradient = jax.grad(objective)(walk.perturbed)
                walk = _Walk(*move(optimizer, gradient, walk, place)[:2])
                return (walk, better(best, walk.perturbed)), None

            walk = _Walk(start, optimizer(threat.norm).init(jnp.zeros_like(x)))
            none = _Best(jnp.zeros((), x.dtype), x, jnp.zeros((), jnp.int32))
            return jax.lax.scan(step, (walk, none), length=num_steps)[0][1]

        def better(best, perturbed):
            value, nonfinite = judge(perturbed)
            count = best.num_nonfinite + nonfinite.astype(jnp.int32)
            more = value > best.value
            return _Best(
                jnp.where(more, value, best.value),
                jnp.where(more, perturbed, best.perturbed),
                count,
            )

        keys = jax.random.split(jax.random.fold_in(key, index), num_draws)
        draws = jax.vmap(lambda key: sample(threat, x, key=key))(keys)
        values, broken = jax.vmap(judge)(draws)
        sampled, rows = jax.lax.top_k(values, num_starts)
        starts = draws[rows]
        reached, inputs = sampled[:1], starts[:1]
        num_nonfinite = jnp.sum(broken, dtype=jnp.int32)
        if form.differentiable:
            # A draw of another class is no start: it counts as no change.
            starts = jnp.where(jnp.isfinite(starts), starts, x)
            sharper = jnp.resize(jnp.asarray(_SHARPER, x.dtype), num_starts)
            climbed = jax.vmap(climb)(starts, rho * sharper)
            reached = jnp.concatenate([reached, climbed.value])
            inputs = jnp.concatenate([inputs, climbed.perturbed])
            num_nonfinite += jnp.sum(climbed.num_nonfinite)
        best = jnp.argmax(reached)
        known = jnp.all(jnp.isfinite(clean_map))
        return LargestChange(
            jnp.where(known, reached[best], jnp.nan),
            jnp.where(known, sampled[0], jnp.nan),
            jnp.where(known & (reached[best] > 0), inputs[best], x),
            num_nonfinite,
        )

    def chunk(shared, batched):
        return jax.vmap(of_example, (None, None, None, 0, 0, 0))(*shared, *batched)

    return compile_chunked(chunk, batch_size=batch_size)
