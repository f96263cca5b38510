"""The callables that the library is built from, as protocols with named arguments.

All of them act on one example; callers batch them with `jax.vmap`.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax

Array = jax.Array
Params = Any


class ApplyFn(Protocol):
    """A model: one input to its logits [C]; C = 1 is a binary model with one logit."""

    def __call__(self, params: Params, x: Array, /) -> Array: ...


class ScoreFn(Protocol):
    """The scalar that is explained, for one input and one class index."""

    def __call__(self, params: Params, x: Array, target: Array, /) -> Array: ...


class SaliencyFn(Protocol):
    """An explanation: one nonnegative importance for each feature of one input."""

    def __call__(self, params: Params, x: Array, target: Array, /) -> Array: ...


class LossFn(Protocol):
    """A training loss of one batch, with the weights of its penalties as an array.

    reference: parameters of the model whose ranking is kept, or None for its own; key:
    the batch's random key; progress: the share of the training done, in [0, 1].
    """

    def __call__(
        self,
        params: Params,
        x: Array,
        y: Array,
        weights: Array,
        /,
        *,
        reference: Params | None = None,
        key: Array | None = None,
        progress: Array | float = 1.0,
    ) -> Array: ...
