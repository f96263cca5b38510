"""Exact-H and SSR against dense linear algebra, in float64, kinked and smooth."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models, score
from r2et_jax.objectives import curvature_penalties

# Relative error in float64 that counts as rounding.
TOLERANCE = 1e-13
SHAPES = (((24,), 1), ((24,), 4), ((16, 12), 1), ((16, 12), 4))
ACTIVATIONS = ("leaky_relu", "softplus")


def dense_errors(
    activation: str,
    hidden: Sequence[int],
    num_outputs: int,
    *,
    num_features: int = 12,
    num_inputs: int = 20,
) -> dict[str, float]:
    """Largest relative error of each penalty against NumPy on the dense Hessian.

    Random networks and inputs, all in float64; the class is the predicted one.

    Returns:
      `exact_h` against the Frobenius norm; `ssr` against the largest |eigenvalue|,
      for a smooth network by as many Lanczos steps as there are features.
    """
    with jax.enable_x64(True):
        model = models.MLP(
            hidden=tuple(hidden), num_outputs=num_outputs, activation=activation
        )
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(num_inputs, num_features)))
        params = model.init(jax.random.key(0), jnp.zeros(num_features, jnp.float32))
        # Biases too: the kinks then lie apart from the origin.
        params = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape)), params)
        params = jax.tree.map(lambda w: w / np.sqrt(w.shape[0]), params)
        target = jax.vmap(lambda x: score.predicted_class(model.apply(params, x)))(x)
        hessian = jax.jit(
            jax.vmap(
                jax.hessian(score.probability(model.apply), argnums=1), (None, 0, 0)
            )
        )
        dense = np.asarray(hessian(params, x, target))
        penalties = {
            "exact_h": curvature_penalties.frobenius_curvature(model.apply),
            "ssr": curvature_penalties.spectral_curvature(
                model.apply, num_steps=num_features
            ),
        }
        truth = {
            "exact_h": np.linalg.norm(dense, axis=(1, 2)),
            "ssr": np.abs(np.linalg.eigvalsh(dense)).max(axis=1),
        }
        errors = {}
        for name, expected in truth.items():
            penalty = penalties[name]
            run = jax.jit(jax.vmap(penalty, (None, 0, 0)))
            value = np.asarray(run(params, x, target))
            errors[name] = float(np.max(np.abs(value - expected) / expected))
    return errors


@pytest.mark.parametrize(
    ("activation", "hidden", "num_outputs"),
    [("leaky_relu", (6, 5), 3), ("softplus", (6,), 1)],
)
def test_small_networks_agree_with_the_dense_hessian(activation, hidden, num_outputs):
    errors = dense_errors(activation, hidden, num_outputs, num_features=5, num_inputs=4)
    assert set(errors) == {"exact_h", "ssr"}
    assert 0 <= max(errors.values()) <= TOLERANCE


def test_a_wrong_curvature_penalty_is_found(monkeypatch):
    """One Lanczos step is an estimate from below, and the error says so."""
    right = curvature_penalties.spectral_curvature
    monkeypatch.setattr(
        curvature_penalties,
        "spectral_curvature",
        lambda apply, num_steps: right(apply, num_steps=1),
    )
    errors = dense_errors("softplus", (6,), 1, num_features=5, num_inputs=4)
    assert errors["exact_h"] <= TOLERANCE < 1e-3 < errors["ssr"]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "num_outputs"), SHAPES)
def test_penalties_agree_with_the_dense_hessian(activation, hidden, num_outputs):
    errors = dense_errors(activation, hidden, num_outputs)
    assert set(errors) == {"exact_h", "ssr"}
    assert 0 <= max(errors.values()) <= TOLERANCE
