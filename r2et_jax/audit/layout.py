"""Inputs of any shape as rows of numbers, which is what attacks and certificates take.

An image, a sequence of embeddings or a dict of arrays is one row of n numbers to the
adversary, and the shape that it has to the model and to who reads the explanation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax.checks import as_array
from r2et_jax.execution import hashable
from r2et_jax.subject import Form
from r2et_jax.types import ApplyFn, SaliencyFn

# Arrays of three axes are images, whose channels are summed.
_IMAGE_AXES = 3


class Layout(NamedTuple):
    """How one input is laid out in a row. Hashable: programs are kept by it.

    Attributes:
      treedef: of one input, a pytree of arrays.
      shapes: of its arrays, in order.
      channel_axis: the axis of a single array that the explanation sums after |·|.
      explained: shape of the explanation.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    channel_axis: int | None
    explained: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in a row, n."""
        return sum(map(math.prod, self.shapes))

    @property
    def is_plain(self) -> bool:
        """Whether inputs are rows already."""
        leaf = jax.tree.structure(0)
        return self.treedef == leaf and len(self.shapes[0]) == 1

    def input_of(self, row: Any) -> Any:
        """The input [...] of a row [n]."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = jnp.split(row, ends) if len(ends) else [row]
        leaves = [
            part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


def as_rows(x: Any, channel_axis: int | str | None = "auto") -> tuple[Layout, Any]:
    """The layout of inputs, and their rows.

    Args:
      x: an array [m, ...] or a pytree of such arrays, finite real numbers; integers
        are taken as floats, and floats of 16 bits as such of 32. Lists are arrays.
      channel_axis: the axis of one input that the explanation sums after |·|, such as
        −1 of a sequence of embeddings [T, E]; "auto" takes the last one of arrays of
        three axes [H, W, C], and none of others.

    Returns:
      The layout, and NumPy floats [m, n] in a type of JAX's.

    Raises:
      ValueError: for anything else.
    """
    _check_stacked(x)
    leaves, treedef = [((), x)], jax.tree.structure(0)
    if is_tree(x):
        try:
            leaves, treedef = jax.tree_util.tree_flatten_with_path(x)
        except ValueError as error:  # keys that cannot be put in order
            raise ValueError(
                f"the keys of x must be of one kind, got {list(x)}: {error}"
            ) from error
    if not leaves:
        raise ValueError(f"x must hold at least one array, got {x!r}")
    arrays = [_as_floats(f"x{jax.tree_util.keystr(at)}", leaf) for at, leaf in leaves]
    counts = sorted({len(array) for array in arrays})
    if len(counts) > 1:
        raise ValueError(
            f"all arrays of x must hold the same number of inputs, got {counts}"
        )
    dtype = functools.reduce(jnp.promote_types, [array.dtype for array in arrays])
    rows = np.concatenate(
        [array.reshape(len(array), -1).astype(dtype) for array in arrays], axis=1
    )
    shapes = tuple(array.shape[1:] for array in arrays)
    axis = _channel_axis(channel_axis, shapes)
    explained = shapes[0] if len(shapes) == 1 else (rows.shape[1],)
    if axis is not None:
        explained = (*explained[:axis], *explained[axis + 1 :])
    return Layout(treedef, shapes, axis, explained), rows


def is_tree(x: Any) -> bool:
    """Whether it is a pytree of arrays; lists are nested numbers, as NumPy has them."""
    return not (x is None or isinstance(x, list) or jax.tree_util.all_leaves([x]))


def _check_stacked(x: Any) -> None:
    """Raise for structures that are not of arrays with one entry for each input."""
    some = x[0] if isinstance(x, list) and len(x) else x
    kind = type(some).__name__
    if hasattr(some, "senders") or hasattr(some, "edge_index"):  # jraph's, PyG's
        raise ValueError(
            f"x must be arrays [m, ...], got a {kind}, which joins graphs at their "
            "nodes: give the array that is explained, such as weights of edges [m, E] "
            "or features of nodes [m, N, F], and put the graph together inside of "
            "apply, as graph._replace(edges=x[:, None])"
        )
    if some is not x and (is_tree(some) and type(some) is not tuple):
        raise ValueError(
            f"x must be arrays with one entry for each input, got a list of {len(x)} "
            f"{kind}: stack them, jax.tree.map(lambda *leaves: numpy.stack(leaves), *x)"
        )


def _as_floats(name: str, x: Any) -> np.ndarray:
    """Finite floats [m, ...] in a type of JAX's."""
    kind, sparse = type(x).__name__, hasattr(x, "toarray")
    if np.ma.is_masked(x):
        raise ValueError(
            f"{name} has {np.ma.count_masked(x)} masked values: fill them or leave "
            "the rows out"
        )
    try:
        x = as_array(x)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{name} must be an array [m, ...]: {error}") from error
    if x.dtype.kind in "OUS" and x.ndim == 0:
        raise ValueError(
            f"{name} must be an array [m, ...] of numbers, got a {kind}: give "
            + ("x.toarray()" if sparse else "an array, or a dict of several")
        )
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"{name} must be inputs [m, n], or [m, ...] of any shape, with m ≥ 1, got "
            f"shape {x.shape}"
        )
    real = jnp.issubdtype(x.dtype, jnp.floating)
    if not real and x.dtype.kind not in "biu":
        raise ValueError(
            f"{name} must hold real numbers, got dtype {x.dtype}{_first_other(x)}"
        )
    with np.errstate(over="ignore"):  # what overflows is named below
        known = real and x.dtype != np.longdouble
        dtype = jax.dtypes.canonicalize_dtype(x.dtype if known else float)
        # Steps of an attack are lost in the rounding of 16 bits.
        x = x.astype(dtype if dtype.itemsize > 2 else np.float32)
    if not np.isfinite(x).all():
        at = tuple(np.argwhere(~np.isfinite(x))[0].tolist())
        raise ValueError(f"{name}{list(at)} is {x[at]} in {x.dtype}, not finite")
    return x


def _first_other(x: np.ndarray) -> str:
    """Where the first value stands that is no number, and what to do."""
    for at, value in np.ndenumerate(x) if x.dtype.kind in "OUS" else ():
        if not isinstance(value, int | float | np.number | np.bool_):
            return (
                f", {value!r} at {list(at)}: datasets.from_frame and from_csv code "
                "texts, what is missing is to be filled or left out"
            )
    return ""


def _channel_axis(axis: Any, shapes: Sequence[tuple[int, ...]]) -> int | None:
    single = len(shapes) == 1
    if isinstance(axis, str) and axis == "auto":
        return _IMAGE_AXES - 1 if single and len(shapes[0]) == _IMAGE_AXES else None
    if axis is None:
        return None
    num_axes = len(shapes[0]) if single else 0
    if isinstance(axis, bool) or not hasattr(axis, "__index__") or num_axes < 2:
        raise ValueError(
            "channel_axis must be an axis of inputs that are one array of two axes or "
            f'more, None, or "auto", got {axis!r} for inputs of shape '
            f"{shapes[0] if single else list(shapes)}"
        )
    if not -num_axes <= axis < num_axes:
        raise ValueError(
            f"channel_axis must be an axis of one input of shape {shapes[0]}, got "
            f"{axis!r}"
        )
    return int(axis) % num_axes


def of_rows(form: Form, layout: Layout) -> Form:
    """The form of a model as one of rows: the same object for the same arguments."""
    if layout.is_plain:
        return form
    smoothed = form.smoothed
    return form._replace(
        apply=_apply_of_rows(hashable(form.apply), layout),
        smoothed=None if smoothed is None else _smoothed_of_rows(smoothed, layout),
        explainer=_explainer_of_rows(form.explainer, layout),
    )


@functools.lru_cache(maxsize=256)
def _apply_of_rows(apply: ApplyFn, layout: Layout) -> ApplyFn:
    def model(params, row, /):
        return apply(params, layout.input_of(row))

    return model


@functools.lru_cache(maxsize=256)
def _smoothed_of_rows(smoothed, layout: Layout):
    return lambda rho: _apply_of_rows(hashable(smoothed(rho)), layout)


@functools.lru_cache(maxsize=256)
def _explainer_of_rows(explainer, layout: Layout) -> Callable[..., SaliencyFn]:
    """An explainer that sees arrays in their shape; a pytree it sees as a row."""
    if len(layout.shapes) > 1 or layout.treedef != jax.tree.structure(0):
        return explainer
    (shape,), axis = layout.shapes, layout.channel_axis
    channels = {} if axis is None else {"channel_axis": axis}

    def of_score(score, **options):
        def of_array(params, x, target, /):
            return score(params, x.ravel(), target)

        explain = explainer(of_array, **channels, **options)

        def saliency(params, row, target, /, **drawn):
            return explain(params, row.reshape(shape), target, **drawn).ravel()

        return saliency

    return of_score


def default_names(x: Any, layout: Layout) -> tuple[str, ...]:
    """What the explained features are called where nobody says it.

    By their place: "3" of a table, "(3, 4)" of an image, "['hours'][2]" of a dict.
    """
    if len(layout.shapes) == 1 and layout.treedef == jax.tree.structure(0):
        if len(layout.explained) == 1:
            return tuple(f"feature {i}" for i in range(layout.explained[0]))
        return tuple(str(tuple(at)) for at in np.ndindex(layout.explained))
    paths, _ = jax.tree_util.tree_flatten_with_path(x)
    return tuple(
        _path(path) + (f"[{', '.join(map(str, at))}]" if math.prod(shape) > 1 else "")
        for (path, _), shape in zip(paths, layout.shapes, strict=True)
        for at in np.ndindex(shape)
    )


def _path(path: Any) -> str:
    return ".".join(
        str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step))))
        for step in path
    )
