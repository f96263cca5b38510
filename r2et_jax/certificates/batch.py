"""Certified P@k of a subject on a batch, and certified radii, in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import saliency
from r2et_jax.bounds import Policy
from r2et_jax.certificates.counting import (
    DEFAULT_SLABS,
    Certificate,
    Certify,
    ranking_certificate,
)
from r2et_jax.certificates.programs import program_certificate
from r2et_jax.checks import check_count, check_positive
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, hashable, kept
from r2et_jax.score import check_takes
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.types import Array

_IN_CACHE = 64
# Features from which on bounds of a program outweigh its compilation: their work and
# their symbols grow with the square.
_MANY_FEATURES = 256


def certify(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    k: int,
    num_slabs: int = DEFAULT_SLABS,
    policy: Policy | None = None,
    num_pairs: int = 0,
    batch_size: int | None = None,
) -> Certificate:
    """What of the top-k sets no attack of the threat model can take away.

    It compiles once for each form of a subject and shape of a batch.

    Args:
      subject: any model whose explanation's program has bounds, see
        `program_certificate`. One with one hidden layer and one logit, explained by its
        gradient, whose `layers` give the weights, such as a `models.MLP`, has tighter
        ones by `ranking_certificate`.
      x: inputs [m, n].
      threat: the threat model.
      k: size of the top set, in 1…n−1.
      num_slabs: as in `ranking_certificate`; for other models those of `num_pairs`.
      policy: as in `program_certificate`; given, the layers are left aside.
      num_pairs: pairs that are bounded again over slabs, as in `program_certificate`;
        of no account where the layers serve.
      batch_size: inputs at a time on each device, at most; bounds the memory. By
        default as in `execution.compile_chunked`.

    Returns:
      `Certificate` with leading axis m, NumPy arrays; its `precision` [m] is certified
      P@k.

    Raises:
      ValueError: for a subject whose layers are not the model's at any input, or whose
        program has no bounds, by the primitive and the line of the model; for a black
        box; for inputs
        that the threat model does not fit, numbers out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> model, x = MLP(activation="softplus"), jnp.ones((2, 6))
      >>> examined = subject(model, model.init(jax.random.key(0), x[0]))
      >>> certify(examined, x, threat_model("l2", 1e-4), k=2).precision.tolist()
      [1.0, 1.0]

    Source: ours; see `ranking_certificate` and `program_certificate`.
    """
    layers = _check(subject, x, threat, policy, batch_size)
    check_count("num_pairs", num_pairs, minimum=0)
    cuts = num_slabs, num_pairs
    work = _work(layers, x)
    run = _certifying(subject.form, layers, policy, k, cuts, batch_size, work)
    certificate = run((subject.params, threat), (x, subject.context))
    _check_matches(certificate.matches)
    return certificate


class CertifiedRadii(NamedTuple):
    """Up to where the top features of m inputs provably stay, in units of x.

    Attributes:
      radius: all of them [m], the least of `feature_radii`: P@k is 1 up to there. P@k
        is at least j/k up to the (k − j + 1)-th smallest of them.
      feature_radii: each of them [m, k].
      features: which these are, the largest first [m, k].
    """

    radius: np.ndarray
    feature_radii: np.ndarray
    features: np.ndarray


def certified_radii(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    k: int,
    largest: float,
    num_steps: int = 16,
    num_slabs: int = DEFAULT_SLABS,
    policy: Policy | None = None,
    batch_size: int | None = None,
) -> CertifiedRadii:
    """The largest budgets, found by bisection, at which each top feature is certified.

    The budget is data: one compiled program serves all of them. Each certificate
    narrows the intervals of all k features, and the widest is halved next, so that they
    take between `num_steps` and k times as many.

    Args:
      subject, x, k, num_slabs, policy, batch_size: as in `certify`.
      threat: the threat model, whose own budget has no part in it.
      largest: budget > 0 from which the search goes down, in units of x.
      num_steps: halvings of the interval; radii are at most largest · 2^−num_steps
        below what bisection could find.

    Returns:
      `CertifiedRadii`, NumPy arrays in [0, largest]: `largest` where the certificate
      holds that far, 0 where it holds nowhere.

    Raises:
      ValueError: as `certify`, and for largest or num_steps out of range.

    Example:
      >>> from r2et_jax.models import Linear
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> model, x = Linear(), jnp.ones((1, 4))
      >>> examined = subject(model, model.init(jax.random.key(0), x[0]))
      >>> threat = threat_model("l2")
      >>> certified_radii(examined, x, threat, k=2, largest=9.0).radius.tolist()
      [9.0]

    Source: ours.
    """
    layers = _check(subject, x, threat, policy, batch_size)
    check_positive("largest", largest)
    check_count("num_steps", num_steps)
    cuts = num_slabs, 0
    work = _work(layers, x, "some")
    run = _searching(subject.form, layers, policy, k, cuts, num_steps, batch_size, work)
    shared = subject.params, threat, np.asarray(largest, np.asarray(x).dtype)
    radii, matches = run(shared, (x, subject.context))
    _check_matches(matches)
    return radii


def _check(subject, x, threat, policy, batch_size) -> Callable | None:
    """The layers that serve the subject's certificate, or None: by its program."""
    check_threat(threat)
    check_takes(subject, x)
    check_inputs(threat, x)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if not subject.form.differentiable:
        raise ValueError(
            "a black box has no program whose explanation could be bounded: nothing of "
            "it can be certified this way; `smoothed_certificate` serves it"
        )
    layers = subject.layers
    if policy is not None or subject.form.explainer is not saliency.gradient:
        layers = None
    return None if layers is None else hashable(layers)


def _work(layers: Callable | None, x: Array, usual: str = "little") -> str:
    """What one input's certificate takes, as `execution.jit` names it."""
    is_much = layers is None and x.shape[-1] > _MANY_FEATURES
    return "much" if is_much else usual


def _check_matches(matches: np.ndarray) -> None:
    if not np.any(matches):
        raise ValueError(
            "layers must give the weights and slopes of the model itself, got some "
            f"whose gradient is another one at all {len(matches)} inputs or near them"
        )


def _certificate(form: Form, layers: Callable | None, policy, k, cuts) -> Certify:
    num_slabs, num_pairs = cuts
    if layers is None:
        return program_certificate(
            form.apply,
            k=k,
            explainer=form.explainer,
            policy=policy,
            num_pairs=num_pairs,
            num_slabs=num_slabs,
        )
    return ranking_certificate(form.apply, layers, k=k, num_slabs=num_slabs)


@kept
def _certifying(form: Form, layers: Callable | None, policy, k, cuts, batch_size, work):
    certify_one = _certificate(form, layers, policy, k, cuts)

    def chunk(shared, batched):
        params, threat = shared

        def each(x, context):
            return certify_one(in_context(params, context), x, threat)

        return jax.vmap(each)(*batched)

    return compile_chunked(chunk, batch_size=batch_size, in_cache=_IN_CACHE, work=work)


@kept
def _searching(form, layers, policy, k, cuts, num_steps, batch_size, work):
    certify_one = _certificate(form, layers, policy, k, cuts)

    def radii(params, x, threat, largest):
        def certified(epsilon):
            return certify_one(params, x, dataclasses.replace(threat, epsilon=epsilon))

        def narrow(ends, epsilon, kept):
            low, high = ends
            # Bounds of a larger ball may happen to be the better ones: it counts.
            low = jnp.where(kept, jnp.maximum(low, epsilon), low)
            high = jnp.where(kept, high, jnp.minimum(high, epsilon))
            return low, jnp.maximum(low, high)

        def wide(state):
            (low, high), count = state
            width = jnp.max(high - low)
            return (width > largest * 2.0**-num_steps) & (count < k * num_steps)

        def halve(state):
            ends, count = state
            at = jnp.argmax(ends[1] - ends[0])
            middle = (ends[0][at] + ends[1][at]) / 2
            return narrow(ends, middle, certified(middle).kept), count + 1

        first = certified(largest)
        ends = jnp.zeros(k, x.dtype), jnp.full(k, largest)
        start = narrow(ends, largest, first.kept), 0
        low = jax.lax.while_loop(wide, halve, start)[0][0]
        return CertifiedRadii(jnp.min(low), low, first.features), first.matches

    def chunk(shared, batched):
        params, threat, largest = shared

        def each(x, context):
            return radii(in_context(params, context), x, threat, largest)

        return jax.vmap(each)(*batched)

    return compile_chunked(chunk, batch_size=batch_size, in_cache=_IN_CACHE, work=work)
