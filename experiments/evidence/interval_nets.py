"""Networks with one hidden layer that are trained on intervals of their explanations.

As GradCert (Wicker, Heo, Costabello and Weller 2023, "Robust explanation constraints
for neural networks") has them: intervals go forward and backward through the network
over an l∞ ball. With one hidden layer each entry's interval is exact for the intervals
of the units. Their published code leaves φ′ of a single hidden layer out on the way
back; here it is bounded, as the paper has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from r2et_jax import models, training
from r2et_jax.certificates.intervals import (
    feature_gap_bounds,
    gradient_bounds,
    preactivations,
    slope_bounds,
    unit_reach,
)
from r2et_jax.models.activations import activation
from r2et_jax.models.slopes import OneHiddenLayer, slope_range
from r2et_jax.numerics import magnitude, safe_norm
from r2et_jax.objectives import Objective
from r2et_jax.objectives.certified import BOUNDED_EXAMPLES
from r2et_jax.ranking import top_k_indices
from r2et_jax.types import Array, Params

# Images in a batch, over which their penalty is a sum, as they publish it.
BATCH_SIZE = 100
# Ours: scores are so much sharper in the cross-entropy than in what is explained. It
# moves no decision, and keeps 1 − p from changing by orders of magnitude.
SHARPNESS = 20.0
# The hinge on certified gaps: features on each side of the border, and the margin in
# the mean |∇z|.
_BORDER, _GAP = 10, 0.1


class Bounded(NamedTuple):
    """An explanation and its intervals over the ball, of one image.

    Attributes:
      logits: [C].
      value: at the image itself [n].
      lower, upper: over the ball [n].
    """

    logits: Array
    value: Array
    lower: Array
    upper: Array


def layers(model: models.MLP, params: Params, label: Array) -> OneHiddenLayer:
    """The network of the score of one class."""
    first, second = (params["params"][name] for name in ("Dense_0", "Dense_1"))
    return OneHiddenLayer(
        first["kernel"],
        first["bias"],
        jnp.take(jnp.asarray(second["kernel"]), label, axis=1),
        jnp.zeros_like(first["kernel"][:, 0]),
        slope_range(model.activation, rho=model.rho),
    )


def bounded_score(model, params, x, label, epsilon) -> Bounded:
    """∇z_c of the class c = `label` over ‖δ‖∞ ≤ ε, by intervals.

    Args:
      model: `models.MLP` with one hidden layer of a monotone activation.
      params: its parameters.
      x: image [n].
      label: c.
      epsilon: ε, may be traced.

    Returns:
      `Bounded`.
    """
    network = layers(model, params, label)
    reach = epsilon * unit_reach(network, norm="linf")
    lower, upper = gradient_bounds(network, slope_bounds(network, x, reach))
    # At a kink both sides are φ′, of which any one will do.
    value, _ = gradient_bounds(network, slope_bounds(network, x, jnp.zeros_like(reach)))
    return Bounded(model.apply(params, x), value, lower, upper)


def bounded_loss(model, params, x, label, epsilon) -> Bounded:
    """(1 − p_c) ∇z_c, what the loss of class c has of its own score, by intervals.

    Arguments and what is returned are those of `bounded_score`. The sign, which is the
    loss's, is left out. Of other classes' scores their published code takes no part.
    """
    score = bounded_score(model, params, x, label, epsilon)
    missing = _others(score.logits, label)
    least, most = _other_bounds(model, params, x, label, epsilon)
    ends = [
        share * end for share in (least, most) for end in (score.lower, score.upper)
    ]
    ends = jnp.stack(ends)
    return Bounded(
        score.logits,
        missing * score.value,
        jnp.min(ends, axis=0),
        jnp.max(ends, axis=0),
    )


def _others(logits: Array, label: Array) -> Array:
    """1 − p_c, the probability of all other classes."""
    classes = jnp.arange(logits.shape[0])
    rest = jax.nn.logsumexp(jnp.where(classes == label, -jnp.inf, logits))
    return jax.nn.sigmoid(rest - logits[label])


def _other_bounds(model, params, x, label, epsilon) -> tuple[Array, Array]:
    """Bounds of 1 − p_c from the intervals of all scores."""
    network = layers(model, params, label)
    reach = epsilon * unit_reach(network, norm="linf")
    center = preactivations(network, x)
    act = activation(model.activation, rho=model.rho)
    low, high = act(center - reach), act(center + reach)
    out = params["params"]["Dense_1"]
    middle = (low + high) / 2 @ out["kernel"] + out["bias"]
    half = (high - low) / 2 @ jnp.abs(out["kernel"])
    half = jnp.where(jnp.arange(middle.shape[0]) == label, half, -half)
    return _others(middle + half, label), _others(middle - half, label)


def change(bounded: Bounded) -> Array:
    """How far the explanation may move, in its own length: ‖δ‖₂/‖v‖₂ (scalar).

    δ_i is the farther end of its interval; below 1 the explanation cannot vanish.
    """
    below, above = bounded.value - bounded.lower, bounded.upper - bounded.value
    length = safe_norm(bounded.value)
    return safe_norm(jnp.maximum(below, above)) / jnp.where(length > 0, length, 1)


def gap_hinge(model, params, x, label, epsilon, *, k: int) -> Array:
    """mean relu(m − ℓ_ij/mean|∇z|) over features i of the top-k set and j outside.

    ℓ_ij is a lower bound of |∇_i z| − |∇_j z| over the l∞ ball, as in
    `objectives.certified.certified_hinge`, here for the score of one class.
    """
    network = layers(model, params, label)
    value = bounded_score(model, params, x, label, 0.0).value
    count = min(_BORDER, k, value.size - k)
    features = top_k_indices(magnitude(value), k=k + count)[k - count :]
    signs = jax.lax.stop_gradient(jnp.sign(value[features[:count]]))
    slopes = slope_bounds(network, x, epsilon * unit_reach(network, norm="linf"))
    gaps = feature_gap_bounds(network, slopes, features, signs)
    scale = jnp.mean(magnitude(value))
    return jnp.mean(jax.nn.relu(_GAP - gaps / jnp.where(scale > 0, scale, 1)))


class Method(NamedTuple):
    """How networks are trained on intervals.

    Attributes:
      activation: of the hidden layer.
      weights: of the penalty, that are tried.
      ramp: the radius is ε·min(1, ramp · share of the training that is done).
      sharpness: of the scores in the cross-entropy.
      gaps: of `gap_hinge`, on some images of a batch, in the penalty's weight.
      penalty: of a `Bounded` explanation of the loss.
    """

    activation: str
    weights: tuple[float, ...]
    ramp: float
    sharpness: float
    gaps: float
    penalty: Callable[[Bounded], Array]


METHODS = {
    # α = 1 first, that of their table. Their sum over a batch of mean widths.
    "GradCert": Method(
        "relu",
        (1.0, 0.03),
        1.0,
        1.0,
        0.0,
        lambda bounded: BATCH_SIZE * jnp.mean(bounded.upper - bounded.lower),
    ),
    # Widths count in the explanation's own length: to shrink it is of no use.
    "ours": Method(
        "softplus",
        (0.1, 0.3, 1.0),
        2.0,
        SHARPNESS,
        0.1,
        lambda bounded: jnp.log1p(change(bounded)),
    ),
}


def network(method: Method, hidden: tuple[int, ...], num_classes: int) -> models.MLP:
    """The module that a method trains."""
    return models.MLP(hidden, num_classes, activation=method.activation)


def train(
    method: Method,
    model: models.MLP,
    x: Array,
    y: Array,
    *,
    epsilon: float,
    num_epochs: int,
    k: int,
    seed: int,
) -> list[Params]:
    """Cross-entropy plus the penalties, for each of the method's weights.

    Args:
      method: how.
      model: what.
      x: images [m, n].
      y: classes [m].
      epsilon: radius of the l∞ ball at the end.
      num_epochs: epochs.
      k: size of the top set.
      seed: of the start and of the order of the images.

    Returns:
      Parameters, in the order of the weights, which share start and order.
    """

    def of_image(params, x, y, weight, radius):
        bounded = bounded_loss(model, params, x, y, radius)
        log_p = jax.nn.log_softmax(method.sharpness * bounded.logits)
        return weight * method.penalty(bounded) - log_p[y]

    def loss(params, x, y, weights, /, *, reference=None, key=None, progress=1.0):
        del reference, key
        radius = epsilon * jnp.minimum(method.ramp * progress, 1)
        each = jax.vmap(of_image, (None, 0, 0, None, None))
        total = jnp.mean(each(params, x, y, weights[0], radius))
        if not method.gaps:
            return total

        def gaps(x, y):
            return gap_hinge(model, params, x, y, radius, k=k)

        few = slice(BOUNDED_EXAMPLES)
        return total + weights[0] * method.gaps * jnp.mean(
            jax.vmap(gaps)(x[few], y[few])
        )

    optimizer = training.adam(1e-3)
    keys = jax.random.split(jax.random.key(seed), 2)
    start = jax.tree.map(lambda leaf: leaf[None], model.init(keys[0], x[0]))
    weights = jnp.array(method.weights)[:, None]
    states = training.grid_states(
        start, optimizer, keys=keys[1:], num_weights=len(weights)
    )
    run = training.compile_grid(
        Objective(loss, ("width",)),
        optimizer,
        num_epochs=num_epochs,
        batch_size=BATCH_SIZE,
    )
    done = run(states, weights, x, y)
    return [_model(done, i) for i in range(len(weights))]


def _model(states: Any, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[0, index], states.params)
