"""Branch and bound over the activation regions of one hidden layer, for one input.

The gradient of z(x) = bᵀφ(Wᵀx + a) + skipᵀx with a piecewise-linear φ depends on x
through the side that each unit is on. A node of the search fixes some of them; φ′ of
the others may be either, so that for all signs s and t

    s g_i − t g_j ≥ Σ_fixed c_h φ′_h + Σ_open min(c_h φ′₋, c_h φ′₊) + constant,

from which top features that stay are counted as in `ranking_certificate`. At a leaf no
unit is open, and the count is what its gradient gives.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from r2et_jax.certificates.regions import Moves

_OFF, _ON, _OPEN = 0, 1, 2
# Share of the ball in which witnesses are sought, so that rounding leaves them inside.
_INSIDE = 1 - 1e-5
_NUM_DRAWS = 512


class Layer(NamedTuple):
    """The network in float64, and the rounding of the model's own float type.

    Attributes:
      weight: W [n, h].
      bias: a [h].
      out: b [h].
      skip: [n].
      flat, steep: φ′ below and above 0.
      unit: relative rounding of the model.
    """

    weight: np.ndarray
    bias: np.ndarray
    out: np.ndarray
    skip: np.ndarray
    flat: float
    steep: float
    unit: float


class Found(NamedTuple):
    """What a search found: `least`, `most` top features that stay, and where.

    Attributes:
      least: features that stay at every admissible input.
      most: features that stay at x + move.
      move: [n].
      nodes: number of nodes.
    """

    least: int
    most: int
    move: np.ndarray
    nodes: int


class _Node(NamedTuple):
    sides: np.ndarray  # of the units [h]
    low: np.ndarray  # bounds of w_hᵀd [h]
    high: np.ndarray
    pairs: np.ndarray  # lower bounds [4, p]
    branched: tuple[int, ...]  # units that were branched on
    point: np.ndarray  # a move in it
    stay: int  # features that stay in all of it


def search(
    layer: Layer,
    x: np.ndarray,
    moves: Moves,
    movable: np.ndarray,
    top: np.ndarray,
    *,
    k: int,
    known: int,
    max_nodes: int,
    max_seconds: float,
) -> Found:
    """The fewest of the features `top` that stay among the k largest |g|.

    Args:
      layer: the network.
      x: input [n], inside of the box.
      moves: what is admissible, of the movable features.
      movable: boolean [n].
      top: features.
      k: size of the top set.
      known: features that stay at an input that is known already; found are such with
        fewer, or the move is none.
      max_nodes, max_seconds: limits of the search.
    """
    deadline = time.monotonic() + max_seconds
    return _Search(layer, x, moves, movable, top, k, known).run(max_nodes, deadline)


class _Search:
    def __init__(self, layer, x, moves, movable, top, k, known):
        n, h = layer.weight.shape
        self.moves, self.movable, self.top = moves, movable, top
        self.most, self.move, self.unsure = known, np.zeros(n), known
        self.need = n - k
        self.weight = layer.weight[movable]
        self.start = x @ layer.weight + layer.bias
        length = np.linalg.norm(self.weight, axis=0)
        self.length = np.where(length > 0, length, 1)
        low, high = moves.reach(self.weight)
        terms = np.abs(x) @ np.abs(layer.weight) + np.abs(layer.bias)
        terms = terms + np.maximum(np.abs(low), np.abs(high))
        # A pre-activation is known up to that: nearer to 0 it is on either side.
        self.pad = (n + 4) * layer.unit * terms
        self.layer = layer
        self._prepare_pairs(n, h)
        self.table = None
        if moves.norm == "l2":
            on = moves.given(self.weight, -self.start - self.pad)
            off = moves.given(-self.weight, self.start - self.pad)
            # Of −w: the bounds of w change places.
            self.table = {_ON: on, _OFF: (-off[1], -off[0])}
        self.root = low, high

    def _prepare_pairs(self, n, h):
        """c [4, p, h] and constants of s g_i − t g_j, for i in the top, j any other."""
        layer = self.layer
        i, j = np.meshgrid(self.top, np.arange(n), indexing="ij")
        different = i != j
        self.i, self.j = i[different], j[different]
        self.row = np.searchsorted(np.sort(self.top), self.i)
        s, t = np.array([[1, 1, -1, -1], [1, -1, 1, -1]])[..., None]
        rows = layer.weight * layer.out
        c = s[..., None] * rows[self.i] - t[..., None] * rows[self.j]
        self.c = c
        self.constant = s * layer.skip[self.i] - t * layer.skip[self.j]
        least = np.minimum(c * layer.flat, c * layer.steep)
        self.least = least
        self.gain = {_OFF: c * layer.flat - least, _ON: c * layer.steep - least}
        steep = max(abs(layer.flat), abs(layer.steep))
        size = np.abs(layer.skip) + np.abs(rows).sum(axis=1) * steep
        # Of the sums of h + 1 products that the model ranks: twice the worst case.
        self.slack = (h + 4) * layer.unit * (size[self.i] + size[self.j])

    def count(self, pairs, slack):
        """Features that stay, and which pairs are not proved."""
        lower = np.maximum(np.minimum(*pairs[:2]), np.minimum(*pairs[2:]))
        above = lower > slack
        below = np.bincount(self.row, above, minlength=len(self.top))
        stays = below >= self.need
        return int(stays.sum()), ~above & ~stays[self.row]

    def settle(self, sides, low, high, pairs, fixed):
        """Fix units, and those whose side follows; the new sides, bounds, pairs."""
        sides = sides.copy()
        new = list(fixed)
        while new:
            for unit in new:
                side = sides[unit]
                pairs = pairs + self.gain[side][..., unit]
                if self.table is not None:
                    low = np.maximum(low, self.table[side][0][unit])
                    high = np.minimum(high, self.table[side][1][unit])
            is_open = sides == _OPEN
            on = is_open & (self.start + low > self.pad)
            off = is_open & (self.start + high < -self.pad) & ~on
            sides[on], sides[off] = _ON, _OFF
            new = np.flatnonzero(on | off).tolist()
        return sides, low, high, pairs

    def halfspaces(self, sides, branched, margin):
        """Rows of unit length and their sides for the units that were branched on."""
        units = np.array(branched, int)
        sign = np.where(sides[units] == _ON, 1.0, -1.0) / self.length[units]
        rows = sign[:, None] * self.weight[:, units].T
        move = margin * self.pad[units] / self.length[units]
        return rows, -sign * self.start[units] + move

    def draw(self):
        """A first upper bound, from random inputs on the border."""
        rng = np.random.default_rng(0)
        moves = rng.normal(size=(_NUM_DRAWS, len(self.moves.low)))
        if self.moves.norm == "l2":
            length = np.linalg.norm(moves, axis=1, keepdims=True)
            moves = moves / np.where(length > 0, length, 1)
        else:
            moves = np.sign(moves)
        moves = _INSIDE * self.moves.radius * moves
        moves = np.clip(moves, self.moves.low, self.moves.high)
        z = self.start + moves @ self.weight
        clear = (np.abs(z) > 4 * self.pad).all(axis=1)
        slopes = np.where(z > 0, self.layer.steep, self.layer.flat)
        g = np.abs((slopes * self.layer.out) @ self.layer.weight.T + self.layer.skip)
        above = g[:, self.i] > g[:, self.j] - self.slack
        stay = np.zeros((len(moves), len(self.top)))
        for row in range(len(self.top)):
            stay[:, row] = above[:, self.row == row].sum(axis=1) >= self.need
        stay = np.where(clear, stay.sum(axis=1), np.inf)
        best = int(np.argmin(stay))
        if stay[best] < self.most:
            self.most, self.move[self.movable] = int(stay[best]), moves[best]

    def run(self, max_nodes, deadline):
        self.draw()
        low, high = self.root
        h = len(self.start)
        sides = np.full(h, _OPEN)
        pairs = self.constant + self.least.sum(axis=-1)
        on = self.start + low > self.pad
        off = (self.start + high < -self.pad) & ~on
        sides[on], sides[off] = _ON, _OFF
        root = self.settle(sides, low, high, pairs, np.flatnonzero(on | off))
        stack, nodes = [], 1
        self.push(stack, *root, (), np.zeros(len(self.moves.low)))
        while stack and nodes < max_nodes and time.monotonic() < deadline:
            node = stack.pop()
            if node.stay >= self.most:
                continue
            _, unproved = self.count(node.pairs, self.slack)
            spread = np.abs(self.c[:, unproved]).sum(axis=(0, 1))
            unit = int(np.argmax(np.where(node.sides == _OPEN, spread, -1)))
            nodes += 2
            for side in (_OFF, _ON):
                sides = node.sides.copy()
                sides[unit] = side
                child = self.settle(sides, node.low, node.high, node.pairs, [unit])
                self.push(stack, *child, (*node.branched, unit), node.point)
        waiting = [node.stay for node in stack]
        least = min([self.most, self.unsure, *waiting])
        return Found(least, self.most, self.move, nodes)

    def push(self, stack, sides, low, high, pairs, branched, point):
        """Keep a node that may hold an input at which fewer features stay."""
        stay, _ = self.count(pairs, self.slack)
        if stay >= self.most:
            return
        rows, bounds = self.halfspaces(sides, branched, -1)
        # The others hold at the parent's point already.
        if branched and rows[-1] @ point < bounds[-1]:
            point = self.moves.scaled(1 + 1e-9).point(rows, bounds)
            if point is None:
                return
        if np.any(sides == _OPEN):
            stack.append(_Node(sides, low, high, pairs, branched, point, stay))
            return
        # The gaps of a leaf are known but for rounding, which either count allows for.
        surely, _ = self.count(pairs, -self.slack)
        move = self.witness(sides, branched) if surely < self.most else None
        if move is not None:
            self.most, self.move = surely, np.zeros(len(self.movable))
            self.move[self.movable] = move
        if move is None or stay < surely:
            self.unsure = min(self.unsure, stay)

    def witness(self, sides, branched):
        """A move that is inside of a leaf, beyond rounding, or None."""
        rows, bounds = self.halfspaces(sides, branched, 4)
        inside = self.moves.scaled(_INSIDE)
        move = inside.point(rows, bounds)
        if move is None:
            return None
        move = np.clip(move, self.moves.low, self.moves.high)
        if self.moves.norm == "l2" and np.linalg.norm(move) > self.moves.radius:
            return None
        z = self.start + move @ self.weight
        clear = np.where(sides == _ON, z, -z) > 2 * self.pad
        return move if clear[list(branched)].all() else None
