"""Layers that are not the model's certify nothing; the model's own always may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import certificates, models, threat
from r2et_jax.certificates.agreement import layers_agree, layers_check
from r2et_jax.models.lines import slope_lines
from r2et_jax.models.slopes import slope_range

N = 6
BALL = threat.threat_model("l2", 0.05)
X = np.random.default_rng(0).normal(size=(5, N)).astype(np.float32)
MODEL = models.SkipMLP(hidden=(N,), activation="softplus")  # a square kernel
KINKED = models.MLP(hidden=(N,), activation="leaky_relu")


def parameters(model):
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X[0])
    return jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), shapes)


def changed(model, **parts):
    def layers(params):
        network = model.layers(params)
        made = {name: part(network) for name, part in parts.items()}
        return network._replace(**made)

    return layers


def slopes(name, **options):
    return lambda _: slope_range(name, **options)


FAULTS = {
    "transposed": (MODEL, {"weight": lambda net: net.weight.T}),
    "tanh": (MODEL, {"slopes": slopes("tanh"), "lines": lambda _: None}),
    "rho": (MODEL, {"slopes": slopes("softplus", rho=6.0)}),
    "lines": (MODEL, {"lines": lambda _: slope_lines("softplus", rho=1.0)}),
    "no skip": (MODEL, {"skip": lambda net: 0 * net.skip}),
    "bias": (KINKED, {"bias": lambda net: net.bias + 5}),
    "relu": (KINKED, {"slopes": slopes("relu")}),
    # Exact at a point, wrong over an interval: the ends alone.
    "ends": (
        models.MLP(hidden=(N,), activation="gelu"),
        {"slopes": lambda net: lambda a, b: 2 * (net.slopes(a, a)[0],)},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_layers_of_another_model_certify_nothing(fault):
    model, parts = FAULTS[fault]
    params, wrong = parameters(model), changed(model, **parts)
    certify = certificates.ranking_certificate(model.apply, wrong, k=2)
    certificate = jax.jit(jax.vmap(certify, (None, 0, None)))(params, X, BALL)
    assert not np.any(certificate.matches) and not np.any(certificate.kept)
    np.testing.assert_array_equal(certificate.precision, 0)
    assert np.all(certificate.separation == -np.inf)
    with pytest.raises(ValueError, match="slopes of the model itself, got some whose"):
        certify(params, jnp.asarray(X[0]), BALL)
    # The bounds of those layers would certify something, but for another function.
    alone = certificates.ranking_certificate(
        lambda params, x: _network(wrong(params), x), wrong, k=2
    )
    if fault in ("transposed", "no skip", "bias"):
        certified = jax.jit(jax.vmap(alone, (None, 0, None)))(params, X, BALL)
        assert np.all(certified.matches) and np.any(certified.precision > 0)


def _network(network, x):
    """z of softplus or leaky layers, written from their fields."""
    u = x @ network.weight + network.bias
    kinked = network.lines is None
    phi = jax.nn.leaky_relu(u) if kinked else jax.nn.softplus(5 * u) / 5
    return (phi @ network.out + x @ network.skip)[None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_own_layers_agree_with_every_activation_at_any_budget(dtype):
    with jax.enable_x64(dtype == np.float64):
        names = ("softplus", "leaky_softplus", "relu", "leaky_relu", "tanh", "gelu")
        cases = [(name, "l2") for name in names] + [("softplus", "linf")]
        for name, norm in cases:
            model = models.SkipMLP(hidden=(9,), activation=name)
            rng = np.random.default_rng(1)
            shapes = jax.eval_shape(model.init, jax.random.key(0), X[0])
            params = jax.tree.map(
                lambda s: jnp.asarray(3 * rng.normal(size=s.shape), dtype),  # noqa: B023
                shapes,
            )

            @jax.jit
            def agree(params, x, epsilon, model=model, norm=norm):
                agree_at = lambda x, epsilon: layers_agree(  # noqa: E731
                    model.apply, params, model.layers(params), x,
                    epsilon=epsilon, norm=norm,
                )  # fmt: skip
                return jax.vmap(jax.vmap(agree_at, (0, None)), (None, 0))(x, epsilon)

            epsilon = jnp.asarray([0, 1e-6, 0.1, 1, 100], dtype)
            x = jnp.asarray(np.concatenate([X, 40 * X]), dtype)
            assert np.all(agree(params, x, epsilon)), name


def test_other_layers_certify_nothing_and_shapes_are_named():
    params = parameters(MODEL)
    wrong = changed(MODEL, weight=lambda net: net.weight.T)
    certify = certificates.ranking_certificate(MODEL.apply, wrong, k=2)
    assert jax.jit(certify)(params, X[0], BALL).precision == 0
    narrow = changed(MODEL, weight=lambda net: net.weight[:, :4])
    certify = certificates.ranking_certificate(MODEL.apply, narrow, k=2)
    with pytest.raises(ValueError, match=r"weight .* shape \(6, 6\).* got \(6, 4\)"):
        certify(params, X[0], BALL)


def test_a_check_of_layers_is_one_program_wherever_it_is_asked(compilations):
    params = jax.tree.map(np.asarray, parameters(MODEL))
    check = layers_check(MODEL.apply, MODEL.layers)
    x, before = np.float32(X[0]), compilations()
    check(params, x)
    jax.make_jaxpr(check)(params, x)
    assert compilations() - before == 1
    wrong = layers_check(MODEL.apply, changed(MODEL, out=lambda net: 2 * net.out))
    with pytest.raises(ValueError, match="of another gradient"):
        jax.jit(lambda params, x: (wrong(params, x), x)[1])(params, x)
