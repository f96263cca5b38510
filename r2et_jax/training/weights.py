"""The penalty weights that a search tries, the same effort for every method."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

# Half of the settings go on after a fifth of the epochs, a quarter after two fifths.
HALVING = ((0.2, 0.5), (0.4, 0.25))

# Every tuned method tries twelve settings: equal effort. Methods with two penalties
# take every combination of PAIRED: four of a ranking term, three of any other.
GRID = {
    "l2": (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 4.5e-2, 6e-2),
    "gap": (0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0),
    "exp_gap": (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0),
    "mm_gap": (0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
    "curvature": (0.003, 0.006, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0),
    "radius": (3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2),
    "adv_hinge": (1e-3, 2e-3, 3e-3, 6e-3, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6),
    "adv_loss": (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0),
    "decay": (0.06, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0),
    "frobenius_squared": (3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1, 3, 10, 30),
    "certified_gap": (0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 1, 2),
    "thickness": (0.03, 0.06, 0.1, 0.2, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 6.0, 10.0),
}
GRID |= {
    "curvature_fd": GRID["curvature"],
    "frobenius": GRID["curvature"],
    "spectral": GRID["curvature"],
    "logit_curvature": GRID["curvature"],
    "cross_lipschitz": GRID["curvature"],
    "gradient_change": GRID["adv_loss"],
    "ig_change": GRID["adv_loss"],
    "adv_gap": GRID["gap"],
    "anchored_gap": GRID["mm_gap"],
    "mm_gap_k": GRID["mm_gap"],
    "mm_exp_gap": GRID["exp_gap"],
    "radius_hinge": GRID["adv_loss"],
}
PAIRED = {
    "l2": (1e-3, 3e-3, 1e-2),
    "gap": (1.0, 2.0, 3.0, 6.0),
    "exp_gap": (0.1, 0.3, 0.6, 1.0),
    "mm_gap": (0.3, 0.6, 1.0, 2.0),
    "curvature": (0.01, 0.03, 0.1),
    "radius": (0.003, 0.01, 0.03, 0.1),
    "adv_hinge": (0.003, 0.01, 0.03, 0.1),
    "adv_loss": (0.1, 0.3, 1.0),
    "decay": (0.1, 0.3, 1.0),
    "frobenius_squared": (0.1, 1.0, 10.0),
    "certified_gap": (0.03, 0.1, 0.3, 1.0),
    "thickness": (0.1, 0.3, 1.0, 3.0),
    # No weight, but the step of est_h_fd: a tiny one misses every kink.
    "tau": (1e-1, 1e-2, 1e-4, 1e-6),
}
PAIRED |= {
    "curvature_fd": PAIRED["curvature"],
    "frobenius": PAIRED["curvature"],
    "spectral": PAIRED["curvature"],
    "logit_curvature": PAIRED["curvature"],
    "cross_lipschitz": PAIRED["curvature"],
    "gradient_change": PAIRED["adv_loss"],
    "ig_change": PAIRED["adv_loss"],
    "adv_gap": PAIRED["gap"],
    "anchored_gap": PAIRED["mm_gap"],
    "mm_gap_k": PAIRED["mm_gap"],
    "mm_exp_gap": PAIRED["exp_gap"],
    "radius_hinge": (0.1, 0.3, 1.0, 3.0),
}

# Penalties that fall as 1/n: a mean over gaps of a saliency that sums to 1.
_SHARES = frozenset({"gap", "mm_gap", "mm_gap_k", "adv_gap", "anchored_gap"})
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
        if term in _SHARES
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
