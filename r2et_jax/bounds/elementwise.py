"""The rule of each elementwise primitive: jets in, jet out.

`ELEMENTWISE[name](jets, params)`. A primitive of one variable is its value's interval
and its derivative's; both are ranges of functions that are monotone or have one peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from r2et_jax.bounds import jets
from r2et_jax.bounds.jets import Jet, Truth, falling, growing, high, low, peaked
from r2et_jax.types import Array

_ERF = 2 / math.sqrt(math.pi)  # the derivative of erf at 0


def _one_variable(
    value: Callable[[Array], Array],
    slope: Callable[[Array, Array], Array],
    least: float | None = None,
    most: float | None = None,
):
    """Rule of φ∘a: φ(a), and φ′(a)·a′ with φ′ from a's ends and from φ's own.

    φ is between `least` and `most` everywhere.
    """

    def rule(taken, params):
        (a,) = taken
        made = jets.outward(value(a.ends), least, most)
        if a.slope is None:
            return Jet(made, None, a.sure)
        inner = jets.outward(slope(jets.both(a.ends), made))
        return Jet(made, jets.outward(jets.times(inner, a.slope)), a.sure)

    return rule


def _logistic_slope(a: Array, _) -> Array:
    return peaked(lambda t: lax.logistic(t) * lax.logistic(-t))(a)


def _sech2(a: Array, _) -> Array:
    # 4σ(2t)σ(−2t) = 1 − tanh², which keeps its precision for large |t|.
    return peaked(lambda t: 4 * lax.logistic(2 * t) * lax.logistic(-2 * t))(a)


def _bell(a: Array) -> Array:
    return peaked(lambda t: _ERF * lax.exp(-(t * t)))(a)


def _cosine(a: Array) -> Array:
    """cos over an interval: ±1 where a multiple of π of that kind is inside."""
    at = lax.cos(a)
    least, most = low(a), high(a)
    # A little wider, as multiples of π are rounded.
    slack = 1e-5 * (1 + lax.abs(least) + lax.abs(most))
    turn = 2 * math.pi

    def holds(phase: float) -> Array:
        count = lax.floor((most + slack - phase) / turn)
        return count >= lax.ceil((least - slack - phase) / turn)

    wide = ~(lax.is_finite(least) & lax.is_finite(most))
    bottom = jnp.where(holds(math.pi) | wide, -1, lax.min(low(at), high(at)))
    top = jnp.where(holds(0.0) | wide, 1, lax.max(low(at), high(at)))
    return jets.pair(bottom, top)


def _sine(a: Array) -> Array:
    # Rounding of the shift: far within the slack above for |a| up to 1e4 or so.
    return _cosine(a - math.pi / 2)


def _absolute(taken, params):
    (a,) = taken
    made = jets.absolute(a.ends)
    if a.slope is None:
        return Jet(made, None, a.sure)
    zero = lax.full_like(low(a.ends), 0)
    above = Truth(lax.ge(low(a.ends), zero), ~lax.lt(high(a.ends), zero))
    return Jet(made, jets.where(above, a.slope, _minus(a.slope)), a.sure)


def _stepping(function):
    """A function that is constant but for jumps, and grows."""

    def rule(taken, params):
        (a,) = taken
        made = function(a.ends, params)
        level = lax.eq(low(made), high(made))
        return Jet(made, None, jets.all_sure(a, Jet(made, None, level)))

    return rule


def _minus(ends: Array) -> Array:
    return lax.neg(jets.flipped(ends))


def _negated(taken, params):
    (a,) = taken
    return Jet(_minus(a.ends), None if a.slope is None else _minus(a.slope), a.sure)


def _added(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    return jets.outward(jets.plus(first, second))


def _kept_sign(ends: Array, a: Array, b: Array) -> Array:
    """The ends of a + b or a·b, not moved below 0 where neither argument is."""
    good = jets.is_positive(a) & jets.is_positive(b)
    least = jnp.where(good, 0, -jnp.inf).astype(ends.dtype)
    return lax.max(ends, least)


def _sum(taken, params):
    a, b = taken
    ends = _kept_sign(jets.outward(jets.plus(a.ends, b.ends)), a.ends, b.ends)
    return Jet(ends, _added(a.slope, b.slope), jets.all_sure(a, b))


def _difference(taken, params):
    a, b = taken
    minus_b = _negated([b], params)
    ends = jets.outward(jets.plus(a.ends, minus_b.ends))
    return Jet(ends, _added(a.slope, minus_b.slope), jets.all_sure(a, b))


def _product(taken, params):
    a, b = taken
    parts = [
        None if part.slope is None else jets.outward(jets.times(part.slope, other.ends))
        for part, other in ((a, b), (b, a))
    ]
    ends = _kept_sign(jets.outward(jets.times(a.ends, b.ends)), a.ends, b.ends)
    return Jet(ends, _added(*parts), jets.all_sure(a, b))


def _quotient(taken, params):
    a, b = taken
    if b.slope is None and b.ends.shape[0] == 1:
        inverse = lax.div(lax.full_like(b.ends, 1), b.ends)
    else:
        inverse = jets.reciprocal(b.ends)
    inverse = jets.outward(inverse)
    ends = jets.outward(jets.times(a.ends, inverse))
    slope = a.slope
    if b.slope is not None:
        moved = _minus(jets.outward(jets.times(ends, b.slope)))
        slope = _added(a.slope, moved)
    if slope is not None:
        slope = jets.outward(jets.times(slope, inverse))
    # A divisor that may be 0 has no inverse: NaN, which no bound is taken from.
    return Jet(ends, slope, jets.all_sure(a, b))


def _integer_power(taken, params):
    (a,) = taken
    y = params["y"]
    if y == 0:
        return Jet(lax.full_like(low(a.ends), 1), None, a.sure)
    ends = jets.outward(jets.power(a.ends, y), None if y % 2 else 0.0)
    if a.slope is None:
        return Jet(ends, None, a.sure)
    inner = y * jets.outward(jets.power(a.ends, y - 1)) if y != 1 else None
    if inner is None:
        return Jet(ends, a.slope, a.sure)
    inner = jets.outward(inner if y > 0 else jets.flipped(inner))
    return Jet(ends, jets.outward(jets.times(inner, a.slope)), a.sure)


def _square(taken, params):
    return _integer_power(taken, {"y": 2})


def _power(taken, params):
    """aᵇ for a > 0, as e^{b·log a}."""
    a, b = taken
    log = ELEMENTWISE["log"]([a], {})
    return ELEMENTWISE["exp"]([_product([b, log], {})], {})


def _largest(taken, params):
    a, b = taken
    ends = lax.max(jets.both(a.ends), jets.both(b.ends))
    if a.slope is None and b.slope is None:
        return Jet(ends, None, jets.all_sure(a, b))
    zero = lax.full_like(low(a.slope if b.slope is None else b.slope), 0)
    slopes = [zero if jet.slope is None else jet.slope for jet in (a, b)]
    above = Truth(lax.ge(low(a.ends), high(b.ends)), ~lax.le(high(a.ends), low(b.ends)))
    return Jet(ends, jets.both(jets.where(above, *slopes)), jets.all_sure(a, b))


def _least(taken, params):
    return _negated([_largest([_negated([t], {}) for t in taken], {})], {})


def _clamp(taken, params):
    least, a, most = taken
    return _least([_largest([a, least], {}), most], {})


def _select(taken, params):
    which, no, yes = taken
    if isinstance(no, Truth):
        flat = [Jet(_ends_of(case), None) for case in (no, yes)]
        made = jets.where(which, flat[1].ends, flat[0].ends)
        return Truth(low(made) > 0, high(made) > 0)
    ends = jets.where(which, yes.ends, no.ends)
    sure = jets.all_sure(no, yes)
    if which.surely is not which.maybe:
        sure = jets.all_sure(Jet(ends, None, sure), Jet(ends, None, which.known))
    if no.slope is None and yes.slope is None:
        return Jet(ends, None, sure)
    zero = lax.full_like(low(yes.slope if no.slope is None else no.slope), 0)
    slopes = [zero if jet.slope is None else jet.slope for jet in (yes, no)]
    return Jet(ends, jets.both(jets.where(which, *slopes)), sure)


def _ends_of(truth: Truth, dtype=np.float32) -> Array:
    surely, maybe = (side.astype(dtype) for side in truth)
    return jets.pair(surely, maybe)


def _converted(taken, params):
    (a,) = taken
    dtype = params["new_dtype"]
    if isinstance(a, Truth):
        if jnp.issubdtype(dtype, jnp.bool_):
            return a
        return Jet(_ends_of(a, dtype), None, a.known)
    slope = None if a.slope is None else jets.outward(a.slope.astype(dtype))
    return Jet(jets.outward(a.ends.astype(dtype)), slope, a.sure)


def _same(taken, params):
    return taken[0]


def _not(taken, params):
    (a,) = taken
    return Truth(~a.maybe, ~a.surely)


def _logical(function):
    def rule(taken, params):
        a, b = taken
        return Truth(function(a.surely, b.surely), function(a.maybe, b.maybe))

    return rule


def _xor(taken, params):
    a, b = taken
    known = a.known & b.known
    value = a.surely ^ b.surely
    return Truth(known & value, ~known | value)


def _finite(taken, params):
    (a,) = taken
    good = lax.is_finite(low(a.ends)) & lax.is_finite(high(a.ends))
    return Truth(good, lax.full_like(good, True))


def _above(taken, params):
    a, b = (jet.ends for jet in taken)
    return Truth(lax.gt(low(a), high(b)), ~lax.le(high(a), low(b)))


def _at_least(taken, params):
    a, b = (jet.ends for jet in taken)
    return Truth(lax.ge(low(a), high(b)), ~lax.lt(high(a), low(b)))


def _equal(taken, params):
    a, b = (jet.ends for jet in taken)
    surely = (low(a) == high(a)) & (low(b) == high(b)) & (low(a) == low(b))
    return Truth(surely, ~(lax.gt(low(a), high(b)) | lax.gt(low(b), high(a))))


def _swapped(rule):
    return lambda taken, params: rule(taken[::-1], params)


def _inverse(a: Array) -> Array:
    """The ends of 1/a for a ≥ 0; NaN where a may be below."""
    inverse = lax.div(lax.full_like(a, 1), a)
    return jnp.where(a < 0, jnp.nan, inverse)


ELEMENTWISE: dict[str, Callable[[list, dict[str, Any]], Jet | Truth]] = {
    "abs": _absolute,
    "add": _sum,
    "add_any": _sum,
    "and": _logical(jnp.logical_and),
    "asinh": _one_variable(
        growing(lax.asinh), lambda a, _: peaked(lambda t: 1 / jnp.sqrt(1 + t * t))(a)
    ),
    "atan": _one_variable(
        growing(lax.atan), lambda a, _: peaked(lambda t: 1 / (1 + t * t))(a)
    ),
    "cbrt": _one_variable(
        growing(lax.cbrt), lambda a, made: falling(_inverse)(3 * jets.power(made, 2))
    ),
    "ceil": _stepping(lambda t, _: lax.ceil(t)),
    "clamp": _clamp,
    "convert_element_type": _converted,
    "copy": _same,
    "cos": _one_variable(_cosine, lambda a, _: _minus(_sine(a)), -1.0, 1.0),
    "cosh": _one_variable(
        lambda a: lax.cosh(jets.absolute(a)), lambda a, _: lax.sinh(a), 1.0
    ),
    "div": _quotient,
    "eq": _equal,
    "erf": _one_variable(growing(lax.erf), lambda a, _: _bell(a), -1.0, 1.0),
    "erfc": _one_variable(falling(lax.erfc), lambda a, _: _minus(_bell(a)), 0.0, 2.0),
    "exp": _one_variable(growing(lax.exp), lambda a, made: made, 0.0),
    "exp2": _one_variable(growing(lax.exp2), lambda a, made: math.log(2) * made, 0.0),
    "expm1": _one_variable(growing(lax.expm1), lambda a, _: lax.exp(a), -1.0),
    "floor": _stepping(lambda t, _: lax.floor(t)),
    "ge": _at_least,
    "gt": _above,
    "integer_pow": _integer_power,
    "is_finite": _finite,
    "le": _swapped(_at_least),
    "log": _one_variable(growing(lax.log), lambda a, _: falling(_inverse)(a)),
    "log1p": _one_variable(
        growing(lax.log1p), lambda a, _: falling(_inverse)(jets.outward(1 + a))
    ),
    "logistic": _one_variable(growing(lax.logistic), _logistic_slope, 0.0, 1.0),
    "lt": _swapped(_above),
    "max": _largest,
    "min": _least,
    "mul": _product,
    "ne": lambda taken, params: _not([_equal(taken, params)], params),
    "neg": _negated,
    "not": _not,
    "or": _logical(jnp.logical_or),
    "pow": _power,
    "round": _stepping(lambda t, params: lax.round(t, params["rounding_method"])),
    "rsqrt": _one_variable(
        falling(lax.rsqrt),
        lambda a, made: jets.flipped(-0.5 * jets.power(made, 3)),
        0.0,
    ),
    "select_n": _select,
    "sign": _stepping(lambda t, _: lax.sign(t)),
    "sin": _one_variable(_sine, lambda a, _: _cosine(a), -1.0, 1.0),
    "sinh": _one_variable(growing(lax.sinh), lambda a, _: lax.cosh(jets.absolute(a))),
    "sqrt": _one_variable(
        growing(lax.sqrt), lambda a, made: falling(_inverse)(2 * made), 0.0
    ),
    "square": _square,
    "stop_gradient": _same,
    "sub": _difference,
    "tanh": _one_variable(growing(lax.tanh), _sech2, -1.0, 1.0),
    "xor": _xor,
}


def as_jet(value: Any, ndim: int) -> Jet | Truth:
    """What a known array is over every cell, with that many axes."""
    array = jnp.asarray(value)
    array = array.reshape((1,) * (ndim - array.ndim) + array.shape)
    if array.dtype == bool:
        return Truth(array, array)
    return Jet(array, None)
