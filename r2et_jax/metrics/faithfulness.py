"""Faithfulness of an explanation: what the model says without its top features.

A ranking is faithful if the model needs the features that it puts first. They are
removed in its order, and what stands in the place of a removed feature is the
*baseline*, on which such numbers depend more than on anything else:

* zero, `constant_baseline(0)`: no ink in an image, no edge in a graph, the training
  mean of a standardised column.
* mean, `constant_baseline(inputs.mean(0))`: of the training inputs.
* conditional, `conditional_baseline(inputs)`: the values of training inputs that are
  alike in the features that are kept, averaged over several of them.

One-hot columns are features like any other and are removed one by one. The constant
baselines then leave the data: zero makes a person of no category, the mean one of all
of them. The conditional one does not: its values come from one training input at a
time, and as long as the other columns of a group are kept, they tell the removed one,
which stays; once several are removed they change together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from r2et_jax.checks import check_count, check_ndim
from r2et_jax.metrics._arrays import check_finite
from r2et_jax.ranking import ranks
from r2et_jax.score import class_probabilities, predicted_class
from r2et_jax.types import ApplyFn, Array, Params

# baseline(x [n], kept: boolean [n], key) -> [draws, n], equal to x where kept.
Baseline = Callable[[Array, Array, Array], Array]

# Up to so many features, DFFOT looks at every number of them; else at steps of 2 %.
_FEW_FEATURES, _STEPS = 64, 50
# Of COMP and SUFF of many features, as in ERASER.
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


class Faithfulness(NamedTuple):
    """How much a model's prediction hangs on the top features of one input.

    Attributes:
      dffot: decision flip, fraction of features (DFFOT): the smallest share of the top
        features without which another class is predicted; 1 if there is none. Low is
        faithful.
      flipped: 1 if there is one, else 0: how much of `dffot` is measured.
      comprehensiveness: COMP, mean over j of |p_c(x) − p_c(x without its top j)|. High
        is faithful.
      sufficiency: SUFF, mean over j of |p_c(x) − p_c(its top j alone)|. Low is
        faithful.
      eraser_comprehensiveness: the same differences with their sign, as in ERASER.
      eraser_sufficiency: the same, low is faithful. Quantus' "Sufficiency" is another
        quantity.
      tied: share of features with the saliency of another one: their order, and so what
        is removed first, is that of their indices.
    """

    dffot: Array
    flipped: Array
    comprehensiveness: Array
    sufficiency: Array
    eraser_comprehensiveness: Array
    eraser_sufficiency: Array
    tied: Array


def faithfulness(
    apply: ApplyFn,
    baseline: Baseline,
    *,
    sizes: Sequence[int],
    flip_sizes: Sequence[int] | None = None,
    features: Sequence[int] | None = None,
) -> Callable[..., Faithfulness]:
    """Return the function that measures one explanation of one input.

        p(x̃) = mean over draws of softmax(z),   c = argmax p(x)
        DFFOT = min {j : argmax p(x without its top j) ≠ c} / n
        COMP = mean over j of |p_c(x) − p_c(x without its top j)|
        SUFF = mean over j of |p_c(x) − p_c(top j alone)|

    Args:
      apply: model, `apply(params, x) -> logits [C]`.
      baseline: what replaces removed features, see the module.
      sizes: the j of COMP and SUFF, in 1…n, such as range(1, n + 1) or shares of n.
      flip_sizes: the j of DFFOT; by default 1…n. With fewer, it is rounded up to one of
        them.
      features: the place in the saliency [n] of each entry of x, whose entries of one
        feature are removed together, such as the columns of a category. By default
        x has n entries, or C for each feature, as flat images with their channels
        innermost.

    Returns:
      `measure(params, x, saliency [n], /, *, key) -> Faithfulness`, a pure function
      of one example: batch it with `jax.vmap`. Equal saliencies are removed in order
      of their indices. All but `tied` are NaN if the saliency or a probability is not
      finite.

    Raises:
      ValueError: when called, if the shapes do not fit, a size lies outside 1…n, or a
        feature outside 0…n−1.

    Example:
      >>> measure = faithfulness(lambda w, x: w @ x[:, None], constant_baseline(0.0),
      ...                        sizes=(1,))
      >>> w, x = jnp.array([3.0, -1.0, 0.5]), jnp.ones(3)
      >>> shares = measure(w, x, jnp.abs(w), key=jax.random.key(0))
      >>> print(f"{shares.dffot:.2f} {shares.eraser_comprehensiveness:.2f}")
      0.33 0.55

    Source: Serrano and Smith 2019 (DFFOT); DeYoung et al. 2020 (ERASER); R2ET (arXiv
    2212.14106), which takes absolute values.
    """

    def measure(
        params: Params, x: Array, saliency: Array, /, *, key: Array
    ) -> Faithfulness:
        check_ndim("x", x, 1)
        check_ndim("saliency", saliency, 1)
        n = saliency.shape[0]
        feature_of = _features(features, x.shape[0], n)
        kept_sizes = as_sizes("sizes", sizes, n)
        flips = range(1, n + 1) if flip_sizes is None else flip_sizes
        flips = as_sizes("flip_sizes", flips, n)
        every = sorted({*kept_sizes, *flips})
        place = ranks(saliency)[feature_of]
        without = place >= jnp.asarray(every, place.dtype)[:, None]
        alone = place < jnp.asarray(kept_sizes, place.dtype)[:, None]

        def probabilities(x):
            return class_probabilities(apply(params, x))

        def replaced(kept):
            # One key: the same draws for every size.
            drawn = baseline(x, kept, key)
            return jnp.mean(jax.vmap(probabilities)(drawn), axis=0)

        clean = probabilities(x)
        target = predicted_class(clean)
        after = jax.vmap(replaced)(jnp.concatenate([without, alone]))
        dropped = clean[target] - jnp.take(after, target, axis=1)
        position = jnp.asarray([every.index(j) for j in kept_sizes])
        comprehensiveness = dropped[position]
        sufficiency = dropped[len(every) :]

        position = jnp.asarray([every.index(j) for j in flips])
        changed = predicted_class(after[position]) != target
        shares = jnp.asarray(flips, clean.dtype) / n
        known = jnp.all(jnp.isfinite(saliency)) & jnp.all(jnp.isfinite(clean))
        known &= jnp.all(jnp.isfinite(after))
        values = (
            jnp.min(jnp.where(changed, shares, 1)),
            jnp.any(changed).astype(clean.dtype),
            jnp.mean(jnp.abs(comprehensiveness)),
            jnp.mean(jnp.abs(sufficiency)),
            jnp.mean(comprehensiveness),
            jnp.mean(sufficiency),
        )
        values = [jnp.where(known, value, jnp.nan) for value in values]
        return Faithfulness(*values, _tied(saliency).astype(clean.dtype))

    return measure


def constant_baseline(values: ArrayLike) -> Baseline:
    """Put fixed values in the place of removed features; one draw.

    Args:
      values: one number, or [n]: Captum's `baselines`, Quantus' `perturb_baseline`.

    Returns:
      `remove(x, kept, key)`, the input with the others replaced [1, n].

    Example:
      >>> remove = constant_baseline(0.0)
      >>> x, kept = jnp.array([1.0, 2.0]), jnp.array([True, False])
      >>> print(remove(x, kept, jax.random.key(0)))
      [[1. 0.]]
    """

    def replace(x, kept, key, /):
        del key
        return jnp.where(kept, x, jnp.asarray(values).astype(x.dtype))[None]

    return replace


def conditional_baseline(inputs: ArrayLike, *, num_draws: int = 10) -> Baseline:
    """Put values of training inputs that are alike in the kept features.

        d(t) = Σ_{i kept} (x_i − t_i)²,   draws: the num_draws inputs t of smallest d

    An empirical conditional distribution, as that of Aas et al. Against draws of a
    Gaussian conditional on the kept features, it needs no distribution: columns of a
    category stay categories, and values stay where there are data. With many kept
    features the nearest inputs are not near, and the draws less conditional. Of inputs
    at equal distance chance decides: with nothing kept, the draws are any inputs. The
    unit of the inputs, as long as all have the same, changes nothing.

    Args:
      inputs: training inputs [N, n], finite, in the units of x; some thousand are
        enough.
      num_draws: inputs for each draw, in 1…N.

    Returns:
      The baseline; x itself must not be among the inputs.

    Raises:
      ValueError: if inputs is not [N, n] or not finite, or num_draws is outside 1…N.
        Of traced inputs that are not finite all draws are nan.

    Example:
      >>> inputs = jnp.array([[0.0, 5.0], [1.0, 7.0]])
      >>> remove = conditional_baseline(inputs, num_draws=1)
      >>> x, kept = jnp.array([0.9, 0.0]), jnp.array([True, False])
      >>> print(remove(x, kept, jax.random.key(0)))
      [[0.9 7. ]]

    Source: Aas, Jullum and Løland 2021, section 3.3 (empirical conditional
    distribution, there with weights instead of a number of neighbours).
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim != 2:
        raise ValueError(f"inputs must have the shape [N, n], got {inputs.shape}")
    check_count("num_draws", num_draws)
    if num_draws > inputs.shape[0]:
        raise ValueError(
            f"num_draws must be at most N = {inputs.shape[0]}, got {num_draws}"
        )
    check_finite("inputs", inputs)

    def replace(x, kept, key, /):
        known = inputs.astype(x.dtype)
        # Squares first: they are the same for every set of kept features. Divided by
        # the largest one, so that in small units they do not underflow.
        change = jnp.abs(known - x)
        largest = jnp.max(change)
        squares = jnp.square(change / jnp.where(largest > 0, largest, 1.0))
        distance = squares @ kept.astype(x.dtype)
        # In random order: of equal distances `top_k` takes the first.
        order = jax.random.permutation(key, distance.shape[0])
        _, nearest = jax.lax.top_k(-distance[order], num_draws)
        # Inputs that are traced are not checked above: nan is at no distance.
        drawn = jnp.where(jnp.isfinite(largest), known[order[nearest]], jnp.nan)
        return jnp.where(kept, x, drawn)

    return replace


def _features(features: Sequence[int] | None, num_entries: int, n: int) -> np.ndarray:
    """The feature of each entry of x."""
    if features is None:
        if num_entries % n:
            raise ValueError(
                "x must have as many entries as saliency, or a multiple, got shapes "
                f"{(num_entries,)} and {(n,)}"
            )
        return np.repeat(np.arange(n), num_entries // n)
    features = np.asarray(features)
    if features.shape != (num_entries,) or features.dtype.kind not in "iu":
        raise ValueError(
            f"features must be integers, one for each of the {num_entries} entries of "
            f"x, got {features.dtype} of shape {features.shape}"
        )
    if features.min() < 0 or features.max() >= n:
        outside = features[(features < 0) | (features >= n)][0]
        raise ValueError(f"features must lie in 0…n−1 = 0…{n - 1}, got {outside}")
    return features


def removal_sizes(n: int, *, every: bool) -> tuple[list[int], list[int]]:
    """Numbers of features for COMP and SUFF, and for DFFOT, at bounded cost.

    Args:
      n: number of features.
      every: whether COMP and SUFF take every number, as of few columns, instead of
        ERASER's shares of n.
    """
    sizes = range(1, n + 1)
    if not every:
        sizes = sorted({max(1, round(share * n)) for share in _SHARES})
    if n <= _FEW_FEATURES:
        return list(sizes), list(range(1, n + 1))
    steps = {max(1, round(n * step / _STEPS)) for step in range(1, _STEPS + 1)}
    return list(sizes), sorted(steps | set(sizes))


def as_sizes(name: str, sizes: Sequence[int], n: int) -> list[int]:
    sizes = list(sizes)
    if not sizes or min(sizes) < 1 or max(sizes) > n:
        raise ValueError(f"{name} must lie in 1…n = 1…{n}, got {sizes}")
    return sizes


def _tied(saliency: Array) -> Array:
    """Share of the features whose saliency another feature has."""
    ordered = jnp.sort(saliency)
    same = ordered[1:] == ordered[:-1]
    edge = jnp.zeros(1, bool)
    return jnp.mean(jnp.concatenate([edge, same]) | jnp.concatenate([same, edge]))
