"""Whether the layers that a certificate is about are those of the model itself.

Layers of another activation, or with a transposed kernel, bound another function. Their
gradient is compared with the model's own, by automatic differentiation, at the input
and at fixed points near it and far from it, where other units are on; and the ranges
and lines that they give for φ′ with φ′ itself. The output is then theirs, too, up to
the constant that no gradient sees.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.certificates.intervals import (
    OneHiddenLayer,
    gradient_bounds,
    preactivations,
    slope_bounds,
    unit_reach,
)
from r2et_jax.execution import evaluated
from r2et_jax.score import log_odds
from r2et_jax.types import ApplyFn, Array, Params

# Points of either kind beside the input, and points of each unit's interval.
_NUM_PROBES = 4
_NUM_PLACES = 9
# Units of rounding in a φ′ of size 1: that of GELU loses some sixty near u = −8.
_SLOPE_ROUNDING = 256


def layers_agree(
    apply: ApplyFn,
    params: Params,
    network: OneHiddenLayer,
    x: Array,
    /,
    *,
    epsilon: Array,
    norm: str,
) -> Array:
    """Whether z of these layers has the gradient of the model's log-odds (scalar).

    Args:
      apply: the model, of one logit, or of two whose difference is z.
      params: its parameters.
      network: the layers that are to be those of the model.
      x: input [n].
      epsilon: radius of the ball over which φ′ is bounded.
      norm: the ball's, "l2" or "linf".

    Returns:
      False if they differ by more than rounding, or the model's gradient alone is not
      finite. Layers that are not finite themselves are let pass: they bound nothing.

    Raises:
      ValueError: for layers of other shapes than an input [n] needs.
    """
    n, h = x.size, network.bias.size
    shapes = {
        "weight": (n, h),
        "bias": (h,),
        "out": (h,),
        "skip": (n,),
    }
    for name, shape in shapes.items():
        given = getattr(network, name).shape
        if given != shape:
            raise ValueError(
                f"{name} of the layers must have shape {shape} for an input of {n} "
                f"features and {h} units, got {given}"
            )
    gradient = jax.grad(log_odds(apply), argnums=1)
    same = jax.vmap(lambda point: _same_gradient(gradient, params, network, point))
    reach = epsilon * unit_reach(network, norm=norm)
    return jnp.all(same(_points(x, epsilon))) & _slopes_hold(network, x, reach)


def layers_check(
    apply: ApplyFn, layers: Callable[[Params], OneHiddenLayer]
) -> Callable[[Params, Array], None]:
    """A check of `layers` for programs that know no values, such as a training's.

    Whether `layers(params)` is the model does not depend on the numbers in params: they
    are drawn at random, and `layers_agree` is asked at a random input. So it is found
    when a program is traced, and costs nothing when it runs.

    Args:
      apply: the model, of one logit, or of two whose difference is z.
      layers: `layers(params)`, the layers that are to be those of the model.

    Returns:
      `check(params, x)` raises ValueError for others; of one input's shape and of
      params it looks at shapes and dtypes alone, and at each of them once.
    """
    agreed = set()

    def agree(params, x):
        epsilon = jnp.ones((), x.dtype)
        return layers_agree(
            apply, params, layers(params), x, epsilon=epsilon, norm="l2"
        )

    def check(params, x):
        leaves, structure = jax.tree.flatten((params, x))
        forms = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
        if (structure, *forms) in agreed:
            return
        rng = np.random.default_rng(0)
        drawn = structure.unflatten(_draw(rng, *form) for form in forms)
        if not evaluated(agree, *drawn):
            raise ValueError(
                "layers must give the weights and slopes of the model itself, got some "
                "of another gradient: for parameters and inputs drawn at random, too; "
                "check the activation of `slopes` and `lines`, and that weight is "
                "[n, h]"
            )
        agreed.add((structure, *forms))

    return check


def _draw(rng: np.random.Generator, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Numbers of a size that leaves sums over the first axis near 1; 0 of integers."""
    is_float = jnp.issubdtype(dtype, jnp.floating)
    drawn = rng.standard_normal(shape) / np.sqrt(shape[0]) if shape else 1.0
    return np.asarray(drawn if is_float else np.zeros(shape), dtype)


def _points(x: Array, epsilon: Array) -> Array:
    """The input, points at a distance near ε, and points across all of the inputs."""
    # The same directions in every call: the check is a function of its arguments.
    drawn = np.random.default_rng(0).standard_normal((2 * _NUM_PROBES, x.size))
    near, far = jnp.split(jnp.asarray(drawn, x.dtype), 2)
    spread = 1 + jnp.max(jnp.abs(x))
    root = float(np.sqrt(x.size))
    x = x[None]
    return jnp.concatenate([x, x + epsilon / root * near, x + spread * far])


def _same_gradient(gradient, params, network: OneHiddenLayer, x: Array) -> Array:
    n, h = network.weight.shape
    unit = jnp.finfo(x.dtype).eps
    # A pre-activation is known up to that; at a kink φ′ is either side's.
    rounding = jnp.abs(x) @ jnp.abs(network.weight) + jnp.abs(network.bias)
    slopes = slope_bounds(network, x, (n + 4) * unit * rounding)
    low, high = gradient_bounds(network, slopes)
    steep = 1 + jnp.max(jnp.abs(jnp.stack(slopes)), axis=0)
    size = jnp.abs(network.weight) @ (jnp.abs(network.out) * steep)
    slack = (8 * (h + n) + _SLOPE_ROUNDING) * unit * (size + jnp.abs(network.skip))
    g = gradient(params, x, 1)
    outside = (g < low - slack) | (g > high + slack)
    broken = ~jnp.isfinite(g) & jnp.isfinite(low) & jnp.isfinite(high)
    return ~jnp.any(outside | broken)


def _slopes_hold(network: OneHiddenLayer, x: Array, reach: Array) -> Array:
    """Whether φ′ lies within its range, and between its lines, over the ball."""
    center = preactivations(network, x)
    low, high = center - reach, center + reach
    share = jnp.linspace(0, 1, _NUM_PLACES, dtype=x.dtype)[:, None]
    at = low[None] + share * (high - low)[None]
    at = jnp.clip(at, low[None], high[None])
    slope_low, slope_high = network.slopes(at, at)
    least, most = network.slopes(low, high)
    slack = _SLOPE_ROUNDING * jnp.finfo(x.dtype).eps
    slack = slack * (1 + jnp.abs(slope_low) + jnp.abs(slope_high))
    outside = (slope_low < least[None] - slack) | (slope_high > most[None] + slack)
    if network.lines is not None:
        m, least, most = (part[None] for part in network.lines(low, high, center))
        move = m * (at - center[None])
        slack = slack * (1 + jnp.abs(m) * (high - low)[None])
        outside |= slope_low - move < least - slack
        outside |= slope_high - move > most + slack
    return ~jnp.any(outside)
