"""The whole question in one call: can the top features of *this* model be trusted?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import attacks, metrics, ranking, saliency
from r2et_jax import subject as subject_lib
from r2et_jax._callable import make_callable
from r2et_jax.audit import guards
from r2et_jax.audit.inputs import (
    as_inputs,
    check_explainer,
    check_output,
    check_smoothed,
)
from r2et_jax.audit.result import Audit
from r2et_jax.checks import check_in, check_key, check_model, is_linen
from r2et_jax.context import in_context
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import (
    ThreatModel,
    are_inside,
    check_inputs,
    check_threat,
    threat_model,
)
from r2et_jax.types import ApplyFn, Array, SaliencyFn

_BATCH_SIZE = 1024


def audit(
    model: Subject | Any,
    *given: Any,
    k: int,
    threat: ThreatModel | None = None,
    smoothed: Callable[[float], ApplyFn] | None = None,
    explainer: Callable[..., SaliencyFn] | None = None,
    output: str = "auto",
    budget: int = attacks.DEFAULT_BUDGET,
    key: Array | None = None,
) -> Audit:
    """Attack the top-k explanation of a model on given inputs, as hard as we know how.

    It compiles once in a process for each model and shape of the inputs.

    Args:
      model: a `Subject`, followed by x; or a Flax Linen module or
        `apply(params, x) -> logits [C]` for one input, followed by params and x. C = 1
        is a binary model with one logit.
      *given: (x,) after a subject, else (params, x): params, a pytree of arrays, and
        finite inputs x [m, n], m ≥ 1; integers are taken as floats.
      k: size of the top set, in 1…n−1.
      threat: what the adversary may do; the l2 ball of radius 1 by default, which
        suits standardised columns.
      smoothed: `smoothed(rho) -> apply`, the model with smooth activations of
        sharpness ρ, for attacks to take gradients of. By default it is read from the
        model's own program, see `programs.smooth`.
      explainer: factory of the explanation; `saliency.gradient` by default.
      output: what the model and `smoothed(rho)` return: "logits", or "probabilities"
        [C] (C = 1: of class 1), which are converted. "auto" takes logits, and refuses
        outputs that look like probabilities. A subject says these three itself.
      budget: gradient evaluations for each input.
      key: of the random starts; `jax.random.key(0)` by default.

    Returns:
      `Audit`; print it for a summary, with what was left out and why.

    Raises:
      ValueError: for x of another shape or kind, a value of x that is not finite or
        lies outside of the threat model's box, k out of range, a model that does not
        take such inputs to logits [C], and any other argument that is not what is
        said above.

    Example:
      >>> from r2et_jax.models import MLP
      >>> model = MLP(activation="softplus")
      >>> x = jax.random.normal(jax.random.key(0), (4, 6))
      >>> params = model.init(jax.random.key(1), x[0])
      >>> report = audit(model, params, x, k=2, budget=4200)
      >>> report.top_k.shape
      (4, 2)
    """
    examined = model if isinstance(model, Subject) else None
    if len(given) != (2 if examined is None else 1):
        raise ValueError(
            "audit takes audit(subject, x, k=…) or audit(model, params, x, k=…), got "
            f"{len(given)} arguments after a {type(model).__name__}"
        )
    check_in("output", output, subject_lib.OUTPUTS)
    x = as_inputs(given[-1])
    if examined is None:
        examined = _subject(model, given[0], x, smoothed, explainer, output)
    elif (smoothed, explainer) != (None, None) or output != "auto":
        raise ValueError(
            "a subject has its own smoothed, explainer and output: say them to "
            f"subject(…), got {smoothed!r}, {explainer!r} and {output!r} here"
        )
    threat = threat_model() if threat is None else threat
    check_threat(threat)
    check_inputs(threat, x)
    key = jax.random.key(0) if key is None else key
    check_key(key)
    params, context = examined.params, examined.context
    first = in_context(params, jax.tree.map(lambda leaf: leaf[0], context))
    check_model(examined.apply, first, x[0])
    if examined.output == "auto":
        check_output("auto", examined.apply, params, x, context)
    check_explainer(examined.form.explainer, examined.apply, first, x[0], k)
    form = examined.form._replace(explainer=_passing_nan(examined.form.explainer))
    attack = attacks.attack("strongest", k=k, budget=budget)
    attacked = Subject(params, form, context)
    found = attack(attacked, x, threat, key=key)
    keys = jax.random.split(key, len(x))
    seen, kept, flat = _looking(form, k)(
        (params, threat), (x, found.best_map, keys, context)
    )
    excluded = np.select(
        [
            ~np.isfinite(seen.score),
            ~np.isfinite(seen.map).all(1),
            seen.num_positive == 0,
        ],
        [
            "whose output is not finite",
            "whose explanation is not finite",
            "whose explanation is zero everywhere",
        ],
        "",
    )
    counted = excluded == ""
    return Audit(
        precision=np.where(counted, found.precision, np.nan),
        precision_same_class=np.where(counted, found.best_same_class.precision, np.nan),
        perturbed=found.perturbed,
        maps=seen.map,
        top_k=seen.top_k,
        kept=kept & counted[:, None],
        same=_same(seen.map[counted], x[counted], k),
        noise_precision=np.where(counted, seen.noise_precision, np.nan),
        vanished=float(flat[counted].mean()) if counted.any() else np.nan,
        predicted=seen.predicted,
        excluded=excluded,
        num_positive=seen.num_positive,
        tied=counted & (seen.num_positive > k) & seen.tied,
        moved=~are_inside(threat, x).all(axis=1),
    )


def _subject(model, params, x, smoothed, explainer, output) -> Subject:
    """The subject of what was given in parts, each part checked against an input."""
    apply = model.apply if is_linen(model) else model
    check_model(apply, params, x[0])
    if smoothed is not None:
        check_smoothed(smoothed, apply, params, x[0])
    if output == "probabilities":
        check_output(output, apply, params, x, None)
    explainer = saliency.gradient if explainer is None else explainer
    check_explainer(explainer, apply, params, x[0], None)
    return subject_lib.subject(
        apply,
        params,
        smoothed=smoothed,
        explainer=explainer,
        output=output,
    )


def _same(maps: np.ndarray, x: np.ndarray, k: int) -> float:
    """Mean overlap of the top sets of distinct inputs; NaN if there is only one."""
    _, first = np.unique(x, axis=0, return_index=True)
    if len(first) < 2:
        return float("nan")
    return float(metrics.mean_topk_overlap(jnp.asarray(maps[first]), k=k))


@functools.lru_cache(maxsize=256)
def _passing_nan(explainer):
    """An explainer whose maps are NaN where the score is.

    A branch that returns NaN has the gradient zero: a map without saliency, which would
    pass for a ranking that an attack has destroyed.
    """

    def of_score(score, **options):
        explain = explainer(score, **options)

        def saliency(params, x, target, /):
            poison = jnp.where(jnp.isnan(score(params, x, target)), jnp.nan, 1)
            return explain(params, x, target) * poison

        return saliency

    return of_score


@kept
def _looking(form: Form, k: int):
    """The guards of a batch and what an attack kept of the top sets, compiled."""
    look, vanished = guards.look(form, k=k), guards.has_vanished(form, k=k)

    def one(params, threat, x, attacked_map, key, context):
        params = in_context(params, context)
        seen = look(params, x, key=key)
        before, after = (
            ranking.positive_top_k_mask(values, k=k)
            for values in (seen.map, attacked_map)
        )
        return seen, (before & after)[seen.top_k], vanished(params, x, threat)

    def chunk(shared, batched):
        return jax.vmap(one, (None, None, 0, 0, 0, 0))(*shared, *batched)

    return compile_chunked(chunk, batch_size=_BATCH_SIZE)


# The package is a function, too; see `_callable`.
make_callable("r2et_jax.audit")
