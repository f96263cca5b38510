"""`strongest` against the true minimum of P@k, by a grid over the ball."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, models, saliency, score, subject, threat

EPSILON, COUNT = 0.5, 100


@pytest.mark.slow
@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    ("n", "k", "points"), [(2, 1, 401), (3, 1, 81), (3, 2, 81)], ids=str
)
def test_strongest_finds_the_true_minimum_on_small_networks(n, k, points):
    model = models.MLP(hidden=(16,), activation="tanh")
    params = model.init(jax.random.key(n), jnp.zeros(n))
    params = jax.tree.map(lambda leaf: 2.0 * leaf, params)
    x = 0.7 * jax.random.normal(jax.random.key(1), (COUNT, n))
    attack = attacks.attack("strongest", k=k)
    ball = threat.threat_model("l2", EPSILON)
    result = attack(subject(model, params), x, ball, key=jax.random.key(2))
    axis = np.linspace(-EPSILON, EPSILON, points)
    grid = np.stack(np.meshgrid(*[axis] * n), axis=-1).reshape(-1, n)
    grid = jnp.asarray(grid[np.linalg.norm(grid, axis=1) <= EPSILON], jnp.float32)
    explain = saliency.gradient(score.log_odds(model.apply))
    maps = jax.jit(jax.vmap(lambda point: explain(params, point, 1)))

    def top(points):
        return np.argsort(-np.asarray(maps(points)), axis=1, kind="stable")[:, :k]

    lowest = [np.isin(top(p + grid), top(p[None])[0]).mean(axis=1).min() for p in x]
    assert 0 < np.mean(lowest) < 0.95  # there is something to find
    reached = np.asarray(result.best.precision) <= np.array(lowest) + 1e-6
    assert reached.mean() >= 0.98
