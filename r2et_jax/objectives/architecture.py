"""Whether a model is the one that a method trains, read off its program.

The checks take the method's name, the model, its parameters and a batch of inputs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax import programs
from r2et_jax.programs.linear_part import has_linear_part
from r2et_jax.types import ApplyFn, Params

# Maxima over axes and windows, as of pooling, which no activation is made of.
_POOLING = frozenset(
    {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"}
)


def check_smooth(method: str, apply: ApplyFn, params: Params, x: Any) -> None:
    """Raise for a model with kinks in its activation; pooling may have some."""
    contents = programs.describe(apply, _shapes(params), one_input(x))
    kinks = {name: n for name, n in contents.kinks.items() if name not in _POOLING}
    if kinks:
        shown = ", ".join(f"{name} at {n}" for name, n in kinks.items())
        raise ValueError(
            f"{method} trains a model with a smooth activation, which the method does "
            f"not put there; got one with kinks (number of places: {shown}): pass a "
            "smooth one to train and to use afterwards, such as "
            "MLP(activation='softplus').apply, model.surrogate(rho=5.0).apply or "
            "programs.smooth(apply, rho=5.0)"
        )


def check_skip(method: str, apply: ApplyFn, params: Params, x: Any) -> None:
    """Raise for a model without a linear part beside the network."""
    if not has_linear_part(apply, _shapes(params), one_input(x)):
        raise ValueError(
            f"{method} trains a model with a linear part aᵀx beside the network, with "
            "weights a of its own, which the method does not put there; got one "
            "without: pass one that has it, such as models.SkipMLP().apply"
        )


def one_input(batch: Any) -> Any:
    """The shapes of one of the inputs."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree
    )
