"""Graph convolutions for weighted graphs of brain regions, dense and sparse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from r2et_jax.checks import check_count, check_in
from r2et_jax.models.activations import activation, surrogate_name
from r2et_jax.models.initial import Module
from r2et_jax.numerics import magnitude
from r2et_jax.types import Array

FEATURES = ("one_hot", "connectivity")


def adjacency(x: Array, num_nodes: int) -> Array:
    """Symmetric matrix [n, n] with a zero diagonal from its upper triangle, row by row.

    Args:
      x: the n(n − 1)/2 weights a₁₂, a₁₃, …, a₂₃, …
      num_nodes: n ≥ 2.

    Raises:
      ValueError: for n < 2 or another length.

    Example:
      >>> adjacency(jnp.array([1.0, 2.0, 3.0]), 3).tolist()
      [[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]]
    """
    _check_triangle(x, num_nodes)
    # Gathered, not scattered: both directions read the same weight.
    off_diagonal = ~np.eye(num_nodes, dtype=bool)
    return jnp.where(off_diagonal, x[_places(num_nodes)], 0)


def _check_triangle(x: Array, num_nodes: int) -> None:
    check_count("num_nodes", num_nodes, minimum=2)
    expected = (math.comb(num_nodes, 2),)
    if x.shape != expected:
        raise ValueError(
            f"the upper triangle of {num_nodes} nodes has the shape {expected}, got "
            f"{x.shape}"
        )


def _places(num_nodes: int) -> np.ndarray:
    """Where in the upper triangle each entry [n, n] stands; 0 on the diagonal."""
    place = np.zeros((num_nodes, num_nodes), np.int32)
    place[np.triu_indices(num_nodes, 1)] = np.arange(math.comb(num_nodes, 2))
    return place + place.T


def upper_triangle(matrix: Array) -> Array:
    """Entries above the diagonal [..., n(n − 1)/2], row by row: undoes `adjacency`."""
    return matrix[(..., *np.triu_indices(matrix.shape[-1], 1))]


def edge_list(x: np.ndarray, num_nodes: int, *, length: int) -> tuple:
    """The nonzero weights of an upper triangle, padded to one length for all graphs.

    Args:
      x: upper triangle [n(n − 1)/2], NumPy.
      num_nodes: n.
      length: E, at least the number of edges.

    Returns:
      Weights [E] and edges [E, 2] as pairs of nodes. Padding has the weight 0 and joins
      node 0 to itself, which changes nothing in `GCN`.

    Raises:
      ValueError: if the graph has more edges.
    """
    pairs = np.stack(np.triu_indices(num_nodes, 1), axis=1)
    (kept,) = np.nonzero(x)
    if len(kept) > length:
        raise ValueError(f"length must be at least {len(kept)} edges, got {length}")
    weights = np.zeros(length, np.asarray(x).dtype)
    edges = np.zeros((length, 2), np.int32)
    weights[: len(kept)], edges[: len(kept)] = np.asarray(x)[kept], pairs[kept]
    return weights, edges


def sparse_graph(weights: Array, edges: Array, num_nodes: int) -> jraph.GraphsTuple:
    """One graph whose nodes are the regions 0…n−1, each edge in both directions.

    Differentiable in the weights; both arguments may be traced.

    Args:
      weights: [E].
      edges: [E, 2] nodes, each undirected edge once; see `edge_list`.
      num_nodes: n.
    """
    weights, edges = jnp.asarray(weights), jnp.asarray(edges, jnp.int32)
    return jraph.GraphsTuple(
        nodes=jnp.arange(num_nodes, dtype=jnp.int32),
        edges=jnp.concatenate([weights, weights]),
        senders=jnp.concatenate([edges[:, 0], edges[:, 1]]),
        receivers=jnp.concatenate([edges[:, 1], edges[:, 0]]),
        n_node=jnp.array([num_nodes], jnp.int32),
        n_edge=jnp.array([2 * weights.shape[0]], jnp.int32),
        globals=None,
    )


class _Dense:
    """Linear maps of one graph given by its matrix."""

    def __init__(self, matrix: Array):
        diagonal = jnp.diagonal(matrix)
        loops = jnp.where(diagonal == 0, 1, diagonal)
        eye = np.eye(matrix.shape[0], dtype=bool)
        self.weights = jnp.where(eye, loops[:, None], matrix)
        # The loops keep degrees above 0. Scaling the matrix and not what it meets lets
        # a batch of graphs share one product with the weights of the first layer.
        scale = jax.lax.rsqrt(jnp.sum(magnitude(self.weights), axis=1))
        self.normal = scale[:, None] * self.weights * scale

    def features(self, kernel):
        """X W for the one-hot X of the nodes' regions: rows of W."""
        return kernel

    def rows(self, h):
        """Ã H."""
        return self.weights @ h

    def convolve(self, h):
        """D^{-1/2} Ã D^{-1/2} H."""
        return self.normal @ h

    def mean(self, h):
        """The mean row of D^{-1/2} Ã D^{-1/2} H, without that matrix."""
        return jnp.mean(self.normal, axis=0) @ h


class _Connected:
    """Maps of a graph of which few nodes have edges, given by its triangle.

    The matrix is that of the nodes which have one, padded. Rows of all nodes are two
    arrays: those of these nodes, and all n as they are without edges, for the others.
    """

    def __init__(self, x: Array, num_nodes: int, size: int):
        place = _places(num_nodes)
        has_edge = jnp.any((x != 0)[place] & ~np.eye(num_nodes, dtype=bool), axis=1)
        (self.nodes,) = jnp.nonzero(has_edge, size=size, fill_value=0)
        count = jnp.sum(has_edge)
        real = jnp.arange(size) < count
        pairs = real[:, None] & real & ~np.eye(size, dtype=bool)
        # Straight from x: the transpose of a gather costs what was gathered.
        places = jnp.asarray(place)[self.nodes][:, self.nodes]
        self.dense = _Dense(jnp.where(pairs, x[places], 0))
        # Nothing is left out unsaid: too many nodes with edges end as NaN.
        known = jnp.where(count <= size, 1 / num_nodes, jnp.nan).astype(x.dtype)
        self.near = jnp.where(real, known, 0)
        self.alone = jnp.where(has_edge, 0, known)

    def features(self, kernel):
        return kernel[self.nodes], kernel

    def rows(self, h):
        # A node without edges has its loop of weight 1 alone.
        near, alone = h
        return self.dense.rows(near), alone

    def convolve(self, h):
        near, alone = h
        return self.dense.convolve(near), alone

    def mean(self, h):
        near, alone = h
        return (self.near @ self.dense.normal) @ near + self.alone @ alone


class _Sparse:
    """The same maps of a batch of graphs given by their edges."""

    def __init__(self, graph: jraph.GraphsTuple):
        self.graph = graph
        loop = graph.senders == graph.receivers
        diagonal = self._sum(jnp.where(loop, graph.edges, 0))
        loops = jnp.where(diagonal == 0, 1, diagonal)
        weights = jnp.where(loop, 0, graph.edges)
        scale = jax.lax.rsqrt(self._sum(magnitude(weights)) + magnitude(loops))
        self.weights = weights, loops
        self.normal = (
            scale[graph.receivers] * weights * scale[graph.senders],
            scale * loops * scale,
        )

    def _sum(self, values):
        size = self.graph.nodes.shape[0]
        return jraph.segment_sum(values, self.graph.receivers, size)

    def _product(self, matrix, h):
        weights, loops = matrix
        return self._sum(weights[:, None] * h[self.graph.senders]) + loops[:, None] * h

    def features(self, kernel):
        return kernel[self.graph.nodes]

    def rows(self, h):
        return self._product(self.weights, h)

    def convolve(self, h):
        return self._product(self.normal, h)

    def mean(self, h):
        weights, loops = self.normal
        sizes, size = self.graph.n_node, h.shape[0]
        columns = jraph.segment_sum(weights, self.graph.senders, size) + loops
        index = jnp.arange(sizes.shape[0], dtype=jnp.int32)
        index = jnp.repeat(index, sizes, total_repeat_length=size)
        sums = jraph.segment_sum(columns[:, None] * h, index, sizes.shape[0])
        return sums / jnp.maximum(sizes, 1).astype(h.dtype)[:, None]


class GCN(Module):
    """Graph convolutions H ← φ(D^{-1/2} Ã D^{-1/2} H W + b), then the mean over nodes.

    Ã is the adjacency with each zero on its diagonal replaced by 1, and D is the
    diagonal of Σ_j |Ã_ij|: weights may be negative, and a node without edges has degree
    1. At a weight of zero, |a| has the derivative 0. The last convolution has no
    activation φ, so that its mean over nodes is computed as (mean row of
    D^{-1/2} Ã D^{-1/2}) H W + b.

    `model.apply(params, x)` takes **one** graph: its upper triangle [n(n − 1)/2] (the
    form for explanations of edges) or its matrix [n, n], to an embedding [d]; or a
    sparse batch of G graphs as a `jraph.GraphsTuple` to [G, d], with the same
    parameters. In it `nodes` [N] are the integer regions 0…n−1 of the nodes, `edges`
    [E] the weights, each undirected edge stands in both directions, and padding by
    `jraph.pad_with_graphs` changes nothing; an empty graph's row means nothing.

    Attributes:
      num_nodes: n, the number of regions.
      hidden: width of each convolution; the last one is d.
      features: "one_hot" region of each node, or the "connectivity" row Ã_i of weights
        to each region.
      activation: name of φ, see `models.activations`.
      rho: sharpness of its softplus forms.
      max_connected: the most nodes of a graph with an edge, where these are few: the
        products of a triangle are then with the matrix of these alone. A graph with
        more gives NaN. An edge that is absent at another node has the derivative 0:
        meant for gradient × input, and for attacks under `absent="frozen"`.

    Example:
      >>> model = GCN(num_nodes=4, hidden=(6, 3))
      >>> params = model.init(jax.random.key(0), jnp.zeros(6))
      >>> model.apply(params, jnp.array([0.5, 0.0, 0.0, -0.2, 0.0, 0.0])).shape
      (3,)

    Source: Kipf and Welling 2017 (arXiv 1609.02907), eq. 2; R2ET (arXiv 2212.14106),
      appendix on models.
    """

    num_nodes: int
    hidden: Sequence[int] = (256, 128)
    features: str = "one_hot"
    activation: str = "relu"
    rho: float = 5.0
    max_connected: int | None = None

    @nn.compact
    def __call__(self, x):
        check_in("features", self.features, FEATURES)
        if not self.hidden:
            raise ValueError(f"hidden needs at least one width, got {self.hidden!r}")
        act = activation(self.activation, rho=self.rho)
        graph = self._graph(x)
        # A unit of the first layer sees one input that is not zero, not n of them.
        one_hot = self.features == "one_hot"
        lecun = nn.initializers.lecun_normal()
        first = nn.initializers.normal(1.0) if one_hot else lecun
        fan_ins = (self.num_nodes, *self.hidden[:-1])
        kernels, biases = [], []
        for layer, shape in enumerate(zip(fan_ins, self.hidden, strict=True)):
            init = lecun if layer else first
            kernels.append(self.param(f"kernel_{layer}", init, shape, jnp.float32))
            zeros = nn.initializers.zeros_init()
            biases.append(self.param(f"bias_{layer}", zeros, shape[1:], jnp.float32))

        # Read from a file they may be NumPy arrays, which traced nodes cannot index.
        h = graph.features(jnp.asarray(kernels[0]))
        h = h if one_hot else graph.rows(h)
        if len(kernels) == 1:
            return graph.mean(h) + biases[0]
        for kernel, bias in zip(kernels[1:-1], biases[:-2], strict=True):
            h = jax.tree.map(
                lambda rows, bias=bias, kernel=kernel: act(rows + bias) @ kernel,
                graph.convolve(h),
            )
        h = jax.tree.map(lambda rows: act(rows + biases[-2]), graph.convolve(h))
        return graph.mean(h) @ kernels[-1] + biases[-1]

    def _graph(self, x):
        n = self.num_nodes
        if isinstance(x, jraph.GraphsTuple):
            for name in ("nodes", "edges"):
                if getattr(getattr(x, name), "ndim", None) != 1:
                    raise ValueError(
                        "a GraphsTuple needs nodes [N], the integer regions, and edges "
                        f"[E], the weights; got {name} = {getattr(x, name)!r}"
                    )
            return _Sparse(x)
        if x.ndim == 1:
            if self.max_connected is None:
                return _Dense(adjacency(x, n))
            check_count("max_connected", self.max_connected)
            _check_triangle(x, n)
            return _Connected(x, n, min(self.max_connected, n))
        if x.shape != (n, n):
            raise ValueError(
                f"one graph of {n} nodes is [{math.comb(n, 2)}] or [{n}, {n}], got "
                f"{x.shape}; batch with jax.vmap"
            )
        return _Dense(x)

    def surrogate(self, *, rho: float) -> GCN:
        """The model with the smooth stand-in of a piecewise-linear activation.

        A model that is smooth already is returned as it is. |a| stays as it is: its
        kinks are at weights that change their sign.
        """
        name = surrogate_name(self.activation)
        if name == self.activation:
            return self
        return self.clone(activation=name, rho=rho)
