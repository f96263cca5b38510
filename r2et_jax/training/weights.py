"""The penalty weights that a search tries, the same effort for every method."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from r2et_jax.objectives.methods import TERMS

# Half of the settings go on after a fifth of the epochs, a quarter after two fifths.
HALVING = ((0.2, 0.5), (0.4, 0.25))

# Penalty -> weights, of a method's one penalty and of one beside others.
GRID = {name: term.weights.alone for name, term in TERMS.items() if not term.number}
PAIRED = {name: term.weights.beside for name, term in TERMS.items()}

# Features of the tables for which the weights were chosen.
TABULAR_FEATURES = 32


def scaled(
    grid: Mapping[str, tuple[float, ...]], num_features: int
) -> dict[str, tuple[float, ...]]:
    """The weights for inputs of many features: those of mean gaps grow with n.

    Args:
      grid: penalty -> weights, chosen on tables.
      num_features: features that are ranked.
    """
    factor = num_features / TABULAR_FEATURES
    return {
        term: tuple(float(f"{factor * weight:.2g}") for weight in weights)
        if TERMS[term].weights.share
        else weights
        for term, weights in grid.items()
    }


def settings(
    terms: Sequence[str], grid: Mapping[str, Sequence[float]] | None = None
) -> list[tuple[float, ...]]:
    """All combinations of the weights of some penalties; one empty one of none.

    Args:
      terms: names of the penalties.
      grid: penalty -> weights that are tried; by default `GRID` of a single penalty,
        `PAIRED` of several.

    Returns:
      Settings, tuples of weights in the order of the terms.

    Example:
      >>> settings(("gap", "curvature"), {"gap": (1.0, 2.0), "curvature": (0.1,)})
      [(1.0, 0.1), (2.0, 0.1)]
    """
    if grid is None:
        grid = GRID if len(terms) == 1 else PAIRED
    return list(itertools.product(*(grid[term] for term in terms)))
