"""Flax Linen modules, with running averages and without dropout."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from r2et_jax.adapters.program import (
    Fixed,
    Program,
    examined,
    some_inputs,
    whether_batched,
)
from r2et_jax.checks import check_adapter
from r2et_jax.subject import Subject
from r2et_jax.subject import subject as plain_subject
from r2et_jax.types import Array

# Arguments by which modules are told to predict.
_PREDICTING = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


def linen(
    module: Any,
    variables: Mapping[str, Any],
    x: Array | None = None,
    *,
    batched: bool | None = None,
    call: Mapping[str, Any] | None = None,
    **options: Any,
) -> Subject:
    """A Flax Linen module as a subject: batch statistics fixed, dropout off.

    Args:
      module: an instance of a module.
      variables: what `module.init` returned, `{"params": …, "batch_stats": …}`. The
        parameters are the subject's; all else is fixed.
      x: some inputs [m, ...], on which the module is tried.
      batched: whether the first axis of the module's input is that of examples. By
        default it is seen from x, and False without x.
      call: arguments of the module's call beside the input. Those named train,
        training, is_training, deterministic or use_running_average are set so that
        nothing is random and running averages are used.
      **options: of `r2et_jax.subject`: names, groups, classes, output, explainer …

    Returns:
      `Subject`.

    Raises:
      ValueError: for another model or a class, variables of another form, an input that
        the module does not take to [C], a call that draws or changes statistics.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from r2et_jax.models import MLP
      >>> model, x = MLP(), jnp.ones((2, 3))
      >>> made = linen(model, model.init(jax.random.key(0), x), x)
      >>> made.apply(made.params, x[0]).shape
      (1,)
    """
    check_adapter("linen", module)
    if not isinstance(variables, Mapping) or "params" not in variables:
        keys = isinstance(variables, Mapping)
        got = f"the keys {sorted(variables)}" if keys else type(variables).__name__
        raise ValueError(
            "variables must be what module.init returned, {'params': …}, got " + got
        )
    call = dict(call or {})
    accepted = inspect.signature(type(module).__call__).parameters
    call |= {k: v for k, v in _PREDICTING.items() if k in accepted and k not in call}
    params = {"params": variables["params"]}
    fixed = {name: tree for name, tree in variables.items() if name != "params"}
    x = None if x is None else some_inputs(x)

    def make(batched):
        static = module, tuple(sorted(call.items()))
        return Program(_predict, static, Fixed(fixed), batched)

    if batched is None:
        batched = x is not None and whether_batched(make, params, x)
    if not (batched or call or fixed):
        if x is not None:
            options.setdefault("shape", x.shape[1:])
        return plain_subject(module, params, **options)
    return examined(make(batched), params, x, **options)


def _predict(static, fixed, params, inputs):
    module, call = static
    return module.apply({**fixed, **params}, inputs, **dict(call))
