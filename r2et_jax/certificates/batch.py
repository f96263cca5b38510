"""Certified P@k of a subject on a batch, in one call."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from r2et_jax import saliency
from r2et_jax.bounds import Policy
from r2et_jax.certificates.counting import (
    DEFAULT_SLABS,
    Certificate,
    ranking_certificate,
)
from r2et_jax.certificates.programs import program_certificate
from r2et_jax.checks import check_count
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, hashable, kept
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel, check_inputs, check_threat
from r2et_jax.types import Array

_BATCH_SIZE = 64


def certify(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    k: int,
    num_slabs: int = DEFAULT_SLABS,
    policy: Policy | None = None,
    batch_size: int = _BATCH_SIZE,
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
      num_slabs: as in `ranking_certificate`; of no account for other models.
      policy: as in `program_certificate`; given, the layers are left aside.
      batch_size: inputs at a time; bounds the memory.

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
    check_threat(threat)
    check_inputs(threat, x)
    check_count("batch_size", batch_size)
    if not subject.form.differentiable:
        raise ValueError(
            "a black box has no program whose explanation could be bounded: nothing of "
            "it can be certified this way"
        )
    layers = subject.layers
    if policy is not None or subject.form.explainer is not saliency.gradient:
        layers = None
    layers = None if layers is None else hashable(layers)
    run = _certifying(subject.form, layers, policy, k, num_slabs, batch_size)
    found = run((subject.params, threat), (x, subject.context))
    if not np.any(found.matches):
        raise ValueError(
            "layers must give the weights and slopes of the model itself, got some "
            f"whose gradient is another one at all {len(x)} inputs or near them"
        )
    return found


@kept
def _certifying(form: Form, layers: Callable | None, policy, k, num_slabs, batch_size):
    if layers is None:
        one = program_certificate(
            form.apply, k=k, explainer=form.explainer, policy=policy
        )
    else:
        one = ranking_certificate(form.apply, layers, k=k, num_slabs=num_slabs)

    def chunk(shared, batched):
        params, threat = shared

        def each(x, context):
            return one(in_context(params, context), x, threat)

        return jax.vmap(each)(*batched)

    return compile_chunked(chunk, batch_size=batch_size)
