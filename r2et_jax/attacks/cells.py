"""The cells between a model's kinks, and the point of one that is nearest to an input.

A piecewise-linear network's explanation is constant in a cell, the set of inputs at
which every kink keeps its side. A step across one kink usually leaves others behind as
well; the nearest point of a cell is in the cell that was meant, or shows that the ball
does not reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.types import Array, Params

# Numbers in the kinks' gradients, H·n, up to which cells are searched.
_MOST_NUMBERS = 1 << 16
# Distance kept from each kink, as a share of the budget.
_MARGIN = 1e-4
# Visits of each kink in the search for the nearest point. P@8 on 100 validation inputs
# of Adult, vanilla, by 4, 10, 12 and 20 of them: .207, .160, .160 and .156.
_SWEEPS = 12
# Visits in a turn of the loop, a divisor of them: with two an evolution takes a tenth
# less time.
_UNROLLED = 2


class Cells(NamedTuple):
    """The kinks to first order: the one of unit h lies at level_h + normal_hᵀδ = 0.

    Exact for kinks that are affine in the input, such as those of a first layer.

    Attributes:
      level: [H].
      normals: gradients, 0 along what may not move [H, n].
      gram: products of the normals [H, H].
    """

    level: Array
    normals: Array
    gram: Array


def are_searched(norm: str, num_kinks: int, n: int) -> bool:
    """Whether an evolution searches the cells of a model: under l2, of few kinks."""
    return norm == "l2" and 0 < num_kinks * n <= _MOST_NUMBERS


def cells(
    switches: Callable[[Params, Array], Array],
    params: Params,
    clean: Array,
    at: Array,
    movable: Array | None,
) -> Cells:
    """The cells around an input, δ = x′ − clean, by the kinks' gradients at another.

    Args:
      switches: see `programs.transform.kinks`.
      params: of the model.
      clean: x [n], which δ is counted from.
      at: where the gradients are taken [n].
      movable: features that may move, boolean [n]; None for all.
    """
    normals = jax.jacrev(lambda point: switches(params, point))(at)
    if movable is not None:
        normals = jnp.where(movable, normals, 0)
    level = switches(params, at) - normals @ (at - clean)
    return Cells(level, normals, normals @ normals.T)


def reachable(around: Cells, epsilon: Array) -> Array:
    """Which kinks the l2 ball of that radius meets, boolean [H]."""
    return jnp.abs(around.level) <= epsilon * _lengths(around)


def sides(around: Cells, delta: Array) -> Array:
    """On which side of each kink x + δ lies, boolean [H]."""
    return around.level + around.normals @ delta >= 0


def nearest(
    around: Cells, side: Array, known: Array, epsilon: Array
) -> tuple[Array, Array]:
    """The shortest δ into a cell, by dual coordinate ascent.

    min ‖δ‖₂² with s_h(level_h + normal_hᵀδ) ≥ m‖normal_h‖ for all h, s = ±1 the sides,
    m a small share of the budget. δ = Σ λ_h s_h normal_h with λ ≥ 0, each maximised in
    turn. A cell that is empty has no such δ: what comes out lies in another one.

    Args:
      around: the kinks.
      side: the cell's sides, boolean [H].
      known: λ to start from, ≥ 0 [H].
      epsilon: the budget.

    Returns:
      (δ [n], λ [H]).

    Source: Hildreth 1957, "A quadratic programming procedure".
    """
    sign = jnp.where(side, 1, -1).astype(around.level.dtype)
    count = around.level.shape[0]
    square = jnp.diagonal(around.gram)
    need = _MARGIN * epsilon * _lengths(around) - sign * around.level

    def visit(turn, signed):
        h = turn % count
        short = need[h] - sign[h] * (around.gram[h] @ signed)
        # A kink that nothing moves stays out of it.
        step = short / jnp.where(square[h] > 0, square[h], jnp.inf)
        dual = jnp.maximum(sign[h] * signed[h] + step, 0)
        # A scatter takes longer than an update in place does.
        return jax.lax.dynamic_update_index_in_dim(signed, sign[h] * dual, h, 0)

    visits = _SWEEPS * count
    signed = jax.lax.fori_loop(0, visits, visit, sign * known, unroll=_UNROLLED)
    return around.normals.T @ signed, sign * signed


def _lengths(around: Cells) -> Array:
    return jnp.sqrt(jnp.diagonal(around.gram))
