"""A program's smooth stand-in is the hand-written one on the library's models."""

import jax
import jax.numpy as jnp
import pytest

from r2et_jax import models, programs
from r2et_jax.programs.transform import has_kinks, kinks

RHO = 3.0


def module_apply(model):
    return model.apply


GRAPH = dict(num_nodes=6, hidden=(5, 3))
SMALL_IMAGE = dict(shape=(16, 16, 1), num_outputs=3, hidden=(4,))
SHAPES = {
    "table": (7,),
    "image": (256,),
    "graph": (15,),
    "sparse": (15,),
    "colour": (3072,),
}
KINKED = {
    "relu": (models.MLP((6, 5), 3, activation="relu"), "table", module_apply),
    "leaky_relu": (models.MLP((6, 5), 3), "table", module_apply),
    "skip": (models.SkipMLP((6,)), "table", module_apply),
    "cnn": (models.CNN(**SMALL_IMAGE), "image", module_apply),
    "gcn": (models.GCN(**GRAPH, activation="leaky_relu"), "graph", module_apply),
    "graph of few edges": (
        models.GCN(**GRAPH, max_connected=4),
        "sparse",
        module_apply,
    ),
    "pairs of graphs": (
        models.Siamese(models.GCN(**GRAPH), centered=True),
        "graph",
        models.pair_apply,
    ),
}
SLOW = {
    "pairs of images": (
        models.Siamese(models.CNN(**SMALL_IMAGE)),
        "image",
        models.pair_apply,
    ),
    "resnet": (models.ResNet9(width=8), "colour", module_apply),
}
SMOOTH = {
    "tanh": (models.MLP(activation="tanh"), "table", module_apply),
    "gelu": (models.MLP(activation="gelu"), "table", module_apply),
    "silu": (models.MLP(activation="silu"), "table", module_apply),
    "softplus": (models.MLP(activation="softplus"), "table", module_apply),
    "linear": (models.Linear(), "table", module_apply),
    "smooth cnn": (
        models.CNN(**SMALL_IMAGE, activation="softplus", pooling="smooth_max"),
        "image",
        module_apply,
    ),
    "smooth pairs": (
        models.Siamese(models.GCN(**GRAPH, activation="silu"), centered=True),
        "graph",
        models.pair_apply,
    ),
}


def drawn(model, kind, as_apply, dtype=jnp.float32):
    """Random parameters, with no bias at zero, and an input."""
    key, other = jax.random.split(jax.random.key(3))
    x = jax.random.normal(key, SHAPES[kind], jnp.float32)
    if kind == "sparse":  # edges between the first three of six nodes
        x = jnp.where(jnp.isin(jnp.arange(15), jnp.array([0, 1, 5])), x, 0)
    first = jnp.stack([x, x[::-1]]) if as_apply is models.pair_apply else x
    params = model.init(other, first)
    keys = jax.random.split(other, len(jax.tree.leaves(params)))
    params = jax.tree.map(
        lambda leaf, key: leaf + 0.1 * jax.random.normal(key, leaf.shape, leaf.dtype),
        params,
        jax.tree.unflatten(jax.tree.structure(params), list(keys)),
    )
    params = (params, x[::-1]) if as_apply is models.pair_apply else params
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x))


def derivatives(apply, params, x):
    """Values, a gradient and a Hessian-vector product."""

    def score(x):
        z = apply(params, x)
        return jnp.sum(z * jnp.arange(1, z.size + 1, dtype=z.dtype)) + jnp.sum(z**2)

    direction = jnp.cos(jnp.arange(x.size, dtype=x.dtype))
    gradient, curved = jax.jvp(jax.grad(score), (x,), (direction,))
    return apply(params, x), gradient, curved


def assert_same_derivatives(model, kind, as_apply, dtype, tolerance):
    params, x = drawn(model, kind, as_apply, dtype)
    smooth = programs.smooth(as_apply(model), rho=RHO)
    by_hand = as_apply(model.surrogate(rho=RHO))
    both = jax.jit(
        lambda params, x: [derivatives(f, params, x) for f in (smooth, by_hand)]
    )(params, x)
    for mine, right in zip(*both, strict=True):
        scale = float(jnp.max(jnp.abs(right)))
        assert scale > 0
        assert float(jnp.max(jnp.abs(mine - right))) <= tolerance * scale


@pytest.mark.parametrize("name", KINKED)
def test_equals_the_surrogate_written_by_hand(name):
    assert_same_derivatives(*KINKED[name], jnp.float32, 1e-5)


@pytest.mark.parametrize("name", ["leaky_relu", "gcn"])
def test_equals_the_surrogate_in_64_bits(name):
    with jax.enable_x64(True):
        assert_same_derivatives(*KINKED[name], jnp.float64, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_equals_the_surrogate_of_larger_models(name):
    assert_same_derivatives(*SLOW[name], jnp.float32, 1e-5)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_model_comes_back_as_it_is(name):
    model, kind, as_apply = SMOOTH[name]
    apply = as_apply(model)
    params, x = drawn(model, kind, as_apply)
    assert not has_kinks(apply, params, x)
    assert jax.eval_shape(kinks(apply), params, x).shape == (0,)
    smooth = programs.smooth(apply, rho=RHO)
    assert str(jax.make_jaxpr(smooth)(params, x)) == str(
        jax.make_jaxpr(apply)(params, x)
    )


@pytest.mark.parametrize("name", [*KINKED, *SLOW])
def test_stand_in_has_no_kinks_left(name):
    model, kind, as_apply = (KINKED | SLOW)[name]
    apply = as_apply(model)
    params, x = jax.eval_shape(lambda: drawn(model, kind, as_apply))
    assert has_kinks(apply, params, x)
    assert not has_kinks(programs.smooth(apply, rho=RHO), params, x)


def test_sharpness_may_be_traced_and_models_mapped():
    model, kind, as_apply = KINKED["relu"]
    params, x = drawn(model, kind, as_apply)
    rhos = jnp.array([1.0, 4.0])
    xs = jnp.stack([x, -x])

    @jax.jit
    def mine(params, xs, rhos):
        apply = jax.vmap(
            lambda x, rho: programs.smooth(model.apply, rho=rho)(params, x)
        )
        return apply(xs, rhos)

    right = [
        model.surrogate(rho=rho).apply(params, x)
        for rho, x in zip((1.0, 4.0), xs, strict=True)
    ]
    assert jnp.allclose(mine(params, xs, rhos), jnp.stack(right), rtol=1e-6)


def test_refuses_a_sharpness_below_zero():
    with pytest.raises(ValueError, match="rho must be positive.*-1"):
        programs.smooth(lambda params, x: x, rho=-1.0)
