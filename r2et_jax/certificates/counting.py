"""Certified P@k of networks with one hidden layer: what no attack can go below.

|g_i| > |g_j| over a ball, g = ∇z, exactly if s g_i − t g_j > 0 over it for t = ±1 and a
sign s: g_i cannot change its sign without a zero. Each of these is a sum over units,

    s g_i − t g_j = Σ_h c_h φ′(a_h + w_hᵀδ) + s skip_i − t skip_j,
    c_h = b_h (s W_ih − t W_jh),

of which three lower bounds are taken, and the best one pair by pair:

* first order: φ′ of every unit anywhere in its interval over the ball;
* second order: φ′(a_h + τ) between two lines of slope m_h, the chord's, so that the
  pair moves by vᵀδ, v = Σ_h c_h m_h w_h, and by what the lines leave open. That is the
  second derivatives' part ‖H_i ∓ H_j‖, integrated over the ball unit by unit;
* both of these over slabs of the ball across v, in which units move much less; the
  least over the slabs.

A feature of the top-k set stays in it if it is above at least n − k others, all of
these over the whole ball.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax.certificates.agreement import layers_agree
from r2et_jax.certificates.intervals import OneHiddenLayer, preactivations
from r2et_jax.checks import check_count, check_in, check_k, check_ndim
from r2et_jax.numerics import safe_norm
from r2et_jax.ranking import top_k_indices
from r2et_jax.threat import ThreatModel, project
from r2et_jax.threat.geometry import movable_features
from r2et_jax.types import ApplyFn, Array, Params

# Explanations whose ranking these bounds are about.
EXPLANATIONS = ("gradient",)
# Certified P@8 on Adult at ε = 1 by 1, 8, 16, 48 slabs: .911, .955, .960, .966.
DEFAULT_SLABS = 16
# Pairs that are bounded over slabs at a time.
_AT_A_TIME = 32


class Certificate(NamedTuple):
    """What holds at every input that the threat model admits.

    Attributes:
      precision: certified P@k, the share of the top-k features that stay (scalar).
      features: the top-k features of the clean input, the largest first [k].
      kept: whether each of these provably stays in the top-k set [k].
      separation: lower bounds on |g_i| − |g_j| for each of these and every feature j,
        less the error of rounding; positive where i stays above j [k, n].
      matches: whether the layers are those of the model (scalar); where they are not,
        nothing is certified: the precision is 0 and all separations are −∞.
    """

    precision: Array
    features: Array
    kept: Array
    separation: Array
    matches: Array


Certify = Callable[[Params, Array, ThreatModel], Certificate]


def ranking_certificate(
    apply: ApplyFn,
    layers: Callable[[Params], OneHiddenLayer],
    *,
    k: int,
    explanation: str = "gradient",
    num_slabs: int = DEFAULT_SLABS,
    all_pairs: bool = False,
) -> Certify:
    """Certified P@k of the plain gradient |∇s|, s the log-odds of two classes.

    P@k ≥ #{i ∈ T : at most k − 1 other features are not certified below i}/k at every
    admissible input. A box, one-hot groups and a rule for the prediction only remove
    inputs from the ball, and are left out of the bound; features that may not move are
    used. Probability, logit and loss have the same ranking as the log-odds.

    Args:
      apply: the model, `apply(params, x) -> logits [1]`, of which the gradient is.
      layers: `layers(params)`, its weights as a network with one hidden layer and one
        logit, as `models.MLP.layers`; compared with the model, see `layers_agree`.
      k: size of the top set, in 1…n−1.
      explanation: one of `EXPLANATIONS`.
      num_slabs: parts into which an l2 ball is cut for a pair; 1 leaves it whole.
      all_pairs: bound every pair over slabs, not only those that decide whether a
        feature stays. What is certified is the same; the other separations are
        tighter, at several times the cost.

    Returns:
      `certify(params, x, threat) -> Certificate` of one input x [n], with O(n²h)
      operations for each slab of each feature that is not certified without them; ε
      may be traced.

    Raises:
      ValueError: for layers that is not callable, another explanation, num_slabs below
        1; when traced, for k out of range or a network that `layers` refuses; when
        called outside of any transformation, for layers that are not the model's.

    Example:
      >>> from r2et_jax.models import SkipMLP
      >>> from r2et_jax.threat import threat_model
      >>> model = SkipMLP(activation="softplus")
      >>> params = model.init(jax.random.key(0), jnp.zeros(6))
      >>> certify = jax.jit(ranking_certificate(model.apply, model.layers, k=2))
      >>> certify(params, jnp.ones(6), threat_model("l2", 1e-3)).precision
      Array(1., dtype=float32)

    Source: ours; lines around a nonlinearity as in CROWN (Zhang et al. 2018), here
    around φ′.
    """
    if not callable(apply):
        raise ValueError(f"apply must be a function of (params, x), got {apply!r}")
    if not callable(layers):
        raise ValueError(
            "certificates need the weights of a network with one hidden layer, such "
            f"as models.MLP(...).layers, got {layers!r}"
        )
    check_in("explanation of a certificate", explanation, EXPLANATIONS)
    check_count("num_slabs", num_slabs)

    def certify(params, x, threat, /):
        check_ndim("x", x, 1)
        check_k(k, x.size)
        network = layers(params)
        center = project(threat, x, x)
        epsilon = threat.epsilon.astype(x.dtype)
        matches = layers_agree(
            apply, params, network, center, epsilon=epsilon, norm=threat.norm
        )
        if not isinstance(matches, jax.core.Tracer) and not matches:
            raise ValueError(
                "layers must give the weights and slopes of the model itself, got some "
                "whose gradient is another one at this input or near it: check the "
                "activation of `slopes` and `lines`, and that weight is [n, h]"
            )
        movable = movable_features(threat, x)
        moving = network.weight
        if movable is not None:
            moving = jnp.where(movable[:, None], moving, 0)
        features = top_k_indices(jnp.abs(_gradient(network, x)), k=k)
        pairs = _pairs(network, center, features)
        others = jnp.arange(x.size, dtype=features.dtype) != features[:, None]
        wanted = None if all_pairs else _deciding(others, network, center, pairs, k)
        bounds = _bounds(
            network, center, moving, pairs, epsilon, threat.norm, num_slabs, wanted
        )
        separation = jnp.min(bounds.reshape(2, k, x.size), axis=0)
        separation = jnp.where(matches, separation, -jnp.inf)
        below = jnp.sum((separation > 0) & others, axis=1)
        kept = below >= x.size - k
        share = jnp.mean(kept, dtype=x.dtype)
        return Certificate(share, features, kept, separation, matches)

    return certify


class _Pairs(NamedTuple):
    """Σ_h c_h φ′_h + constant for all pairs and both signs, P = 2kn rows."""

    units: Array  # c [P, h]
    constant: Array  # [P]
    size: Array  # |constants| that were added to it [P]


def _gradient(network: OneHiddenLayer, x: Array) -> Array:
    center = preactivations(network, x)
    return network.weight @ (network.out * network.slopes(center, center)[0]) + (
        network.skip
    )


def _pairs(network: OneHiddenLayer, center: Array, features: Array) -> _Pairs:
    """The sums of s_i g_i − t g_j, t = 1 before t = −1, then i, then j."""
    sign = jnp.sign(_gradient(network, center))[features]
    leading = sign[:, None] * network.weight[features]
    skip = sign * network.skip[features]
    t = jnp.array([1, -1], center.dtype)[:, None, None]
    units = leading[None, :, None] - t[..., None] * network.weight
    units = network.out * units
    constant = skip[:, None] - t * network.skip
    size = jnp.abs(skip)[:, None] + jnp.abs(t * network.skip)
    count = constant.size
    return _Pairs(
        units.reshape(count, network.out.size), constant.ravel(), size.ravel()
    )


def _deciding(others: Array, network: OneHiddenLayer, x: Array, pairs: _Pairs, k: int):
    """Which pairs may still decide whether a feature stays, by bounds and what is done.

    Those that are positive at the centre, of features that neither stay already nor
    have lost too many pairs.
    """
    center = preactivations(network, x)
    slopes = network.slopes(center, center)[0]
    hopeful = (pairs.constant + pairs.units @ slopes).reshape(2, *others.shape) > 0
    need = others.shape[1] - k

    def wanted(bounds: Array, done: Array) -> Array:
        proved, done = (both.reshape(hopeful.shape) for both in (bounds > 0, done))
        open_pairs = hopeful & ~proved & ~done
        below = jnp.sum(jnp.all(proved, axis=0) & others, axis=1)
        possible = jnp.sum(jnp.all(proved | open_pairs, axis=0) & others, axis=1)
        undecided = (below < need) & (possible >= need)
        return (open_pairs & others & undecided[:, None]).ravel()

    return wanted


def _bounds(network, x, moving, pairs, epsilon, norm, num_slabs, wanted) -> Array:
    """Lower bounds of all pairs [P] over the ball, less the error of rounding.

    Over slabs those that `wanted(bounds, done)` names, or all if it is None.
    """
    unit = jnp.finfo(x.dtype).eps
    n, h = network.weight.shape
    center = preactivations(network, x)
    length = _dual(moving.T, norm)
    reach = epsilon * length
    # Products and sums of n terms are that far from the exact ones.
    terms = jnp.abs(x) @ jnp.abs(network.weight) + jnp.abs(network.bias) + reach
    pad = (n + 4) * unit * terms
    low, high = center - reach - pad, center + reach + pad
    least, most = network.slopes(low, high)
    steep = jnp.maximum(jnp.abs(least), jnp.abs(most))
    size = pairs.size + jnp.abs(pairs.units) @ steep
    best = _over_intervals(pairs, least, most)
    toward = _chord(network, low, high)
    direction = (pairs.units * toward) @ moving.T
    size = size + epsilon * _dual(direction, norm)
    if network.lines is not None:
        m, least, most = _lines(network, low, high, center, pad)
        v = (pairs.units * m) @ moving.T
        second = _over_intervals(pairs, least, most) - epsilon * _dual(v, norm)
        best = jnp.maximum(best, second)
    # Twice: the gradients that are ranked are rounded, too.
    rounding = 4 * (h + n) * unit * size
    bounds = pairs.constant + best - rounding
    if norm != "l2" or num_slabs == 1:
        return bounds

    def over_slabs(rows):
        some = _Pairs(*(leaf[rows] for leaf in pairs))
        bound = _over_slabs(
            network, center, pad, moving, some, epsilon, direction[rows], num_slabs
        )
        return some.constant + bound - rounding[rows]

    if wanted is None:
        return jnp.maximum(bounds, over_slabs(slice(None)))

    def farthest(state):
        bounds, done = state
        # Those of which most is missing: one that is lost spares its feature's others.
        missing = jnp.where(wanted(bounds, done), -bounds, -jnp.inf)
        rows = jax.lax.top_k(missing, min(_AT_A_TIME, bounds.size))[1]
        return bounds.at[rows].max(over_slabs(rows)), done.at[rows].set(True)

    start = bounds, jnp.zeros(bounds.shape, bool)
    return jax.lax.while_loop(lambda s: jnp.any(wanted(*s)), farthest, start)[0]


def _dual(v: Array, norm: str) -> Array:
    """The norm dual to the ball's, of vectors along the last axis."""
    if norm == "linf":
        return jnp.sum(jnp.abs(v), axis=-1)
    return _norm(v)


def _norm(v: Array) -> Array:
    if not v.size:
        return jnp.zeros(v.shape[:-1], v.dtype)
    return jax.vmap(safe_norm)(v.reshape(-1, v.shape[-1])).reshape(v.shape[:-1])


def _chord(network: OneHiddenLayer, low: Array, high: Array) -> Array:
    """Slope of φ′ between the ends of an interval: a direction, not a bound."""
    rise = network.slopes(high, high)[0] - network.slopes(low, low)[0]
    return rise / jnp.where(high > low, high - low, 1)


def _lines(network, low, high, center, pad):
    """Lines around φ′ in terms of the move, whose start is known up to `pad`."""
    m, least, most = network.lines(low, high, center)
    return m, least - jnp.abs(m) * pad, most + jnp.abs(m) * pad


def _over_intervals(pairs: _Pairs, least: Array, most: Array) -> Array:
    """Least Σ_h c_h q_h, every q_h between its bounds: those of all rows or of each."""
    c = pairs.units
    return jnp.sum(jnp.where(c > 0, c * least, c * most), axis=-1)


def _over_slabs(network, center, pad, moving, pairs, epsilon, direction, num_slabs):
    """The least over slabs y₀ ≤ uᵀδ ≤ y₁ of the l2 ball, u the direction's unit vector.

    There w_hᵀδ = αy + βᵀ(what is across u), at most √(ε² − y²) long: a linear function
    has its extreme at the end of the slab nearest to the ball's.
    """
    length = _norm(direction)
    u = direction / jnp.where(length > 0, length, 1)[:, None]
    along = u @ moving  # [P, h]
    across = _norm(moving.T - along[..., None] * u[:, None])

    def least_of(along, across, low, high):
        """Least αy − β√(ε² − y²) over low ≤ y ≤ high."""
        whole = jnp.sqrt(along**2 + across**2)
        share = along / jnp.where(whole > 0, whole, 1)
        y = jnp.clip(-epsilon * share, low, high)
        return along * y - across * jnp.sqrt(jnp.maximum(epsilon**2 - y**2, 0))

    def over(worst, edges):
        y = epsilon * edges
        down = least_of(along, across, y[0], y[1])
        up = -least_of(-along, across, y[0], y[1])
        low, high = center + down - pad, center + up + pad
        bound = _over_intervals(pairs, *network.slopes(low, high))
        if network.lines is not None:
            m, least, most = _lines(network, low, high, center, pad)
            v = (pairs.units * m) @ moving.T
            part = jnp.sum(v * u, axis=-1)
            rest = _norm(v - part[:, None] * u)
            linear = least_of(part, rest, y[0], y[1])
            second = _over_intervals(pairs, least, most) + linear
            bound = jnp.maximum(bound, second)
        return jnp.minimum(worst, bound), None

    edges = jnp.linspace(-1, 1, num_slabs + 1, dtype=center.dtype)
    edges = jnp.stack([edges[:-1], edges[1:]], axis=1)
    start = jnp.full(pairs.constant.shape, jnp.inf, center.dtype)
    return jax.lax.scan(over, start, edges)[0]
