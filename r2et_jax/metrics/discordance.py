"""Whether a distance orders things as a likeness does, pair by pair."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_ndim, check_same_shape
from r2et_jax.metrics._arrays import as_floats


class Discordance(NamedTuple):
    """Pairs of things that are compared by a distance and by a likeness.

    Attributes:
      discordant: share of pairs in which the nearer is the less alike, among those that
        differ in both; nan if there are none.
      tied: share of pairs that are equal in either, among all.
    """

    discordant: Array
    tied: Array


def discordance(
    distance: ArrayLike, likeness: ArrayLike, *, pairs: ArrayLike | None = None
) -> Discordance:
    """How often the nearer of two things is the less alike.

        #{i<j : (d_i − d_j)(o_i − o_j) > 0} / #{i<j : (d_i − d_j)(o_i − o_j) ≠ 0}

    0 if the distance tells the order of likeness, 1/2 if it tells nothing. Without
    ties it is (1 + τ)/2 with Kendall's τ of the two.

    Args:
      distance: of p things from one [p], such as of explanations from the clean one.
      likeness: of the same things to the same one [p], such as their P@k.
      pairs: boolean [p, p], symmetric: those that are compared; None for all.

    Returns:
      `Discordance` of scalars, nan where there is nothing to divide by, or a distance
      or likeness is not finite.

    Raises:
      ValueError: if the shapes differ or are not [p].

    Example:
      >>> shares = discordance(jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.75, 0.25]))
      >>> print(f"{shares.discordant:.3f} {shares.tied:.3f}")
      0.333 0.000
    """
    distance, likeness = as_floats(distance, likeness)
    check_ndim("distance", distance, 1)
    check_same_shape("distance", distance, "likeness", likeness)
    once = jnp.triu(jnp.ones((distance.size, distance.size), bool), 1)
    if pairs is not None:
        pairs = jnp.asarray(pairs)
        check_same_shape("pairs", pairs, "all pairs", once)
        once &= pairs
    product = jnp.where(once, _order(distance) * _order(likeness), 0)

    def count(mask):
        return jnp.sum(mask, dtype=distance.dtype)

    finite = jnp.all(jnp.isfinite(distance) & jnp.isfinite(likeness))
    untied = count(product != 0)

    def share(part, whole):
        known = finite & (whole > 0)
        return jnp.where(known, part / jnp.where(known, whole, 1.0), jnp.nan)

    compared = count(once)
    return Discordance(
        share(count(product > 0), untied), share(compared - untied, compared)
    )


def _order(values: Array) -> Array:
    above = values[:, None] > values[None, :]
    return above.astype(jnp.int32) - above.T.astype(jnp.int32)
