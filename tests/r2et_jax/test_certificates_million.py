"""10⁶ random and attacked points over all families of models and both norms.

Each point is held against every lower bound of |φ_i| − |φ_j| that a certificate gave,
and against the features that it keeps.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saliency, score
from r2et_jax.certificates import certify
from r2et_jax.models import GCN, MLP, Siamese, SkipMLP, pair_apply
from r2et_jax.subject import subject
from r2et_jax.threat import project, sample, threat_model
from r2et_jax.threat.geometry import sample_boundary

pytestmark = [pytest.mark.slow, pytest.mark.standard_promotion]

POINTS = 10**6
INPUTS, STEPS = 10, 16
BUDGETS = {"l2": (0.03, 0.2), "linf": (0.01, 0.06)}
REGIONS = 5


class Convolution(nn.Module):
    """A small network of flat images [36], with a pooling of either kind."""

    pooling: str
    act: callable

    @nn.compact
    def __call__(self, x):
        x = self.act(nn.Conv(3, (3, 3), padding="VALID")(x.reshape(6, 6, 1)))
        pool = nn.max_pool if self.pooling == "max" else nn.avg_pool
        x = pool(x, (2, 2), (2, 2)).reshape(-1)
        return nn.Dense(1)(self.act(nn.Dense(5)(x)))


class Attention(nn.Module):
    """Three tokens of two features, one head, softmax."""

    @nn.compact
    def __call__(self, x):
        tokens = x.reshape(3, 2)
        q, k, v = (nn.Dense(3, name=n)(tokens) for n in ("q", "k", "v"))
        weights = jax.nn.softmax(q @ k.T / np.sqrt(3))
        return nn.Dense(1)((weights @ v).mean(axis=0))


INTEGRATED = functools.partial(saliency.integrated_gradients, num_points=3)
# Name -> (module, features, k, explainer).
FAMILIES = {
    "relu": (MLP((8,), activation="relu"), 7, 3, saliency.gradient),
    "leaky": (MLP((8,), activation="leaky_relu"), 7, 3, saliency.gradient),
    "softplus": (MLP((8,), activation="softplus"), 7, 3, saliency.gradient),
    "skip": (SkipMLP((8,), activation="tanh"), 7, 3, saliency.gradient),
    "two_gelu": (MLP((8, 6), activation="gelu"), 7, 3, saliency.gradient),
    "two_relu": (MLP((8, 6), activation="relu"), 7, 3, saliency.gradient),
    "three": (MLP((6, 6, 5), activation="softplus"), 7, 3, saliency.gradient),
    "classes": (MLP((8,), 3, activation="silu"), 7, 3, saliency.gradient),
    "integrated": (MLP((7, 5), activation="softplus"), 6, 2, INTEGRATED),
    "average": (Convolution("average", nn.softplus), 36, 6, saliency.gradient),
    "max": (Convolution("max", nn.relu), 36, 6, saliency.gradient),
    "attention": (Attention(), 6, 2, saliency.gradient),
    "graphs": (
        Siamese(GCN(REGIONS, hidden=(4, 3), activation="softplus"), centered=True),
        REGIONS * (REGIONS - 1) // 2,
        3,
        saliency.gradient_times_input,
    ),
}
CASES = [(name, norm) for name in FAMILIES for norm in BUDGETS]
EACH = -(-POINTS // (len(CASES) * INPUTS * len(BUDGETS["l2"])))


@functools.cache
def built(name):
    """The subject of a family and inputs [INPUTS, n]."""
    model, n, _, explainer = FAMILIES[name]
    rng = np.random.default_rng(len(name))
    x = rng.normal(size=(INPUTS, n)).astype(np.float32)
    if name != "graphs":
        params = model.init(jax.random.key(1), x[0])
        # Larger than at the start, so that gradients change within the ball.
        params = jax.tree.map(lambda w: 1.5 * w, params)
        return subject(model, params, explainer=explainer), x
    x = np.tanh(x)
    partners = np.tanh(rng.normal(size=x.shape)).astype(np.float32)
    params = model.init(jax.random.key(1), np.stack([x[0], partners[0]]))
    return subject(pair_apply(model), params, explainer=explainer, context=partners), x


def hunted(explain, params, x, threat, key):
    """Points [EACH, n] of the ball: draws, its border, and descents of gaps."""
    descents = max(EACH // (4 * STEPS), 1)
    drawn = EACH - descents * STEPS
    first_key, second_key, third_key = jax.random.split(key, 3)
    inside = jax.vmap(lambda key: sample(threat, x, key=key))(
        jax.random.split(first_key, drawn // 2)
    )
    border = jax.vmap(lambda key: sample_boundary(threat, x, key=key))(
        jax.random.split(second_key, drawn - drawn // 2)
    )
    target = score.predicted_class(explain.apply(params, x))

    def values(moved):
        return explain.values(params, moved, target)

    # Pairs of the border first: the i-th weakest of the top with the j-th outside.
    order = jnp.argsort(-jnp.abs(values(x)))

    def descent(number):
        i = order[jnp.maximum(explain.k - 1 - number % explain.k, 0)]
        j = order[explain.k + (number // explain.k) % (x.size - explain.k)]

        def gap(moved):
            explained = jnp.abs(values(moved))
            return explained[i] - explained[j]

        def step(moved, _):
            slope = jax.grad(gap)(moved)
            length = jnp.linalg.norm(slope)
            toward = jnp.where(length > 0, slope / jnp.where(length > 0, length, 1), 0)
            if threat.norm == "linf":
                toward = jnp.sign(slope)
            moved = project(threat, moved - 0.3 * threat.epsilon * toward, x)
            return moved, moved

        start = sample(threat, x, key=jax.random.fold_in(third_key, number))
        return jax.lax.scan(step, start, None, length=STEPS)[1]

    paths = jax.vmap(descent)(jnp.arange(descents)).reshape(-1, x.size)
    tried = jnp.concatenate([inside, border, paths])
    return jnp.abs(jax.vmap(values)(tried))


class Explained:
    """The signed explanation of a family's log-odds."""

    def __init__(self, name):
        self.model, _, self.k, explainer = FAMILIES[name]
        self.apply = built(name)[0].apply
        log_odds = score.log_odds(self.apply)
        gradient = jax.grad(log_odds, argnums=1)
        self.values = gradient
        if explainer is saliency.gradient_times_input:
            self.values = lambda params, x, target: gradient(params, x, target) * x
        elif explainer is INTEGRATED:
            self.values = explainer(log_odds, signed=True)


@functools.cache
def maps_of(name, norm, epsilon):
    """|φ| at the points of every input [INPUTS, EACH, n]."""
    examined, x = built(name)
    explain, threat = Explained(name), threat_model(norm, epsilon)

    def map_of(x, context, key):
        params = examined.params if context is None else (examined.params, context)
        return hunted(explain, params, x, threat, key)

    keys = jax.random.split(jax.random.key(2), INPUTS)
    return np.asarray(jax.jit(jax.vmap(map_of))(x, examined.context, keys), np.float64)


def broken(maps, features, kept, separation):
    """Gaps below their bound, and kept features that left the top set."""
    below = left = 0
    for size, top, stays, least in zip(maps, features, kept, separation, strict=True):
        gaps = size[:, top, None] - size[:, None, :]
        others = np.arange(size.shape[1]) != top[:, None]
        below += int(((gaps < least) & others).sum())
        larger = (size[:, None, :] > size[:, top, None]).sum(axis=2)
        left += int(((larger >= len(top)) & stays).sum())
    return below, left


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_no_point_is_below_a_bound(name, norm):
    examined, x = built(name)
    certified, count = [], 0
    for epsilon in BUDGETS[norm]:
        certificate = certify(
            examined, x, threat_model(norm, epsilon), k=FAMILIES[name][2], batch_size=4
        )
        maps = maps_of(name, norm, epsilon)
        assert np.isfinite(maps).all() and certificate.matches.all()
        count += maps.shape[0] * maps.shape[1]
        assert broken(
            maps, certificate.features, certificate.kept, certificate.separation
        ) == (0, 0)
        certified.append(certificate.precision.mean())
    assert count * len(CASES) >= POINTS
    assert certified[0] > 0.1 and certified[1] <= certified[0]


@pytest.mark.parametrize("norm", BUDGETS)
def test_the_same_points_are_below_a_bound_of_the_slope_at_the_input_alone(norm):
    """Signs and curvature frozen at x: |gap| − ε‖∇gap‖."""
    examined, x = built("two_gelu")
    explain, epsilon = Explained("two_gelu"), BUDGETS[norm][1]
    order = 1 if norm == "linf" else 2

    @jax.vmap
    def frozen(x):
        target = score.predicted_class(explain.apply(examined.params, x))

        def size(moved):
            return jnp.abs(explain.values(examined.params, moved, target))

        features = jnp.argsort(-size(x))[: explain.k]
        rows = jax.jacobian(size)(x)
        slopes = jnp.linalg.norm(rows[features, None] - rows, ord=order, axis=-1)
        gaps = size(x)[features, None] - size(x) - epsilon * slopes
        kept = (gaps > 0).sum(axis=1) >= x.size - explain.k
        return features, kept, gaps

    maps = maps_of("two_gelu", norm, epsilon)
    below, left = broken(maps, *map(np.asarray, frozen(x)))
    assert below > 100
