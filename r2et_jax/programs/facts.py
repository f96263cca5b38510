"""What is known of a program's values, and of the branches that a step chooses from."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from r2et_jax.programs.flow import (
    depending,
    equal_values,
    felt,
    moving,
    moving_entries,
    reaching,
)
from r2et_jax.programs.lines import (
    LINEAR,
    Coefficient,
    Line,
    combine,
    is_zero,
    line_of,
    lines_of,
    subtract,
)
from r2et_jax.programs.pieces import Pieces, pieces_of, roots_of
from r2et_jax.programs.ranges import ranges_of
from r2et_jax.programs.steps import Program, Step

# Share of a range, and of 1 for wider ones, that a guard may cut off.
_SLIVER = 1e-4
# Constant between the points at which they jump.
ROUNDING = frozenset({"sign", "floor", "ceil", "round"})
_ABOVE, _BELOW = frozenset({"gt", "ge"}), frozenset({"lt", "le"})
COMPARISONS = _ABOVE | _BELOW


class Facts:
    """What is known of a program's values when some of its inputs change.

    Attributes:
      depends: numbers of the values that change with those inputs in any way.
      moves: those that have a derivative in them.
      stirred: those of `moves` of which some entry moves, as far as entries are known
        apart.
      felt: those of `moves` whose derivative reaches an output.
      reaches: numbers of the values that an output depends on.
      ranges: number -> bounds of the value.
      same: number -> the first number with the same value.
      lines: number -> the value as a line in another.
      makers: number -> the step that makes the value.
      users: number -> the steps that take it.
      flat: those that jump where a moving value passes a number, and are constant
        elsewhere, such as z > 0 as a number, with the name of the step that jumps.
      jumping: those that jump and are no constants, of functions of one value.
    """

    def __init__(self, program: Program, sources: set[int]):
        self.program = program
        self.depends = depending(program, sources)
        self.moves = moving(program, sources)
        self.stirred = moving_entries(program, self.moves, sources)
        self.felt = felt(program, self.moves)
        self.reaches = reaching(program)
        self.ranges = ranges_of(program)
        self.same = equal_values(program)
        self.lines = lines_of(program, self.moves, self.ranges, self.same)
        self.makers = {out: step for step in program.steps for out in step.outputs}
        self.users: dict[int, list[Step]] = {}
        for step in program.steps:
            for number in step.inputs:
                self.users.setdefault(number, []).append(step)
        self.flat: dict[int, str] = {}
        self.jumping: dict[int, str] = {}

    @functools.cached_property
    def roots(self) -> dict[int, int]:
        """Number -> the value that it is an elementwise function of."""
        return roots_of(self.program, self.depends, self.ranges, self.same)

    def pieces(self, number: int) -> Pieces | None:
        """What pieces a value consists of, None where it jumps or cannot be told."""
        if self.roots.get(number) in self.flat:
            return None
        jumps = self.flat.keys() | self.jumping.keys()
        known = self.ranges, self.same, self.roots
        return pieces_of(self.program, self.makers, *known, number, jumps)

    def flat_name(self, step: Step) -> str | None:
        """The step that makes a step's result flat, None for one that is not flat.

        What is made from flat values alone is flat; behind a `stop_gradient` it is
        meant to be no part of the derivative.
        """
        if self.moves.intersection(step.outputs) or step.name == "stop_gradient":
            return None
        for number in step.inputs:
            if number in self.flat:
                return self.flat[number]
        moved = self.moves.intersection(step.inputs)
        if step.name in ROUNDING and moved:
            low, high = self.ranges[step.inputs[0]]
            of_one_sign = step.name == "sign" and (low >= 0 or high <= 0)
            return None if of_one_sign else step.name
        if step.name in COMPARISONS and moved:
            return None if self.one_sided(*step.inputs) else step.name
        return None

    def hidden(self, step: Step) -> bool:
        """Whether the step switches only where a later selection does not look.

        As the inner one of `where(x > 0, sqrt(where(x > 0, x, 1)), 0)`: it keeps a
        derivative finite, and is no kink of the whole.
        """
        switch = self.switch(step)
        if switch is None:
            return False
        seen: set[int] = set()
        open_values = list(step.outputs)
        while open_values:
            number = open_values.pop()
            if number in self.program.outputs:
                return False
            for user in self.users.get(number, ()):
                selects = user.name == "select_n" and user.inputs[0] != number
                if selects and self.switch(user) == switch:
                    continue
                fresh = self.reaches.intersection(user.outputs) - seen
                seen |= fresh
                open_values.extend(fresh)
        return True

    def switch(self, step: Step) -> frozenset | None:
        """The two values that a step compares, the same for both orders."""
        if step.name == "select_n":
            comparison, _ = self.comparison(step.inputs[0])
            step = comparison or step
        if step.name not in COMPARISONS | {"max", "min"}:
            return None
        return self.labels(step.inputs)

    def label(self, number: int):
        """A value's number, or the number that it is known to equal."""
        low, high = self.ranges[number]
        return ("=", low) if low == high else self.same[number]

    def one_sided(self, a: int, b: int) -> bool:
        """Whether a − b has one sign for every input, but for a sliver of its range.

        The floor of `x/max(norm, 1e-8)` is a guard: smoothed it would change the norm.
        """
        (least_a, most_a), (least_b, most_b) = self.ranges[a], self.ranges[b]
        if least_a >= most_b or most_a <= least_b:
            return True
        wide = min(1.0, max(most_a - least_a, most_b - least_b))
        overlap = min(most_b - least_a, most_a - least_b)
        return overlap <= _SLIVER * wide

    def turns(self, number: int, switch: tuple[int, int]) -> bool:
        """Whether the value is a line with a kink at that same switch."""
        steps, seen = [self.makers.get(number)], set()
        while steps:
            step = steps.pop()
            if step is None or step.outputs[0] in seen:
                continue
            seen.add(step.outputs[0])
            branches = self._branches(step)
            if branches and self.labels(branches[0]) == self.labels(switch):
                return True
            if branches or step.name in LINEAR:
                steps += [self.makers.get(taken) for taken in step.inputs]
        return False

    def labels(self, pair: tuple[int, int]) -> frozenset:
        return frozenset(self.label(number) for number in pair)

    def slope(
        self, switch: tuple[int, int], base: int | Line, other: int
    ) -> Coefficient | None:
        """κ with other − base = κ·(a − b) wherever a > b, or None where there is none.

        That the two meet at a = b is part of it.
        """
        if not isinstance(base, Line):
            pair, cases = ([self.same[n] for n in p] for p in (switch, (other, base)))
            if pair in (cases, cases[::-1]):
                return 1.0 if pair == cases else -1.0
            base = self.line_beyond(base, switch, {})
        rise = subtract(self.line_beyond(other, switch, {}), base)
        run = subtract(*(self.lines[n] for n in switch))
        if rise is None or run is None or run.root is None:
            return None
        if rise.scale == 0.0 and rise.offset == 0.0:
            return 0.0
        if rise.root != run.root:
            return None
        left = combine("*", rise.offset, run.scale)
        right = combine("*", rise.scale, run.offset)
        if not is_zero(combine("-", left, right), beside=(left, right)):
            return None
        if is_zero(run.scale, beside=(1.0,)) or is_zero(rise.scale, beside=(1.0,)):
            return None
        return combine("/", rise.scale, run.scale)

    def line_beyond(
        self, number: int, switch: tuple[int, int], known: dict[int, Line]
    ) -> Line:
        """The value as a line that holds wherever a > b, through kinks elsewhere."""
        if number not in known:
            known[number] = self.lines[number]
            step = self.makers.get(number)
            if step is not None and number in self.moves:
                known[number] = self._remade(step, switch, known) or known[number]
        return known[number]

    def _remade(self, step: Step, switch: tuple[int, int], known) -> Line | None:
        """What `line_beyond` makes of the step that made the value."""
        branches = self._branches(step)
        if branches is not None:
            inner, if_above, if_below = branches
            sign = self._sign_beyond(inner, switch)
            chosen = if_above if sign > 0 else if_below
            return self.line_beyond(chosen, switch, known) if sign else None
        if step.name not in LINEAR:
            return None
        taken = [self.line_beyond(n, switch, known) for n in step.inputs]
        return line_of(step, taken, self.program)

    def _branches(self, step: Step) -> tuple[tuple[int, int], int, int] | None:
        """(a, b), the value where a > b, the value where a < b, of a two-way step."""
        if step.name in {"max", "min"}:
            pair = step.inputs
            return pair, *(pair if step.name == "max" else pair[::-1])
        if step.name != "select_n" or len(step.inputs) != 3:
            return None
        comparison, is_below = self.comparison(step.inputs[0])
        if comparison is None:
            return None
        _, low, high = step.inputs
        return comparison.inputs, *((low, high) if is_below else (high, low))

    def _sign_beyond(self, inner: tuple[int, int], switch: tuple[int, int]) -> int:
        """The sign of p − q wherever a > b; 0 where it is not known or mixed."""
        pair, outer = ([self.label(n) for n in p] for p in (inner, switch))
        if pair in (outer, outer[::-1]):
            return 1 if pair == outer else -1
        first, second = (subtract(*(self.lines[n] for n in p)) for p in (inner, switch))
        if first is None or second is None or first.root != second.root:
            return 0
        numbers = (first.scale, first.offset, second.scale, second.offset)
        if first.root is None or not all(isinstance(c, float) for c in numbers):
            return 0
        if second.scale == 0:
            return 0
        at_switch = first.offset - first.scale * second.offset / second.scale
        onwards = first.scale / second.scale
        if min(at_switch, onwards) >= 0:
            return 1
        return -1 if max(at_switch, onwards) <= 0 else 0

    def comparison(self, which: int) -> tuple[Step | None, bool]:
        """The comparison of order that a predicate is, and whether it says a < b."""
        step, negated = self.makers.get(which), False
        while step is not None and step.name == "not":
            step, negated = self.makers.get(step.inputs[0]), not negated
        if step is None or step.name not in COMPARISONS:
            return None, False
        if not jnp.issubdtype(self.program.types[step.inputs[0]].dtype, jnp.floating):
            return None, False
        return step, negated != (step.name in _BELOW)
