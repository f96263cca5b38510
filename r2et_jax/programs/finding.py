"""The kinks of a program: where its derivative jumps while its value does not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from r2et_jax.programs import custom
from r2et_jax.programs import kink as forms
from r2et_jax.programs.facts import COMPARISONS, ROUNDING, Facts
from r2et_jax.programs.flow import array_sources, is_float, mixing
from r2et_jax.programs.kink import Kink
from r2et_jax.programs.lines import Coefficient, Line
from r2et_jax.programs.steps import (
    CUSTOM_CALLS,
    Program,
    Step,
    call_body,
    call_title,
    open_bodies,
    program_of,
)

KINKED = frozenset(
    {"max", "min", "abs", "clamp", "select_n", "reduce_max", "reduce_min"}
    | {"reduce_window_max", "reduce_window_min"}
)
# Their derivative jumps too, or their value does, and they have no smooth form here.
UNTREATED = frozenset(
    {"sort", "top_k", "argmax", "argmin", "cummax", "cummin", "rem"}
    | {"scatter-max", "scatter-min"}
)


class Reading(NamedTuple):
    """A program and what its steps are.

    Attributes:
      program: the steps.
      kinks: index of a step -> the kink.
      beside: the same for activations that the arguments in question do not move, such
        as those of a context's embedding. They are smoothed where the others are.
      bodies: index of a loop or a branching -> readings of the programs in it.
      left: name -> how often a kink or a jump stands there that is left as it is.
      moved: for each output, whether the arguments in question move it.
    """

    program: Program
    kinks: dict[int, Kink]
    beside: dict[int, Kink]
    bodies: dict[int, tuple[Reading, ...]]
    left: Counter
    moved: tuple[bool, ...]

    @property
    def is_kinked(self) -> bool:
        return bool(self.kinks or self.bodies)

    def counts(self) -> Counter:
        """Primitive -> at how many places it makes a kink, those in bodies included."""
        total = Counter(kink.name for kink in self.kinks.values())
        for inner in self.bodies.values():
            for reading in inner:
                total += reading.counts()
        return total


def read(
    closed: ClosedJaxpr, positions: Iterable[int], *, judges: bool = True
) -> Reading:
    """Find the kinks of a program in its arguments of those positions.

    Args:
      closed: the program.
      positions: the arguments that change.
      judges: whether to look into calls with a derivative of their own, and to open
        those that are kinks.
    """

    def opens(call: Step, body: ClosedJaxpr) -> bool:
        if call.name not in CUSTOM_CALLS:
            return True
        return judges and custom.judge(call, body, read) == custom.KINKED

    program = program_of(closed, opens)
    sources = {program.inputs[place] for place in positions}
    finder = _Finder(program, sources, judges)
    for index, step in enumerate(program.steps):
        finder.visit(index, step)
    jumps = finder.flat | finder.jumping
    numbers = (n for n in program.outputs if n in jumps and is_float(program, n))
    finder.left.update(jumps[n] for n in numbers)
    moved = tuple(number in finder.moves for number in program.outputs)
    beside = _beside(program, finder) if finder.kinks or finder.bodies else {}
    return Reading(program, finder.kinks, beside, finder.bodies, finder.left, moved)


def _beside(program: Program, finder: _Finder) -> dict[int, Kink]:
    """The kinks of values that the finder's arguments do not change, but others do.

    Such a value is a layer's if it is made from several arrays, as from weights and a
    bias. What is made from one alone stays: a weight kept positive, a scale kept small.
    """
    others = array_sources(program) - finder.depends
    mixed = mixing(program, others)
    apart = _Finder(program, others, finder.judges)
    for index, step in enumerate(program.steps):
        switches = step.name in KINKED | ROUNDING | COMPARISONS
        switches |= bool(apart.flat.keys() & set(step.inputs))
        if mixed.intersection(step.inputs) and switches:
            if not finder.depends.intersection(step.outputs):
                apart.visit(index, step)
    return apart.kinks


class _Finder(Facts):
    """Visits the steps of a program and notes its kinks."""

    def __init__(self, program: Program, sources: set[int], judges: bool):
        super().__init__(program, sources)
        self.judges = judges
        self.kinks: dict[int, Kink] = {}
        self.bodies: dict[int, tuple[Reading, ...]] = {}
        self.left: Counter = Counter()

    def visit(self, index: int, step: Step) -> None:
        """Note the step's kink, or that it is left as it is."""
        if not self.reaches.intersection(step.outputs):
            return
        if not self.depends.intersection(step.inputs):
            return
        if (flat := self.flat_name(step)) is not None:
            self.flat.update(dict.fromkeys(step.outputs, flat))
            return
        jumps = [n for n in step.inputs if n in self.flat or n in self.jumping]
        if jumps and step.name not in {"select_n", "cond", "stop_gradient"}:
            name = self.flat.get(jumps[0]) or self.jumping[jumps[0]]
            kink, meets = self.pieced(step, name)
            if meets:
                self._keep(index, kink)
                return
        if step.name in UNTREATED:
            if self.moves.intersection(step.inputs):
                self.left[step.name] += 1
        elif step.name == "select_n":
            if not self.hidden(step):
                kink = self.select(step)
                if self.jumping.keys() & set(step.inputs[1:]):
                    whole, meets = self.pieced(step, step.name)
                    kink = whole if meets else kink
                self._keep(index, kink)
        elif step.name in KINKED:
            if self.felt.intersection(step.outputs) and not self.hidden(step):
                self._keep(index, self.extreme(step))
        elif not self.moves.intersection(step.outputs):
            return
        elif step.name in CUSTOM_CALLS:
            body = call_body(step.name, step.params)
            if self.judges and custom.judge(step, body, read) == custom.OTHER:
                self.left[call_title(step) or step.name] += 1
        else:
            self.open(index, step)

    def open(self, index: int, step: Step) -> None:
        """Note the kinks of the programs that a step holds."""
        bodies = tuple(open_bodies(step))
        if step.name == "scan":
            readings = (self._loop(step, bodies[0]),)
        elif step.name == "cond":
            places = self._moving_places(step.inputs[1:])
            readings = tuple(read(body, places) for body in bodies)
            self.left[step.name] += step.inputs[0] in self.depends
        else:
            readings = tuple(
                read(body, range(len(body.jaxpr.invars))) for body in bodies
            )
        kinked = any(inner.is_kinked for inner in readings)
        treated = step.name == "scan"
        treated |= step.name == "cond" and not step.params.get("branches_platforms")
        if kinked and treated and self.felt.intersection(step.outputs):
            self.bodies[index] = readings
        elif kinked:
            self.left[call_title(step) or step.name] += 1
        for inner in readings:
            self.left.update(inner.left)

    def _loop(self, step: Step, body: ClosedJaxpr) -> Reading:
        """The reading of a scan's body, with every carried value that comes to move."""
        first, count = step.params["num_consts"], step.params["num_carry"]
        places = self._moving_places(step.inputs)
        while True:
            reading = read(body, places)
            carried = {first + n for n in range(count) if reading.moved[n]}
            if carried <= places:
                return reading
            places |= carried

    def _moving_places(self, numbers: tuple[int, ...]) -> set[int]:
        return {place for place, n in enumerate(numbers) if n in self.depends}

    def _keep(self, index: int, kink: Kink | None) -> None:
        if kink is not None:
            stirred = self.stirred.intersection(self.program.steps[index].outputs)
            self.kinks[index] = kink._replace(moves=bool(stirred))

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
            within = self.one_sided(value, low) and self.one_sided(value, high)
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
        comparison, is_below = self.comparison(which)
        if comparison is None:
            return self.pieced(step, step.name)[0] if which in self.flat else None
        a, b = comparison.inputs
        if self.one_sided(a, b):
            return None
        low, high = reversed(cases) if is_below else cases
        if not self.felt.intersection(step.outputs):
            self.left[step.name] += 1
            return None
        for switch, base, other in (((a, b), low, high), ((b, a), high, low)):
            if self.turns(base, switch):
                base = self.line_beyond(base, switch[::-1], {})
            slope = self.slope(switch, base, other)
            if slope == 0.0:
                return None
            if slope is not None:
                return self.bent(step.name, switch, base, slope)
        return self.pieced(step, step.name)[0]

    def pieced(self, step: Step, name: str) -> tuple[Kink | None, bool]:
        """The kink of a function of one value that is put together from pieces.

        Returns:
          The kink, or None for a function without one, and whether the pieces meet. If
          they don't, it is noted.
        """
        (number,) = step.outputs[:1]
        made = self.pieces(number) if number in self.felt else None
        if made is not None:
            return forms.pieced(name, made) if made.bends else None, True
        if number in self.felt and self.roots.get(number) != self.same[number]:
            self.jumping[number] = name  # another piece may yet meet it
        else:
            self.left[name] += 1
        return None, False
