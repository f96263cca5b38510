"""Flax modules whose first parameters are drawn by one program."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np


class Module(nn.Module):
    """`flax.linen.Module`, but that `init` compiles one program instead of dozens.

    Flax runs the model itself, operation by operation, and each of them is a program of
    its own for each shape. The parameters are the same.
    """

    @nn.nowrap
    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """The first parameters, see `flax.linen.Module.init`.

        Where something else than arrays is given, a keyword, or what is traced already,
        Flax's own is called.
        """
        arrays = all(
            isinstance(leaf, np.ndarray | jax.Array)
            and not isinstance(leaf, jax.core.Tracer)
            for leaf in jax.tree.leaves((rngs, args))
        )
        if kwargs or not arrays or self.scope is not None or not _has_hash(self):
            return super().init(rngs, *args, **kwargs)
        return _drawn(self, rngs, *args)


@functools.partial(jax.jit, static_argnums=0)
def _drawn(model, rngs, *args):
    return nn.Module.init(model, rngs, *args)


def _has_hash(model: nn.Module) -> bool:
    """Whether all of its attributes have one: a list, such as of widths, has not."""
    try:
        hash(model)
    except TypeError:
        return False
    return True
