"""Dense sampling of a function over a domain, to compare bounds with."""

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.bounds import Policy, bound


def points(domain, *, count=3000, seed=0):
    """Inputs of a domain [count, *shape]: its centre, its border, what lies between."""
    rng = np.random.default_rng(seed)
    low, high = (np.asarray(end) for end in (domain.low, domain.high))
    n = domain.size
    kinds = [
        rng.standard_normal((count // 3, n)),
        np.sign(rng.standard_normal((count // 3, n))),
        rng.standard_normal((count // 3, n)) * (rng.random((count // 3, n)) < 2 / n),
    ]
    drawn = np.concatenate(kinds)
    share = rng.random((len(drawn), 1)) ** rng.choice([0.0, 0.1, 1.0], (len(drawn), 1))
    if domain.norm == "box":
        largest = np.abs(drawn).max(axis=1, keepdims=True)
        unit = drawn / np.where(largest > 0, largest, 1) * share
        delta = np.where(unit > 0, unit * high, -unit * low)
    else:
        drawn = np.where(low < high, drawn, 0)
        length = np.linalg.norm(drawn, axis=1, keepdims=True)
        delta = drawn / np.where(length > 0, length, 1) * share
        delta = np.clip(delta * float(domain.epsilon), low, high)
    if domain.normals is not None:
        along = delta @ np.asarray(domain.normals).T
        cuts = np.asarray(domain.cuts)
        delta = delta[((along >= cuts[:, 0]) & (along <= cuts[:, 1])).all(axis=1)]
    delta = np.concatenate([np.zeros((1, n)), delta])
    shape = (len(delta), *domain.center.shape)
    return np.asarray(domain.center) + delta.reshape(shape).astype(domain.low.dtype)


def violation(fn, domain, *, policy=None, seed=0, count=3000):
    """By how much values, and sums of two of them, leave their bounds; and the widths.

    Returns:
      (largest excess over a bound, as a share of the sampled range or in units of x;
      mean width of the bounds; mean range of the sampled values).
    """
    policy = Policy() if policy is None else policy
    values = np.asarray(
        jax.jit(jax.vmap(fn))(jnp.asarray(points(domain, seed=seed, count=count)))
    )
    size = values[0].size
    rng = np.random.default_rng(seed + 1)
    pairs = rng.integers(0, size, (8, 2))
    weights = rng.standard_normal((8, 2))

    def ends(domain):
        made = bound(fn, domain, policy=policy)
        return made.interval(), made.combined(pairs, jnp.asarray(weights)).interval()

    (low, high), (sum_low, sum_high) = jax.jit(ends)(domain)
    flat = values.reshape(len(values), size)
    sums = np.einsum("sqr,qr->sq", flat[:, pairs], weights)
    excess = -np.inf
    for seen, least, most in (
        (flat, np.ravel(low), np.ravel(high)),
        (sums, np.asarray(sum_low), np.asarray(sum_high)),
    ):
        assert not np.isnan(seen).any()
        excess = max(excess, (least - seen).max(), (seen - most).max())
    seen = np.mean(flat.max(0) - flat.min(0))
    return float(excess), float(np.mean(high - low)), float(seen)
