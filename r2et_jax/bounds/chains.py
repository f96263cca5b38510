"""Chains of elementwise steps as one function of one value, times one other value.

A step of elementwise primitives belongs to a chain v = u·φ(t): t is the chain's root, u
its factor, or 1. So x·σ(x), a GELU with its derivative, or the products by which a
derivative passes an activation, u·φ′₁(t) + u·φ′₂(t), are each bounded as one function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds.elementwise import ELEMENTWISE, as_jet
from r2et_jax.bounds.jets import Jet, Truth
from r2et_jax.programs.ranges import Range
from r2et_jax.programs.steps import Program, Step
from r2et_jax.types import Array

_SUMS = frozenset({"add", "add_any", "sub"})
# Of one argument, and homogeneous: factors pass through.
_SCALINGS = frozenset({"neg", "copy", "stop_gradient", "convert_element_type"})
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "max", "min"})


class Link(NamedTuple):
    """A value as factor·φ(root).

    Attributes:
      root: number of t.
      factor: number of u, or None for 1.
      affine: whether φ is affine, and there is no factor.
      length: steps of φ, those that it shares with itself counted again.
    """

    root: int
    factor: int | None = None
    affine: bool = True
    length: int = 0


class Chains:
    """Which values of a program are chains, found as its steps are visited in order.

    Args:
      program: the steps.
      ranges: what is known of its values, see `programs.ranges`.
      same: number -> the first number with the same value.
      is_known: whether a number's value does not depend on the input.
      max_length: of a chain.
    """

    def __init__(
        self,
        program: Program,
        ranges: dict[int, Range],
        same: dict[int, int],
        is_known: Callable[[int], bool],
        max_length: int,
    ):
        self.program, self.ranges, self.same = program, ranges, same
        self.is_known = is_known
        self.max_length = max_length
        self.links: dict[int, Link] = {}
        self.makers = {out: step for step in program.steps for out in step.outputs}
        self.opaque: set[int] = set()  # booleans that are no chain

    def link(self, number: int) -> Link:
        return self.links.get(number) or Link(self.same[number])

    def visit(self, step: Step) -> bool:
        """Note the step's result as a chain if it is one."""
        link = self._join(step) if self._fits(step) else None
        if link is not None and link.length <= self.max_length:
            if link.root == link.factor:
                return False
            self.links[step.outputs[0]] = link
            return True
        return False

    def _fits(self, step: Step) -> bool:
        if step.name not in ELEMENTWISE or len(step.outputs) != 1:
            return False
        types = [self.program.types[n] for n in (*step.inputs, *step.outputs)]
        if any(not _is_float(t) and t.dtype != bool for t in types):
            return False
        if any(n in self.opaque for n in step.inputs):
            return False
        shape = types[-1].shape
        return all(
            t.shape == shape or self.is_known(n)
            for n, t in zip(step.inputs, types, strict=False)
        )

    def _join(self, step: Step) -> Link | None:
        moving = [n for n in step.inputs if not self.is_known(n)]
        links = [self.link(n) for n in moving]
        length = 1 + sum(link.length for link in links)
        roots = {link.root for link in links}
        factors = {link.factor for link in links}
        if len(roots) == 1 and factors == {None}:
            affine = self.is_affine(step) and links[0].affine
            return Link(links[0].root, None, affine, length)
        if len(moving) == 1:
            if self._is_scaling(step):
                return links[0]._replace(affine=False, length=length)
            return Link(self.same[moving[0]], None, self.is_affine(step), 1)
        if step.name == "mul":
            return self._product(*moving, length)
        if step.name == "div":
            return self._quotient(*moving, length)
        if step.name in _SUMS:
            return self._alike(moving, length)
        if step.name == "select_n":
            return self._selection(step, length)
        return None

    def _product(self, a: int, b: int, length: int) -> Link | None:
        for first, second in ((a, b), (b, a)):
            left, right = self.link(first), self.link(second)
            if left.root == right.root and right.factor is None:
                if left.factor is not None:
                    return Link(left.root, left.factor, False, length)
        for first, second in ((a, b), (b, a)):
            left = self.link(first)
            if left.factor is None and not left.affine:
                return Link(left.root, self._base(second), False, left.length + 2)
        return None

    def _quotient(self, a: int, b: int, length: int) -> Link | None:
        left, right = self.link(a), self.link(b)
        if right.factor is not None:
            return Link(self.same[b], self._base(a), False, 2)
        if left.root == right.root:
            return Link(left.root, left.factor, False, length)
        return Link(right.root, self._base(a), False, right.length + 2)

    def _alike(self, numbers: list[int], length: int) -> Link | None:
        """The chain of values that share a root and a factor, or are the factor."""
        links = [self.link(n) for n in numbers]
        chosen = next((link for link in links if link.factor is not None), None)
        if chosen is None:
            return None
        for number, link in zip(numbers, links, strict=True):
            shared = (link.root, link.factor) == (chosen.root, chosen.factor)
            if not shared and self._base(number) != chosen.factor:
                return None
        return Link(chosen.root, chosen.factor, False, length)

    def _selection(self, step: Step, length: int) -> Link | None:
        which, *cases = step.inputs
        moving = [n for n in cases if not self.is_known(n)]
        if any(not self._is_zero(n) for n in cases if self.is_known(n)):
            return None
        if self.is_known(which):
            return self._alike(moving, length)
        switch = self.link(which)
        if switch.factor is not None:
            return None
        links = [self.link(n) for n in moving]
        if any(link.root == switch.root and link.factor is None for link in links):
            return None
        factors = {
            link.factor if link.root == switch.root else self._base(n)
            for n, link in zip(moving, links, strict=True)
        }
        if len(factors) != 1:
            return None
        return Link(switch.root, factors.pop(), False, length)

    def _base(self, number: int) -> int:
        """The value that this one is a known multiple of."""
        while True:
            step = self.makers.get(number)
            if step is None or not self._is_scaling(step):
                return self.same[number]
            (number,) = (n for n in step.inputs if not self.is_known(n))

    def _is_scaling(self, step: Step) -> bool:
        """Whether the step multiplies its one unknown argument, and keeps its shape."""
        moving = [n for n in step.inputs if not self.is_known(n)]
        if len(moving) != 1:
            return False
        taken, made = (self.program.types[n] for n in (moving[0], step.outputs[0]))
        if not (_is_float(taken) and _is_float(made)) or taken.shape != made.shape:
            return False
        if step.name == "select_n":
            which, *cases = step.inputs
            known = [n for n in cases if self.is_known(n)]
            return self.is_known(which) and all(self._is_zero(n) for n in known)
        if step.name in _SCALINGS or step.name == "mul":
            return True
        if step.name == "div":
            return step.inputs[0] == moving[0]
        if step.name in _SUMS:
            return all(self._is_zero(n) for n in step.inputs if self.is_known(n))
        return False

    def is_affine(self, step: Step) -> bool:
        """Whether the step is affine in its one unknown argument."""
        moving = [n for n in step.inputs if not self.is_known(n)]
        if len(moving) != 1 or not _is_float(self.program.types[moving[0]]):
            return False
        if not _is_float(self.program.types[step.outputs[0]]):
            return False
        if step.name in _SCALINGS or step.name in _SUMS or step.name == "mul":
            return True
        if step.name == "select_n":
            return self.is_known(step.inputs[0])
        return step.name == "div" and step.inputs[0] == moving[0]

    def _is_zero(self, number: int) -> bool:
        return self.ranges[number] == (0.0, 0.0)

    def function(self, number: int, values: dict[int, Any]):
        """φ of a chain as a jet of a jet.

        Args:
          number: the chain's value.
          values: number -> the value, of what is known.
        """
        link = self.links[number]

        def evaluate(root: Jet) -> Jet | Truth:
            made: dict[int, Any] = {link.root: root}
            if link.factor is not None:
                made[link.factor] = as_jet(np.ones((), root.ends.dtype), root.ends.ndim)

            def at(n: int) -> Jet | Truth:
                place = self.same[n] if self.same[n] in made else n
                if place not in made:
                    if self.is_known(n):
                        made[n] = as_jet(values[n], root.ends.ndim)
                    else:
                        made[n] = self._made(self.makers[n], at, root.ends.ndim)
                return made[place]

            return at(number)

        return evaluate

    def _made(self, step: Step, at, ndim: int) -> Jet | Truth:
        """The step's result of its arguments' jets, which `at` gives."""
        if step.name in {"eq", "ne"}:
            first, second = (self.same[n] for n in step.inputs)
            if first == second:  # the question whether it is NaN
                return as_jet(np.full((), step.name == "eq"), ndim)
        return ELEMENTWISE[step.name]([at(m) for m in step.inputs], step.params)

    def knots(self, number: int, values: dict[int, Any]) -> list[Array]:
        """Points of the root at which the chain's steps switch, as far as affine."""
        link = self.links[number]
        lines: dict[int, Any] = {link.root: (1.0, 0.0)}
        places: dict[Any, Array] = {}
        seen: set[int] = set()
        open_values = [number]
        while open_values:
            n = open_values.pop()
            ends = {link.root, link.factor}
            if n in seen or self.is_known(n) or {n, self.same[n]} & ends:
                continue
            seen.add(n)
            step = self.makers[n]
            open_values += step.inputs
            for a, b in _switches(step):
                first = self._line(a, lines, values)
                second = (0.0, 0.0) if b is None else self._line(b, lines, values)
                if first is None or second is None:
                    continue
                rise, offset = first[0] - second[0], second[1] - first[1]
                if all(isinstance(part, float) for part in (rise, offset)):
                    if rise:
                        places[offset / rise] = jnp.asarray(offset / rise)
                elif not isinstance(rise, float) or rise:
                    places[a, b] = offset / rise
        return list(places.values())

    def _line(self, number: int, lines: dict[int, Any], values: dict[int, Any]):
        """(α, β) with value = α·root + β, or None; floats where they are known."""
        place = self.same[number] if self.same[number] in lines else number
        if place not in lines:
            lines[number] = self._new_line(number, lines, values)
        return lines[place]

    def _new_line(self, number: int, lines: dict[int, Any], values: dict[int, Any]):
        if self.is_known(number):
            low, high = self.ranges[number]
            if not _is_float(self.program.types[number]):
                return None
            return 0.0, (low if low == high else values[number])
        step = self.makers.get(number)
        if step is None or not self.is_affine(step) or step.name == "select_n":
            return None
        taken = [self._line(n, lines, values) for n in step.inputs]
        if any(line is None for line in taken):
            return None
        (scale, offset), *rest = taken
        if step.name == "neg":
            return -scale, -offset
        if not rest:
            return scale, offset
        other_scale, other = rest[0]
        if step.name in {"add", "add_any"}:
            return scale + other_scale, offset + other
        if step.name == "sub":
            return scale - other_scale, offset - other
        if step.name == "div":
            return scale / other, offset / other
        if self.is_known(step.inputs[0]):
            return offset * other_scale, offset * other
        return scale * other, offset * other


def _switches(step: Step) -> list[tuple[int, int | None]]:
    if step.name in {"abs", "sign"}:
        return [(step.inputs[0], None)]
    if step.name in _COMPARISONS:
        return [(step.inputs[0], step.inputs[1])]
    if step.name == "clamp":
        low, value, high = step.inputs
        return [(value, low), (value, high)]
    return []


def _is_float(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.floating)
