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
      num_steps: steps taken.
      converged: whether the gap met the request; if not, the steps were used up or
        the gap is down to rounding.
    """

    weights: Array
    value: Array
    gap: Array
    num_steps: Array
    converged: Array


def minimize_on_simplices(
    gram: Array,
    linear: Array,
    blocks: Array,
    *,
    num_blocks: int,
    start: Array | None = None,
    gap_share: float = 1e-2,
    tolerance: Array | float = 0.0,
    max_steps: int = 10_000,
) -> DualSolution:
    """min over α ≥ 0, Σ_{i in block b} α_i = 1 for every b, of ½ αᵀQα + pᵀα.

    Every step is the better one of two, both with exact line search: weight moves
    within one block to its vertex v of smallest slope r = Qα + p from the vertex u at
    which that gains most (a pairwise step: linear convergence in practice), or α moves
    towards the best vertex of every block (a Frank–Wolfe step: f falls by at least as
    much as it does there, hence O(1/steps) without conditions). The Frank–Wolfe gap
    αᵀr − Σ_b min_b r is the duality gap. A step costs O(m).

    Args:
      gram: Q [m, m], positive semidefinite.
      linear: p [m].
      blocks: index of the block of every coordinate [m], in 0…num_blocks−1; no block
        may be empty.
      num_blocks: number of simplices.
      start: α [m] to begin from, feasible; by default uniform on each block.
      gap_share: stop once gap ≤ gap_share · αᵀQα, a relative precision in [0, 1).
      tolerance: stop once αᵀQα ≤ tolerance², where the direction counts as zero.
      max_steps: steps at most; 0 evaluates the start.

    Returns:
      `DualSolution`.

    Raises:
      ValueError: for shapes that differ, or numbers out of range.

    Example:
      >>> vectors = jnp.array([[1.0, 1.0], [1.0, -1.0], [0.0, 5.0]])
      >>> blocks = jnp.array([0, 0, 1])
      >>> signs = jnp.array([1.0, 1.0, -1.0])[:, None]
      >>> rows = signs * vectors
      >>> solve = minimize_on_simplices
      >>> solution = solve(rows @ rows.T, jnp.zeros(3), blocks, num_blocks=2)
      >>> solution.weights @ rows
      Array([ 1., -4.], dtype=float32)

    Source: Fliege & Svaiter 2000, "Steepest descent methods for multicriteria
    optimization" (the dual); Lacoste-Julien & Jaggi 2015, "On the global linear
    convergence of Frank-Wolfe optimization variants"; Fan, Chen & Lin 2005 (the choice
    of the pair).
    """
    check_same_shape("linear", linear, "blocks", blocks)
    check_same_shape("gram", gram, "linear ⊗ linear", linear[:, None] * linear)
    check_count("num_blocks", num_blocks)
    check_count("max_steps", max_steps, minimum=0)
    check_nonnegative("gap_share", gap_share)
    if gap_share >= 1:
        raise ValueError(f"gap_share must lie in [0, 1), got {gap_share!r}")
    member = blocks == jnp.arange(num_blocks, dtype=blocks.dtype)[:, None]
    if start is None:
        count = jnp.sum(member, axis=1, dtype=linear.dtype)
        start = jnp.sum(jnp.where(member, 1 / count[:, None], 0), axis=0)
    tiny = jnp.finfo(linear.dtype).tiny
    diagonal = jnp.diagonal(gram)
    # Below this a gap is made of rounding errors, and steps lead nowhere.
    rounding = 4 * jnp.finfo(linear.dtype).eps * jnp.max(diagonal)

    def certify(weights, slope):
        lowest = jnp.min(jnp.where(member, slope, jnp.inf), axis=1)
        gap = jnp.maximum(weights @ slope - jnp.sum(lowest), 0)
        square = weights @ (slope - linear)
        return gap, square

    def unmet(weights, slope):
        gap, square = certify(weights, slope)
        return (gap > gap_share * square) & (square > tolerance**2)

    def step(carry):
        weights, slope, count = carry
        best = jnp.argmin(jnp.where(member, slope, jnp.inf), axis=1)  # [num_blocks]
        rows = gram[best]
        # The pair: from every u to the best vertex of its block.
        to = best[blocks]
        descent = slope - slope[to]
        bend = jnp.maximum(diagonal + diagonal[to] - 2 * _pick(rows, blocks), tiny)
        length = jnp.minimum(weights, descent / bend)
        gains = length * (descent - 0.5 * length * bend)
        u = jnp.argmax(gains)
        v, moved = to[u], length[u]
        # All blocks at once, towards their best vertices.
        drift = jnp.sum(rows, axis=0) - (slope - linear)
        vertex = jnp.zeros_like(weights).at[best].set(1)
        towards = vertex - weights
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
        gap, _ = certify(weights, slope)
        return (count < max_steps) & unmet(weights, slope) & (gap > rounding)

    initial = start, gram @ start + linear, jnp.zeros((), jnp.int32)
    weights, _, count = jax.lax.while_loop(going, step, initial)
    # What rounding left: the sums become 1 again, and the slope is computed afresh.
    total = jnp.sum(jnp.where(member, weights, 0), axis=1)
    weights = weights / total[blocks]
    slope = gram @ weights + linear
    gap, _ = certify(weights, slope)
    value = 0.5 * weights @ (slope + linear)
    return DualSolution(weights, value, gap, count, ~unmet(weights, slope))


def _pick(rows: Array, blocks: Array) -> Array:
    """rows[blocks[i], i] for every i."""
    return jnp.take_along_axis(rows, blocks[None], axis=0)[0]
