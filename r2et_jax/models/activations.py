"""Activations by name, and the smooth surrogate of each piecewise-linear one."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r2et_jax.checks import check_in, check_positive
from r2et_jax.numerics import softplus
from r2et_jax.types import Array

Activation = Callable[[Array], Array]

LEAKY_SLOPE = 0.01
PIECEWISE_LINEAR = ("relu", "leaky_relu")
_SMOOTH = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu}
NAMES = (*PIECEWISE_LINEAR, *_SMOOTH, "softplus", "leaky_softplus")


def scaled_softplus(rho: float) -> Activation:
    """softplus_ρ(x) = log(1 + e^{ρx})/ρ, which tends to the ReLU as ρ grows.

    Args:
      rho: sharpness ρ > 0.

    Example:
      >>> round(float(scaled_softplus(5.0)(jnp.array(0.0))), 4)
      0.1386

    Source: Dombrowski et al. 2019, "Explanations can be manipulated and geometry is
    to blame", section 3.
    """
    check_positive("rho", rho)
    return lambda x: softplus(rho * x) / rho


def leaky_softplus(rho: float) -> Activation:
    """α x + (1 − α)·softplus_ρ(x), which tends to the leaky ReLU as ρ grows."""
    smooth = scaled_softplus(rho)
    return lambda x: LEAKY_SLOPE * x + (1 - LEAKY_SLOPE) * smooth(x)


def activation(name: str, *, rho: float = 5.0) -> Activation:
    """The activation of that name; `rho` is the sharpness of the softplus forms.

    Raises:
      ValueError: for an unknown name, with the known ones, and for rho ≤ 0.
    """
    check_in("activation", name, NAMES)
    if name == "relu":
        return jax.nn.relu
    if name == "leaky_relu":
        return lambda x: jax.nn.leaky_relu(x, LEAKY_SLOPE)
    if name in _SMOOTH:
        return _SMOOTH[name]
    return scaled_softplus(rho) if name == "softplus" else leaky_softplus(rho)


def surrogate_name(name: str) -> str:
    """Name of the smooth stand-in that an attack differentiates instead of `name`.

    A smooth activation stands for itself.
    """
    check_in("activation", name, NAMES)
    return {"relu": "softplus", "leaky_relu": "leaky_softplus"}.get(name, name)
