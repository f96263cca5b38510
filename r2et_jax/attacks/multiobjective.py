"""Multi-objective descent: every gap of the ranking falls at every step.

The objectives are F_ij(x) = I_i(x) − I_j(x) for all pairs i ∈ T, j ∉ T of the clean
input. A step goes along

    d = argmin_d max_ij ∇F_ijᵀd + ½ dᵀB d,    B = I or β·I,

by a length that Armijo's rule admits for all objectives at once. It is the tool with
which the papers analyse how many iterations an attack needs; for smooth explanations
min_{t≤T} ‖d_t‖ = O(1/√T), and d = 0 exactly at Pareto-critical points.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import threat as threat_lib
from r2et_jax.attacks.descent import Attack, Context, State
from r2et_jax.attacks.separated_dual import minimize_on_simplices
from r2et_jax.attacks.smooth_terms import prediction_constraint
from r2et_jax.checks import (
    check_count,
    check_in,
    check_k,
    check_nonnegative,
    check_positive,
)
from r2et_jax.numerics import safe_norm
from r2et_jax.ranking import top_k_mask
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.threat.geometry import movable_features
from r2et_jax.types import ApplyFn, Array, SaliencyFn

ARMIJO = 0.1
GAP_SHARE = 1e-3
CURVATURES = ("identity", "barzilai_borwein")
# Bounds of β under "barzilai_borwein": B stays uniformly positive definite.
CURVATURE_BOUNDS = (1e-3, 1e3)


class Reference(NamedTuple):
    """What stays fixed of the clean input.

    Attributes:
      mask: T of the explanation that is descended, boolean [n].
      initial_map: that explanation at the clean input [n].
    """

    mask: Array
    initial_map: Array


class Step(NamedTuple):
    """The last step; it stands in `State.optimizer_state`.

    Attributes:
      direction_norm: ‖d‖_B = √(dᵀB d); 0 exactly at Pareto-critical points.
      duality_gap: how far the direction is from the best one: ½‖d − d*‖²_B is at most
        this.
      slope: θ, the largest slope along d over all objectives (penalty included);
        θ ≤ −‖d‖²_B + duality_gap.
      step_size: t, the accepted one; 0 if the input stayed.
      trial_step: the t that the next step tries first.
      worst_change: max over the objectives of their change in this step, below 0
        where a step was accepted.
      num_halvings: halvings of t before it was accepted.
      num_dual_steps: steps in the dual, of both kinds.
      curvature: β of B = β·I.
      certified: whether duality_gap ≤ gap_share·‖d‖²_B, or converged.
      scale: the largest ‖∇I_i‖₂ met so far.
      converged: ‖d‖_B ≤ tolerance·scale: the input is Pareto-critical and stays.
      stalled: no admissible step lets all objectives fall enough, by rounding or
        since the projection bends the direction; the input stays.
      values: the descended explanation [n] at the input that the step started from.
      weights: multipliers [n] (+ 2 with a prediction rule).
      position, slope_vector: x and Σ multipliers · ∇F there, for the next β.
    """

    direction_norm: Array
    duality_gap: Array
    slope: Array
    step_size: Array
    trial_step: Array
    worst_change: Array
    num_halvings: Array
    num_dual_steps: Array
    curvature: Array
    certified: Array
    scale: Array
    converged: Array
    stalled: Array
    values: Array
    weights: Array
    position: Array
    slope_vector: Array


def multiobjective_attack(
    apply: ApplyFn,
    saliency: SaliencyFn,
    *,
    k: int,
    attack_saliency: SaliencyFn | None = None,
    curvature: str = "identity",
    project: bool = True,
    prediction_tolerance: float = 0.1,
    armijo: float = ARMIJO,
    initial_step: float = 1.0,
    growth: float = 2.0,
    max_length: float = math.inf,
    max_halvings: int = 40,
    tolerance: float | None = None,
    gap_share: float = GAP_SHARE,
    jacobian_chunk: int | None = None,
) -> Attack:
    """Descent on all gaps of the clean top-k set at once.

    The direction. With multipliers a ∈ Δ_k inside T and b ∈ Δ_{n−k} outside the dual is
    min ½‖Σ aᵢ∇Iᵢ − Σ bⱼ∇Iⱼ‖² and d = −B⁻¹(Σ aᵢ∇Iᵢ − Σ bⱼ∇Iⱼ): minus the shortest
    vector between the hull of the gradients inside T and that of the gradients outside
    (see `separated_dual`, which also returns the duality gap). Hulls that meet make
    the input Pareto-critical.

    The length. t starts at `growth` times the last one (at `initial_step` in the first
    step), but at most so long that ‖t·d‖₂ ≤ max_length, and is halved until, with
    s = x′ − x of the moved and projected input,
    max_ij [F_ij(x′) − F_ij(x)] ≤ σ·max_ij ∇F_ijᵀs < 0. Without projection s = t·d, and
    this is Armijo's rule. The maxima over pairs are max_{i∈T} ΔI_i − min_{j∉T} ΔI_j:
    O(n). Every objective falls at every accepted step, projected or not. What a
    projection loses is the existence of a step: where the budget bends d so that none
    is found, the attack stays and says `stalled`; that point need not be critical.

    The curvature. B must be one matrix for all pairs, or the dual does not separate.
    "identity" is B = I. "barzilai_borwein" is β·I with β = sᵀy/sᵀs from the last step
    s and the change y, over it, of the gradient of the objective that the last
    multipliers weigh together (‖y‖/‖s‖ where sᵀy < 0), cut off at `CURVATURE_BOUNDS`:
    the direction stays, and the length that every step tries first, `initial_step`
    times d, becomes that of a secant method; `growth` is not used.

    The prediction, by the threat model's rule and an exact penalty ν·max(0, c(x′)) on
    every objective, ν its `penalty`: "same_class" has c = −(margin of the clean class
    over the best other logit); "penalized" has c = ‖p(x) − p(x′)‖₂ − η. In the problem
    of the direction c is linearised inside the maximum, so that the step follows the
    border of the constraint where it meets it; the dual then has a third simplex of
    two points. A common term does not disturb the separation.

    Each step costs one Jacobian of the explanation (n tangents, n² numbers), a Gram
    matrix of n³ operations, and O(n) for each step in the dual and each length tried,
    beside its explanation. Frozen features are left out of d, so that they cost no
    descent.

    Args:
      apply: the model, which decides predictions.
      saliency: the explanation by which success is judged.
      k: size of the top set, in 1…n−1.
      attack_saliency: the explanation whose gaps are descended, and whose clean top-k
        set is T. The theory holds where it is smooth: see `smoothed_gradient`, on
        smooth activations. Default: `saliency`.
      curvature: "identity" or "barzilai_borwein".
      project: project onto the threat model's ball, box and groups; False leaves the
        region unbounded (frozen features stay), as the analysis wants it.
      prediction_tolerance: η ≥ 0, on the l2 distance of class probabilities.
      armijo: σ in (0, 1).
      initial_step: the t that is tried first.
      growth: the t that a step tries first, over the one that the last step took; at
        least 1. Steps adapt to the scale of the model; their O(1/√T) stands, since
        they are at least min(initial_step, a constant over the Lipschitz constant).
      max_length: of a step, in units of x. A bound makes numbers of steps comparable
        between models whose gradients differ in scale.
      max_halvings: of t, at most.
      tolerance: on ‖d‖_B, as a share of the largest ‖∇I_i‖ met so far (‖·‖ of B⁻¹).
        None: the smallest that rounding admits, 4√(machine epsilon): 6e-8 in float64,
        1.4e-3 in float32, where few digits are left of the line search too.
      gap_share: the dual is solved until its gap is at most this share of ‖d‖²_B, so
        that θ ≤ −(1 − gap_share)‖d‖²_B.
      jacobian_chunk: tangents at a time, for memory; None for all.

    Returns:
      `Attack` with a `Step` as optimizer state and the smallest gap as the objective;
      its key is not used. Inputs that converged or stalled stay.

    Raises:
      ValueError: for an unknown curvature or a number out of range.

    Example:
      >>> import jax
      >>> from r2et_jax import attacks, saliency, score
      >>> from r2et_jax.threat import threat_model
      >>> apply = lambda params, x: jnp.sum(params * x**2)[None]
      >>> explain = saliency.gradient(score.log_odds(apply))
      >>> params, x = jnp.arange(1.0, 5.0), jnp.ones((2, 4))
      >>> attack = multiobjective_attack(apply, explain, k=2)

      >>> run = attacks.compile_attack(attack, num_steps=20)
      >>> result = run(params, x, threat_model("l2", 0.5), key=jax.random.key(0))
      >>> print(result.best.precision)
      [0.5 0.5]

    Source: R2ET (arXiv 2212.14106), analysis of numerical stability; Fliege & Svaiter
    2000; Chen, Tang & Yang 2023 (Barzilai-Borwein); Fletcher 1987, section 14.3.
    """
    check_in("curvature", curvature, CURVATURES)
    if tolerance is not None:
        check_nonnegative("tolerance", tolerance)
    check_nonnegative("prediction_tolerance", prediction_tolerance)
    check_positive("initial_step", initial_step)
    check_positive("armijo", armijo)
    if armijo >= 1:
        raise ValueError(f"armijo must lie in (0, 1), got {armijo!r}")
    if not growth >= 1:
        raise ValueError(f"growth must be at least 1, got {growth!r}")
    if not max_length > 0:
        raise ValueError(f"max_length must be positive, got {max_length!r}")
    check_count("max_halvings", max_halvings, minimum=0)
    adapts = curvature == "identity"
    explain = saliency if attack_saliency is None else attack_saliency
    constraint_of = prediction_constraint(apply, eta=prediction_tolerance)

    def init(params, x, target, threat, /, *, key, start=None):
        clean_map = saliency(params, x, target)
        check_k(k, clean_map.size)
        seen = explain(params, x, target).ravel()
        mask = top_k_mask(seen, k=k)
        context = Context(
            clean=x,
            target=target,
            threat=threat,
            clean_map=clean_map,
            top_mask=positive_top_k_mask(clean_map.ravel(), k=k),
            clean_logits=apply(params, x),
            reference=Reference(mask, seen),
        )
        start = x if start is None else start
        zero = jnp.zeros((), x.dtype)
        constrained = constraint_of(threat.prediction) is not None
        none = jnp.zeros((), jnp.int32)
        weights = jnp.where(mask, 1 / k, 1 / (mask.size - k)).astype(x.dtype)
        if constrained:
            weights = jnp.concatenate([weights, jnp.array([0, 1], x.dtype)])
        last = Step(
            direction_norm=zero,
            duality_gap=zero,
            slope=zero,
            step_size=zero,
            trial_step=jnp.full((), initial_step, x.dtype),
            worst_change=zero,
            num_halvings=none,
            num_dual_steps=none,
            curvature=jnp.ones((), x.dtype),
            certified=jnp.zeros((), bool),
            scale=zero,
            converged=jnp.zeros((), bool),
            stalled=jnp.zeros((), bool),
            values=seen,
            weights=weights,
            position=start,
            slope_vector=jnp.zeros(x.size, x.dtype),
        )
        return context, State(start, last, smallest_gap(seen, mask), none, key)

    def step(params, context, state, /):
        last, x, threat = state.optimizer_state, state.perturbed, context.threat
        mask = context.reference.mask
        stopped = last.converged | last.stalled
        movable = movable_features(threat, context.clean)
        movable = True if movable is None else movable.ravel()
        penalty = threat.penalty.astype(x.dtype)
        constraint = constraint_of(threat.prediction)

        def explained(x):
            return explain(params, x, context.target).ravel()

        values, jacobian = _value_and_jacobian(explained, x, jacobian_chunk)
        rows = jnp.where(mask[:, None], jacobian, -jacobian)
        linear = jnp.zeros_like(values)
        blocks = jnp.where(mask, 0, 1)
        violation = jnp.zeros((), x.dtype)
        if constraint is not None:
            # ν·max(0, c + ∇cᵀd) is the maximum over the points (ν∇c, νc) and (0, 0).
            level, slope = jax.value_and_grad(constraint, 1)(params, x, context)
            pair = jnp.stack([penalty * slope.ravel(), jnp.zeros(x.size, x.dtype)])
            rows = jnp.concatenate([rows, pair])
            linear = jnp.concatenate([linear, jnp.stack([-penalty * level, 0 * level])])
            blocks = jnp.concatenate([blocks, jnp.full(2, 2, blocks.dtype)])
            violation = penalty * jnp.maximum(level, 0)
        num_blocks = 2 if constraint is None else 3
        rows = jnp.where(movable, rows, 0)
        beta = last.curvature
        if curvature == "barzilai_borwein":
            beta = _secant(x, last, last.weights @ rows)

        gradients = jnp.max(jax.vmap(safe_norm)(rows[: values.size]))
        scale = jnp.maximum(last.scale, gradients)
        rounding = 4 * math.sqrt(jnp.finfo(x.dtype).eps)
        share = rounding if tolerance is None else tolerance
        critical = share * scale / jnp.sqrt(beta)
        # Rows over √β are those of the problem with B = I.
        dual = minimize_on_simplices(
            rows @ rows.T / beta,
            linear,
            blocks,
            num_blocks=num_blocks,
            gap_share=gap_share,
            tolerance=critical,
        )
        slope_vector = dual.weights @ rows
        direction = -slope_vector / beta
        norm = safe_norm(slope_vector) / jnp.sqrt(beta)

        def predicted(moves):
            """The largest change of the linearised objectives, by rows @ s."""
            tops = [
                jnp.max(jnp.where(blocks == b, moves - linear, -jnp.inf))
                for b in range(num_blocks)
            ]
            return sum(tops) - violation

        along = rows @ direction

        def change_at(t):
            moved = x + t * direction.reshape(x.shape)
            moves = t * along
            if project:
                moved = threat_lib.project(threat, context.clean, moved)
                moves = rows @ (moved - x).ravel()
            change = explained(moved) - values
            inside = jnp.max(jnp.where(mask, change, -jnp.inf))
            worst = inside - jnp.min(jnp.where(mask, jnp.inf, change))
            if constraint is not None:
                level = constraint(params, moved, context)
                worst += penalty * jnp.maximum(level, 0) - violation
            hoped = predicted(moves)
            return moved, worst, (worst <= armijo * hoped) & (hoped < 0)

        converged = last.converged | (~last.stalled & (norm <= critical))
        idle = stopped | converged

        def shorter(carry):
            t, count, *_ = carry
            t = t / 2
            return t, count + 1, *change_at(t)

        def refused(carry):
            _, count, _, _, accepted = carry
            return ~idle & ~accepted & (count < max_halvings)

        length = safe_norm(direction)
        longest = max_length / jnp.where(length > 0, length, 1)
        first = jnp.minimum(last.trial_step, longest).astype(x.dtype)
        before = (
            2 * first,
            -jnp.ones((), jnp.int32),
            x,
            jnp.zeros((), x.dtype),
            jnp.zeros((), bool),
        )
        t, count, moved, worst, accepted = jax.lax.while_loop(refused, shorter, before)
        goes = accepted & ~idle
        vanished = ~jnp.any(rows[: values.size] != 0)
        now = Step(
            direction_norm=norm,
            duality_gap=dual.gap,
            slope=predicted(along),
            step_size=jnp.where(goes, t, 0),
            trial_step=jnp.where(goes & adapts, growth * t, last.trial_step),
            worst_change=jnp.where(goes, worst, 0),
            num_halvings=jnp.maximum(count, 0),
            num_dual_steps=dual.num_newton_steps + dual.num_steps,
            curvature=beta,
            certified=dual.converged,
            scale=scale,
            converged=converged,
            stalled=last.stalled | (~idle & ~accepted),
            values=values,
            weights=dual.weights,
            position=x,
            slope_vector=slope_vector,
        )
        return State(
            perturbed=jnp.where(goes, moved, x),
            optimizer_state=now,
            objective=smallest_gap(values, mask),
            num_vanished=state.num_vanished + vanished.astype(jnp.int32),
            key=state.key,
        )

    return Attack(init, step, apply, saliency, k)


def smallest_gap(values: Array, mask: Array) -> Array:
    """min over i ∈ T, j ∉ T of I_i − I_j; below 0 a top-k feature has left."""
    inside = jnp.min(jnp.where(mask, values, jnp.inf))
    return inside - jnp.max(jnp.where(mask, -jnp.inf, values))


def _value_and_jacobian(fn, x, chunk):
    """fn(x) [m] and ∂fn/∂x [m, n], one tangent for each input."""
    value, tangent = jax.linearize(fn, x)

    def column(e):
        return tangent(e.reshape(x.shape))

    basis = jnp.eye(x.size, dtype=x.dtype)
    if chunk is None:
        return value, jax.vmap(column, out_axes=1)(basis)
    return value, jax.lax.map(column, basis, batch_size=chunk).T


def _secant(x, last, gradient):
    """β from the last step, at fixed multipliers; unchanged where there was none."""
    s = (x - last.position).ravel()
    y = gradient - last.slope_vector
    length = safe_norm(s)
    moved = length > 0
    unit = s / jnp.where(moved, length, 1)
    slope = unit @ y / jnp.where(moved, length, 1)
    size = safe_norm(y) / jnp.where(moved, length, 1)
    beta = jnp.clip(jnp.where(slope < 0, size, slope), *CURVATURE_BOUNDS)
    return jnp.where(moved, beta, last.curvature)
