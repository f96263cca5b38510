"""Which form of a graph convolution is the faster one: by edges, or by matrices."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from experiments.cost import costs
from experiments.cost.workload import Workload
from r2et_jax import models
from r2et_jax.models.gcn import edge_list, sparse_graph

# Regions and edges of graphs like KKI's, sparse, and like HIV's, whose edges are all
# there.
SHAPES = {"sparse": (190, 60), "dense": (90, math.comb(90, 2))}
_ROUNDS, _PAUSE = 7, 0.1


def compare(
    num_nodes: int,
    num_edges: int,
    *,
    hidden: tuple[int, ...] = (256, 128),
    num_graphs: int = 32,
    rounds: int = _ROUNDS,
) -> dict[str, Any]:
    """Time the gradient of a batch of graphs in the weights of their edges, both forms.

    The same random graphs as one `jraph.GraphsTuple` and as a batch of triangles.

    Args:
      num_nodes: regions.
      num_edges: of each graph.
      hidden: widths of the `GCN`.
      num_graphs: of the batch.
      rounds: timings of each form.

    Returns:
      `edges`, `matrices`: median seconds; `ratios`: seconds by matrices over those by
      edges, round by round; `error`: the largest difference of the gradients over their
      largest entry.
    """
    rng = np.random.default_rng(0)
    possible = math.comb(num_nodes, 2)
    x = np.zeros((num_graphs, possible), np.float32)
    for row in x:
        kept = rng.choice(possible, num_edges, replace=False)
        row[kept] = rng.uniform(0.2, 1, num_edges)
    model = models.GCN(num_nodes, hidden=hidden)
    params = model.init(jax.random.key(0), jnp.asarray(x[0]))
    listed = [edge_list(row, num_nodes, length=num_edges) for row in x]
    weights, pairs = (np.stack(part) for part in zip(*listed, strict=True))
    graphs = [
        jax.device_get(sparse_graph(*pair, num_nodes))
        for pair in zip(weights, pairs, strict=True)
    ]
    batch = jax.device_put(jraph.batch_np(graphs))

    def by_edges(weights):
        both = jnp.concatenate([weights, weights], axis=1).ravel()
        return jnp.sum(jnp.sin(model.apply(params, batch._replace(edges=both))))

    def by_matrices(x):
        return jnp.sum(jnp.sin(jax.vmap(model.apply, (None, 0))(params, x)))

    runs = {
        "edges": (jax.jit(jax.grad(by_edges)), jnp.asarray(weights)),
        "matrices": (jax.jit(jax.grad(by_matrices)), jnp.asarray(x)),
    }
    gathered = runs["edges"][0](runs["edges"][1])
    whole = np.asarray(runs["matrices"][0](runs["matrices"][1]))
    expected = np.stack([row[pair != 0] for row, pair in zip(whole, x, strict=True)])
    seconds = costs.interleaved(
        {name: lambda run=run, arg=arg: run(arg) for name, (run, arg) in runs.items()},
        rounds=rounds,
        pause=_PAUSE,
    )
    ratio = seconds["matrices"] / seconds["edges"]
    return {
        "edges": float(np.median(seconds["edges"])),
        "matrices": float(np.median(seconds["matrices"])),
        "ratios": ratio,
        "error": float(np.abs(gathered - expected).max() / np.abs(expected).max()),
    }


def measure_graphs(workload: Workload) -> list[dict]:
    """Time of a batch of graphs by matrices over that by edges, sparse and dense."""
    records = []
    for name, (num_nodes, num_edges) in SHAPES.items():
        numbers = compare(num_nodes, num_edges)
        note = f"{num_nodes} regions, {num_edges} edges"
        fields = {"against": name, "note": note}
        records += [
            *workload.spread("graph_form_ratio", numbers.pop("ratios"), **fields),
            workload.record("graph_form_error", numbers["error"], 1, **fields),
        ]
    return records
