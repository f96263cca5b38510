"""Runs constrained attacks on one model and keeps P@k and sensitivity step by step.

A network of one input keeps its prediction. Of a Siamese network three predictions
should stay: that of the pair, the class of the first input and the class of the second.
The first input alone is explained and attacked, so that the class of the second, its
partner, cannot change and its divergence is 0 throughout: the pair and the first input
are what a constraint can act on.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.loop import parts
from experiments.models import trained
from experiments.problems import presets
from experiments.problems.registry import TABULAR, Problem, View
from experiments.store.numbers import measured, summary
from r2et_jax import attacks, ranking, score, threat
from r2et_jax.attacks.constrained import constrained_attack
from r2et_jax.attacks.descent import prediction_divergence
from r2et_jax.context import in_context, without_context
from r2et_jax.execution import example_keys, kept, map_batched
from r2et_jax.models.siamese import class_apply

ATTACK = "constrained"

# First step as a share of the budget; it falls to zero along a cosine.
STEP_SIZE = 0.05
RANDOM_START = 0.1
# Metric of the fitted classifier of single inputs, before any attack.
ACCURACY = "class_accuracy"


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
    input everywhere. Of the P predictions that should stay, the first is the model's.

    Attributes:
      precision: P@k [m, T + 1].
      changed: whether any of the predicted classes is another one [m, T + 1].
      divergence: KL(p(x) ‖ p(x′)) of the model in nats [m, T + 1].
      scaled: the largest of the divergences, each over the smallest one that can change
        its class, at the last iterate [m].
      changed_parts: whether each of the predicted classes is another one at the last
        iterate [m, P].
      divergence_parts: the divergences at the last iterate [m, P].
      goal: the ranking goal over its scale, at the input of the last step [m].
      ranking_weight: λ₀ of the last step [m].
      delta: x′ − x of the last iterate, in units of the budget [m, n].
      num_nonfinite: iterates with an explanation that is not finite [m].
    """

    precision: np.ndarray
    changed: np.ndarray
    divergence: np.ndarray
    scaled: np.ndarray
    changed_parts: np.ndarray
    divergence_parts: np.ndarray
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
    tried = [UNCONSTRAINED]
    for name in weightings:
        if name in ("gda", "hedge"):
            tried += [Variant(name, learning_rate=rate) for rate in learning_rates]
        elif name == "fixed":
            tried += [Variant(name, ranking_weight=w) for w in ranking_weights]
        elif name != UNCONSTRAINED.weighting:
            tried.append(Variant(name))
    return tried


def run(
    model: Any,
    params: Any,
    x: Any,
    variant: Variant,
    *,
    k: int,
    epsilon: float,
    num_steps: int | None = None,
    data: Problem | None = None,
    partner: Any = None,
) -> Trajectory:
    """Attack inputs x [m, n] by one variant.

    All variants start from the same random inputs.

    Args:
      model: the module; of pairs, with a classifier that was fitted.
      params: its parameters.
      x: the inputs.
      variant: how the objectives are weighed; a fixed λ₀ leaves the same share of
        1 − λ₀ to every prediction.
      k: size of the top set.
      epsilon: budget.
      num_steps: of the attack; default: what the data have, else that of the presets.
      data: what the inputs are of; default: a table, with an l2 budget.
      partner: the partners [m, n] of pairs.
    """
    view = TABULAR if data is None else data.view
    budget = (
        threat.threat_model("l2", epsilon)
        if data is None
        else data.threat_model(epsilon)
    )
    rate = 1.0 if variant.learning_rate is None else variant.learning_rate
    num = len(_predictions(model, view))
    weight = variant.ranking_weight
    weight = 1 / (1 + num) if weight is None else weight
    steps = num_steps or view.num_steps or presets.CONSTRAINED_STEPS
    compiled = _compiled(model, variant.weighting, k, steps, view)
    out = compiled(
        params,
        jnp.asarray(x),
        view.context(model, params, partner),
        budget,
        jnp.float32(rate),
        jnp.float32([weight, *[(1 - weight) / num] * num]),
        jax.random.key(0),
    )
    return jax.tree.map(np.asarray, out)


def _predictions(model, view: View):
    """The predictions that should stay, as functions of the first input."""
    if not view.paired:
        return (view.apply(model),)
    single = without_context(class_apply(model))
    return view.apply(model), single


@kept
def _compiled(model, weighting: str, k: int, num_steps: int, view: View):
    """One compilation serves all learning rates, fixed weights and budgets."""
    named = view.attacked(model)
    explain = view.explainer(score.log_odds(named.apply))
    predictions = _predictions(model, view)
    schedule = optax.cosine_decay_schedule(STEP_SIZE, num_steps)
    every = presets.CONSTRAINED_EVERY

    def batch(params, x, context, budget, rate, weights, key):
        attack = constrained_attack(
            named.apply,
            explain,
            attacks.goals.mean_gap(),
            k=k,
            weighting=weighting,
            optimizer=attacks.optimizers.steepest(schedule),
            learning_rate=rate,
            weights=weights,
            predictions=predictions,
            attack_saliency=view.explainer(score.log_odds(named.stand_in(view.rho))),
            random_start=RANDOM_START,
        )

        def chosen(x, key, partner):
            both = in_context(params, partner)
            target = score.predicted_class(named.apply(both, x))
            context, state = attack.init(both, x, target, budget, key=key)
            clean = context.reference.logits

            def judged(state):
                values = explain(both, state.perturbed, target)
                logits = [predict(both, state.perturbed) for predict in predictions]
                ends = list(zip(clean, logits, strict=True))
                classes = [tuple(map(score.predicted_class, pair)) for pair in ends]
                return (
                    ranking.top_k_overlap(context.top_mask, values, k=k),
                    jnp.stack([now != before for before, now in classes]),
                    jnp.stack([prediction_divergence(*pair) for pair in ends]),
                    ~jnp.all(jnp.isfinite(values)),
                )

            def tracked(state, _):
                state = jax.lax.fori_loop(
                    0, every, lambda _, s: attack.step(both, context, s), state
                )
                return state, judged(state)

            first = judged(state)
            state, rest = jax.lax.scan(tracked, state, length=num_steps // every)
            precision, changed, divergence, broken = jax.tree.map(
                lambda a, b: jnp.concatenate([a[None], b]), first, rest
            )
            delta = state.perturbed - x
            epsilon = budget.epsilon
            return Trajectory(
                precision=precision,
                changed=jnp.any(changed, axis=1),
                divergence=divergence[:, 0],
                scaled=jnp.max(divergence[-1] / context.reference.scales[1:]),
                changed_parts=changed[-1],
                divergence_parts=divergence[-1],
                goal=state.objectives[0],
                ranking_weight=state.weights[0],
                delta=delta / jnp.where(epsilon > 0, epsilon, 1),
                num_nonfinite=jnp.sum(broken),
            )

        args = x, example_keys(key, x.shape[0]), context
        if view.batch_size is None:
            return jax.vmap(chosen)(*args)
        return map_batched(chosen, args, **view.batching)

    return jax.jit(batch)


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


def difference(
    trajectory: Trajectory, other: Trajectory, *, norm: str = "l2"
) -> np.ndarray:
    """‖δ − δ′‖ of the last iterates [m], in units of the budget."""
    return lengths(trajectory.delta - other.delta, norm=norm)


def lengths(delta: np.ndarray, *, norm: str = "l2") -> np.ndarray:
    """‖δ‖ [m] of perturbations [m, n] in the norm of the budget."""
    return np.linalg.norm(delta, ord=np.inf if norm == "linf" else None, axis=1)


def measure(fields, data, model, params, num_test, variants):
    """The records of one model at one budget, for all variants."""
    inputs = data.inputs("test", num_test)
    x, partner, _ = inputs
    recorded, base = [], None
    if data.view.paired:
        model, params = trained.with_classifier(data, model, params)
    for variant in variants:
        trajectory = run(
            model,
            params,
            x,
            variant,
            k=fields["k"],
            epsilon=fields["epsilon"],
            data=data,
            partner=partner,
        )
        base = trajectory if base is None else base
        cell = {**fields, **variant._asdict()}
        records = _of_trajectory(trajectory, base, data.view, inputs.units)
        recorded += [{**cell, **record} for record in records]
    if data.view.paired:
        share, n = trained.class_accuracy(data, model, params)
        record = measured(ACCURACY, share, None, n)
        recorded.append({**fields, **variants[0]._asdict(), **record})
    return recorded


def _of_trajectory(trajectory, base, view, units):
    """Records of one attack; the metrics' names are those of the other experiments."""
    norm = view.norm
    mean = functools.partial(summary, units=units)
    rows = np.arange(len(trajectory.precision))
    # The first iterate is the random start, no work of the attack's.
    precision, changed = trajectory.precision[:, 1:], trajectory.changed[:, 1:]
    filled = np.where(np.isnan(precision), np.inf, precision)
    best = np.argmin(filled, axis=1)
    kept = np.min(np.where(changed, 1.0, precision), axis=1)
    recorded = [
        mean("p@k_last", precision[:, -1]),
        mean("sensitivity_last", changed[:, -1]),
        mean("p@k", precision[rows, best]),
        mean("sensitivity", changed[rows, best]),
        mean("p@k_same_class", kept),
        mean("objective_ranking", trajectory.goal),
        mean("objective_prediction", trajectory.scaled),
        mean("kl", trajectory.divergence[:, -1]),
        mean("ranking_weight_last", trajectory.ranking_weight),
        mean("difference", difference(trajectory, base, norm=norm)),
        mean("length", lengths(trajectory.delta, norm=norm)),
        mean("nonfinite", trajectory.num_nonfinite),
    ]
    if view.paired:
        changes, divergences = trajectory.changed_parts, trajectory.divergence_parts
        recorded += [
            mean("sensitivity_pair_last", changes[:, 0]),
            mean("sensitivity_class_last", changes[:, 1]),
            mean("kl_class", divergences[:, 1]),
        ]
    for t in range(trajectory.precision.shape[1]):
        step = {"step": t * presets.CONSTRAINED_EVERY}
        for metric, values in (
            ("p@k_trace", trajectory.precision[:, t]),
            ("sensitivity_trace", trajectory.changed[:, t]),
        ):
            recorded.append({**mean(metric, values), **step})
    return recorded


def measure_dataset(variants, problem, k, options, store):
    """Record what is not there yet of one data set with one k, model by model."""
    num_test = problem.protocol(options.preset).num_test
    for chosen in parts.models(problem, k, options, description="attack"):
        for epsilon in options.epsilon:
            cell = {**chosen.fields, "attack": ATTACK, "epsilon": epsilon}
            if not store.has(**cell):
                model = chosen.model, chosen.params
                store.append(measure(cell, problem, *model, num_test, variants))
