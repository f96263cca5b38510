"""Smooth models under `strongest`: a known optimum, and an attacker of another hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

EPSILON = 1.0
N, UNITS, K, RHO, M = 14, 24, 5, 5.0, 32
RNG = np.random.default_rng(5)
WEIGHT = RNG.normal(size=(N, UNITS)) / np.sqrt(N) * 1.6
BIAS, OUT = 0.5 * RNG.normal(size=UNITS), RNG.normal(size=UNITS)
X = RNG.normal(size=(M, N)).astype(np.float32)
PARAMS = tuple(jnp.asarray(part, jnp.float32) for part in (WEIGHT, BIAS, OUT))


def net(params, x, /):
    weight, bias, out = params
    return (jax.nn.softplus(RHO * (x @ weight + bias)) @ out / RHO)[None]


def strongest(apply, params, x, k, evaluations, keys=1):
    members = default_ensemble(Form(apply), k=k, num_steps=30, evaluations=evaluations)
    run = compile_strongest(members, evaluations=evaluations)
    threat = threat_model("l2", EPSILON)
    return members, *(
        run(params, x, threat, key=jax.random.key(i)) for i in range(keys)
    )


@pytest.fixture(scope="module")
def smooth():
    return strongest(net, PARAMS, X, K, 3300, keys=3)


def gradient(points):
    """Signed gradients [..., n] and what their derivatives take, float64."""
    soft = 1 / (1 + np.exp(-RHO * (points @ WEIGHT + BIAS)))
    return (soft * OUT) @ WEIGHT.T, RHO * soft * (1 - soft) * OUT


def outsider(runs=120, steps=50, rounds=6):
    """Momentum on a sharp energy in NumPy; half of later runs are basin hops."""
    rng = np.random.default_rng(0)
    clean = np.abs(gradient(X.astype(float))[0])
    sign = np.where(np.argsort(np.argsort(-clean, axis=1), axis=1) < K, 1.0, -1.0)
    sign = sign[:, None]
    lowest, best = np.full(M, K), np.zeros((M, 1, N))

    def unit(v):
        return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-30)

    def inside(d):
        length = np.linalg.norm(d, axis=-1, keepdims=True)
        return d * np.minimum(1, EPSILON / np.maximum(length, 1e-30))

    for turn in range(rounds):
        d = EPSILON * unit(rng.normal(size=(M, runs, N)))
        if turn:
            hops = best + d[:, ::2] * rng.uniform(size=(M, (runs + 1) // 2, 1))
            d[:, ::2] = inside(hops)
        weight = sign * np.exp(0.6 * rng.normal(size=d.shape))
        width = rng.uniform(0.02, 0.05, size=(M, runs, 1))
        average = np.zeros_like(d)
        for step in range(steps):
            g, slope = gradient(X[:, None] + d)
            size = np.abs(g)
            ranked = -np.sort(-size, axis=-1)
            border = (ranked[..., K - 1 : K] + ranked[..., K : K + 1]) / 2
            kept = ((size > border) & (sign > 0)).sum(axis=-1)
            now = kept.min(axis=1)
            at = kept.argmin(axis=1)
            better = now < lowest
            best[better, 0] = d[np.arange(M), at][better]
            lowest = np.minimum(lowest, now)
            soft = 0.5 * (1 + np.tanh((size / border - 1) / width / 2))
            pull = weight * soft * (1 - soft) / border / width * np.sign(g)
            average = 0.8 * average + 0.2 * unit((pull @ WEIGHT * slope) @ WEIGHT.T)
            d = inside(d - 0.3 * EPSILON * (1 - step / steps) * unit(average))
    return lowest / K


def test_an_attacker_of_another_hand_gains_little_by_ten_times_the_effort(smooth):
    theirs = outsider().mean()
    assert theirs < 0.7
    # Members of one sharpness each, as they once were, left .015 more.
    ours = np.mean([attacked.best.precision for attacked in smooth[1:]])
    assert ours - theirs < 0.01


def test_members_run_on_the_models_that_they_suit(smooth):
    members, attacked, *_ = smooth
    assert {member.suited for member in members} == {"all", "cells", "many_kinks"}
    assert attacked.details.left_out == ()
    ran = (attacked.details.member_precision < 1).any(axis=1)
    for member, did in zip(members, ran, strict=True):
        if member.name != "random":
            assert did == (member.suited == "all"), member.name


@pytest.mark.standard_promotion  # Optax's schedules divide an integer
def test_the_optimum_is_found_where_it_is_known():
    """u = Σ aᵢxᵢ²/2: gradients move by themselves, and sets of them in closed form."""
    rng = np.random.default_rng(2)
    n, k, m = 8, 3, 24
    a = rng.uniform(0.5, 2.0, size=n).astype(np.float32)
    x = rng.normal(size=(m, n)).astype(np.float32)
    _, attacked = strongest(lambda a, x: jnp.sum(a * x**2 / 2)[None], a, x, k, 16_000)
    size = np.abs(a * x).astype(float)
    level = np.linspace(0, size.max(), 2001)
    up = (np.maximum(level[:, None, None] - size, 0) / a) ** 2
    down = (np.maximum(size - level[:, None, None], 0) / a) ** 2
    least = np.full((m, k + 1), np.inf)
    clean = np.argsort(-size, axis=1)[:, :k]
    for top in itertools.combinations(range(n), k):
        inside = np.isin(np.arange(n), top)
        distance = np.sqrt(np.where(inside, up, down).sum(axis=-1).min(axis=0))
        left = inside[clean].sum(axis=1)
        least[np.arange(m), left] = np.minimum(least[np.arange(m), left], distance)
    # Inputs of which the ball neither just reaches a set nor just misses it: a set that
    # needs .94 of the budget is missed for one key in four.
    margin = np.abs(least / EPSILON - 1).min(axis=1)
    expected = (least < EPSILON).argmax(axis=1) / k
    assert 0.2 < expected.mean() < 0.8
    missed = np.abs(attacked.best.precision - expected) > 1e-6
    assert (margin > 0.07).sum() >= 15 and not missed[margin > 0.07].any()
    assert (margin > 0.02).sum() >= 20 and missed[margin > 0.02].sum() <= 1
