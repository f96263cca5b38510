"""Top-k thickness of a model: that of each of its inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import (
    check_count,
    check_finite,
    check_in,
    check_k,
    check_key,
    check_positive,
)
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.ranking.thickness import pair_thickness
from r2et_jax.score import check_takes, predicted_class
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel, sample
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.types import Array

DISTRIBUTIONS = ("uniform", "gaussian", "given")
# Gaps of one draw [points, k, n - k] that are held at once, and inputs, on CPU.
_HELD, _IN_CACHE = 2**22, 64


class InputThickness(NamedTuple):
    """Top-k thickness of every input of a batch; that of the model is its mean.

    Attributes:
      mean: mean of Θ_ij over the pairs [m]; NaN for an input without a ranking, whose
        explanation is not finite or zero everywhere.
      least: the least Θ_ij [m], NaN likewise.
    """

    mean: np.ndarray
    least: np.ndarray


def thickness(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    k: int,
    key: Array,
    distribution: str = "uniform",
    ends: Array | None = None,
    sigma: float = math.sqrt(0.5),
    num_draws: int = 64,
    num_points: int = 20,
    batch_size: int | None = None,
) -> InputThickness:
    """Top-k thickness of a model at given inputs, estimated along segments.

    Θ_ij = E_{x_s ~ D} ∫₀¹ 1[h_ij((1 − t)x + t x_s) ≥ 0] dt, see
    `ranking.mean_thickness`. It compiles once for each form, shape and number.

    Args:
      subject: the model, with its explainer.
      x: inputs [m, n].
      threat: the threat model, from whose ball "uniform" draws.
      k: size of the top set, in 1…n−1.
      key: random key; an input's draws depend on its index alone.
      distribution: D: "uniform" in the ball of the threat model, "gaussian" around x,
        or "given", the ends.
      ends: the segment's end of each input [m, n] under "given", such as what an attack
        found.
      sigma: standard deviation of "gaussian", that of SmoothGrad, in units of x.
      num_draws: draws of each input.
      num_points: points on each segment.
      batch_size: inputs at a time on each device, at most; by default as many as fit.

    Returns:
      `InputThickness`.

    Raises:
      ValueError: for numbers out of range, inputs that the threat model does not fit,
        ends without "given" or of another shape than x.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> model = MLP()
      >>> examined = subject(model, model.init(jax.random.key(1), x[0]))
      >>> thick = thickness(examined, x, threat_model(), k=2, key=jax.random.key(2))
      >>> bool((thick.least <= thick.mean).all())
      True

    Source: R2ET (arXiv 2212.14106), definition of top-k thickness.
    """
    check_in("distribution", distribution, DISTRIBUTIONS)
    check_threat(threat)
    check_takes(subject, x)
    check_inputs(threat, x)
    check_key(key)
    check_positive("sigma", sigma)
    if np.ndim(x) != 2:
        raise ValueError(
            f"x must be rows [m, n], got shape {np.shape(x)}: flatten the inputs, and "
            "let the model reshape them"
        )
    check_k(k, x.shape[1])
    for name, count in (("num_draws", num_draws), ("num_points", num_points)):
        check_count(name, count)
    if (ends is not None) != (distribution == "given"):
        raise ValueError(
            f"ends belong to distribution='given', got distribution={distribution!r} "
            f"{'without' if ends is None else 'with'} ends"
        )
    if ends is not None and np.shape(ends) != np.shape(x):
        raise ValueError(
            f"ends must have the shape of x, {np.shape(x)}, got {np.shape(ends)}"
        )
    if ends is not None:
        check_finite("ends", ends)
    held = max(1, _HELD // (num_points * k * (x.shape[1] - k)))
    sizes = batch_size and min(batch_size, held), min(_IN_CACHE, held)
    run = _thickness(subject.form, k, distribution, num_draws, num_points, *sizes)
    index = np.arange(len(x), dtype=np.uint32)
    shared = subject.params, threat, key, jnp.asarray(sigma, x.dtype)
    return run(shared, (x, index, ends, subject.context))


@kept
def _thickness(
    form: Form, k, distribution, num_draws, num_points, batch_size, in_cache
):
    explain = form.saliency()
    pairs = pair_thickness(explain, k=k, num_points=num_points)

    def of_example(params, threat, key, sigma, x, index, end, context):
        key = jax.random.fold_in(key, index)
        if distribution == "given":
            draws = end[None]
        elif distribution == "gaussian":
            draws = x + sigma * jax.random.normal(key, (num_draws, *x.shape), x.dtype)
        else:
            keys = jax.random.split(key, num_draws)
            draws = jax.vmap(lambda key: sample(threat, x, key=key))(keys)
        params = in_context(params, context)
        target = predicted_class(form.apply(params, x))
        shares = pairs(params, x, target, draws)
        clean = explain(params, x, target)
        is_ranked = jnp.all(jnp.isfinite(clean)) & jnp.any(clean != 0)
        return InputThickness(
            *(jnp.where(is_ranked, f(shares), jnp.nan) for f in (jnp.mean, jnp.min))
        )

    def chunk(shared, batched):
        each = jax.vmap(of_example, (None, None, None, None, 0, 0, 0, 0))
        return each(*shared, *batched)

    return compile_chunked(chunk, batch_size=batch_size, in_cache=in_cache)
