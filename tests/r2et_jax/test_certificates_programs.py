"""Certified top features of any model: sound against attackers, and not vacuous."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import saliency, score
from r2et_jax.bounds import Policy
from r2et_jax.certificates import (
    batch,
    certify,
    program_certificate,
    programs,
    ranking_certificate,
)
from r2et_jax.models import MLP
from r2et_jax.subject import subject
from r2et_jax.threat import project, sample, threat_model
from r2et_jax.threat.geometry import sample_boundary

N, K = 7, 3
MODELS = {
    "two_layers": MLP(hidden=(8, 6), activation="softplus"),
    "gelu": MLP(hidden=(8, 6), activation="gelu"),
    "kinked": MLP(hidden=(8, 6), activation="leaky_relu"),
    "classes": MLP(hidden=(8,), num_outputs=3, activation="softplus"),
    "one_layer": MLP(hidden=(8,), activation="softplus"),
    "one_kinked": MLP(hidden=(8,), activation="leaky_relu"),
}
EXPLAINERS = {
    "gradient": saliency.gradient,
    "times_input": saliency.gradient_times_input,
    "integrated": functools.partial(saliency.integrated_gradients, num_points=4),
}
# Each norm, explainer and kind of layer once; what compiles longest is slow.
CASES = [
    ("two_layers", "gradient", "l2"),
    ("kinked", "gradient", "l2"),
    ("two_layers", "integrated", "linf"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("classes", "gradient", "l2"),
            ("gelu", "gradient", "l2"),
            ("two_layers", "gradient", "linf"),
            ("two_layers", "times_input", "l2"),
        )
    ),
]


def at(norm, epsilon):
    """A threat model of a traced budget."""
    return dataclasses.replace(threat_model(norm, 1.0), epsilon=epsilon)


def made(name, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, N)).astype(dtype)
    params = MODELS[name].init(jax.random.key(seed), x[0].astype(np.float32))
    return jax.tree.map(lambda w: jnp.asarray(1.5 * w, dtype), params), x


def lowest_overlap(explain, params, x, target, threat, features, *, key):
    """P@k under many draws and a descent on each pair: knows nothing of the bounds."""
    draws = jax.vmap(lambda key: sample(threat, x, key=key))(jax.random.split(key, 400))
    edges = jax.vmap(lambda key: sample_boundary(threat, x, key=key))(
        jax.random.split(key, 400)
    )

    def pair_gap(moved, i, j):
        values = explain(params, moved, target)
        return values[i] - values[j]

    def against(i, j):
        def step(moved, _):
            slope = jax.grad(pair_gap)(moved, i, j)
            length = jnp.linalg.norm(slope)
            toward = jnp.where(length > 0, slope / length, 0)
            if threat.norm == "linf":
                toward = jnp.sign(slope)
            moved = moved - 0.3 * threat.epsilon * toward
            return project(threat, moved, x), moved

        end, path = jax.lax.scan(step, x, None, length=15)
        return jnp.concatenate([path, end[None]])

    others = jnp.arange(N, dtype=features.dtype)
    pairs = jax.vmap(lambda i: jax.vmap(lambda j: against(i, j))(others))
    tried = jnp.concatenate([draws, edges, pairs(features).reshape(-1, N)])
    maps = jax.vmap(lambda moved: explain(params, moved, target))(tried)
    order = jnp.argsort(-maps, axis=1)[:, :K].astype(features.dtype)
    kept = (order[:, :, None] == features).any(axis=1)
    return kept.mean(axis=1, dtype=x.dtype).min(), kept.all(axis=0)


@pytest.fixture
def hunt(monkeypatch):
    """Certified less attacked, over inputs and budgets, and the mean certified P@k."""

    def run(name, explainer, norm, epsilons=(0.01, 0.05, 0.2)):
        factory = EXPLAINERS[explainer]
        apply = MODELS[name].apply
        explain = factory(score.log_odds(apply), normalize=False)
        certify_one = program_certificate(apply, k=K, explainer=factory)
        with jax.enable_x64(True):
            params, x = made(name)

            def both(x, epsilon, key):
                threat = at(norm, epsilon)
                certificate = certify_one(params, x, threat)
                target = score.predicted_class(apply(params, x))
                lowest, stays = lowest_overlap(
                    explain, params, x, target, threat, certificate.features, key=key
                )
                return (
                    certificate.precision - lowest,
                    certificate.kept & ~stays,
                    certificate.precision,
                )

            keys = jax.random.split(jax.random.key(1), len(x))
            each = jax.vmap(jax.vmap(both, (0, None, 0)), (None, 0, None))
            out = jax.jit(each)(x, jnp.array(epsilons), keys)
            above, wrong, certified = jax.tree.map(np.asarray, out)
        return float(above.max()), int(wrong.sum()), certified.mean(axis=1)

    return run


@pytest.mark.parametrize(("name", "explainer", "norm"), CASES)
def test_no_attack_is_below_what_is_certified(hunt, name, explainer, norm):
    above, wrong, certified = hunt(name, explainer, norm)
    assert above <= 1e-9 and wrong == 0
    assert (np.diff(certified) <= 0).all()
    assert certified[0] > 0.3, certified  # kinks and norms alike: not vacuous


def test_the_hunt_finds_bounds_of_a_smaller_set(hunt, monkeypatch):
    """What would be certified if all but a fifth of the budget were forgotten."""
    whole = programs.of_threat

    def smaller(threat, x):
        return whole(at(threat.norm, 0.2 * threat.epsilon), x)

    monkeypatch.setattr(programs, "of_threat", smaller)
    assert hunt("two_layers", "gradient", "l2", (0.2, 0.5, 1.0))[1] > 0


def test_on_one_hidden_layer_it_is_the_closed_form_without_slabs():
    model = MLP(hidden=(12,), activation="softplus")
    x = np.random.default_rng(0).normal(size=(16, N)).astype(np.float32)
    params = model.init(jax.random.key(0), x[0])
    certified = {}
    for name, certify_one in {
        "program": program_certificate(model.apply, k=K),
        "layers": ranking_certificate(model.apply, model.layers, k=K, num_slabs=1),
    }.items():
        run = jax.jit(jax.vmap(jax.vmap(certify_one, (None, 0, None)), (None, None, 0)))
        threats = jax.vmap(lambda e: at("l2", e))(jnp.array([0.1, 0.3, 0.6]))
        certified[name] = np.asarray(run(params, x, threats).precision).mean(axis=1)
    assert 0.1 < certified["layers"].mean() < 0.95
    np.testing.assert_allclose(certified["program"], certified["layers"], atol=0.06)


def test_a_subject_without_layers_is_certified_by_its_program():
    params, x = made("one_kinked", dtype=np.float32)
    examined = subject(MODELS["one_kinked"].apply, params)
    threat = threat_model("l2", 0.02, frozen=[0, 1, 2, 3, 4, 5, 6], num_features=N)
    still = certify(examined, x, threat, k=K)
    np.testing.assert_array_equal(still.precision, 1)
    near = certify(examined, x, threat_model("l2", 0.02), k=K)
    wide = certify(
        examined, x, threat_model("l2", 0.02), k=K, policy=Policy(slope="flat")
    )
    assert near.precision.mean() > wide.precision.mean() - 1e-6
    assert (near.precision <= 1).all() and near.precision.mean() > 0.5


def test_programs_of_many_features_are_compiled_to_run_fast():
    image, row = np.zeros((1, 784)), np.zeros((1000, 60))
    assert batch._work(None, image) == "much"
    assert batch._work(None, row) == batch._work(MLP().layers, image) == "little"


def test_slabs_of_chosen_pairs_are_sound_and_tighter():
    name = "one_layer"
    apply = MODELS[name].apply
    with jax.enable_x64(True):
        params, x = made(name)
        threat = at("l2", jnp.array(0.3))
        certified = [
            jax.jit(jax.vmap(certificate, (None, 0, None)))(params, x, threat)
            for certificate in (
                program_certificate(apply, k=K),
                program_certificate(apply, k=K, num_pairs=5, num_slabs=3),
            )
        ]
        whole, cut = (np.asarray(certificate.separation) for certificate in certified)
        assert (cut >= whole).all()
        # Five pairs of each input, and some of them are decided by it.
        assert 0 < ((cut > whole).sum(axis=(1, 2))).max() <= 5
        assert ((cut > 0) & (whole <= 0)).any()
        explain = jax.grad(score.log_odds(apply), argnums=1)

        @jax.vmap
        def gaps(x, features, key):
            keys = jax.random.split(key, 3000)
            target = score.predicted_class(apply(params, x))

            def of(key):
                moved = sample_boundary(threat, x, key=key)
                size = jnp.abs(explain(params, moved, target))
                return size[features, None] - size

            return jax.vmap(of)(keys).min(axis=0)

        keys = jax.random.split(jax.random.key(0), len(x))
        seen = np.asarray(jax.jit(gaps)(x, certified[1].features, keys))
        others = np.arange(N) != np.asarray(certified[1].features)[:, :, None]
        assert (seen >= cut)[others].all()


def test_k_out_of_range_is_named():
    params, x = made("two_layers", dtype=np.float32)
    with pytest.raises(ValueError, match="k must"):
        program_certificate(MODELS["two_layers"].apply, k=N)(
            params, x[0], threat_model("l2", 0.1)
        )


def test_a_layer_has_one_certificate_in_whichever_way_it_is_written():
    """Of max(z, 0) the derivative asks whether z equals it, also where it is larger."""
    keys = jax.random.split(jax.random.key(2), 3)
    params = jax.random.normal(keys[0], (N, 10)) / 2, jax.random.normal(keys[1], (10,))
    x = np.asarray(jax.random.normal(keys[2], (6, N)))
    layers = {
        "relu": jax.nn.relu,
        "maximum": lambda z: jnp.maximum(z, 0),
        "other way": lambda z: jnp.maximum(0, z),
        "minimum": lambda z: -jnp.minimum(-z, 0),
    }

    def certified(layer, epsilon):
        def apply(params, x):
            return (layer(x @ params[0]) @ params[1])[None]

        threat = threat_model("l2", epsilon)
        return certify(subject(apply, params), x, threat, k=K).separation

    small = certified(layers["relu"], 1e-3)
    assert (small > 0).any()
    for name in layers:
        for epsilon, right in ((1e-3, small), (0.3, certified(layers["relu"], 0.3))):
            mine = certified(layers[name], epsilon)
            np.testing.assert_allclose(mine, right, rtol=1e-3, atol=1e-4)
