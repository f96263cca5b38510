"""Runs constrained attacks on one model and keeps P@k and sensitivity step by step."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common.candidates import attacked_model
from r2et_jax import attacks, ranking, saliency, score, threat
from r2et_jax.attacks.constrained import constrained_attack
from r2et_jax.batching import example_keys

NUM_STEPS = 200
TRACK_EVERY = 5
# First step as a share of the budget; it falls to zero along a cosine.
STEP_SIZE = 0.05
RANDOM_START = 0.1


class Variant(NamedTuple):
    """One way to weigh the objectives.

    Attributes:
      weighting: name of the rule.
      learning_rate: of λ; None where the rule has none.
      ranking_weight: λ₀ of fixed weights; None for the other rules.
    """

    weighting: str
    learning_rate: float | None = None
    ranking_weight: float | None = None

    @property
    def label(self) -> str:
        """Name with its setting."""
        if self.learning_rate is not None:
            return f"{self.weighting} η={self.learning_rate:g}"
        if self.ranking_weight is not None:
            return f"{self.weighting} λ₀={self.ranking_weight:g}"
        return self.weighting


UNCONSTRAINED = Variant("unconstrained")


class Trajectory(NamedTuple):
    """What a constrained attack did to inputs [m], at the T + 1 tracked iterates.

    The first iterate is the random start. P@k and the change of class are of the same
    input everywhere.

    Attributes:
      precision: P@k [m, T + 1].
      changed: whether the predicted class is another one [m, T + 1].
      divergence: KL(p(x) ‖ p(x′)) in nats [m, T + 1].
      scaled: the same over the smallest one that can change the class [m].
      goal: the ranking goal over its scale, at the input of the last step [m].
      ranking_weight: λ₀ of the last step [m].
      delta: x′ − x of the last iterate, in units of the budget [m, n].
      num_nonfinite: iterates with an explanation that is not finite [m].
    """

    precision: np.ndarray
    changed: np.ndarray
    divergence: np.ndarray
    scaled: np.ndarray
    goal: np.ndarray
    ranking_weight: np.ndarray
    delta: np.ndarray
    num_nonfinite: np.ndarray


def variants(
    weightings: tuple[str, ...],
    learning_rates: tuple[float, ...],
    ranking_weights: tuple[float, ...],
) -> list[Variant]:
    """Every weighting with its settings, the unconstrained one first."""
    found = [UNCONSTRAINED]
    for name in weightings:
        if name in ("gda", "hedge"):
            found += [Variant(name, learning_rate=rate) for rate in learning_rates]
        elif name == "fixed":
            found += [Variant(name, ranking_weight=w) for w in ranking_weights]
        elif name != UNCONSTRAINED.weighting:
            found.append(Variant(name))
    return found


def run(
    model: Any,
    params: Any,
    x: Any,
    variant: Variant,
    *,
    k: int,
    epsilon: float,
    num_steps: int = NUM_STEPS,
) -> Trajectory:
    """Attack inputs x [m, n] within l2 ≤ epsilon by one variant.

    All variants start from the same random inputs.
    """
    rate = 1.0 if variant.learning_rate is None else variant.learning_rate
    weight = 0.5 if variant.ranking_weight is None else variant.ranking_weight
    compiled = _compiled(model, variant.weighting, k, num_steps)
    out = compiled(
        params,
        jnp.asarray(x),
        threat.threat_model("l2", epsilon),
        jnp.float32(rate),
        jnp.float32([weight, 1 - weight]),
        jax.random.key(0),
    )
    return jax.tree.map(np.asarray, out)


@functools.lru_cache
def _compiled(model, weighting: str, k: int, num_steps: int):
    """One compilation serves all learning rates, fixed weights and budgets."""
    named = attacked_model(model)
    explain = saliency.gradient(score.log_odds(named.apply))
    schedule = optax.cosine_decay_schedule(STEP_SIZE, num_steps)

    def batch(params, x, budget, rate, weights, key):
        attack = constrained_attack(
            named.apply,
            explain,
            attacks.goals.mean_gap(),
            k=k,
            weighting=weighting,
            optimizer=attacks.optimizers.normalized_gradient(schedule),
            learning_rate=rate,
            weights=weights,
            attack_saliency=saliency.gradient(score.log_odds(named.surrogate)),
            random_start=RANDOM_START,
        )

        def one(x, key):
            target = score.predicted_class(named.apply(params, x))
            context, state = attack.init(params, x, target, budget, key=key)

            def judged(state):
                values = explain(params, state.perturbed, target)
                logits = named.apply(params, state.perturbed)
                return (
                    ranking.top_k_overlap(context.top_mask, values, k=k),
                    score.predicted_class(logits) != target,
                    attacks.prediction_divergence(logits, context.clean_logits),
                    ~jnp.all(jnp.isfinite(values)),
                )

            def tracked(state, _):
                state = jax.lax.fori_loop(
                    0, TRACK_EVERY, lambda _, s: attack.step(params, context, s), state
                )
                return state, judged(state)

            first = judged(state)
            state, rest = jax.lax.scan(tracked, state, length=num_steps // TRACK_EVERY)
            precision, changed, divergence, broken = jax.tree.map(
                lambda a, b: jnp.concatenate([a[None], b]), first, rest
            )
            delta = state.perturbed - x
            epsilon = budget.epsilon
            return Trajectory(
                precision=precision,
                changed=changed,
                divergence=divergence,
                scaled=divergence[-1] / context.reference.scales[1],
                goal=state.objectives[0],
                ranking_weight=state.weights[0],
                delta=delta / jnp.where(epsilon > 0, epsilon, 1),
                num_nonfinite=jnp.sum(broken),
            )

        return jax.vmap(one)(x, example_keys(key, x.shape[0]))

    return jax.jit(batch)


def curve(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Mean P@k and sensitivity [T + 1] along the iterations."""
    return (
        np.nanmean(trajectory.precision, axis=0),
        np.mean(trajectory.changed, axis=0),
    )


def sensitivity_at(level: float, precision: np.ndarray, changed: np.ndarray) -> float:
    """Sensitivity where P@k along the iterations first falls to a level.

    Linear between the two iterates around it; NaN where it never falls so low.

    Args:
      level: P@k.
      precision, changed: mean P@k and sensitivity [T + 1].
    """
    reached = np.flatnonzero(np.asarray(precision) <= level)
    if not reached.size:
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(changed[0])
    drop = precision[i - 1] - precision[i]
    share = (precision[i - 1] - level) / drop
    return float(changed[i - 1] + share * (changed[i] - changed[i - 1]))


class EqualPrecision(NamedTuple):
    """Sensitivity of two attacks at equal P@k.

    Attributes:
      level: the lowest P@k that both reach.
      sensitivity, other: of the attack and of the one it is compared with, there.
      mean, other_mean: averages over the levels from where both stand below 1 down
        to that one.
    """

    level: float
    sensitivity: float
    other: float
    mean: float
    other_mean: float


def at_equal_precision(
    precision: np.ndarray,
    changed: np.ndarray,
    other_precision: np.ndarray,
    other_changed: np.ndarray,
    *,
    num_levels: int = 20,
) -> EqualPrecision:
    """Compare two curves of P@k and sensitivity at the P@k that both reach."""
    lowest = float(max(np.min(precision), np.min(other_precision)))
    highest = float(min(precision[0], other_precision[0]))
    levels = np.linspace(max(highest, lowest), lowest, num_levels)
    mine = [sensitivity_at(q, precision, changed) for q in levels]
    others = [sensitivity_at(q, other_precision, other_changed) for q in levels]
    return EqualPrecision(
        lowest, mine[-1], others[-1], float(np.mean(mine)), float(np.mean(others))
    )


def difference(trajectory: Trajectory, other: Trajectory) -> np.ndarray:
    """‖δ − δ′‖₂ of the last iterates [m], in units of the budget."""
    return np.linalg.norm(trajectory.delta - other.delta, axis=1)
