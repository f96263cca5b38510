"""Whose top set is attacked, and which part of a gradient moves an input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.models import MLP
from r2et_jax.subject import Form
from r2et_jax.threat import threat_model
from r2et_jax.threat.geometry import admissible_gradient

N, K = 6, 2


def model(params, x, /):
    """|g| = (6, 5, 4, 3, 2, 1): features 0 and 1 are on top."""
    return (params @ x + 0.1 * jnp.sum(x**2))[None]


def stand_in(params, x, /):
    """The same with the order turned round: 5 and 4 are on top."""
    return model(params[::-1], x)


PARAMS = jnp.arange(N, 0, -1.0)
GOALS = {
    "mean_gap": attacks.goals.mean_gap(),
    "smallest_pairs": attacks.goals.smallest_pairs(k_prime=1),
    "smooth_precision": attacks.goals.smooth_precision(temperature=3.0),
    "exponential_gap": attacks.goals.exponential_gap(),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("goal", GOALS)
def test_the_features_that_a_goal_pushes_are_the_models(goal):
    """Through a stand-in with another top set; s = ½·.2‖x‖², so ∇I_i is along e_i."""
    attack = attacks.gradient_attack(
        model,
        saliency.gradient(score.log_odds(model)),
        GOALS[goal],
        k=K,
        optimizer=attacks.optimizers.steepest(0.1),
        attack_saliency=saliency.gradient(score.log_odds(stand_in), normalize=False),
    )

    @jax.jit
    def one_step(x, key):
        context, state = attack.init(PARAMS, x, jnp.int32(1), threat_model(), key=key)
        return attack.step(PARAMS, context, state).perturbed

    moved = np.asarray(one_step(np.zeros(N, np.float32), jax.random.key(0)))
    assert (moved[:K] <= 1e-7).all() and moved[:K].min() < -1e-3
    assert (moved[K:] >= -1e-7).all() and moved[K:].max() > 1e-3


def test_mse_compares_the_map_that_it_differentiates():
    attack = attacks.gradient_attack(
        model,
        saliency.gradient(score.log_odds(model)),
        attacks.goals.mse(),
        k=K,
        optimizer=attacks.optimizers.steepest(0.1),
        attack_saliency=saliency.gradient(score.log_odds(stand_in), normalize=False),
    )

    @jax.jit
    def reference(x, key):
        context, _ = attack.init(PARAMS, x, jnp.int32(1), threat_model(), key=key)
        return context.reference

    compared = reference(np.zeros(N, np.float32), jax.random.key(0))
    np.testing.assert_allclose(compared, PARAMS[::-1], rtol=1e-5)


FROZEN, HEAVY = range(6, 10), 30.0


@pytest.fixture(scope="module")
def heavy():
    """A softplus net, four frozen columns of which carry weights of 30."""
    net = MLP(hidden=(16,), activation="softplus", rho=1.0)
    x = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    params = net.init(jax.random.key(0), x[0])
    kernel = params["params"]["Dense_0"]["kernel"]
    params["params"]["Dense_0"]["kernel"] = kernel.at[6:].multiply(HEAVY)
    return net, params, x.astype(np.float32)


@pytest.mark.parametrize("constrained", [False, True])
def test_frozen_features_shorten_no_step(heavy, constrained):
    net, params, x = heavy
    explain = saliency.gradient(score.log_odds(net.apply))
    make, options = attacks.gradient_attack, {}
    if constrained:
        make, options = attacks.constrained_attack, {"weighting": "unconstrained"}
    attack = make(
        net.apply,
        explain,
        attacks.goals.mean_gap(),
        k=3,
        optimizer=attacks.optimizers.steepest(0.01),
        **options,
    )
    threat = threat_model("l2", 1.0, frozen=FROZEN, num_features=10)
    params_, at = params, jnp.asarray(x[0])
    key = jax.random.key(0)
    context, state = jax.jit(attack.init)(params_, at, jnp.int32(1), threat, key=key)
    after = jax.jit(attack.step)(params_, context, state)
    moved = np.asarray(after.perturbed - state.perturbed)
    np.testing.assert_array_equal(moved[6:], 0)
    np.testing.assert_allclose(np.linalg.norm(moved), 0.01, rtol=1e-3)


@pytest.mark.standard_promotion
def test_a_gradient_on_frozen_features_alone_has_vanished():
    def first(params, x, /):
        return (params @ x + 0.1 * x[0] ** 2)[None]

    attack = attacks.gradient_attack(
        first,
        saliency.gradient(score.log_odds(first)),
        attacks.goals.mean_gap(),
        k=K,
        optimizer=attacks.optimizers.steepest(0.1),
    )
    for frozen, expected in (((0,), 1), ((1,), 0)):
        threat = threat_model("l2", 1.0, frozen=frozen, num_features=N)
        context, state = attack.init(
            PARAMS, jnp.zeros(N), jnp.int32(1), threat, key=jax.random.key(0)
        )
        assert attack.step(PARAMS, context, state).num_vanished == expected


def tangent_descent(gradient, falls, rises, group):
    """The nearest direction to −∇ along which x can move, over all faces of its cone.

    On each face some features rest; the others go down −∇, those of the group less
    their mean. The nearest of the faces whose signs are allowed is the projection.
    """
    n, best, nearest = len(gradient), None, np.inf
    for moves in itertools.product([False, True], repeat=n):
        moves = np.array(moves)
        direction = np.where(moves, -gradient, 0)
        members = moves & np.isin(np.arange(n), group)
        if members.any():
            direction[members] -= direction[members].mean()
        allowed = np.where(direction < 0, falls, rises | (direction == 0))
        distance = np.sum((direction + gradient) ** 2)
        if allowed.all() and distance < nearest:
            best, nearest = direction, distance
    return best


@jax.jit
def _admissible(threat, x, gradient):
    return admissible_gradient(threat, x, x, gradient)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("group", [(), (2, 3, 4)])
@pytest.mark.parametrize("frozen", [(), (0, 5), (2, 3, 4)])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_admissible_part_is_the_projection_on_what_can_move(
    seed, group, frozen, boxed
):
    rng = np.random.default_rng(seed)
    low, high = np.zeros(N), np.full(N, 1.0 if boxed or not group else np.inf)
    x = rng.choice([0.0, 0.4, 1.0], N)
    if group:
        # One hot, or soft and partly at bounds of its own.
        levels = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]][seed % 2]
        x[list(group)] = rng.permutation([0.1, 0.2, 0.7] if boxed else levels)
        if boxed:
            low[list(group)] = rng.choice([0.0, 0.1, 0.2], 3)
            high[list(group)] = rng.choice([0.7, 1.0], 3)
            low, high = np.minimum(low, x), np.maximum(high, x)
    gradient = rng.normal(size=N)
    movable = ~np.isin(np.arange(N), frozen)
    with jax.enable_x64(True):
        threat = threat_model(
            "l2", 1.0, lower=low, upper=high if np.isfinite(high).all() else None,
            groups=[group] if group else [], group_rule="simplex", frozen=frozen,
            num_features=N,
        )  # fmt: skip
        got = -_admissible(threat, x, gradient)
    falls, rises = movable & (x > low), movable & (x < high)
    expected = tangent_descent(gradient, falls, rises, group)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    if group:
        assert abs(np.sum(np.asarray(got)[list(group)])) < 1e-9


def test_a_kinked_net_needs_no_stand_in_to_be_given():
    """By itself, or as its own stand-in: the one read from its program is taken."""
    net = MLP(hidden=(24,), num_outputs=3, activation="relu")
    x = np.random.default_rng(3).normal(size=(24, 8)).astype(np.float32)
    params = jax.tree.map(lambda w: 2 * w, net.init(jax.random.key(0), x[0]))
    kept = {}
    for name, surrogate in {
        "none": None,
        "itself": net.apply,
        "written": net.surrogate(rho=3.0).apply,
    }.items():
        form = Form(
            net.apply, None if surrogate is None else lambda rho, s=surrogate: s
        )
        named = attacks.protocol("er_surrogate", form, k=3, num_steps=100)
        run = attacks.compile_attack(named.attack, num_steps=100)
        attacked = run(params, x, threat_model("l2", 1.0), key=jax.random.key(0))
        kept[name] = attacked.best.precision
        assert (attacked.vanished < 1).all()
    assert kept["written"].mean() < 0.95
    for name in ("none", "itself"):
        assert abs(kept[name].mean() - kept["written"].mean()) < 0.02
