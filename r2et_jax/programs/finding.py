"""The kinks of a program: where its derivative jumps while its value does not."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from r2et_jax.programs import kink as forms
from r2et_jax.programs.flow import depending, equal_values, felt, moving, reaching
from r2et_jax.programs.kink import Kink
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
from r2et_jax.programs.ranges import ranges_of
from r2et_jax.programs.steps import (
    CUSTOM_CALLS,
    Program,
    Step,
    call_title,
    open_bodies,
    primitives_of,
    program_of,
)

KINKED = frozenset(
    {"max", "min", "abs", "clamp", "select_n", "reduce_max", "reduce_min"}
    | {"reduce_window_max", "reduce_window_min"}
)
# Their derivative jumps too, or their value does, and they have no smooth form here.
UNTREATED = frozenset(
    {"sort", "top_k", "argmax", "argmin", "cummax", "cummin", "sign", "floor", "ceil"}
    | {"round", "rem", "scatter_max", "scatter_min"}
)
# What a piecewise-linear function is made of, beside the kinked primitives.
_AFFINE = frozenset(
    {"add", "sub", "mul", "neg", "div", "gt", "ge", "lt", "le", "broadcast_in_dim"}
    | {"convert_element_type", "copy", "reshape", "add_any", "not"}
)
_ABOVE, _BELOW = frozenset({"gt", "ge"}), frozenset({"lt", "le"})


class Reading(NamedTuple):
    """A program and what its steps are.

    Attributes:
      program: the steps.
      kinks: index of a step -> the kink.
      left: name -> how often a kink or a jump stands there that is left as it is.
    """

    program: Program
    kinks: dict[int, Kink]
    left: Counter


def opens(name: str, body: ClosedJaxpr) -> bool:
    """Whether a call is opened: one with a derivative of its own if a kink made it.

    ReLU has its own derivative for its value at the kink alone; the softplus has one
    because the derivative of its program would lose digits. A piecewise-linear body
    tells the first from the second.
    """
    return name not in CUSTOM_CALLS or set(primitives_of(body)) <= _AFFINE | KINKED


def read(closed: ClosedJaxpr, positions: range) -> Reading:
    """Find the kinks of a program in its arguments of those positions."""
    program = program_of(closed, opens)
    finder = _Finder(program, {program.inputs[place] for place in positions})
    for index, step in enumerate(program.steps):
        finder.visit(index, step)
    return Reading(program, finder.kinks, finder.left)


class _Finder:
    """What is known of a program's values, and the kinks found so far."""

    def __init__(self, program: Program, sources: set[int]):
        self.program = program
        self.depends = depending(program, sources)
        self.moves = moving(program, sources)
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
        self.kinks: dict[int, Kink] = {}
        self.left: Counter = Counter()

    def visit(self, index: int, step: Step) -> None:
        """Note the step's kink, or that it is left as it is."""
        if not self.reaches.intersection(step.outputs):
            return
        if not self.depends.intersection(step.inputs):
            return
        if step.name in UNTREATED:
            if self.moves.intersection(step.inputs):
                self.left[step.name] += 1
        elif step.name == "select_n":
            if not self.hidden(step):
                self._keep(index, self.select(step))
        elif step.name in KINKED:
            if self.felt.intersection(step.outputs) and not self.hidden(step):
                self._keep(index, self.extreme(step))
        elif self.moves.intersection(step.outputs) and step.name not in CUSTOM_CALLS:
            self.left[call_title(step) or step.name] += self._holds_kinks(step)

    def _holds_kinks(self, step: Step) -> bool:
        """Whether a program inside the step has kinks, whatever of it may move."""
        readings = (
            read(body, range(len(body.jaxpr.invars))) for body in open_bodies(step)
        )
        return any(inner.kinks or +inner.left for inner in readings)

    def _keep(self, index: int, kink: Kink | None) -> None:
        if kink is not None:
            self.kinks[index] = kink

    def hidden(self, step: Step) -> bool:
        """Whether the step switches only where a later selection does not look.

        As the inner one of `where(x > 0, sqrt(where(x > 0, x, 1)), 0)`: it keeps a
        derivative finite, and is no kink of the whole.
        """
        switch = self._switch(step)
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
                if selects and self._switch(user) == switch:
                    continue
                fresh = self.reaches.intersection(user.outputs) - seen
                seen |= fresh
                open_values.extend(fresh)
        return True

    def _switch(self, step: Step) -> frozenset | None:
        """The two values that a step compares, the same for both orders."""
        if step.name == "select_n":
            comparison, _ = self._comparison(step.inputs[0])
            step = comparison or step
        if step.name not in _ABOVE | _BELOW | {"max", "min"}:
            return None
        return self._labels(step.inputs)

    def _label(self, number: int):
        """A value's number, or the number that it is known to equal."""
        low, high = self.ranges[number]
        return ("=", low) if low == high else self.same[number]

    def extreme(self, step: Step) -> Kink | None:
        """The kink of a step whose primitive has one, None where it has one sign."""
        if not jnp.issubdtype(self.program.types[step.inputs[0]].dtype, jnp.floating):
            return None
        if step.name in {"max", "min"}:
            return self.of_two(step)
        if step.name == "abs":
            low, high = self.ranges[step.inputs[0]]
            return None if low >= 0 or high <= 0 else forms.absolute(*step.inputs)
        if step.name == "clamp":
            low, value, high = step.inputs
            within = self.ranges[value][0] >= self.ranges[low][1]
            within &= self.ranges[value][1] <= self.ranges[high][0]
            return None if within else forms.clamped(low, value, high)
        if step.name.startswith("reduce_window"):
            if any(hole != 1 for hole in step.params["base_dilation"]):
                self.left[step.name] += 1
                return None
            single = math.prod(step.params["window_dimensions"]) == 1
            return None if single else forms.windowed(step)
        shape = self.program.types[step.inputs[0]].shape
        single = math.prod(shape[axis] for axis in step.params["axes"]) == 1
        return None if single else forms.reduced(step)

    def of_two(self, step: Step) -> Kink | None:
        """max(a, b) = b + relu(a − b) and min(a, b) = b − relu(b − a)."""
        a, b = step.inputs if step.inputs[1] not in self.moves else step.inputs[::-1]
        if self.one_sided(a, b) or self.same[a] == self.same[b]:
            return None
        is_max = step.name == "max"
        multiples = self._multiples(step.name, a, b)
        if multiples is not None:
            return multiples
        if is_max:
            return self.bent(step.name, (a, b), b, 1.0)
        return self.bent(step.name, (b, a), b, -1.0)

    def _multiples(self, name: str, a: int, b: int) -> Kink | None:
        """The kink of an extreme of two multiples of one value, such as max(x, x/100).

        It switches on the larger multiple, as the leaky ReLU does.
        """
        first, second = self.lines[a], self.lines[b]
        scales = first.scale, second.scale
        if first.root is None or first.root != second.root:
            return None
        if (first.offset, second.offset) != (0.0, 0.0):
            return None
        if not all(isinstance(scale, float) and scale for scale in scales):
            return None
        switch, unit = max(zip((a, b), scales, strict=True), key=lambda p: abs(p[1]))
        rise = (scales[0] - scales[1]) / unit  # of a over b for each unit of switch
        is_max = name == "max"
        low = b if (rise > 0) == is_max else a
        return self.bent(name, (switch, None), low, abs(rise) * (1 if is_max else -1))

    def one_sided(self, a: int, b: int) -> bool:
        """Whether a − b has one sign for every input."""
        (least_a, most_a), (least_b, most_b) = self.ranges[a], self.ranges[b]
        return least_a >= most_b or most_a <= least_b

    def bent(
        self,
        name: str,
        switch: tuple[int, int | None],
        low: int | Line,
        slope: Coefficient,
    ) -> Kink:
        """low + slope·relu(a − b), without the zeros."""
        a, b = switch
        b = None if self._is_zero(b) else b
        return forms.bent(name, (a, b), None if self._is_zero(low) else low, slope)

    def _is_zero(self, value: int | Line | None) -> bool:
        if value is None or isinstance(value, Line):
            return value is None
        return self.ranges[value] == (0.0, 0.0)

    def select(self, step: Step) -> Kink | None:
        """The kink of a selection between branches that meet where it switches."""
        which, *cases = step.inputs
        if which not in self.depends:
            return None
        comparison, is_below = self._comparison(which)
        if comparison is None:
            self.left[step.name] += self._switches(which)
            return None
        a, b = comparison.inputs
        if self.one_sided(a, b):
            return None
        low, high = reversed(cases) if is_below else cases
        if not self.felt.intersection(step.outputs):
            self.left[step.name] += 1
            return None
        for switch, base, other in (((a, b), low, high), ((b, a), high, low)):
            if self._turns(base, switch):
                base = self._line_beyond(base, switch[::-1], {})
            slope = self._slope(switch, base, other)
            if slope == 0.0:
                return None
            if slope is not None:
                return self.bent(step.name, switch, base, slope)
        self.left[step.name] += 1
        return None

    def _turns(self, number: int, switch: tuple[int, int]) -> bool:
        """Whether the value is a line with a kink at that same switch."""
        steps, seen = [self.makers.get(number)], set()
        while steps:
            step = steps.pop()
            if step is None or step.outputs[0] in seen:
                continue
            seen.add(step.outputs[0])
            branches = self._branches(step)
            if branches and self._labels(branches[0]) == self._labels(switch):
                return True
            if branches or step.name in LINEAR:
                steps += [self.makers.get(taken) for taken in step.inputs]
        return False

    def _labels(self, pair: tuple[int, int]) -> frozenset:
        return frozenset(self._label(number) for number in pair)

    def _slope(self, switch: tuple[int, int], base: int | Line, other: int):
        """κ with other − base = κ·(a − b) wherever a > b, or None where there is none.

        That the two meet at a = b is part of it.
        """
        if not isinstance(base, Line):
            pair, cases = ([self.same[n] for n in p] for p in (switch, (other, base)))
            if pair in (cases, cases[::-1]):
                return 1.0 if pair == cases else -1.0
            base = self._line_beyond(base, switch, {})
        rise = subtract(self._line_beyond(other, switch, {}), base)
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

    def _line_beyond(
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
        """What `_line_beyond` makes of the step that made the value."""
        branches = self._branches(step)
        if branches is not None:
            inner, if_above, if_below = branches
            sign = self._sign_beyond(inner, switch)
            chosen = if_above if sign > 0 else if_below
            return self._line_beyond(chosen, switch, known) if sign else None
        if step.name not in LINEAR:
            return None
        taken = [self._line_beyond(n, switch, known) for n in step.inputs]
        return line_of(step, taken, self.program)

    def _branches(self, step: Step) -> tuple[tuple[int, int], int, int] | None:
        """(a, b), the value where a > b, the value where a < b, of a two-way step."""
        if step.name in {"max", "min"}:
            pair = step.inputs
            return pair, *(pair if step.name == "max" else pair[::-1])
        if step.name != "select_n" or len(step.inputs) != 3:
            return None
        comparison, is_below = self._comparison(step.inputs[0])
        if comparison is None:
            return None
        _, low, high = step.inputs
        return comparison.inputs, *((low, high) if is_below else (high, low))

    def _sign_beyond(self, inner: tuple[int, int], switch: tuple[int, int]) -> int:
        """The sign of p − q wherever a > b; 0 where it is not known or mixed."""
        pair, outer = ([self._label(n) for n in p] for p in (inner, switch))
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

    def _comparison(self, which: int) -> tuple[Step | None, bool]:
        """The comparison of order that a predicate is, and whether it says a < b."""
        step, negated = self.makers.get(which), False
        while step is not None and step.name == "not":
            step, negated = self.makers.get(step.inputs[0]), not negated
        if step is None or step.name not in _ABOVE | _BELOW:
            return None, False
        if not jnp.issubdtype(self.program.types[step.inputs[0]].dtype, jnp.floating):
            return None, False
        return step, negated != (step.name in _BELOW)

    def _switches(self, which: int) -> bool:
        """Whether a predicate is made from comparisons of order of moving values."""
        step = self.makers.get(which)
        if step is None or self.program.types[which].dtype != bool:
            return False
        if step.name in _ABOVE | _BELOW:
            moves = bool(self.moves.intersection(step.inputs))
            return moves and not self.one_sided(*step.inputs)
        return any(self._switches(number) for number in step.inputs)
