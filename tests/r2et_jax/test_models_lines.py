"""Lines around φ′ against a fine scan of automatic derivatives, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.models import activations
from r2et_jax.models.activations import activation
from r2et_jax.models.lines import slope_lines

SOFTPLUS = ("softplus", "leaky_softplus")


@pytest.mark.parametrize("rho", [0.7, 5.0])
@pytest.mark.parametrize("name", SOFTPLUS)
def test_lines_touch_the_slope_and_never_cross_it(name, rho):
    rng = np.random.default_rng(0)
    low = np.concatenate([rng.uniform(-6, 3, 60), [-2.0, 0.0, 1.0, -40.0, 30.0]])
    width = np.concatenate([rng.exponential(1.5, 60), [4.0, 0.0, 1e-9, 80.0, 9.0]])
    origin = low + rng.uniform(size=65) * width
    t = low + np.linspace(0, 1, 4001)[:, None] * width
    with jax.enable_x64(True):
        phi = activation(name, rho=rho)
        slopes = np.asarray(jax.vmap(jax.vmap(jax.grad(phi)))(jnp.asarray(t)))
        lines = slope_lines(name, rho=rho)(
            *(jnp.asarray(v) for v in (low, low + width, origin))
        )
    m, smallest, largest = map(np.asarray, lines)
    left = slopes - m * (t - origin)
    assert np.all(smallest <= left + 1e-12) and np.all(largest >= left - 1e-12)
    # The scan misses an extreme by its step squared at most.
    np.testing.assert_allclose(smallest, left.min(axis=0), atol=2e-4)
    np.testing.assert_allclose(largest, left.max(axis=0), atol=2e-4)
    chord = (slopes[-1] - slopes[0])[width > 1e-3] / width[width > 1e-3]
    np.testing.assert_allclose(m[width > 1e-3], chord, atol=1e-12)


def test_lines_of_float32_keep_their_place():
    low, width = np.float32(-3), np.float32(2.5)
    lines = slope_lines("softplus", rho=5.0)
    narrow = lines(*(jnp.float32(v) for v in (low, low + width, low)))
    with jax.enable_x64(True):
        wide = lines(*(jnp.float64(v) for v in (low, low + width, low)))
    np.testing.assert_allclose(narrow, wide, atol=1e-6)


def test_only_the_softplus_forms_have_lines():
    for name in set(activations.NAMES) - set(SOFTPLUS):
        assert slope_lines(name) is None
    with pytest.raises(ValueError, match="sofplus"):
        slope_lines("sofplus")
    with pytest.raises(ValueError, match="rho"):
        slope_lines("softplus", rho=0.0)
