"""The shortest vector in the convex hull of a handful of gradients, exactly."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from r2et_jax.types import Array

# 2^m − 1 faces are visited, so m stays small.
MAX_VECTORS = 6


def min_norm_weights(vectors: Array, *, active: Array | None = None) -> Array:
    """argmin over λ on the simplex of ‖Σ_m λ_m v_m‖₂.

    Minus the shortest vector is the direction along which the objective that falls
    least falls most, and it is zero exactly at Pareto-critical points.

    The minimum lies inside some face of the hull, where it is the point of the face's
    affine span that is nearest to the origin. All 2^m − 1 faces are tried: the
    nearest point of each span, moved onto the simplex where it lies outside, is a
    point of the hull, and the shortest of them is the minimum. A face with linearly
    dependent edges is served by the smaller ones inside it. Edges are
    orthogonalised, never multiplied into a Gram matrix, so that nearly parallel
    gradients keep their digits.

    Args:
      vectors: v [m, n] with 1 ≤ m ≤ 6; any common scale, zeros and duplicates admitted.
      active: boolean [m], the vectors that count, at least one; None for all.

    Returns:
      λ [m], nonnegative with sum 1 and 0 where not active. Where the minimum is not
      unique in λ it is one of the minimisers.

    Raises:
      ValueError: for another rank or number of vectors.

    Example:
      >>> min_norm_weights(jnp.array([[1.0, 0.0], [1.0, 1.0]]))
      Array([1., 0.], dtype=float32)

    Source: Désidéri 2012, "Multiple-gradient descent algorithm (MGDA)".
    """
    if vectors.ndim != 2 or not 1 <= vectors.shape[0] <= MAX_VECTORS:
        raise ValueError(
            f"vectors must be [m, n] with m in 1…{MAX_VECTORS}, got shape "
            f"{vectors.shape}"
        )
    m = vectors.shape[0]
    if active is None:
        active = jnp.ones(m, bool)
    counted = jnp.where(active[:, None], vectors, 0)
    scale = jnp.max(jnp.abs(counted))
    counted = counted / jnp.where(scale > 0, scale, 1)
    points = _coordinates(counted)
    faces = [f for r in range(1, m + 1) for f in itertools.combinations(range(m), r)]
    weights = jnp.stack([_nearest(points, face) for face in faces])
    admitted = jnp.stack([jnp.all(active[jnp.array(face)]) for face in faces])
    nearest = jnp.sum(weights[:, :, None] * points, axis=1)
    # The whole hull has been scaled, but its shortest vector may still be tiny.
    size = jnp.max(jnp.abs(nearest), axis=1)
    safe = jnp.where(size > 0, size, 1)
    length = size * jnp.sqrt(jnp.sum((nearest / safe[:, None]) ** 2, axis=1))
    return weights[jnp.argmin(jnp.where(admitted, length, jnp.inf))]


def _coordinates(vectors: Array) -> Array:
    """The vectors [m, n] in an orthonormal basis of their span, as [m, m]."""
    columns, basis = [], []
    for i in range(vectors.shape[0]):
        rest = vectors[i]
        # Twice is enough (Kahan): the second pass removes what rounding left.
        for _ in range(2):
            for direction in basis:
                rest = rest - _dot(direction, rest) * direction
        basis.append(_unit(rest, vectors[i]))
        columns.append(jnp.sum(vectors * basis[-1], axis=1))
    return jnp.stack(columns, axis=1)


def _nearest(points: Array, face: tuple[int, ...]) -> Array:
    """Weights [m] of the point of a face's affine span that is nearest to 0.

    Negative weights are cut off and the rest is renormalised.
    """
    first, others = face[0], face[1:]
    edges = [points[i] - points[first] for i in others]
    basis, triangle = [], []
    for edge in edges:
        rest, row = edge, [jnp.zeros((), edge.dtype)] * len(edges)
        for _ in range(2):
            for j, direction in enumerate(basis):
                share = _dot(direction, rest)
                rest = rest - share * direction
                row[j] = row[j] + share
        unit = _unit(rest, edge)
        row[len(basis)] = _dot(unit, rest)
        basis.append(unit)
        triangle.append(row)
    # Σ_i μ_i edge_i = −(the part of the first point along the edges), from the last.
    residual, steps = points[first], [None] * len(edges)
    wanted = []
    for direction in basis:
        share = _dot(direction, residual)
        residual = residual - share * direction
        wanted.append(-share)
    for i in reversed(range(len(edges))):
        pivot = triangle[i][i]
        step = jnp.where(pivot > 0, wanted[i] / jnp.where(pivot > 0, pivot, 1), 0)
        steps[i] = step
        for j in range(i):
            wanted[j] = wanted[j] - step * triangle[i][j]
    weights = jnp.zeros(points.shape[0], points.dtype)
    weights = weights.at[first].set(1 - sum(steps, jnp.zeros((), points.dtype)))
    for i, step in zip(others, steps, strict=True):
        weights = weights.at[i].set(step)
    weights = jnp.maximum(weights, 0)
    return weights / jnp.sum(weights)


def _dot(a: Array, b: Array) -> Array:
    """a·b in full precision; accelerators shorten the factors of a matrix product."""
    return jnp.sum(a * b)


def _unit(rest: Array, whole: Array) -> Array:
    """rest/‖rest‖, or zero where rounding is all that is left of `whole`."""
    scale = jnp.max(jnp.abs(whole))
    scaled = rest / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(scaled**2)
    tolerance = 8 * jnp.finfo(rest.dtype).eps
    real = squares > tolerance**2
    return jnp.where(real, scaled * jax.lax.rsqrt(jnp.where(real, squares, 1)), 0)
