"""Multi-objective descent on one input with every quantity of its theory recorded."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.attacks.descent import Attack
from r2et_jax.attacks.multiobjective import smallest_gap
from r2et_jax.checks import check_count
from r2et_jax.ranking import top_k_overlap
from r2et_jax.ranking.topk import border_tie
from r2et_jax.score import predicted_class
from r2et_jax.threat import ThreatModel
from r2et_jax.types import Array, Params


class DescentTrace(NamedTuple):
    """Step by step [num_steps]; step t leads from x_t to x_{t+1}, from t = 0.

    What stopped repeats its last values with a step size of 0.

    Attributes:
      direction_norm: ‖d_t‖_B.
      duality_gap: of that direction.
      slope: θ_t, the largest slope along d_t over all objectives.
      step_size: t_t; 0 if the input stayed.
      worst_change: largest change of an objective in the step.
      largest_gap, smallest_gap: over all pairs, of the descended map at x_t.
      least_decrease: min over the pairs of F(x_0) − F(x_t).
      precision: P@k of x_{t+1}, by the explanation that judges.
    """

    direction_norm: Array
    duality_gap: Array
    slope: Array
    step_size: Array
    worst_change: Array
    largest_gap: Array
    smallest_gap: Array
    least_decrease: Array
    precision: Array


class DescentResult(NamedTuple):
    """What the descent did to one input (or to a batch, with a leading axis).

    Attributes:
      initial_map: the descended explanation at the start [n].
      last_map: the same at the last input [n].
      last: the last input.
      trace: see `DescentTrace`.
      converged: it came to a Pareto-critical point: ‖d‖_B is 0 up to the tolerance.
      stalled: no admissible step was left before that.
      num_steps: steps that moved the input.
      manipulation_epoch: first step after which a top-k feature had left, by the
        explanation that judges; 0 if none did, a censored input.
      num_uncertified: steps that moved the input although their dual missed its
        precision gap_share.
      class_changed: whether the last input has another predicted class.
      tied: whether the clean map is tied between ranks k and k+1.
      num_nonfinite: steps after which the explanation that judges was not finite.
    """

    initial_map: Array
    last_map: Array
    last: Array
    trace: DescentTrace
    converged: Array
    stalled: Array
    num_steps: Array
    manipulation_epoch: Array
    num_uncertified: Array
    class_changed: Array
    tied: Array
    num_nonfinite: Array


def trace_descent(
    attack: Attack,
    params: Params,
    x: Array,
    target: Array,
    threat: ThreatModel,
    *,
    key: Array,
    num_steps: int,
) -> DescentResult:
    """Run multi-objective descent on one input and record every step.

    Armijo's rule bounds the best direction so far by what is recorded:
    min_{s<t} ‖d_s‖²_B ≤ least_decrease_t/(σ(1 − κ)·Σ_{s<t} step_size_s) with σ = armijo
    and κ = gap_share, hence O(1/t) where the gaps are bounded from below and the step
    sizes away from zero, as for smooth explanations.

    Args:
      attack: of `multiobjective_attack`.
      params: parameters of the model.
      x: clean input.
      target: the class that the model predicts there, an index.
      threat: the threat model.
      key: random key, which the descent does not use.
      num_steps: steps, at least 1.

    Returns:
      `DescentResult`.

    Raises:
      ValueError: if num_steps < 1.

    Example:
      >>> import jax
      >>> from r2et_jax.attacks.multiobjective import multiobjective_attack
      >>> from r2et_jax.threat import threat_model
      >>> def explain(params, x, target):
      ...     return 3 + jnp.array([1.0, -1.0]) * jnp.tanh(x)
      >>> attack = multiobjective_attack(lambda w, x: x, explain, k=1, project=False)
      >>> result = trace_descent(
      ...     attack, None, jnp.ones(2), 1, threat_model(), key=jax.random.key(0),
      ...     num_steps=5,
      ... )
      >>> bool((result.trace.worst_change < 0).all()), int(result.manipulation_epoch)
      (True, 2)

    Source: R2ET (arXiv 2212.14106), analysis of numerical stability; Fliege, Vaz &
    Vicente 2019, "Complexity of gradient descent for multiobjective optimization".
    """
    check_count("num_steps", num_steps)
    context, state = attack.init(params, x, target, threat, key=key)
    mask, initial = context.reference

    def step(state, _):
        state = attack.step(params, context, state)
        last = state.optimizer_state
        values = attack.saliency(params, state.perturbed, target).ravel()
        fall = initial - last.values
        recorded = DescentTrace(
            direction_norm=last.direction_norm,
            duality_gap=last.duality_gap,
            slope=last.slope,
            step_size=last.step_size,
            worst_change=last.worst_change,
            largest_gap=-smallest_gap(last.values, ~mask),
            smallest_gap=state.objective,
            least_decrease=smallest_gap(fall, mask),
            precision=top_k_overlap(context.top_mask, values, k=attack.k),
        )
        finite = jnp.all(jnp.isfinite(values))
        return state, (recorded, last.certified | (last.step_size == 0), finite)

    state, (trace, certified, finite) = jax.lax.scan(step, state, length=num_steps)
    last = state.optimizer_state
    left = trace.precision < 1
    last_class = predicted_class(attack.apply(params, state.perturbed))
    return DescentResult(
        initial_map=initial,
        last_map=last.values,
        last=state.perturbed,
        trace=trace,
        converged=last.converged,
        stalled=last.stalled,
        num_steps=jnp.sum(trace.step_size > 0, dtype=jnp.int32),
        manipulation_epoch=jnp.where(jnp.any(left), jnp.argmax(left) + 1, 0).astype(
            jnp.int32
        ),
        num_uncertified=jnp.sum(~certified, dtype=jnp.int32),
        class_changed=last_class != predicted_class(context.clean_logits),
        tied=border_tie(context.clean_map.ravel(), k=attack.k),
        num_nonfinite=jnp.sum(~finite, dtype=jnp.int32),
    )
