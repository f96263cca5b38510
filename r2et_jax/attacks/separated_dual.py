"""A quadratic over a product of simplices, minimised with a duality gap.

It is the dual of the direction of multi-objective descent on all gaps of a ranking.
With max over the pairs (i, j) of (∇I_i − ∇I_j)ᵀd = max_{i∈T} ∇I_iᵀd + max_{j∉T} −∇I_jᵀd
the multipliers of the k(n − k) pairs separate into one simplex for T and one for the
rest: n numbers. Two convex hulls, of the gradients inside T and of those outside,
and the shortest vector between them: the dual of a hard-margin SVM.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_count, check_nonnegative, check_same_shape
from r2et_jax.types import Array


class DualSolution(NamedTuple):
    """A point of the product of simplices and its certificate.

    Attributes:
      weights: α [m], nonnegative, each block of sum 1.
      value: f(α) = ½ αᵀQα + pᵀα.
      gap: the duality gap, an upper bound on f(α) − min f and on ½‖d − d*‖²_B of the
        direction d that α stands for; exact up to rounding.
      num_newton_steps: interior-point steps taken.
      num_steps: conditional-gradient steps taken after them.
      converged: whether the gap met the request; if not, the steps were used up or
        the gap is down to rounding.
    """

    weights: Array
    value: Array
    gap: Array
    num_newton_steps: Array
    num_steps: Array
    converged: Array


def minimize_on_simplices(
    gram: Array,
    linear: Array,
    blocks: Array,
    *,
    num_blocks: int,
    gap_share: float = 1e-3,
    tolerance: Array | float = 0.0,
    max_newton_steps: int = 40,
    max_steps: int = 2000,
) -> DualSolution:
    """min over α ≥ 0, Σ_{i in block b} α_i = 1 for every b, of ½ αᵀQα + pᵀα.

    First a primal-dual interior-point method (Mehrotra's predictor and corrector),
    which takes about ten Newton steps of O(m³) whatever the conditioning, but whose
    convergence is not proved. What it leaves goes to conditional-gradient steps of
    O(m), whose convergence is. Each of these is the better one of two, both with exact
    line search: weight moves within a block to its vertex of smallest slope
    r = Qα + p from the vertex where that gains most (a pairwise step), or α moves
    towards the best vertices of all blocks (a Frank–Wolfe step: f falls by at least as
    much as it does there, hence O(1/steps) without conditions).

    The certificate does not depend on the method: the duality gap
    αᵀr − Σ_b min_{i in b} r_i of a feasible α.

    Args:
      gram: Q [m, m], positive semidefinite.
      linear: p [m].
      blocks: index of the block of every coordinate [m], in 0…num_blocks−1; no block
        may be empty.
      num_blocks: number of simplices.
      gap_share: stop once gap ≤ gap_share · αᵀQα, a relative precision in [0, 1).
      tolerance: stop once αᵀQα ≤ tolerance², where the direction counts as zero.
      max_newton_steps: interior-point steps at most; 0 leaves them out.
      max_steps: conditional-gradient steps at most.

    Returns:
      `DualSolution`.

    Raises:
      ValueError: for shapes that differ, or numbers out of range.

    Example:
      >>> rows = jnp.array([[1.0, 1.0], [1.0, -1.0], [0.0, -5.0]])
      >>> blocks = jnp.array([0, 0, 1])
      >>> solution = minimize_on_simplices(
      ...     rows @ rows.T, jnp.zeros(3), blocks, num_blocks=2
      ... )
      >>> print((solution.weights @ rows).round(2))
      [ 1. -4.]

    Source: Fliege & Svaiter 2000, "Steepest descent methods for multicriteria
    optimization" (the dual); Mehrotra 1992; Lacoste-Julien & Jaggi 2015, "On the global
    linear convergence of Frank-Wolfe optimization variants"; Fan, Chen & Lin 2005 (the
    choice of the pair).
    """
    check_same_shape("linear", linear, "blocks", blocks)
    check_same_shape("gram", gram, "linear ⊗ linear", linear[:, None] * linear[None])
    check_count("num_blocks", num_blocks)
    check_count("max_newton_steps", max_newton_steps, minimum=0)
    check_count("max_steps", max_steps, minimum=0)
    check_nonnegative("gap_share", gap_share)
    if gap_share >= 1:
        raise ValueError(f"gap_share must lie in [0, 1), got {gap_share!r}")
    member = blocks[None] == jnp.arange(num_blocks, dtype=blocks.dtype)[:, None]
    # In units of the largest entry, so that no threshold depends on the model's scale.
    scale = jnp.max(jnp.diagonal(gram)) + jnp.max(jnp.abs(linear))
    scale = jnp.where(scale > 0, scale, 1)
    root = jnp.sqrt(scale)
    problem = _Problem(gram / scale, linear / scale, blocks, member)

    def unmet(weights, slope):
        gap, square = _gap_and_square(problem, weights, slope)
        return (gap > gap_share * square) & (square > (tolerance / root) ** 2)

    weights = _feasible(problem, jnp.ones_like(linear))
    weights, newton = _interior_point(problem, weights, unmet, max_newton_steps)
    weights, steps = _conditional_gradient(problem, weights, unmet, max_steps)
    slope = problem.gram @ weights + problem.linear
    gap, _ = _gap_and_square(problem, weights, slope)
    return DualSolution(
        weights=weights,
        value=0.5 * scale * (weights @ (slope + problem.linear)),
        gap=scale * gap,
        num_newton_steps=newton,
        num_steps=steps,
        converged=~unmet(weights, slope),
    )


class _Problem(NamedTuple):
    gram: Array
    linear: Array
    blocks: Array
    member: Array  # [num_blocks, m]


def _gap_and_square(problem, weights, slope):
    """The duality gap, and αᵀQα."""
    lowest = jnp.min(jnp.where(problem.member, slope[None], jnp.inf), axis=1)
    gap = jnp.maximum(weights @ slope - jnp.sum(lowest), 0)
    return gap, weights @ (slope - problem.linear)


def _rounding(dtype):
    """Below this a gap of numbers near 1 is rounding error, and steps lead nowhere."""
    return 4 * jnp.finfo(dtype).eps


def _feasible(problem, weights):
    """The weights over their sums in each block."""
    total = jnp.sum(jnp.where(problem.member, weights[None], 0), axis=1)
    return weights / total[problem.blocks]


def _interior_point(problem, start, unmet, max_steps):
    """The iterate of smallest gap of Mehrotra's method, and the number of its steps."""
    gram, linear, _, member = problem
    sums = member.astype(linear.dtype)  # E, with Eα = 1
    m = linear.shape[0]
    rounding = _rounding(linear.dtype)

    def longest(values, change):
        """The largest step in [0, 1] that keeps the values positive."""
        falls = change < 0
        return jnp.minimum(
            1,
            0.99
            * jnp.min(
                jnp.where(falls, -values / jnp.where(falls, change, -1), jnp.inf)
            ),
        )

    def newton(carry):
        alpha, y, z, best, best_gap, _, count = carry
        slope = gram @ alpha + linear
        dual_residual = slope - y @ sums - z
        sum_residual = sums @ alpha - 1
        factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(z / alpha), lower=True)
        columns = jax.scipy.linalg.cho_solve(factor, sums.T)
        schur = sums @ columns

        def solve(complementarity):
            right = -dual_residual - complementarity / alpha
            free = jax.scipy.linalg.cho_solve(factor, right)
            dy = jnp.linalg.solve(schur, -sum_residual - sums @ free)
            d_alpha = free + columns @ dy
            return d_alpha, dy, -(complementarity + z * d_alpha) / alpha

        mean = alpha @ z / m
        d_alpha, _, dz = solve(alpha * z)
        length = jnp.minimum(longest(alpha, d_alpha), longest(z, dz))
        affine = (alpha + length * d_alpha) @ (z + length * dz) / m
        centering = (affine / mean) ** 3 * mean
        d_alpha, dy, dz = solve(alpha * z + d_alpha * dz - centering)
        length = jnp.minimum(longest(alpha, d_alpha), longest(z, dz))
        alpha, y, z = alpha + length * d_alpha, y + length * dy, z + length * dz
        weights = _feasible(problem, alpha)
        slope = gram @ weights + linear
        gap, _ = _gap_and_square(problem, weights, slope)
        better = gap < best_gap  # False for NaN
        best = jnp.where(better, weights, best)
        alive = unmet(weights, slope) & jnp.isfinite(gap) & (gap > rounding)
        best_gap = jnp.where(better, gap, best_gap)
        return alpha, y, z, best, best_gap, alive, count + 1

    slope = gram @ start + linear
    gap, _ = _gap_and_square(problem, start, slope)
    lowest = jnp.min(jnp.where(member, slope[None], jnp.inf), axis=1)
    y = lowest - jnp.max(jnp.abs(slope)) - 1e-3
    z = slope - y @ sums
    alive = unmet(start, slope)
    carry = start, y, z, start, gap, alive, jnp.zeros((), jnp.int32)
    carry = jax.lax.while_loop(lambda c: c[-2] & (c[-1] < max_steps), newton, carry)
    return carry[3], carry[-1]


def _conditional_gradient(problem, start, unmet, max_steps):
    """Pairwise and Frank–Wolfe steps from a feasible point, and their number."""
    gram, linear, blocks, member = problem
    tiny = jnp.finfo(linear.dtype).tiny
    diagonal = jnp.diagonal(gram)
    rounding = _rounding(linear.dtype)

    def step(carry):
        weights, slope, count = carry
        best = jnp.argmin(jnp.where(member, slope[None], jnp.inf), axis=1)
        rows = gram[best]
        # The pair: from every u to the best vertex of its block.
        to = best[blocks]
        across = jnp.take_along_axis(rows, blocks[None], axis=0)[0]  # Q[to[u], u]
        descent = slope - slope[to]
        bend = jnp.maximum(diagonal + diagonal[to] - 2 * across, tiny)
        length = jnp.minimum(weights, descent / bend)
        gains = length * (descent - 0.5 * length * bend)
        u = jnp.argmax(gains)
        v, moved = to[u], length[u]
        # All blocks at once, towards their best vertices.
        drift = jnp.sum(rows, axis=0) - (slope - linear)
        towards = jnp.zeros_like(weights).at[best].set(1) - weights
        whole = jnp.maximum(-(towards @ slope), 0)
        bend_all = jnp.maximum(towards @ drift, tiny)
        share = jnp.minimum(1, whole / bend_all)
        gain_all = share * (whole - 0.5 * share * bend_all)
        pairwise = gains[u] >= gain_all
        pair_weights = weights.at[u].add(-moved).at[v].add(moved)
        pair_slope = slope + moved * (rows[blocks[u]] - gram[u])
        weights = jnp.where(pairwise, pair_weights, weights + share * towards)
        slope = jnp.where(pairwise, pair_slope, slope + share * drift)
        return weights, slope, count + 1

    def going(carry):
        weights, slope, count = carry
        gap, _ = _gap_and_square(problem, weights, slope)
        return (count < max_steps) & unmet(weights, slope) & (gap > rounding)

    initial = start, gram @ start + linear, jnp.zeros((), jnp.int32)
    weights, _, count = jax.lax.while_loop(going, step, initial)
    return _feasible(problem, weights), count
