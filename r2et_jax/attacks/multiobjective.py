"""Multi-objective descent: every gap of the ranking falls at every step.

The objectives are F_ij(x) = I_i(x) − I_j(x) for all pairs i ∈ T, j ∉ T of the clean
input. A step goes along

    d = argmin_d max_ij ∇F_ijᵀd + ½ dᵀB d,    B = I or β·I,

by a length that Armijo's rule admits for all objectives at once. It is the tool with
which the papers analyse how many iterations an attack needs; for smooth explanations
min_{t≤T} ‖d_t‖ = O(1/√T), and d = 0 exactly at Pareto-critical points.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import threat as threat_lib
from r2et_jax.attacks.descent import Attack, Context, State
from r2et_jax.attacks.separated_dual import minimize_on_simplices
from r2et_jax.checks import check_count, check_in, check_k, check_positive
from r2et_jax.numerics import safe_norm, unit_sum
from r2et_jax.ranking import positive_top_k_mask, top_k_mask
from r2et_jax.score import class_probabilities, predicted_class
from r2et_jax.types import ApplyFn, Array, SaliencyFn, ScoreFn

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
      worst_change: max over the objectives of their change in this step, below 0
        where a step was accepted.
      num_halvings: halvings of t before it was accepted.
      num_dual_steps: steps in the dual.
      curvature: β of B = β·I.
      certified: whether duality_gap ≤ gap_share·‖d‖²_B, or ‖d‖_B ≤ tolerance.
      converged: ‖d‖_B ≤ tolerance: the input is Pareto-critical and stays.
      stalled: no admissible step lets all objectives fall enough, by rounding or
        since the projection bends the direction; the input stays.
      values: the descended explanation [n] at the input that the step started from.
      weights: multipliers [n] (+ 2 with a prediction rule), where the next dual starts.
      position, slope_vector: x and Σ multipliers · ∇F there, for the next β.
    """

    direction_norm: Array
    duality_gap: Array
    slope: Array
    step_size: Array
    worst_change: Array
    num_halvings: Array
    num_dual_steps: Array
    curvature: Array
    certified: Array
    converged: Array
    stalled: Array
    values: Array
    weights: Array
    position: Array
    slope_vector: Array


def smoothed_gradient(
    score: ScoreFn, *, mu: float = 1e-3, normalize: bool = True
) -> SaliencyFn:
    """Simple gradient with a smooth magnitude: I_i = √(g_i² + μ²) − μ, g = ∇ₓs.

    It ranks the features as |g| does, is 0 where |g| is, and differs from it by less
    than μ; its derivative g_i/√(g_i² + μ²)·H_i has no jump at g_i = 0.

    Args:
      score: scalar to explain; smooth activations make the map smooth.
      mu: μ > 0, in units of the gradient.
      normalize: whether to divide by the sum.

    Returns:
      `saliency(params, x, target) -> map`, of x's shape.

    Raises:
      ValueError: if μ is not positive.
    """
    check_positive("mu", mu)
    input_gradient = jax.grad(score, argnums=1)

    def saliency(params, x, target, /):
        g = input_gradient(params, x, target)
        # √(g² + μ²) − μ without its cancellation.
        values = g**2 / (jnp.sqrt(g**2 + mu**2) + mu)
        return unit_sum(values) if normalize else values

    return saliency


def multiobjective_attack(
    apply: ApplyFn,
    saliency: SaliencyFn,
    *,
    k: int,
    attack_saliency: SaliencyFn | None = None,
    curvature: str = "identity",
    project: bool = True,
    prediction_tolerance: float = 0.1,
    armijo: float = 0.1,
    initial_step: float = 1.0,
    max_halvings: int = 40,
    tolerance: float = 1e-8,
    gap_share: float = 1e-2,
    max_dual_steps: int = 2000,
    jacobian_chunk: int | None = None,
) -> Attack:
    """Descent on all gaps of the clean top-k set at once.

    The direction. With multipliers a ∈ Δ_k inside T and b ∈ Δ_{n−k} outside the dual is
    min ½‖Σ aᵢ∇Iᵢ − Σ bⱼ∇Iⱼ‖² and d = −B⁻¹(Σ aᵢ∇Iᵢ − Σ bⱼ∇Iⱼ): minus the shortest
    vector between the hull of the gradients inside T and that of the gradients outside
    (see `separated_dual`, which also returns the duality gap). Hulls that meet make
    the input Pareto-critical.

    The length. t is halved from `initial_step` until, with s = x′ − x of the moved and
    projected input, max_ij [F_ij(x′) − F_ij(x)] ≤ σ·max_ij ∇F_ijᵀs < 0. Without
    projection s = t·d, and this is Armijo's rule. The maxima over pairs are
    max_{i∈T} ΔI_i − min_{j∉T} ΔI_j: O(n). Every objective falls at every
    accepted step, projected or not. What a projection loses is the existence of a
    step: where the budget bends d so that none is found, the attack stays and says
    `stalled`; that point need not be critical.

    The curvature. B must be one matrix for all pairs, or the dual does not separate.
    "identity" is B = I. "barzilai_borwein" is β·I with β = sᵀy/sᵀs from the last step
    s and the change y, over it, of the gradient of the objective that the last
    multipliers weigh together (‖y‖/‖s‖ where sᵀy < 0), cut off at `CURVATURE_BOUNDS`:
    the direction stays, the first length that is tried becomes that of a secant method.

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
      initial_step: the first t that is tried, at every step.
      max_halvings: of t, at most.
      tolerance: on ‖d‖_B, in units of saliency over units of x.
      gap_share: the dual is solved until its gap is at most this share of ‖d‖²_B, so
        that θ ≤ −(1 − gap_share)‖d‖²_B.
      max_dual_steps: steps in the dual, at most.
      jacobian_chunk: tangents at a time, for memory; None for all.

    Returns:
      `Attack` with a `Step` as optimizer state and the smallest gap as the objective.
      It draws nothing: its key is not used. Inputs that converged or stalled stay.

    Raises:
      ValueError: for an unknown curvature or a number out of range.

    Source: R2ET (arXiv 2212.14106), analysis of numerical stability; Fliege & Svaiter
    2000; Chen, Tang & Yang 2023 (Barzilai-Borwein); Fletcher 1987, section 14.3.
    """
    check_in("curvature", curvature, CURVATURES)
    check_positive("initial_step", initial_step)
    check_positive("armijo", armijo)
    if armijo >= 1:
        raise ValueError(f"armijo must lie in (0, 1), got {armijo!r}")
    check_count("max_halvings", max_halvings, minimum=0)
    explain = saliency if attack_saliency is None else attack_saliency
    constraint_of = _constraints(apply, prediction_tolerance)

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
        constrained = constraint_of(threat) is not None
        none = jnp.zeros((), jnp.int32)
        weights = jnp.where(mask, 1 / k, 1 / (mask.size - k)).astype(x.dtype)
        if constrained:
            weights = jnp.concatenate([weights, jnp.array([0, 1], x.dtype)])
        last = Step(
            direction_norm=zero,
            duality_gap=zero,
            slope=zero,
            step_size=zero,
            worst_change=zero,
            num_halvings=none,
            num_dual_steps=none,
            curvature=jnp.ones((), x.dtype),
            certified=jnp.zeros((), bool),
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
        movable = True if threat.movable is None else threat.movable.ravel()
        penalty = threat.penalty.astype(x.dtype)
        constraint = constraint_of(threat)

        def explained(x):
            return explain(params, x, context.target).ravel()

        values, jacobian = _value_and_jacobian(explained, x, jacobian_chunk)
        rows = jnp.where(mask[:, None], jacobian, -jacobian)
        linear = jnp.zeros_like(values)
        blocks = jnp.where(mask, 0, 1)
        violation = jnp.zeros((), x.dtype)
        if constraint is not None:
            # ν·max(0, c + ∇cᵀd) is the maximum over the points (ν∇c, νc) and (0, 0).
            level, slope = jax.value_and_grad(constraint)(x, params, context)
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

        # Rows over √β are those of the problem with B = I.
        dual = minimize_on_simplices(
            rows @ rows.T / beta,
            linear,
            blocks,
            num_blocks=num_blocks,
            start=last.weights,
            gap_share=gap_share,
            tolerance=tolerance,
            max_steps=max_dual_steps,
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
                moved = threat_lib.project(threat, moved, context.clean)
                moves = rows @ (moved - x).ravel()
            change = explained(moved) - values
            inside = jnp.max(jnp.where(mask, change, -jnp.inf))
            worst = inside - jnp.min(jnp.where(mask, jnp.inf, change))
            if constraint is not None:
                level = constraint(moved, params, context)
                worst += penalty * jnp.maximum(level, 0) - violation
            hoped = predicted(moves)
            return moved, worst, (worst <= armijo * hoped) & (hoped < 0)

        converged = last.converged | (~last.stalled & (norm <= tolerance))
        idle = stopped | converged

        def shorter(carry):
            t, count, *_ = carry
            t = t / 2
            return t, count + 1, *change_at(t)

        def refused(carry):
            _, count, _, _, accepted = carry
            return ~idle & ~accepted & (count < max_halvings)

        first = jnp.full((), initial_step, x.dtype)
        none = jnp.zeros((), jnp.int32)
        t, count, moved, worst, accepted = jax.lax.while_loop(
            refused, shorter, (first, none, *change_at(first))
        )
        goes = accepted & ~idle
        vanished = ~jnp.any(rows[: values.size] != 0)
        now = Step(
            direction_norm=norm,
            duality_gap=dual.gap,
            slope=predicted(along),
            step_size=jnp.where(goes, t, 0),
            worst_change=jnp.where(goes, worst, 0),
            num_halvings=count,
            num_dual_steps=dual.num_steps,
            curvature=beta,
            certified=dual.converged,
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


def _constraints(apply, eta):
    """The prediction rule as c(x′) ≤ 0, or None."""

    def margin(x, params, context):
        logits = apply(params, x)
        if logits.shape[0] == 1:
            logits = jnp.concatenate([jnp.zeros_like(logits), logits])
        kept = predicted_class(context.clean_logits)
        own = jnp.arange(logits.shape[0], dtype=kept.dtype) == kept
        best_other = jnp.max(jnp.where(own, -jnp.inf, logits))
        return best_other - jnp.sum(jnp.where(own, logits, 0))

    def shift(x, params, context):
        clean = class_probabilities(context.clean_logits)
        return safe_norm(class_probabilities(apply(params, x)) - clean) - eta

    rules = {"free": None, "same_class": margin, "penalized": shift}
    return lambda threat: rules[threat.prediction]


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
