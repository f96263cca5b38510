"""Steps that the host drives against the scanned ones, and which form is chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks import goals, optimizers, stepwise
from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model

SIDE, K, M = 4, 3, 5


def convolved(params, x, /):
    """A logit through a convolution, shifted by the example's context."""
    (kernel, last), shift = params
    image = x.reshape(1, 1, SIDE, SIDE)
    hidden = jnp.tanh(jax.lax.conv(image, kernel, (1, 1), "VALID"))
    return last @ hidden.ravel() + shift


def dense(params, x, /):
    (_, last), shift = params
    return last @ jnp.tanh(jnp.tile(x, 2)[:18] * 2) + shift


def parameters(dtype=jnp.float64):
    rng = np.random.default_rng(0)
    kernel, last = rng.normal(size=(2, 1, 2, 2)), rng.normal(size=(1, 18))
    return jnp.asarray(kernel, dtype), jnp.asarray(last, dtype)


def inputs():
    rng = np.random.default_rng(1)
    return rng.normal(size=(M, SIDE**2)), rng.normal(size=(M, 1))


def descent(apply):
    return attacks.gradient_attack(
        apply,
        saliency.gradient(score.log_odds(apply)),
        goals.smooth_precision(temperature=0.5),
        k=K,
        optimizer=optimizers.steepest(0.2),
        random_start=0.5,
    )


def search(apply):
    return attacks.random_search(apply, saliency.gradient(score.log_odds(apply)), k=K)


def attacked_by_both(compiled, radius):
    """What a form that the host drives finds, equal to what the scanned one does."""
    x, context = inputs()
    budget = threat_model("l2", radius, lower=-4.0, prediction="same_class")
    driven, scanned = (
        compiled(batch_size=3, host_driven=host)(
            parameters(), x, budget, key=jax.random.key(3), context=context
        )
        for host in (True, False)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
        driven,
        scanned,
    )
    return driven


@pytest.mark.parametrize("build", [descent, search])
def test_steps_driven_from_the_host_find_what_the_scan_finds(build):
    with jax.enable_x64(True):
        compiled = functools.partial(
            attacks.compile_attack, build(convolved), num_steps=6, track_every=2
        )
        attacked = attacked_by_both(compiled, 0.9)
    assert attacked.details.precision.shape == (M, 3)
    assert attacked.best.precision.mean() < 1


@pytest.mark.standard_promotion  # Optax's schedules divide an integer
def test_the_ensemble_driven_from_the_host_finds_what_the_scan_finds():
    members = default_ensemble(Form(convolved), k=K)
    short = {"num_steps": 4, "track_every": 2}
    members = [
        member._replace(
            **short, restarts=1 if member.name == "random" else 2, suited="all"
        )
        for member in members
        if member.name in ("annealed", "annealed_narrow", "random")
    ]
    with jax.enable_x64(True):
        compiled = functools.partial(compile_strongest, members, evaluations=50)
        attacked = attacked_by_both(compiled, 0.6)
    assert (
        len(attacked.details.curve_evaluations) > len(members) + 1
    )  # a second round too
    assert 0 < attacked.best.precision.mean() < 1


def test_driven_steps_compile_once():
    traces = []

    def apply(params, x, /):
        traces.append(None)
        return convolved(params, x)

    run = attacks.compile_attack(descent(apply), num_steps=4, track_every=2)
    x, context = (leaf.astype(np.float32) for leaf in inputs())
    params = parameters(jnp.float32)
    run(params, x, threat_model("l2", 0.5), key=jax.random.key(0), context=context)
    before = len(traces)
    run(params, x, threat_model("l2", 1.0), key=jax.random.key(1), context=context + 1)
    assert len(traces) == before > 0


@pytest.mark.parametrize(
    ("apply", "backend", "form"),
    [
        (convolved, "cpu", "host"),
        (convolved, "gpu", "scan"),
        (dense, "cpu", "scan"),
    ],
)
def test_the_host_drives_convolutions_on_cpu(apply, backend, form, monkeypatch):
    forms = lambda *_: "scan", lambda *_: "host"
    shared = parameters(jnp.float32), None
    batched = jnp.ones((2, SIDE**2)), jnp.zeros((2, 1))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    run = stepwise.choose_form(*forms, apply)
    assert run(shared, batched) == form
    # It is not asked again.
    monkeypatch.setattr(stepwise, "_has_convolution", None)
    assert run(shared, batched) == form
    forced = stepwise.choose_form(*forms, apply, host_driven=True)
    assert forced(shared, batched) == "host"
