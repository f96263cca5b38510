"""Columns that show when a robust ranking was had too cheaply."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from r2et_jax.checks import check_k, check_positive, check_same_shape
from r2et_jax.metrics._arrays import as_floats, check_axes
from r2et_jax.metrics.summary import Summary, as_units, mean_and_stderr
from r2et_jax.ranking.topk import positive_top_k_mask


class NullShare(NamedTuple):
    """Share of the gradient in directions that the training data do not have.

    Attributes:
      mean: mean share over inputs, in [0, 1]; nan if there are none.
      stderr: its standard error.
      n: number of different inputs behind the mean.
      num_zero: inputs left out because their gradient is zero.
      num_nonfinite: inputs left out because their gradient is not finite.
      dimension: dimension of the null space, 0…n.
    """

    mean: float
    stderr: float
    n: int
    num_zero: int
    num_nonfinite: int
    dimension: int


def null_share(
    gradients: ArrayLike,
    train_x: ArrayLike,
    *,
    tolerance: float = 1e-5,
    directions: np.ndarray | None = None,
    units: ArrayLike | None = None,
) -> NullShare:
    """Share of the squared gradient in the null space of the training data.

        null = (1/m) Σ_x ‖P g(x)‖² / ‖g(x)‖²

    with P the orthogonal projection on the directions along which the centred training
    data are constant (the sum of a complete one-hot group, a pixel that is never lit).
    A gradient added along them changes no prediction on the data, but can fix the
    ranking. A null space of dimension d holds the share d/n of a random gradient; with
    N ≤ n training inputs d ≥ n − N + 1, and the share says little.

    Computed on the host in float64.

    Args:
      gradients: gradients ∇ₓs [m, n] of the explained score, signed, not normalised
        (a positive factor for each input changes nothing).
      train_x: training inputs [N, n].
      tolerance: a principal direction is null if the standard deviation of the data
        along it is at most this share of the largest one. The default lies above the
        rounding of float32 data and below any real feature.
      directions: what `data_directions` found in `train_x` [d, n], for many models to
        share.
      units: the input of each gradient [m], see `mean_and_stderr`.

    Returns:
      `NullShare`.

    Raises:
      ValueError: if the shapes are not [m, n] and [N, n], `train_x` is empty or not
        finite, or the tolerance is not positive.

    Example:
      >>> one_hot = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
      >>> result = null_share(np.array([[1.0, 1.0]]), one_hot)
      >>> print(f"{result.mean:.3f} {result.dimension}")
      1.000 1
    """
    gradients, train_x = np.asarray(gradients, np.float64), np.asarray(train_x)
    check_axes("gradients", gradients, "m, n")
    check_axes("train_x", train_x, "N, n")
    if gradients.shape[1] != train_x.shape[1] or train_x.size == 0:
        raise ValueError(
            "gradients [m, n] and train_x [N, n] must have the same n and train_x must "
            f"hold something, got {gradients.shape} and {train_x.shape}"
        )
    basis = directions
    if basis is None:
        basis = data_directions(train_x, tolerance=tolerance)
    finite = np.all(np.isfinite(gradients), axis=1)
    scale = np.max(np.abs(gradients), axis=1, initial=0.0)
    zero = finite & (scale == 0)
    kept = finite & ~zero
    # Scaled first: the gradients of a saturated model have squares that underflow.
    unit = gradients[kept] / scale[kept, None]
    outside = unit - (unit @ basis) @ basis.T
    shares = np.sum(outside**2, axis=1) / np.sum(unit**2, axis=1)
    units = as_units(units, len(gradients))[kept]
    summary = mean_and_stderr(np.clip(shares, 0.0, 1.0), units=units)
    return NullShare(
        mean=float(summary.mean),
        stderr=float(summary.stderr),
        n=int(summary.n),
        num_zero=int(np.sum(zero)),
        num_nonfinite=int(np.sum(~finite)),
        dimension=basis.shape[0] - basis.shape[1],
    )


def data_directions(train_x: ArrayLike, *, tolerance: float = 1e-5) -> np.ndarray:
    """Orthonormal basis [n, r] of the directions along which the data vary.

    Args:
      train_x, tolerance: as in `null_share`.

    Returns:
      The basis, float64.

    Raises:
      ValueError: if `train_x` is not [N, n] and finite, or the tolerance not positive.

    Example:
      >>> one_hot = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
      >>> data_directions(one_hot).shape
      (2, 1)
    """
    train_x = np.asarray(train_x, np.float64)
    check_axes("train_x", train_x, "N, n")
    check_positive("tolerance", tolerance)
    if not np.all(np.isfinite(train_x)):
        raise ValueError("train_x must be finite, got nan or infinite entries")
    num_inputs, num_features = train_x.shape
    centred = train_x - train_x.mean(axis=0)
    # A column that never changes is null exactly; its rounded mean would say otherwise.
    centred[:, np.all(train_x == train_x[:1], axis=0)] = 0.0
    if num_inputs < num_features:
        _, spread, directions = np.linalg.svd(centred, full_matrices=False)
        directions = directions.T
    else:
        # The n × n covariance: standard deviations are good to about 1e-7 of the
        # largest, far below the tolerance.
        variances, directions = np.linalg.eigh(centred.T @ centred)
        spread = np.sqrt(np.maximum(variances, 0.0))
    return directions[:, spread > tolerance * spread.max()]


def linear_r2(x: ArrayLike, logits: ArrayLike) -> float:
    """R² of the best linear fit of the logits: 1 is a model that is linear.

        R² = 1 − min_{A,b} Σ ‖z(x) − Ax − b‖² / Σ ‖z(x) − z̄‖²

    A linear model has one ranking for all inputs, which no attack can change. Logits
    of C ≥ 2 classes are taken less their mean over classes, which softmax ignores; for
    two classes R² is then that of z₁ − z₀.

    Computed on the host in float64.

    Args:
      x: inputs [m, n], m well above n: the fit is that of these inputs.
      logits: [m] or [m, C]; C == 1 is a binary model with one logit.

    Returns:
      Number in [0, 1]. nan if the logits are constant, a value is not finite, or the
      inputs are too few to tell (m ≤ rank of the centred inputs + 1: any logit fits).

    Raises:
      ValueError: if the shapes are not [m, n] and [m] or [m, C].

    Example:
      >>> x = np.arange(4.0)[:, None]
      >>> print(f"{linear_r2(x, 2 * x[:, 0] - 1):.3f}")
      1.000
    """
    x, logits = np.asarray(x, np.float64), np.asarray(logits, np.float64)
    check_axes("x", x, "m, n")
    if logits.ndim == 1:
        logits = logits[:, None]
    check_axes("logits", logits, "m, C")
    if x.shape[0] != logits.shape[0]:
        raise ValueError(
            f"x and logits must have the same first axis, got {x.shape} and "
            f"{logits.shape}"
        )
    if x.shape[0] == 0 or not (np.isfinite(x).all() and np.isfinite(logits).all()):
        return float("nan")
    size = np.sum(logits**2)
    if logits.shape[1] > 1:
        logits = logits - logits.mean(axis=1, keepdims=True)
    logits, x = logits - logits.mean(axis=0), x - x.mean(axis=0)
    total = np.sum(logits**2)
    if (
        total <= size * (10 * np.finfo(np.float64).eps) ** 2
    ):  # constant but for rounding
        return float("nan")
    coefficients, _, rank, _ = np.linalg.lstsq(x, logits, rcond=None)
    if x.shape[0] <= rank + 1:
        return float("nan")
    residual = np.sum((logits - x @ coefficients) ** 2)
    return float(np.clip(1 - residual / total, 0.0, 1.0))


def background_share(
    maps: ArrayLike, x: ArrayLike, *, k: int, units: ArrayLike | None = None
) -> Summary:
    """Share of the top-k features that lie on zero-valued inputs.

        bg = (1/m) Σ_x #{i ∈ T(x) : x_i = 0} / |T(x)|

    The background of an image is the same in all images: a top k that moves there is
    stable and explains nothing. T is that of `precision_at_k`.

    Args:
      maps: saliency [m, n], nonnegative.
      x: the inputs [m, n] as the model gets them, with the background at exactly 0.
      k: size of the top-k set, 1…n−1.
      units: the input of each map [m], see `mean_and_stderr`.

    Returns:
      `Summary` with a mean in [0, 1]; maps without a positive feature or with a value
      that is not finite are counted in `num_nonfinite`.

    Raises:
      ValueError: if the shapes differ or are not [m, n], or k is outside 1…n−1.

    Example:
      >>> maps, x = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[0.0, 0.7, 0.0]])
      >>> print(background_share(maps, x, k=2).mean)
      0.5
    """
    maps, x = as_floats(maps, x)
    check_axes("maps", maps, "m, n")
    check_same_shape("maps", maps, "x", x)
    check_k(k, maps.shape[1])

    def share(values: Array, features: Array) -> Array:
        members = positive_top_k_mask(values, k=k)
        count = jnp.sum(members).astype(values.dtype)
        hidden = jnp.sum(members & (features == 0)).astype(values.dtype)
        return jnp.where(count > 0, hidden / jnp.maximum(count, 1.0), jnp.nan)

    return mean_and_stderr(jax.vmap(share)(maps, x), units=units)
