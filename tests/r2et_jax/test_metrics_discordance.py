"""Discordant pairs against a loop over pairs and SciPy's Kendall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from r2et_jax.metrics.discordance import discordance

P = 7
levels = arrays.arrays(np.float32, P, elements=st.integers(0, 4).map(float))
COMPILED = jax.jit(discordance)


@given(levels, levels, arrays.arrays(bool, (P, P)))
def test_a_loop_over_pairs_counts_the_same(distance, likeness, pairs):
    pairs = pairs | pairs.T
    compared = misled = untied = 0
    for i in range(P):
        for j in range(i + 1, P):
            if pairs[i, j]:
                signs = np.sign(distance[i] - distance[j]) * np.sign(
                    likeness[i] - likeness[j]
                )
                compared += 1
                untied += signs != 0
                misled += signs > 0
    shares = COMPILED(distance, likeness, pairs=pairs)
    expected = misled / untied if untied else np.nan
    np.testing.assert_allclose(shares.discordant, expected, rtol=1e-6)
    expected = 1 - untied / compared if compared else np.nan
    np.testing.assert_allclose(shares.tied, expected, rtol=1e-5, atol=1e-7)


@given(st.permutations(range(P)), st.permutations(range(P)))
def test_without_ties_it_is_kendalls_tau(distance, likeness):
    distance, likeness = (np.array(v, np.float32) for v in (distance, likeness))
    shares = COMPILED(distance, likeness, pairs=np.ones((P, P), bool))
    tau = stats.kendalltau(distance, likeness).statistic
    np.testing.assert_allclose(shares.discordant, (1 + tau) / 2, atol=1e-6)
    assert shares.tied == 0


def test_extremes_and_what_has_no_order():
    distance = jnp.array([0.1, 0.2, 0.3])
    told = discordance(distance, -distance)
    assert (told.discordant, told.tied) == (0, 0)
    assert discordance(distance, distance).discordant == 1
    equal = discordance(distance, jnp.ones(3))
    assert jnp.isnan(equal.discordant) and equal.tied == 1
    broken = discordance(distance, jnp.array([1.0, jnp.nan, 0.0]))
    assert jnp.isnan(broken.discordant) and jnp.isnan(broken.tied)


@pytest.mark.parametrize(
    "likeness, pairs", [(jnp.ones(4), None), (jnp.ones(3), np.ones((2, 2), bool))]
)
def test_shapes_must_fit(likeness, pairs):
    with pytest.raises(ValueError, match="shape"):
        discordance(jnp.ones(3), likeness, pairs=pairs)
