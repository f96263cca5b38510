"""The model of pairs: its cosine, its symmetry, its centre and its explained input."""

import doctest
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models
from r2et_jax.models import siamese
from r2et_jax.models.siamese import class_apply, recenter

N = 6


def build(**options):
    encoder = models.MLP(hidden=(7,), num_outputs=4, activation="tanh")
    model = models.Siamese(encoder, **options)
    pair = jnp.zeros((2, N), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), pair)
    dtype = jnp.result_type(float)  # 64 bits where they are enabled
    return model, jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def inputs(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, N)))


def cosine(u, v):
    return np.sum(u * v, -1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))


def test_docstring_examples_run():
    result = doctest.testmod(siamese)
    assert result.attempted > 0 and result.failed == 0


def test_parameters_are_the_encoder_the_head_and_the_classifier():
    model, params = build(num_outputs=3)
    assert set(params) == {"params"}
    shapes = jax.tree.map(lambda leaf: leaf.shape, params["params"])
    assert shapes == {
        "encoder": {
            "Dense_0": {"kernel": (N, 7), "bias": (7,)},
            "Dense_1": {"kernel": (7, 4), "bias": (4,)},
        },
        "scale": (1,),
        "bias": (1,),
        "classifier": {"kernel": (4, 3), "bias": (3,)},
    }
    assert params["params"]["scale"] == 5 and params["params"]["bias"] == 0


@pytest.mark.parametrize("centered", [False, True])
def test_logit_is_the_scaled_cosine_and_the_classifier_is_linear(centered):
    with jax.enable_x64(True):
        model, params = build(centered=centered, num_outputs=3)
        layers = params["params"]
        layers["scale"], layers["bias"] = jnp.array([3.0]), jnp.array([-0.7])
        center = np.arange(4.0) if centered else np.zeros(4)
        if centered:
            params["center"] = {"mean": jnp.asarray(center)}
        pairs = inputs(0, 5, 2)
        encoded = model.encoder.apply({"params": layers["encoder"]}, pairs)
        encoded = np.asarray(encoded) - center
        logits = jax.jit(jax.vmap(model.apply, (None, 0)))(params, pairs)
        expected = 3 * cosine(encoded[:, 0], encoded[:, 1]) - 0.7
        np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-12)
        swapped = jax.jit(jax.vmap(model.apply, (None, 0)))(params, pairs[:, ::-1])
        np.testing.assert_allclose(swapped, logits, rtol=1e-12)
        same = model.apply(params, jnp.stack([pairs[0, 0], pairs[0, 0]]))
        np.testing.assert_allclose(same, [2.3], rtol=1e-12)
        classes = class_apply(model)(params, pairs[0, 0])
        linear = layers["classifier"]
        expected = encoded[0, 0] @ linear["kernel"] + linear["bias"]
        np.testing.assert_allclose(classes, expected, rtol=1e-12)


@pytest.mark.parametrize("embedded", [False, True])
def test_pair_apply_explains_the_first_input_of_every_pair(embedded):
    with jax.enable_x64(True):
        model, params = build()
        pairs, v = inputs(1, 3, 2), inputs(2, 3)
        partner = pairs[:, 1]
        if embedded:
            embed = jax.vmap(lambda x: model.apply(params, x, method="embed"))
            partner = embed(partner)
        apply = models.pair_apply(model, embedded=embedded)

        def gradient(partner, x):
            return jax.grad(lambda x: apply((params, partner), x)[0])(x)

        logits = jax.vmap(apply, ((None, 0), 0))((params, partner), pairs[:, 0])
        expected = jax.jit(jax.vmap(model.apply, (None, 0)))(params, pairs)
        np.testing.assert_allclose(logits, expected, rtol=1e-12)
        whole = jax.vmap(jax.grad(lambda pair: model.apply(params, pair)[0]))(pairs)
        first = jax.jit(jax.vmap(gradient))(partner, pairs[:, 0])
        np.testing.assert_allclose(first, whole[:, 0], rtol=1e-9)

        def along(partner, x, v):
            return jax.jvp(lambda x: gradient(partner, x), (x,), (v,))[1]

        product = jax.jit(jax.vmap(along))(partner, pairs[:, 0], v)
        step = 1e-6
        upper, lower = (
            jax.jit(jax.vmap(gradient))(partner, pairs[:, 0] + sign * step * v)
            for sign in (1, -1)
        )
        assert np.linalg.norm(product) > 1e-3
        np.testing.assert_allclose(product, (upper - lower) / (2 * step), atol=1e-7)


def test_zero_embeddings_have_the_cosine_zero_and_finite_derivatives():
    model = models.Siamese(models.MLP(hidden=(), num_outputs=4))
    pair = jnp.zeros((2, N)).at[1].set(1.0)
    params = jax.jit(model.init)(jax.random.key(0), pair)

    def score(params, pair):
        return model.apply(params, pair)[0]

    @jax.jit
    def product(both):
        gradient = jax.grad(lambda pair: score(params, pair))
        return jax.jvp(gradient, (both,), (jnp.ones((2, N)),))[1]

    gradients = jax.jit(jax.grad(score, (0, 1)))
    for both in (pair, jnp.zeros((2, N)), pair[::-1]):
        assert score(params, both) == 0
        for leaf in jax.tree.leaves((gradients(params, both), product(both))):
            assert np.all(np.isfinite(leaf))


def test_recenter_moves_the_mean_embedding_to_zero_and_nothing_else():
    with jax.enable_x64(True):
        model, params = build(centered=True)
        np.testing.assert_array_equal(params["center"]["mean"], np.zeros(4))
        x = inputs(3, 8)
        moved = recenter(model, params, x)
        again = recenter(model, moved, x)
        encode = jax.vmap(
            lambda params, x: model.apply(params, x, method="embed"), (None, 0)
        )
        mean = np.mean(encode(params, x), axis=0)
        assert np.linalg.norm(mean) > 1e-2
        np.testing.assert_allclose(moved["center"]["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(again["center"]["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(np.mean(encode(moved, x), axis=0), 0, atol=1e-14)
        assert moved["params"] is params["params"]
        np.testing.assert_array_equal(params["center"]["mean"], np.zeros(4))


def test_parallel_embeddings_are_told_apart_once_they_are_centred():
    rng = np.random.default_rng(4)
    model = models.Siamese(models.GCN(num_nodes=N, hidden=(16, 8)), centered=True)
    x = rng.uniform(0, 1, (12, math.comb(N, 2))).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(x[:2]))
    layers = params["params"]["encoder"]
    layers["bias_1"] = 10 + layers["bias_1"]
    pairs = jnp.asarray(x.reshape(6, 2, -1))
    run = jax.jit(jax.vmap(model.apply, (None, 0)))
    assert np.min(run(params, pairs)) > 0.99 * 5
    assert np.std(run(recenter(model, params, x), pairs)) > 1


def test_the_centre_has_no_gradient():
    model, params = build(centered=True)
    pair = jnp.asarray(inputs(5, 2), jnp.float32)
    params = recenter(model, params, pair + 1)
    gradient = jax.grad(lambda params: model.apply(params, pair)[0])(params)
    np.testing.assert_array_equal(gradient["center"]["mean"], np.zeros(4))
    assert np.any(gradient["params"]["encoder"]["Dense_0"]["kernel"] != 0)


def test_surrogate_is_that_of_the_encoder_with_the_same_parameters():
    encoder = models.MLP(hidden=(16,), num_outputs=4, activation="relu")
    model = models.Siamese(encoder, centered=True)
    pair = jnp.asarray(inputs(6, 2), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(1), pair)
    smooth = model.surrogate(rho=4.0)
    assert smooth.centered and smooth.encoder == encoder.surrogate(rho=4.0)
    exact = model.apply(params, pair)
    errors = [
        abs(model.surrogate(rho=rho).apply(params, pair) - exact)[0]
        for rho in (10.0, 1000.0)
    ]
    assert 0 < errors[1] < 0.05 * errors[0]
    already = models.Siamese(encoder.surrogate(rho=2.0))
    assert already.surrogate(rho=9.0) is already


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (models.CNN(), 784),
        (models.GCN(num_nodes=90), 4005),
        (models.ResNet9(width=8), 3072),
    ],
)
def test_any_encoder_serves(encoder, size):
    model = models.Siamese(encoder, centered=True, num_outputs=2)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, size)))
    x = jnp.zeros(size)
    for apply in (
        models.pair_apply(model),
        models.pair_apply(model.surrogate(rho=2.0)),
    ):
        assert jax.eval_shape(apply, (params, x), x).shape == (1,)
    assert jax.eval_shape(class_apply(model), params, x).shape == (2,)


def test_static_mistakes_raise():
    model, params = build()
    with pytest.raises(ValueError, match=r"\[2, ...\], got \(3, 6\); batch with"):
        model.apply(params, jnp.zeros((3, N)))
    with pytest.raises(ValueError, match="centered=True, got False"):
        recenter(model, params, jnp.zeros((3, N)))
