"""One contract for all attacks, from one compiled program of each in a norm."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency, score
from r2et_jax.attacks import goals, optimizers
from r2et_jax.attacks.ensemble import Member
from r2et_jax.attacks.protocols import SINGLE
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.models import MLP
from r2et_jax.subject import Form
from r2et_jax.threat import contains, distance, threat_model
from r2et_jax.threat.definition import with_epsilon

N, K, M = 10, 3, 8
FROZEN = (1, 8)
MODEL = MLP(hidden=(16,), activation="softplus")
BUDGETS = {"l2": 1.0, "linf": 0.4}
TRACES = []


def apply(params, x, /):
    TRACES.append(None)
    return MODEL.apply(params, x)


EXPLAIN = saliency.gradient(score.log_odds(apply))


def single(name):
    named = attacks.protocol(name, Form(apply), k=K, num_steps=40)
    return named.attack, named.num_steps, named.track_every


def descent(make=attacks.gradient_attack, **options):
    return make(
        apply,
        EXPLAIN,
        goals.smooth_precision(),
        k=K,
        optimizer=optimizers.steepest(0.1),
        random_start=0.5,
        **options,
    )


def search():
    return attacks.random_search(apply, EXPLAIN, k=K)


def strongest():
    return [
        Member("descent", descent, (), 12, 4, 2, True),
        Member("random", search, (), 8, 2, 1, False),
    ]


ATTACKS = {
    **{name: functools.partial(single, name) for name in SINGLE},
    "strongest": strongest,
    "constrained": lambda: (
        descent(attacks.constrained_attack, weighting="gda"), 40, 10,
    ),
    "evolution": lambda: (attacks.evolution(apply, EXPLAIN, k=K, population=6), 20, 5),
    "multiobjective": lambda: (
        attacks.multiobjective_attack(
            apply, saliency.gradient(score.log_odds(apply), normalize=False), k=K
        ),
        20,
        5,
    ),
}  # fmt: skip
# The others take the one way that their goal shows them.
RANDOM = {"random", "strongest", "constrained", "evolution", "mse"}


@functools.cache
def compiled(name):
    built = ATTACKS[name]()
    if name == "strongest":
        return compile_strongest(built, evaluations=80)
    attack, num_steps, track_every = built
    return attacks.compile_attack(attack, num_steps=num_steps, track_every=track_every)


@functools.cache
def threat(norm):
    return threat_model(
        norm, BUDGETS[norm], lower=-2.5, upper=2.5, frozen=FROZEN, num_features=N
    )


@functools.cache
def data(scale=2.0):
    x = np.float32(np.random.default_rng(0).normal(size=(M, N)).clip(-2.5, 2.5))
    params = MODEL.init(jax.random.key(1), x[0])
    return jax.tree.map(lambda leaf: scale * leaf, params), jnp.asarray(x)


def run(name, budget, *, key=0, scale=2.0):
    params, x = data(scale)
    return compiled(name)(params, x, budget, key=jax.random.key(key))


@functools.cache
def attacked(name, norm):
    return run(name, threat(norm))


def perturbed(name, result):
    moved = [result.perturbed, result.best_same_class.perturbed]
    return moved if name == "strongest" else [*moved, result.details.last]


@pytest.fixture(autouse=True)
def _strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


each = pytest.mark.parametrize("name", ATTACKS)
# The norm is the step's and the ball's, of which three attacks are enough.
in_both = pytest.mark.parametrize(
    ("name", "norm"),
    [(name, "l2") for name in ATTACKS]
    + [(name, "linf") for name in ("er_surrogate", "random", "evolution")],
)


inside = jax.jit(jax.vmap(contains, (None, 0, 0)))
lengths = jax.jit(jax.vmap(distance, (None, 0, 0)))


@in_both
def test_it_stays_in_its_budget_and_moves_the_ranking(name, norm):
    result, (_, x) = attacked(name, norm), data()
    for moved in perturbed(name, result):
        assert inside(threat(norm), x, moved).all()
        assert lengths(threat(norm), x, moved).max() <= BUDGETS[norm] * (1 + 1e-5)
        np.testing.assert_array_equal(moved[:, FROZEN], x[:, FROZEN])
    precision = np.asarray(result.precision)
    assert ((precision >= 0) & (precision <= 1)).all() and precision.mean() < 0.9
    assert (precision <= result.best_same_class.precision).all()
    floats = [leaf for leaf in jax.tree.leaves(result) if leaf.dtype.kind == "f"]
    assert all(leaf.dtype == np.float32 and np.isfinite(leaf).all() for leaf in floats)


@in_both
def test_without_a_budget_or_features_nothing_moves(name, norm):
    budget, (_, x) = threat(norm), data()
    still = dataclasses.replace(budget, movable=jnp.zeros(N, bool))
    for nothing in (with_epsilon(budget, 0.0), still):
        result = run(name, nothing)
        for moved in perturbed(name, result):
            np.testing.assert_array_equal(moved, x)
        np.testing.assert_array_equal(result.precision, 1)
        if name != "strongest":
            assert (result.manipulated_at == 0).all() and (result.best.step == 0).all()


@each
def test_the_key_alone_decides_the_draws(name):
    first, budget = attacked(name, "l2"), threat("l2")
    jax.tree.map(np.testing.assert_array_equal, first, run(name, budget))
    same = np.array_equal(first.perturbed, run(name, budget, key=1).perturbed)
    assert same == (name not in RANDOM)


@each
def test_a_program_serves_all_parameters_budgets_and_keys(name):
    first = attacked(name, "l2")
    before = len(TRACES)
    other = run(name, with_epsilon(threat("l2"), 0.3), key=5, scale=1.5)
    assert len(TRACES) == before > 0
    assert not np.array_equal(first.perturbed, other.perturbed)
