"""One contract for all named attacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import attacks, saliency
from r2et_jax.attacks.ensemble import default_ensemble
from r2et_jax.attacks.strongest import compile_strongest
from r2et_jax.models import MLP
from r2et_jax.subject import Form, subject
from r2et_jax.threat import threat_model

N, K, M = 10, 3, 12
MODEL = MLP(hidden=(16,))
ATTACKED = Form(MODEL.apply, lambda rho: MODEL.surrogate(rho=rho).apply)


@pytest.fixture(scope="module")
def vanilla():
    """A leaky ReLU net that nobody made robust, and inputs."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(M, N)), jnp.float32)
    params = MODEL.init(jax.random.key(1), x[0])
    return jax.tree.map(lambda leaf: 2 * leaf, params), x


@functools.cache
def compiled(name):
    named = attacks.protocol(name, ATTACKED, k=K)
    run = attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )
    return run, named


def test_every_attack_is_described():
    assert set(attacks.DESCRIPTIONS) == set(attacks.NAMES)


def test_the_attack_through_the_surrogate_is_the_stronger_one(vanilla):
    params, x = vanilla
    precision = {}
    for name in ("er", "er_surrogate"):
        run, _ = compiled(name)
        attacked = run(params, x, threat_model("l2", 1.0), key=jax.random.key(0))
        precision[name] = float(attacked.best.precision.mean())
    assert precision["er_surrogate"] < precision["er"]


def test_the_explainer_is_what_is_attacked(vanilla):
    params, x = vanilla
    form = ATTACKED._replace(explainer=saliency.gradient_times_input)
    named = attacks.protocol("random", form, k=K)
    run = attacks.compile_attack(named.attack, num_steps=2, track_every=1)
    attacked = run(params, x, threat_model("l2", 0.1), key=jax.random.key(0))
    step = 1e-2
    slope = np.stack(
        [
            MODEL.apply(params, x + step * e) - MODEL.apply(params, x - step * e)
            for e in np.eye(N, dtype=np.float32)
        ],
        axis=1,
    )[..., 0]
    expected = np.abs(slope * x)
    expected /= expected.sum(1, keepdims=True)
    # A kink within the step of the difference spoils a few inputs.
    close = np.isclose(attacked.clean_map, expected, atol=1e-3).all(axis=1)
    assert close.mean() > 0.7


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown attack 'pgd'; known: .*er_surrogate"):
        attacks.protocol("pgd", ATTACKED, k=K)


@pytest.mark.parametrize("k", [0, N])
@pytest.mark.parametrize("name", ["er", "random"])
def test_k_out_of_range_is_refused(vanilla, name, k):
    params, x = vanilla
    named = attacks.protocol(name, ATTACKED, k=k)
    run = attacks.compile_attack(named.attack, num_steps=named.num_steps)
    with pytest.raises(ValueError, match=f"k must lie in 1…n−1 = 1…9 .* k = {k}"):
        run(params, x, threat_model(), key=jax.random.key(0))


def test_in_one_line_it_is_the_compiled_attack(vanilla):
    """Bit by bit, with the parameters, the budget and the key of the call."""
    params, x = vanilla
    examined = subject(MODEL, params, smoothed=ATTACKED.smoothed)
    key, budget = jax.random.key(3), threat_model("l2", 0.5)
    attacked = attacks.attack("er_surrogate", k=K)(examined, x, budget, key=key)
    expected = compiled("er_surrogate")[0](params, x, budget, key=key)
    jax.tree.map(np.testing.assert_array_equal, attacked, expected)
    assert attacked.precision is attacked.best.precision
    assert attacked.perturbed is attacked.best.perturbed


def test_a_list_of_budgets_gives_a_list_of_results(vanilla):
    params, x = vanilla
    examined = subject(MODEL, params)
    run, key = attacks.attack("er_surrogate", k=K, num_steps=20), jax.random.key(0)
    wide = threat_model("l2", 9.0)
    each = run(examined, x, wide, key=key, epsilon=[0.3, 1.0])
    for attacked, epsilon in zip(each, (0.3, 1.0), strict=True):
        alone = run(examined, x, threat_model("l2", epsilon), key=key)
        jax.tree.map(np.testing.assert_array_equal, attacked, alone)
    assert each[0].precision.mean() > each[1].precision.mean()


@pytest.mark.standard_promotion
def test_the_strongest_is_in_the_registry(vanilla):
    params, x = vanilla
    examined, key = subject(MODEL, params), jax.random.key(0)
    run = attacks.attack("strongest", k=K, evaluations=600)
    attacked = run(examined, x, threat_model("l2", 1.0), key=key)
    members = default_ensemble(examined, k=K, evaluations=600)
    compiled = compile_strongest(members, evaluations=600)
    expected = compiled(params, x, threat_model("l2", 1.0), key=key)
    np.testing.assert_array_equal(attacked.precision, expected.precision)
    assert attacked.details.evaluations.max() <= 600
    assert attacked.details.member_precision.shape == (len(members), M)


def test_it_compiles_once_for_a_form_and_a_shape(vanilla):
    """Other parameters, budgets, keys, and a subject that is built again."""
    params, x = vanilla
    traces = []

    def apply(params, x, /):
        traces.append(None)
        return MODEL.apply(params, x)

    def at(scale, epsilon):
        scaled = jax.tree.map(lambda leaf: scale * leaf, params)
        run = attacks.attack("er_surrogate", k=K, num_steps=20)
        return run(
            subject(apply, scaled), x, threat_model("l2", epsilon),
            key=jax.random.key(int(epsilon)),
        )  # fmt: skip

    at(1.0, 1.0)
    count = len(traces)
    assert count > 0
    at(2.0, 3.0)
    assert len(traces) == count


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run, s, x, t: run(MODEL, x, t, key=jax.random.key(0)), "a subject"),
        (lambda run, s, x, t: run(s, x, 0.5, key=jax.random.key(0)), "a threat model"),
        (lambda run, s, x, t: run(s, x, t, key=0), "key must be one key"),
    ],
)
def test_what_a_call_does_not_take_is_named(vanilla, call, message):
    params, x = vanilla
    run = attacks.attack("er", k=K)
    with pytest.raises(ValueError, match=message):
        call(run, subject(MODEL, params), x, threat_model())
    with pytest.raises(ValueError, match="unknown attack 'pgd'; known: .*strongest"):
        attacks.attack("pgd", k=K)
