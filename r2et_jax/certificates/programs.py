"""Certified top-k features of any model, by bounds on the program of its explanation.

The explanation is a program, too: run on affine forms in place of numbers, see
`r2et_jax.bounds`, it gives bounds that hold over a whole set of inputs, with symbols
that all features share, so that the difference of two is bounded as one expression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from r2et_jax import saliency as saliency_lib
from r2et_jax.bounds import Policy, bound, of_threat
from r2et_jax.bounds.domain import with_slabs
from r2et_jax.certificates.counting import Certificate, Certify
from r2et_jax.checks import check_count, check_k, check_key_bound
from r2et_jax.ranking import top_k_indices
from r2et_jax.score import log_odds, predicted_class
from r2et_jax.threat import project
from r2et_jax.types import ApplyFn, Array, SaliencyFn


def program_certificate(
    apply: ApplyFn,
    *,
    k: int,
    explainer: Callable[..., SaliencyFn] = saliency_lib.gradient,
    policy: Policy | None = None,
    num_pairs: int = 0,
    num_slabs: int = 4,
) -> Certify:
    """Certified P@k of any model whose explanation's program has bounds.

    i stays above j where |φ_i| − |φ_j| > 0 over the set, that is s_i φ_i − t φ_j > 0
    for t = ±1 with s_i the sign at the clean input: φ is the signed explanation before
    |·|, of the log-odds of the clean input's class. P@k is counted from the pairs as in
    `ranking_certificate`. Frozen features, the box and the ball are used; one-hot
    groups and a rule for the prediction only remove inputs, and are left out.

    Args:
      apply: any `apply(params, x) -> logits [C]` whose program has bounds.
      k: size of the top set, in 1…n−1.
      explainer: factory of the explanation, called with a score and `normalize=False`:
        `saliency.gradient`, `gradient_times_input`, `integrated_gradients`, pixels of
        several channels, or anything else whose ranking does not need the division.
      policy: how the program is bounded, see `bounds.Policy`.
      num_pairs: pairs that are bounded again, over slabs: those of which least is
        missing. Each costs 2·num_slabs times what the whole certificate costs.
      num_slabs: parts into which the set is cut across a pair's own direction
        s_i ∇φ_i − t ∇φ_j, as its affine form has it; a union of all of them.

    Returns:
      `certify(params, x, threat) -> Certificate` of one input x [n]; `matches` is
      always true, as the program is the model's own.

    Raises:
      ValueError: for an explainer that draws and has no key, counts out of range; when
        traced, for k out of range, and for what has no bounds, by the name of the
        primitive and the line of the model.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.threat import threat_model
      >>> model = MLP(hidden=(8, 8), activation="gelu")
      >>> params = model.init(jax.random.key(0), jnp.zeros(6))
      >>> certify = program_certificate(model.apply, k=2)
      >>> certify(params, jnp.ones(6), threat_model("l2", 1e-3)).precision
      Array(1., dtype=float32)

    Source: ours; affine bounds as in `bounds.bound`.
    """
    policy = Policy() if policy is None else policy
    check_count("num_pairs", num_pairs, minimum=0)
    check_count("num_slabs", num_slabs)
    explain = _signed(explainer, log_odds(apply))

    def certify(params, x, threat, /):
        center = project(threat, x, x)
        target = predicted_class(apply(params, center))

        def values(moved):
            return explain(params, moved, target).ravel()

        clean = values(center)
        check_k(k, clean.size)
        features = top_k_indices(jnp.abs(clean), k=k)
        domain = of_threat(threat, x)
        affine = bound(values, domain, policy=policy)
        signs = jnp.sign(clean[features])
        separation = affine.separations(features, signs)
        others = jnp.arange(clean.size, dtype=features.dtype)
        different = others != features[:, None]
        if num_pairs:
            missing = jnp.where(different & (separation <= 0), separation, -jnp.inf)
            count = min(num_pairs, missing.size - 1)
            place = top_k_indices(missing.ravel(), k=count)
            row, other = jnp.divmod(place, missing.shape[1])
            again = _over_slabs(
                values,
                domain,
                affine,
                jnp.stack([features[row], other.astype(features.dtype)], axis=1),
                signs[row],
                policy=policy,
                num_slabs=num_slabs,
            )
            separation = separation.at[row, other].max(again)
        below = jnp.sum((separation > 0) & different, axis=1)
        kept = below >= clean.size - k
        share = jnp.mean(kept, dtype=clean.dtype)
        return Certificate(share, features, kept, separation, jnp.array(True))

    return certify


def _over_slabs(
    values, domain, affine, pairs, signs, *, policy, num_slabs: int
) -> Array:
    """Lower bounds of s_i φ_i − |φ_j| for pairs [p, 2], the least over slabs [p]."""
    linear = affine.linear.reshape(domain.size, -1)

    def of_pair(pair, sign):
        def of(t):
            weights = jnp.stack([sign, -t]).astype(linear.dtype)
            direction = linear[:, pair] @ weights
            reach = jnp.stack([-domain.support(-direction), domain.support(direction)])
            # The outermost slabs hold all of the set, rounding or not.
            slack = 1e-4 * jnp.max(jnp.abs(reach))
            edges = jnp.linspace(reach[0] - slack, reach[1] + slack, num_slabs + 1)

            def inside(edge):
                slab = with_slabs(domain, direction[None], edge[:1], edge[1:])
                made = bound(values, slab, policy=policy)
                return made.combined(pair[None], weights[None]).lower()[0]

            return jnp.min(jax.lax.map(inside, jnp.stack([edges[:-1], edges[1:]], 1)))

        least = jax.lax.map(of, jnp.array([1, -1], linear.dtype))
        return jnp.min(least)

    return jax.lax.map(lambda both: of_pair(*both), (pairs, signs))


def _signed(
    explainer: Callable[..., SaliencyFn], score: Any
) -> Callable[[Any, Array, Array], Array]:
    """The explanation before |·| where that is known, which bounds pairs better."""
    gradient = jax.grad(score, argnums=1)
    if explainer is saliency_lib.gradient:
        return gradient
    if explainer is saliency_lib.gradient_times_input:
        return lambda params, x, target: gradient(params, x, target) * x
    if explainer is saliency_lib.integrated_gradients:
        return explainer(score, signed=True)
    explain = explainer(score, normalize=False)
    # A certificate is about one map.
    check_key_bound(explain)
    return explain
