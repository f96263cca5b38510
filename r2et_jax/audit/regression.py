"""Values as the logits that the library is written for.

A value far from 0 would be a saturated logit, whose probability has no gradient and
hides from attacks. Less a constant and over another it is none, and all rankings stay.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from r2et_jax.audit.inputs import outputs_of
from r2et_jax.context import InContext, in_context
from r2et_jax.execution import hashable
from r2et_jax.subject import Subject


class Centred(NamedTuple):
    """Parameters with what a value is centred and divided by; data, not programs."""

    params: Any
    shift: np.ndarray
    scale: np.ndarray


def centred(examined: Subject, x: np.ndarray) -> Subject:
    """The subject whose value is (f(x) − mean)/deviation over the inputs [m, n]."""
    values = outputs_of(examined, x)
    values = values[np.isfinite(values)]
    shift = values.mean() if len(values) else np.zeros((), x.dtype)
    scale = values.std() if len(values) else np.zeros((), x.dtype)
    scale = scale if scale > 0 else np.ones((), x.dtype)
    form = examined.form
    smoothed = form.smoothed
    form = form._replace(
        apply=_centred(hashable(form.apply)),
        smoothed=None if smoothed is None else _smoothed(smoothed),
    )
    params = Centred(
        examined.params, np.asarray(shift, x.dtype), np.asarray(scale, x.dtype)
    )
    return dataclasses.replace(examined, params=params, form=form)


@functools.lru_cache(maxsize=256)
def _centred(apply):
    def model(both, x, /):
        context = None
        if isinstance(both, InContext):
            both, context = both
        params, shift, scale = both
        value = apply(in_context(params, context), x)
        return (value - shift.astype(value.dtype)) / scale.astype(value.dtype)

    return model


@functools.lru_cache(maxsize=256)
def _smoothed(smoothed):
    return lambda rho: _centred(hashable(smoothed(rho)))


def as_given(subject: Subject, outputs: jax.Array | np.ndarray) -> np.ndarray:
    """Outputs in the units of the model that was given."""
    if not isinstance(subject.params, Centred):
        return np.asarray(outputs)
    _, shift, scale = subject.params
    return np.asarray(outputs) * scale + shift
