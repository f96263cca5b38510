"""Where the activation regions of one hidden layer meet the set of a threat model.

A region is a set of half-spaces ±(w_hᵀd + z_h) ≥ 0 of moves d; the threat model admits
d in a ball and a box. That they do not meet is said only with a proof, by weak duality:
for multipliers u ≥ 0 of the half-spaces Gd ≥ c,

    uᵀc > max uᵀGd over the ball and the box,

whatever solver the multipliers came from.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy

# By how much a proof must be clear, as a share of the terms of its sums.
_CLEAR = 1e-11


@dataclasses.dataclass(frozen=True, eq=False)
class Moves:
    """The moves that a threat model admits, of the features that may change alone.

    Attributes:
      norm: "l2" or "linf".
      radius: of the ball.
      low, high: the box around the input [n], infinite where there is none; for l∞ the
        ball is part of it.
    """

    norm: str
    radius: float
    low: np.ndarray
    high: np.ndarray

    def scaled(self, share: float) -> Moves:
        """The same with another radius; bounds that are the ball's scale with it."""
        low, high = self.low, self.high
        if self.norm == "linf":
            low = np.where(low == -self.radius, share * low, low)
            high = np.where(high == self.radius, share * high, high)
        return Moves(self.norm, share * self.radius, low, high)

    def reach(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest w_hᵀd, or bounds of them [h], [h]."""
        low, high = self._box_reach(weight)
        if self.norm == "l2":
            length = self.radius * np.linalg.norm(weight, axis=0)
            low, high = np.maximum(low, -length), np.minimum(high, length)
        return low, high

    def _box_reach(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore"):
            ends = [
                np.where(rows == 0, 0, rows * bound[:, None])
                for bound in (self.low, self.high)
            ]
        return np.minimum(*ends).sum(axis=0), np.maximum(*ends).sum(axis=0)

    def given(
        self, weight: np.ndarray, sides: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of w_hᵀd where w_fᵀd ≥ sides_f, for all f and h [f, h]; l2 alone.

        With u = w_f/‖w_f‖ it is αy + β√(radius² − y²) at most, y = uᵀd at least
        sides_f/‖w_f‖: the concave function's extreme, or the end of the interval.
        """
        length = np.linalg.norm(weight, axis=0)
        safe = np.where(length > 0, length, 1)
        along = (weight / safe).T @ weight  # [f, h]
        # Of nearly parallel units the difference is all rounding.
        across = np.sqrt(np.maximum(length**2 - along**2, 0) + 1e-14 * length**2)
        start = np.clip(sides / safe, -self.radius, self.radius)[:, None]
        share = self.radius * along / safe

        def most(toward, share):
            y = np.clip(share, start, self.radius)
            return toward * y + across * np.sqrt(np.maximum(self.radius**2 - y**2, 0))

        return -most(-along, -share), most(along, share)

    def point(self, rows: np.ndarray, sides: np.ndarray) -> np.ndarray | None:
        """A move with rows·d ≥ sides [p, n], [p], or None where there provably is none.

        For l2 the shortest one. Up to the solver's rounding, and the move of nothing
        where the solver fails: check it where it matters.
        """
        if np.all(sides <= 0) and np.all(self.low <= 0) and np.all(self.high >= 0):
            return np.zeros(len(self.low))
        if not self.radius > 0:
            return None if np.any(sides > 0) else np.zeros(len(self.low))
        if self.norm == "l2":
            return self._shortest(rows, sides)
        return self._deepest(rows, sides)

    def _shortest(self, rows, sides):
        # Bounds of the box that the ball reaches are half-spaces, too.
        unit = np.eye(len(self.low))
        near_low, near_high = self.low > -self.radius, self.high < self.radius
        rows = np.concatenate([rows, unit[near_low], -unit[near_high]])
        sides = np.concatenate([sides, self.low[near_low], -self.high[near_high]])
        sides = sides / self.radius
        # Least distance programming: the residual of this problem is the move.
        matrix = np.concatenate([rows.T, sides[None]])
        target = np.zeros(len(matrix))
        target[-1] = 1
        try:
            u, _ = scipy.optimize.nnls(matrix, target)
        except RuntimeError:
            return np.zeros(len(self.low))
        toward, gain = rows.T @ u, sides @ u
        clear = _CLEAR * (np.abs(sides) @ u + np.abs(rows).sum(axis=1) @ u)
        if gain - np.linalg.norm(toward) > clear:
            return None
        return self.radius * toward / max(1 - gain, 1e-300)

    def _deepest(self, rows, sides):
        n = len(self.low)
        with_depth = np.concatenate([-rows, np.ones((len(rows), 1))], axis=1)
        solved = scipy.optimize.linprog(
            np.r_[np.zeros(n), -1.0],
            A_ub=with_depth,
            b_ub=-sides,
            bounds=[*zip(self.low, self.high, strict=True), (None, 1.0)],
            method="highs",
        )
        if solved.status != 0:
            return np.zeros(n)
        u = np.maximum(-solved.ineqlin.marginals, 0)
        toward = rows.T @ u
        most = self._box_reach(toward[:, None])[1][0]
        size = np.abs(rows).T @ u @ np.maximum(np.abs(self.low), np.abs(self.high))
        if sides @ u - most > _CLEAR * (np.abs(sides) @ u + size):
            return None
        return solved.x[:n]
