"""Equinox modules, with running averages and without dropout."""

from __future__ import annotations

from typing import Any

import jax

from r2et_jax.adapters.program import Fixed, Program, examined, some_inputs
from r2et_jax.checks import check_adapter
from r2et_jax.subject import Subject
from r2et_jax.types import Array


def equinox(
    module: Any,
    x: Array | None = None,
    *,
    state: Any = None,
    batched: bool = False,
    **options: Any,
) -> Subject:
    """An Equinox module as a subject: `module(x)` of one input, set to predict.

    Its arrays of floats are the parameters; other arrays are fixed, and functions,
    texts and numbers belong to its form.

    Args:
      module: an instance of a module, or a tree of them that can be called.
      x, **options: as in `adapters.linen`.
      state: of stateful layers such as BatchNorm, as `equinox.nn.make_with_state` gives
        it; the module is then called as `module(x, state)`, and the new state dropped.
      batched: whether the first axis of the module's input is that of examples.

    Returns:
      `Subject`.

    Raises:
      ValueError: for another model or a class, or an input that the module does not
        take to [C].

    Example:
      >>> import r2et_jax as r2
      >>> examined = r2.adapters.equinox(module, x)  # doctest: +SKIP
      >>> maps = r2.explain(examined, x)  # doctest: +SKIP
    """
    check_adapter("equinox", module)
    import equinox as library

    predicting = library.nn.inference_mode(module)
    params, rest = library.partition(predicting, library.is_inexact_array)
    # Named arrays in place of a module, which could be called but would do nothing.
    paths, form = jax.tree_util.tree_flatten_with_path(params)
    params = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    arrays, rest = library.partition((rest, state), library.is_array)
    leaves, structure = jax.tree.flatten(rest)
    static = tuple(params), form, tuple(leaves), structure
    program = Program(_predict, static, Fixed(arrays), batched)
    return examined(program, params, None if x is None else some_inputs(x), **options)


def _predict(static, arrays, params, inputs):
    import equinox as library

    names, form, leaves, structure = static
    rest, state = library.combine(arrays, jax.tree.unflatten(structure, leaves))
    trained = jax.tree.unflatten(form, [params[name] for name in names])
    module = library.combine(trained, rest)
    return module(inputs) if state is None else module(inputs, state)[0]
