"""Running a program on affine forms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds.chains import Chains
from r2et_jax.bounds.enclosure import truth
from r2et_jax.bounds.forms import Form, Space
from r2et_jax.bounds.jets import Truth
from r2et_jax.bounds.linear import clipped, linear_map, moved
from r2et_jax.bounds.linear_steps import LINEAR, linear_step
from r2et_jax.bounds.products import product
from r2et_jax.bounds.rules import RULES, as_form, as_truth, function_of, peak_over_axes
from r2et_jax.programs.flow import equal_values, reaching
from r2et_jax.programs.ranges import ranges_of
from r2et_jax.programs.steps import Program, Step, bind, open_bodies, origin, program_of

_REPEATING = frozenset({"broadcast_in_dim", "reshape"})


def refused(step: Step, why: str) -> ValueError:
    """What is wrong with a step, and which line of the model it comes from."""
    place = origin(step) or "an unknown line"
    return ValueError(f"bounds have no rule for {step.name!r} {why}, at {place}")


def run(space: Space, program: Program, arguments: list[Any]) -> list[Any]:
    """The outputs of a program whose arguments are forms, booleans or known arrays."""
    return _Walk(space, _with_orders(program), arguments).outputs()


def _with_orders(program: Program) -> Program:
    """The program with a ≥ b in place of a = max(a, b), and a ≤ b of a = min(a, b).

    So the derivative of an extreme asks. The intervals of both sides are one where a is
    the larger, so that an equality alone could never be told.
    """
    makers = {out: step for step in program.steps for out in step.outputs}
    same = equal_values(program)

    def label(number: int) -> Any:
        value = program.constants.get(number)
        is_number = isinstance(value, float | int | np.generic) and np.ndim(value) == 0
        return float(value) if is_number else ("value", same[number])

    def ordered(step: Step) -> Step:
        for asked, made in (step.inputs, step.inputs[::-1]) * (step.name == "eq"):
            extreme = makers.get(made)
            if extreme is None or extreme.name not in {"max", "min"}:
                continue
            pair = extreme.inputs
            for mine, other in (pair, pair[::-1]):
                if label(asked) == label(mine):
                    order = jax.lax.ge_p if extreme.name == "max" else jax.lax.le_p
                    inputs = asked, other
                    return step._replace(primitive=order, params={}, inputs=inputs)
        return step

    return program._replace(steps=tuple(map(ordered, program.steps)))


class _Walk:
    """The values of a program, computed in order; chains only where they are needed."""

    def __init__(self, space: Space, program: Program, arguments: list[Any]):
        self.space, self.program = space, program
        self.values: dict[int, Any] = dict(program.constants)
        self.values.update(zip(program.inputs, arguments, strict=True))
        self.known = set(program.constants)
        self.known |= {n for n in program.inputs if _is_array(self.values[n])}
        self.chains = Chains(
            program,
            ranges_of(program),
            equal_values(program),
            self.known.__contains__,
            space.policy.max_chain,
        )
        for number, value in self.values.items():
            if isinstance(value, Truth):
                self.chains.opaque.add(number)
        # Where an array is largest along some axes: number -> [(axes, truth)].
        self.peaks: dict[int, list[tuple[tuple[int, ...], Truth]]] = {}
        self.locations: dict[int, tuple[int, ...]] = {}  # number of that truth -> axes

    def outputs(self) -> list[Any]:
        wanted = reaching(self.program)
        for step in self.program.steps:
            if wanted.intersection(step.outputs):
                self.visit(step)
        return [self.force(number) for number in self.program.outputs]

    def visit(self, step: Step) -> None:
        if self.known.issuperset(step.inputs):
            made = bind(step, [self.values[n] for n in step.inputs])
        elif self.chains.visit(step):
            return
        else:
            made = self.compute(step, [self.force(n) for n in step.inputs])
        for number, value in zip(step.outputs, made, strict=True):
            if isinstance(value, Form) and value.is_constant and value.exact:
                value = value.center
            self.values[number] = value
            if _is_array(value):
                self.known.add(number)
            elif isinstance(value, Truth):
                self.chains.opaque.add(number)

    def compute(self, step: Step, taken: list[Any]) -> list[Any]:
        """What a step makes that is no part of a chain."""
        numbers = [
            n
            for n, value in zip(step.inputs, taken, strict=True)
            if not _is_array(value)
        ]
        # What a body makes may be known: it is looked at inside.
        made = () if step.name in {"cond", "scan"} else step.outputs
        for number in (*numbers, *made):
            dtype = self.program.types[number].dtype
            kinds = jnp.floating, jnp.bool_
            if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
                raise refused(step, f"of {dtype} values that change with the input")
        if step.name == "eq":
            location = self.location(step)
            if location is not None:
                return [location]
        if step.name in {"reduce_max", "reduce_min"} and isinstance(taken[0], Form):
            value, at = peak_over_axes(self.space, step, taken[0])
            axes = tuple(int(axis) for axis in step.params["axes"])
            number = self.chains.same[step.inputs[0]]
            self.peaks.setdefault(number, []).append((axes, at))
            return [value]
        if step.name == "optimization_barrier":
            return taken
        if step.name == "scan":
            return self.scan(step, taken)
        if step.name == "cond":
            return self.cond(step, taken)
        rule = RULES.get(step.name)
        if rule is None and step.name in LINEAR:
            rule = linear_step
        if rule is None:
            raise refused(step, "of values that change with the input")
        try:
            made = rule(self.space, step, taken)
        except NotImplementedError as error:
            raise refused(step, "with these settings") from error
        if step.name == "reduce_sum":
            made = [self.counted(step, made[0])]
        return made

    def force(self, number: int) -> Any:
        """The value, with its chain bounded if it is one."""
        if number in self.values:
            return self.values[number]
        twin = self.chains.same[number]
        if twin != number and twin in self.values:
            return self.values[twin]
        self.values[number] = value = self._bounded_chain(number)
        if twin != number:
            self.values[twin] = value
        return value

    def _bounded_chain(self, number: int) -> Any:
        link, step = self.chains.links[number], self.chains.makers[number]
        if self.chains.is_affine(step):
            return linear_step(self.space, step, [self.force(n) for n in step.inputs])[
                0
            ]
        root = self.force(link.root)
        function = self.chains.function(number, self.values)
        if self.program.types[number].dtype == bool:
            return truth(function, *self.space.interval(root))
        knots = [
            knot.astype(root.dtype) for knot in self.chains.knots(number, self.values)
        ]
        made = function_of(self.space, function, root, knots)
        if link.factor is None:
            return made
        return product(self.space, self.force(link.factor), made)

    def location(self, step: Step) -> Truth | None:
        """Where an array equals its own largest entries, if the step asks that."""
        for number, other in (step.inputs, step.inputs[::-1]):
            path, n = [], other
            maker = self.chains.makers.get(n)
            while maker is not None and maker.name in _REPEATING:
                path.append(maker)
                maker = self.chains.makers.get(maker.inputs[0])
            if maker is None or maker.name not in {"reduce_max", "reduce_min"}:
                continue
            same = self.chains.same
            if same[maker.inputs[0]] != same[number]:
                continue
            axes = tuple(int(axis) for axis in maker.params["axes"])
            shape = self.program.types[number].shape
            if not _lines_up(maker, path[::-1], axes, shape, self.program):
                continue
            for known, at in self.peaks.get(same[number], ()):
                if known == axes:
                    self.locations[step.outputs[0]] = axes
                    return at
        return None

    def counted(self, step: Step, form: Form) -> Form:
        """A sum that counts how many entries are the largest: at least one is."""
        maker = self.chains.makers.get(step.inputs[0])
        if maker is None or maker.name != "convert_element_type":
            return form
        axes = tuple(int(axis) for axis in step.params["axes"])
        if self.locations.get(maker.inputs[0]) != axes:
            return form
        unit = jnp.ones((), form.dtype)
        return clipped(form, unit, unit * jnp.inf)

    def scan(self, step: Step, taken: list[Any]) -> list[Any]:
        """The turns of a scan, one after the other."""
        settings = step.params
        length = settings["length"]
        if length > self.space.policy.max_turns:
            raise refused(
                step,
                f"of {length} turns, more than the policy's max_turns = "
                f"{self.space.policy.max_turns}",
            )
        first, second = settings["num_consts"], settings["num_carry"]
        second += first
        body = program_of(settings["jaxpr"], lambda *_: True)
        carry, collected = taken[first:second], []
        turns = range(length)
        for turn in reversed(turns) if settings["reverse"] else turns:
            xs = [_entry(self.space, value, turn) for value in taken[second:]]
            made = run(self.space, body, [*taken[:first], *carry, *xs])
            carry = made[: second - first]
            collected.append(made[second - first :])
        if settings["reverse"]:
            collected.reverse()
        columns = zip(*collected, strict=True)
        return [*carry, *(_stacked(self.space, list(column)) for column in columns)]

    def cond(self, step: Step, taken: list[Any]) -> list[Any]:
        """Every branch, and of their results the one that the known index chooses."""
        which, *operands = taken
        if not _is_array(which):
            raise refused(step, "on values that change with the input")
        bodies = list(open_bodies(step))
        made = [
            run(self.space, program_of(body, lambda *_: True), operands)
            for body in bodies
        ]
        index = jnp.clip(jnp.asarray(which, jnp.int32), 0, len(bodies) - 1)
        results = []
        for column in zip(*made, strict=True):
            chosen = column[0]
            for n, other in enumerate(column[1:], 1):
                chosen = _chosen(self.space, index == n, chosen, other)
            results.append(chosen)
        return results


def _is_array(value: Any) -> bool:
    return not isinstance(value, Form | Truth)


def _lines_up(maker: Step, path: list[Step], axes, shape, program: Program) -> bool:
    """Whether a reduction, laid out anew, meets the entries that it was made of."""
    made = program.types[maker.outputs[0]].shape
    numbers = np.arange(int(np.prod(made)), dtype=np.int32).reshape(made)
    with jax.ensure_compile_time_eval():
        laid = jnp.asarray(numbers)
        for step in path:
            if len(step.inputs) != 1:
                return False
            (laid,) = bind(step, [laid])
        laid = np.asarray(laid)
    try:
        laid = np.broadcast_to(laid, shape)
    except ValueError:
        return False
    return bool((laid == np.expand_dims(numbers, axes)).all())


def _entry(space: Space, value: Any, turn: int) -> Any:
    if isinstance(value, Form):
        return moved(space, lambda x: x[turn], value)
    if isinstance(value, Truth):
        return Truth(*(side[turn] for side in value))
    return value[turn]


def _stacked(space: Space, values: list[Any]) -> Any:
    """The turns' results along a new first axis."""
    if all(_is_array(value) for value in values):
        return jnp.stack(values)
    if any(isinstance(value, Truth) for value in values):
        truths = [as_truth(value) for value in values]
        return Truth(*(jnp.stack(side) for side in zip(*truths, strict=True)))
    forms = [as_form(space, value) for value in values]

    def places(*indices):
        return [np.stack(indices)]

    return linear_map(space, lambda *x: [jnp.stack(x)], forms, places=places)[0]


def _chosen(space: Space, which: Any, no: Any, yes: Any) -> Any:
    if _is_array(no) and _is_array(yes):
        return jnp.where(which, yes, no)
    if isinstance(no, Truth) or isinstance(yes, Truth):
        pair = as_truth(no), as_truth(yes)
        return Truth(*(jnp.where(which, y, n) for n, y in zip(*pair, strict=True)))
    forms = [as_form(space, value) for value in (no, yes)]
    return linear_map(
        space, lambda n, y: [jnp.where(which, y, n)], forms, elementwise=True
    )[0]
