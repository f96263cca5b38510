"""Certified radii by bisection, against models whose radii are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models, subject, threat_model
from r2et_jax.certificates import batch, certified_radii, certify
from r2et_jax.threat.definition import with_epsilon

N, K = 5, 2
X = np.random.default_rng(0).normal(size=(6, N)).astype(np.float32)
A = np.array([1.0, -2.0, 0.5, 1.5, -1.0], np.float32)


def quadratic(params, x):
    return jnp.sum(params * x**2)[None] / 2


def kept_up_to(x, norm):
    """Of z = Σ a_i x_i²/2, g = a ⊙ x: where hyperplanes a_i x_i = ±a_j x_j are met."""
    g, a = np.abs(A * x), A.astype(float)
    size = np.hypot if norm == "l2" else lambda p, q: np.abs(p) + np.abs(q)
    top = np.argsort(-g, kind="stable")[:K]
    radii = []
    for i in top:
        pairs = [(g[i] - g[j]) / size(a[i], a[j]) for j in range(N) if j != i]
        radii.append(max(np.sort(pairs)[::-1][N - K - 1], 0))
    return np.array(radii), top


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_those_of_a_quadratic_are_distances_to_hyperplanes(norm):
    largest, steps = 0.5, 12
    certified = certified_radii(
        subject(quadratic, A), X, threat_model(norm), k=K, largest=largest,
        num_steps=steps,
    )  # fmt: skip
    inside = 0
    for i, x in enumerate(X):
        radii, top = kept_up_to(x, norm)
        np.testing.assert_array_equal(certified.features[i], top)
        least = np.minimum(radii, largest) - largest * 2.0**-steps
        assert (certified.feature_radii[i] <= radii + 1e-6).all()
        assert (certified.feature_radii[i] >= least - 1e-5).all()
        inside += (radii < largest).sum()
    assert 0 < inside < X.size  # the limit, and radii below it
    np.testing.assert_array_equal(certified.radius, certified.feature_radii.min(axis=1))


def test_one_program_serves_all_radii_and_limits(compilations):
    examined = subject(quadratic, A)
    options = {"k": K, "num_steps": 12}
    threat = threat_model("l2")
    certified_radii(examined, X, threat, largest=0.5, **options)
    before = compilations()
    near = certified_radii(examined, X, threat, largest=0.01, **options)
    other = with_epsilon(threat, 7.0)
    again = certified_radii(examined, X, other, largest=0.01, **options)
    assert compilations() == before
    np.testing.assert_array_equal(near.feature_radii, again.feature_radii)
    assert near.feature_radii.max() == np.float32(0.01)


def test_a_linear_model_is_certified_to_the_limit():
    model = models.Linear()
    params = model.init(jax.random.key(0), X[0])
    certified = certified_radii(
        subject(model, params), X, threat_model("l2"), k=K, largest=1e3, num_steps=4
    )
    assert (certified.feature_radii == 1e3).all() and (certified.radius == 1e3).all()


def test_the_certificate_holds_at_the_radius_and_not_beyond():
    model = models.MLP(hidden=(6,), activation="softplus")
    examined = subject(model, model.init(jax.random.key(1), X[0]))
    threat, options = threat_model("l2"), {"k": K, "num_slabs": 2}
    steps, largest = 10, 2.0
    certified = certified_radii(
        examined, X, threat, largest=largest, num_steps=steps, **options
    )
    seen = set()
    for share, holds in ((1.0, True), (1.02, False)):
        for i in range(len(X)):
            for f in range(K):
                radius = certified.feature_radii[i, f]
                if 0.1 < radius < largest:
                    at = with_epsilon(threat, float(share * radius))
                    made = certify(examined, X, at, **options)
                    assert made.kept[i, f] == holds
                    seen.add(holds)
    assert seen == {True, False}


def test_a_certificate_that_rises_again_counts(monkeypatch):
    """Intervals stay in order where a larger ball has the better bounds."""

    def certify_one(params, x, threat):
        at = threat.epsilon
        kept = jnp.stack([(at < 0.2) | (at > 0.6), at < 0.9])
        return batch.Certificate(x[0], jnp.arange(K), kept, x, jnp.array(True))

    monkeypatch.setattr(batch, "_certificate", lambda *args: certify_one)
    run = batch._searching.__wrapped__(None, None, None, K, 1, 10, 64, "some")
    shared = (), threat_model("l2"), np.float32(1.0)
    radii = run(shared, (X, None))[0].feature_radii
    np.testing.assert_allclose(radii, [[1.0, 0.9]] * len(X), atol=2e-3)


def test_what_is_out_of_range_is_named():
    made = subject(quadratic, A)
    for options, match in (
        ({"largest": 0.0}, "largest must be positive"),
        ({"num_steps": 0}, "num_steps"),
        ({"k": N}, "k must lie"),
    ):
        with pytest.raises(ValueError, match=match):
            certified_radii(
                made, X, threat_model("l2"), **{"k": K, "largest": 1.0} | options
            )
