"""Pytrees to bytes and back, and the fingerprint of parameters."""

import doctest

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax.training import packing


def test_docstring_examples_run():
    result = doctest.testmod(packing)
    assert result.attempted > 0 and result.failed == 0


ARRAYS = hnp.arrays(
    st.one_of(
        hnp.integer_dtypes(endianness="?"),
        hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        hnp.boolean_dtypes(),
    ),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
)
PYTREES = st.recursive(
    st.one_of(ARRAYS, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=6,
)


@hypothesis.settings(max_examples=100)
@hypothesis.given(PYTREES)
def test_unpacking_undoes_packing(tree):
    data, specs = packing.pack(tree)
    assert data.dtype == np.uint8 and data.ndim == 1
    unpacked = packing.unpack(data, specs, jax.tree.structure(tree))
    assert jax.tree.structure(unpacked) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(unpacked), jax.tree.leaves(tree), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes() and a.flags.aligned and a.flags.writeable
    with pytest.raises(ValueError, match="bytes, expected"):
        longer = np.append(data, np.uint8(1))
        packing.unpack(longer, specs, jax.tree.structure(tree))


def test_the_fingerprint_of_parameters():
    params = {"b": np.zeros(2, np.float32), "a": {"w": np.arange(6.0).reshape(2, 3)}}
    digest = packing.params_sha256(params)
    assert len(digest) == 64 and int(digest, 16) >= 0
    ordered = {"a": {"w": params["a"]["w"]}, "b": jnp.zeros(2, jnp.float32)}
    assert packing.params_sha256(ordered) == digest
    others = [
        {**params, "b": np.zeros(2, np.int32)},  # the same bytes
        {**params, "b": np.zeros((2, 1), np.float32)},
        {**params, "b": np.array([0, -0.0], np.float32)},
        {**params, "a": {"v": params["a"]["w"]}},
        {"b": params["b"], "a.w": params["a"]["w"]},
        {**params, "c": np.zeros(0)},
    ]
    digests = {packing.params_sha256(other) for other in others}
    assert len(digests | {digest}) == 1 + len(others)
