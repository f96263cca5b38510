"""Kinks inside loops, branches, pairs and models of other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2et_jax import models, programs
from r2et_jax.programs.transform import crossing, has_kinks, kinks

RHO = 4.0
X = jnp.array([0.7, -1.3, 2.4], jnp.float32)


def weights(*shape):
    return jax.random.normal(jax.random.key(0), shape, jnp.float32)


def soft(x):
    return jnp.logaddexp(0, RHO * x) / RHO


def unrolled(act):
    def apply(params, x):
        for matrix in params:
            x = act(matrix @ x)
        return x

    return apply


def scanned(act):
    def apply(params, x):
        return jax.lax.scan(lambda x, w: (act(w @ x), None), x, params)[0]

    return apply


def test_scan_is_smoothed_turn_by_turn():
    params = weights(4, 3, 3)
    apply = scanned(jax.nn.relu)

    def both(f):
        return jax.value_and_grad(lambda x: jnp.sum(f(params, x)))(X)

    mine = both(programs.smooth(apply, rho=RHO))
    right = both(unrolled(soft))
    assert np.allclose(mine[0], right[0], rtol=1e-5)
    assert np.allclose(mine[1], right[1], rtol=1e-4)
    switching = kinks(apply)(params, X)
    assert np.allclose(switching, kinks(unrolled(jax.nn.relu))(params, X), rtol=1e-5)
    assert programs.describe(apply, params, X) == ({"max": 1}, {}, 12)


def test_carried_value_that_comes_to_move():
    def apply(params, x):
        def turn(carry, u):
            held, total = carry
            return (u, total + jnp.maximum(held, 0)), None

        return jax.lax.scan(turn, (jnp.zeros((), x.dtype),) * 2, x)[0][1]

    right = soft(0.0) + soft(X[0]) + soft(X[1])
    assert np.allclose(programs.smooth(apply, rho=RHO)(None, X), right, rtol=1e-5)


def test_smooth_loop_stays():
    assert not has_kinks(scanned(jnp.tanh), weights(2, 3, 3), X)


def test_branches_of_a_cond():
    def apply(params, x):
        return jax.lax.cond(
            params > 0, jax.nn.relu, lambda x: jnp.abs(x[:2]).sum() + x, x
        )

    smooth = programs.smooth(apply, rho=RHO)
    switches = kinks(apply)
    assert np.allclose(smooth(1.0, X), soft(X), rtol=1e-5)
    absolute = (soft(X) + soft(-X))[:2].sum() + X
    assert np.allclose(smooth(-1.0, X), absolute, rtol=1e-5)
    assert np.allclose(switches(1.0, X), [0, 0, *X])
    assert np.allclose(switches(-1.0, X), [*X[:2], 0, 0, 0])
    assert programs.describe(apply, 1.0, X).kinks == {"max": 1, "abs": 1}


def test_branching_on_the_input_is_told():
    def apply(params, x):
        return jax.lax.cond(x[0] > 0, lambda x: x, lambda x: 2 * x, x)

    assert programs.describe(apply, None, X) == ({}, {"cond": 1}, 0)


def test_loop_of_unknown_length_is_left():
    def apply(params, x):
        return jax.lax.while_loop(
            lambda x: jnp.sum(x) < 9, lambda x: 1 + jax.nn.relu(x), x
        )

    assert programs.describe(apply, None, X) == ({}, {"while": 1}, 0)
    with pytest.warns(UserWarning, match="while at 1 place"):
        smoothed = programs.smooth(apply, rho=RHO)(None, X)
    assert smoothed.tolist() == apply(None, X).tolist()


def test_switches_of_a_partner_are_left_out():
    model = models.Siamese(models.MLP((5,), 3, activation="relu"))
    pair = jnp.stack([X, X[::-1]])
    params = model.init(jax.random.key(0), pair)
    switches = kinks(models.pair_apply(model))((params, pair[1]), X)
    alone = kinks(lambda p, x: model.apply(p, x, method="embed"))(params, X)
    assert switches.shape == (5,)
    assert np.allclose(switches, alone, rtol=1e-5)


@pytest.mark.parametrize(
    "part",
    [
        lambda pair: list(pair),
        lambda pair: [row[0] for row in jnp.split(pair, 2)],
        lambda pair: [pair.reshape(-1)[:3], pair.T[:, 1]],
        lambda pair: [pair[0], jnp.concatenate([pair, pair])[3]],
    ],
)
def test_parts_of_an_array_are_told_apart(part):
    def apply(partner, x):
        first, second = part(jnp.stack([x, partner]))
        return jax.nn.relu(first) @ jax.nn.relu(2 * second)

    switches = kinks(apply)(X[::-1], X)
    assert switches.tolist() == X.tolist()


def test_entries_that_cannot_switch_have_no_derivative():
    def apply(params, x):
        return jnp.max(jnp.where(jnp.arange(3) < 2, x, -jnp.inf))

    z, w = crossing(apply)(None, X, 2)
    assert float(z) == -1 and w.tolist() == [0, 0, 0]
    z, w = crossing(apply)(None, X, 0)
    assert np.allclose(z, 2.0) and w.tolist() == [1, -1, 0]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, act):
        return self.last(act(self.norm(self.first(x))))


def test_module_split_into_a_function_and_its_state():
    graph, state = nnx.split(Net(nnx.Rngs(0)))

    def apply_with(act):
        return lambda state, x: nnx.merge(graph, state)(x, act)

    apply = apply_with(nnx.relu)
    assert programs.describe(apply, state, X) == ({"max": 1}, {}, 4)
    mine = programs.smooth(apply, rho=RHO)(state, X)
    assert np.allclose(mine, apply_with(soft)(state, X), rtol=1e-5)
    assert not has_kinks(apply_with(nnx.softplus), state, X)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_keep_their_type(dtype):
    def apply(params, x):
        return jnp.max(jax.nn.leaky_relu(x))

    x = X.astype(dtype)
    out = jax.jit(lambda rho: programs.smooth(apply, rho=rho)(None, x))(jnp.array(4.0))
    assert out.dtype == dtype and jnp.isfinite(out)
