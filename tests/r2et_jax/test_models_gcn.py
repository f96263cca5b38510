"""Graph convolutions: by hand, against NumPy, dense against sparse, and permuted."""

import doctest
import math

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from r2et_jax import models
from r2et_jax.models import gcn
from r2et_jax.models.gcn import adjacency, edge_list, sparse_graph, upper_triangle

N = 7
M = math.comb(N, 2)


def graph_weights(seed, density=0.6, size=()):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, (*size, M)) * (rng.random((*size, M)) < density)
    weights[..., : N - 1] = 0  # node 0 has no edge
    return weights


def init(model, dtype=jnp.float64):
    x = jnp.zeros(math.comb(model.num_nodes, 2), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(9)

    def fill(leaf):  # biases too, which start at zero
        return jnp.asarray(rng.normal(size=leaf.shape), dtype)

    return jax.tree.map(fill, params)


def reference(params, matrix, features, act):
    """The equations with full matrices, the one-hot identity among them."""
    layers = jax.tree.map(np.asarray, params["params"])
    diagonal = np.diagonal(matrix)
    tilde = matrix + np.diag(np.where(diagonal == 0, 1.0, 0.0))
    root = np.diag(1 / np.sqrt(np.abs(tilde).sum(axis=1)))
    normal = root @ tilde @ root
    h = np.eye(len(matrix)) if features == "one_hot" else tilde
    depth = len(layers) // 2
    for layer in range(depth):
        h = normal @ h @ layers[f"kernel_{layer}"] + layers[f"bias_{layer}"]
        h = act(h) if layer < depth - 1 else h
    return h.mean(axis=0)


def test_docstring_examples_run():
    result = doctest.testmod(gcn)
    assert result.attempted > 0 and result.failed == 0


def test_triangle_and_matrix_are_the_same_graph():
    x = np.arange(1.0, 1 + M, dtype=np.float32)
    matrix = np.asarray(adjacency(jnp.asarray(x), N))
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diagonal(matrix), 0)
    np.testing.assert_array_equal(matrix[np.triu_indices(N, 1)], x)
    stack = np.stack([matrix, -matrix])
    np.testing.assert_array_equal(upper_triangle(stack), [x, -x])


def test_three_nodes_by_hand():
    # Degrees 1+3+12 = 16, 1+3+12 = 16, 1+12+12 = 25, so the normalised matrix is
    # [[1/16, 3/16, −.6], [3/16, 1/16, .6], [−.6, .6, 1/25]]. Times the rows (1, 2, 3),
    # plus .1: (−1.2625, 2.2125, .82), whose ReLU is (0, 2.2125, .82). Times the matrix:
    # (−.07715625, .63028125, 1.3603), with the mean .6378083…; 2·mean − 1 = .2756166…
    model = models.GCN(num_nodes=3, hidden=(1, 1))
    params = {
        "params": {
            "kernel_0": jnp.array([[1.0], [2.0], [3.0]]),
            "bias_0": jnp.array([0.1]),
            "kernel_1": jnp.array([[2.0]]),
            "bias_1": jnp.array([-1.0]),
        }
    }
    value = model.apply(params, jnp.array([3.0, -12.0, 12.0]))
    np.testing.assert_allclose(value, [0.27561667], rtol=1e-6)


def test_the_default_is_the_published_model():
    model = models.GCN(num_nodes=90)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(4005))
    sizes = {name: math.prod(leaf.shape) for name, leaf in params["params"].items()}
    assert sizes == {
        "kernel_0": 90 * 256,
        "bias_0": 256,
        "kernel_1": 256 * 128,
        "bias_1": 128,
    }
    assert model.features == "one_hot"


@pytest.mark.parametrize("features", gcn.FEATURES)
@pytest.mark.parametrize("hidden", [(3,), (5, 3), (5, 4, 3)])
def test_dense_model_equals_the_equations(features, hidden):
    model = models.GCN(num_nodes=N, hidden=hidden, features=features)
    with jax.enable_x64(True):
        params = init(model)
        matrix = np.array(adjacency(jnp.asarray(graph_weights(0)), N))
        apply = jax.jit(model.apply)
        value = apply(params, jnp.asarray(upper_triangle(matrix)))
        np.fill_diagonal(matrix, [0, 1, -0.5, 0, 2, 0, 0.1])
        loops = apply(params, jnp.asarray(matrix))
    relu = lambda h: np.maximum(h, 0)  # noqa: E731
    expected = reference(params, matrix, features, relu)
    np.testing.assert_allclose(loops, expected, rtol=1e-12)
    np.fill_diagonal(matrix, 0)
    expected = reference(params, matrix, features, relu)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def derivatives(fn, x, v):
    """Value, gradient and product with the Hessian of a weighted sum of the output."""
    gradient = jax.grad(fn)
    return jax.jit(lambda x, v: (fn(x), *jax.jvp(gradient, (x,), (v,))))(x, v)


@pytest.mark.parametrize("features", gcn.FEATURES)
@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_sparse_equals_dense_in_value_gradient_and_hessian(features, act):
    model = models.GCN(
        num_nodes=N, hidden=(5, 3), features=features, activation=act, rho=2.0
    )
    x = graph_weights(1, density=0.4)
    with jax.enable_x64(True):
        params, mix = init(model), jnp.array([1.0, -2.0, 0.5])
        (kept,) = np.nonzero(x)
        # Longer than needed: what is left is padding.
        weights, edges = edge_list(x, N, length=len(kept) + 4)
        v = np.random.default_rng(2).normal(size=len(weights))
        full = np.zeros(M)
        full[kept] = v[: len(kept)]
        dense = derivatives(
            lambda x: mix @ model.apply(params, x), jnp.asarray(x), jnp.asarray(full)
        )
        sparse = derivatives(
            lambda w: mix @ model.apply(params, sparse_graph(w, edges, N))[0],
            jnp.asarray(weights),
            jnp.asarray(v),
        )
    np.testing.assert_allclose(sparse[0], dense[0], rtol=1e-12)
    for computed, expected in zip(sparse[1:], dense[1:], strict=True):
        assert np.linalg.norm(expected[kept]) > 1e-3
        np.testing.assert_allclose(computed[: len(kept)], expected[kept], atol=1e-12)
        np.testing.assert_array_equal(
            computed[len(kept) :], 0
        )  # padding has no influence


@pytest.mark.parametrize("features", gcn.FEATURES)
@pytest.mark.parametrize("hidden", [(3,), (5, 3), (5, 4, 3)])
def test_leaving_out_nodes_without_edges_changes_nothing(features, hidden):
    model = models.GCN(
        num_nodes=N, hidden=hidden, features=features, activation="softplus", rho=2.0
    )
    place = np.stack(np.triu_indices(N, 1))
    x = graph_weights(3, density=0.9) * ~np.isin(place, [2, 5]).any(axis=0)
    kept = x != 0
    connected = np.unique(place[:, kept]).size
    assert 2 < connected < N - 2  # several nodes are left out
    v = np.random.default_rng(2).normal(size=M) * kept
    with jax.enable_x64(True):
        params, mix = init(model), jnp.array([1.0, -2.0, 0.5])

        def computed(size):
            few = model.clone(max_connected=size)
            return derivatives(
                lambda x: mix @ few.apply(params, x), jnp.asarray(x), jnp.asarray(v)
            )

        dense = computed(None)
        for size in (connected, connected + 1, N + 3):
            few = computed(size)
            np.testing.assert_allclose(few[0], dense[0], rtol=1e-12)
            for value, expected in zip(few[1:], dense[1:], strict=True):
                assert np.linalg.norm(expected[kept]) > 1e-3
                np.testing.assert_allclose(value[kept], expected[kept], atol=1e-12)
        assert np.isnan(computed(connected - 1)[0])


def test_a_padded_batch_of_graphs_equals_the_graphs_one_by_one():
    model = models.GCN(num_nodes=N, hidden=(5, 3))
    x = graph_weights(3, size=(3,)).astype(np.float32)
    params = init(model, jnp.float32)
    graphs = [
        jax.device_get(sparse_graph(*edge_list(graph, N, length=M), N)) for graph in x
    ]
    batch = jraph.batch_np(graphs)
    apply = jax.jit(model.apply)
    expected = jnp.stack([apply(params, jnp.asarray(graph)) for graph in x])
    np.testing.assert_allclose(apply(params, batch), expected, rtol=1e-5, atol=1e-6)
    padded = jraph.pad_with_graphs(batch, n_node=30, n_edge=200, n_graph=6)
    value = apply(params, padded)
    assert value.shape == (6, 3) and np.all(np.isfinite(value))
    np.testing.assert_allclose(value[:3], expected, rtol=1e-5, atol=1e-6)

    def total(edges):
        return jnp.sum(model.apply(params, padded._replace(edges=edges))[:3])

    gradient = jax.jit(jax.grad(total))(jnp.asarray(padded.edges))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[len(batch.edges) :], 0)


def test_graphs_of_some_regions_in_any_order_and_with_loops():
    # A graph of the regions 4, 1, 6 is that part of the matrix, with those rows of W.
    model = models.GCN(num_nodes=N, hidden=(5, 3))
    part = np.array([[0.5, 2.0, 0.0], [2.0, 0.0, -1.0], [0.0, -1.0, -3.0]], np.float32)
    regions = np.array([4, 1, 6])
    params = init(model, jnp.float32)
    receivers, senders = np.nonzero(part)
    graph = jraph.GraphsTuple(
        nodes=jnp.asarray(regions, jnp.int32),
        edges=jnp.asarray(part[receivers, senders]),
        senders=jnp.asarray(senders, jnp.int32),
        receivers=jnp.asarray(receivers, jnp.int32),
        n_node=jnp.array([3], jnp.int32),
        n_edge=jnp.array([len(senders)], jnp.int32),
        globals=None,
    )
    (value,) = jax.jit(model.apply)(params, graph)
    layers = {**params["params"], "kernel_0": params["params"]["kernel_0"][regions]}
    small = models.GCN(num_nodes=3, hidden=(5, 3))
    expected = jax.jit(small.apply)({"params": layers}, part)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("features", gcn.FEATURES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_permuted_nodes_permute_the_explanation(features, seed):
    model = models.GCN(num_nodes=N, hidden=(5, 3), features=features)
    order = np.random.default_rng(seed).permutation(N)
    with jax.enable_x64(True):
        params, mix = init(model), jnp.array([1.0, -2.0, 0.5])
        run = jax.jit(
            jax.value_and_grad(lambda x, params: mix @ model.apply(params, x))
        )
        x = jnp.asarray(graph_weights(seed))
        value, gradient = run(x, params)
        permuted = adjacency(x, N)[np.ix_(order, order)]
        layers = {**params["params"], "kernel_0": params["params"]["kernel_0"][order]}
        value_2, gradient_2 = run(upper_triangle(permuted), {"params": layers})
        expected = adjacency(gradient, N)[np.ix_(order, order)]
        np.testing.assert_allclose(value_2, value, rtol=1e-12)
        expected = upper_triangle(expected)
        assert np.std(expected) > 1e-3
        np.testing.assert_allclose(gradient_2, expected, atol=1e-12)


@pytest.mark.parametrize("features", gcn.FEATURES)
@pytest.mark.parametrize("x", [np.zeros(M), -np.ones(M), 1e-30 * np.ones(M)])
def test_graphs_without_edges_or_with_negative_ones_stay_finite(features, x):
    model = models.GCN(num_nodes=N, hidden=(5, 3), features=features)
    params = init(model, jnp.float32)
    x = jnp.asarray(x, jnp.float32)

    def dense(x):
        return jnp.sum(model.apply(params, x))

    edges = np.stack(np.triu_indices(N, 1), axis=1)

    def sparse(x):
        return jnp.sum(model.apply(params, sparse_graph(x, edges, N)))

    for fn in (dense, sparse):
        for result in derivatives(fn, x, jnp.ones(M)):
            assert np.all(np.isfinite(result))


def test_derivatives_are_central_differences_even_where_weights_are_zero():
    # |a| is even, so the central difference at a = 0 sees its derivative as 0.
    model = models.GCN(num_nodes=N, hidden=(5, 3), activation="tanh")
    with jax.enable_x64(True):
        params, mix = init(model), jnp.array([1.0, -2.0, 0.5])
        fn = jax.jit(lambda x: mix @ model.apply(params, x))
        x = graph_weights(4)
        assert np.sum(x == 0) > 6
        step = 1e-6 * np.eye(M)
        upper, lower = (jax.vmap(fn)(jnp.asarray(x + sign * step)) for sign in (1, -1))
        gradient = jax.grad(fn)(jnp.asarray(x))
        np.testing.assert_allclose(gradient, (upper - lower) / 2e-6, atol=1e-5)


def test_products_with_the_hessian_equal_finite_differences():
    model = models.GCN(num_nodes=N, hidden=(5, 3), activation="softplus")
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        params, mix = init(model), jnp.array([1.0, -2.0, 0.5])
        x, v = jnp.asarray(rng.uniform(0.1, 1, (2, M)))

        def fn(x):
            return mix @ model.apply(params, x)

        _, _, product = derivatives(fn, x, v)
        gradient = jax.jit(jax.grad(fn))
        difference = (gradient(x + 1e-6 * v) - gradient(x - 1e-6 * v)) / 2e-6
    assert np.linalg.norm(product) > 1e-3
    np.testing.assert_allclose(product, difference, atol=1e-8)


def test_surrogate_converges_to_the_model_like_one_over_rho():
    model = models.GCN(num_nodes=N, hidden=(16, 3), activation="leaky_relu")
    params = init(model, jnp.float32)
    x = jnp.asarray(graph_weights(6, size=(5,)), jnp.float32)
    exact = jax.jit(jax.vmap(model.apply, (None, 0)))(params, x)

    def error(rho):
        smooth = jax.jit(jax.vmap(model.surrogate(rho=rho).apply, (None, 0)))(params, x)
        return np.max(np.abs(smooth - exact))

    coarse, fine = error(10.0), error(200.0)
    assert 0 < fine < 0.1 * coarse and fine < 0.05
    smooth = models.GCN(num_nodes=N, activation="softplus")
    assert smooth.surrogate(rho=1.0) is smooth


GRAPH = sparse_graph(jnp.ones(1), jnp.array([[0, 1]]), 3)
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adjacency(jnp.ones(4), 3), r"\(3,\), got \(4,\)"),
        (lambda: adjacency(jnp.ones(0), 1), "num_nodes.*at least 2, got 1"),
        (lambda: edge_list(np.ones(3), 3, length=2), "at least 3 .*got 2"),
        (
            lambda: models.GCN(num_nodes=3).init(KEY, jnp.ones((4, 4))),
            r"\[3\] or \[3, 3\], got \(4, 4\)",
        ),
        (
            lambda: models.GCN(num_nodes=3).init(KEY, GRAPH._replace(nodes=None)),
            "nodes = None",
        ),
        (
            lambda: models.GCN(num_nodes=3).init(
                KEY, GRAPH._replace(edges=jnp.ones((2, 1)))
            ),
            "edges = ",
        ),
        (
            lambda: models.GCN(num_nodes=3, features="degree").init(KEY, jnp.ones(3)),
            "unknown features 'degree'; known: connectivity, one_hot",
        ),
        (
            lambda: models.GCN(num_nodes=3, hidden=()).init(KEY, jnp.ones(3)),
            "at least one width",
        ),
    ],
)
def test_static_mistakes_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("form", ["triangle", "connected", "sparse"])
def test_parameters_may_be_numpy_arrays(form):
    """As they are read from a file, and closed over by a compiled function."""
    size = N if form == "connected" else None
    model = models.GCN(num_nodes=N, hidden=(4, 3), max_connected=size)
    x = graph_weights(5).astype(np.float32)
    params = jax.device_get(init(model, jnp.float32))
    apply = jax.jit(lambda x: model.apply(params, x))
    expected = models.GCN(num_nodes=N, hidden=(4, 3)).apply(params, jnp.asarray(x))
    value = apply(jnp.asarray(x))
    if form == "sparse":
        graph = sparse_graph(*edge_list(x, N, length=M), N)
        value = apply(graph)[0]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
