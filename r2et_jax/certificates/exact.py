"""The exact worst P@k of networks with one piecewise-linear hidden layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import saliency
from r2et_jax.certificates.agreement import layers_agree
from r2et_jax.certificates.regions import Moves
from r2et_jax.certificates.search import Layer, search
from r2et_jax.checks import check_count, check_k, check_positive
from r2et_jax.execution import compile_chunked, hashable, kept
from r2et_jax.ranking import top_k_overlap
from r2et_jax.ranking.topk import positive_top_k_mask
from r2et_jax.score import check_takes, predicted_class
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel, contains
from r2et_jax.threat.definition import check_threat
from r2et_jax.threat.geometry import check_inputs
from r2et_jax.types import Array

_IN_CACHE = 64
_SHARE = 1e-6


class ExactCertificate(NamedTuple):
    """The worst P@k of m inputs, or bounds of it where the search was stopped.

    Attributes:
      lower: no admissible input has a lower P@k [m]; NaN where no value of the clean
        explanation is positive.
      upper: P@k at `perturbed` by the model itself [m].
      perturbed: admissible inputs [m, n], the clean one where nothing is lower.
      closed: whether `lower` and `upper` are equal, boolean [m].
      nodes: regions and unions of regions that were looked at, integers [m].
      seconds: time of the search [m].
      matches: whether the layers are those of the model, boolean [m]; where they are
        not, `lower` is 0.
    """

    lower: np.ndarray
    upper: np.ndarray
    perturbed: np.ndarray
    closed: np.ndarray
    nodes: np.ndarray
    seconds: np.ndarray
    matches: np.ndarray


def exact_certificate(
    subject: Subject,
    x: Array,
    threat: ThreatModel,
    *,
    k: int,
    start: Array | None = None,
    max_nodes: int = 100_000,
    max_seconds: float = 10.0,
) -> ExactCertificate:
    """The lowest P@k of all admissible inputs, by branch and bound, with an input.

    The gradient of a network with one ReLU layer depends on x through the pattern of
    units that are on. Patterns are fixed unit by unit; what provably leaves as many top
    features as the worst input so far is cut off, and so is what no admissible input
    reaches. Ball, box and frozen features are respected by both bounds.

    Rounding widens `lower` and narrows `upper`: pre-activations nearer to 0 than that
    of the model's float type count as either side, and gaps up to it against the
    feature. φ′ at a kink is that of one of its sides.

    Args:
      subject: explained by its gradient, with `layers` of ReLU or leaky ReLU units and
        one logit, such as a `models.MLP`.
      x: inputs [m, n].
      threat: the threat model, without one-hot groups on a simplex and without
        `same_class`.
      k: size of the top set, in 1…n−1.
      start: perturbed inputs [m, n], such as an attack's, from whose P@k the search
        goes down; used where they are admissible.
      max_nodes: nodes for each input.
      max_seconds: time for each input; a limit makes results depend on the machine.

    Returns:
      `ExactCertificate`, NumPy arrays. The search runs in NumPy on one core, float64.

    Raises:
      ValueError: for another explainer, a subject without layers or with contexts,
        units that bend elsewhere than at 0, a threat model that is not served, numbers
        out of range.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> from r2et_jax.threat import threat_model
      >>> model, x = MLP(hidden=(8,), activation="relu"), jnp.ones((1, 6))
      >>> examined = subject(model, model.init(jax.random.key(0), x[0]))
      >>> proof = exact_certificate(examined, x, threat_model("l2", 0.5), k=2)
      >>> proof.closed.tolist(), bool(proof.lower[0] == proof.upper[0])
      ([True], True)

    Source: ours; activation regions as in Jordan et al. 2019, "Provable certificates
    for adversarial examples".
    """
    _check(subject, threat)
    check_takes(subject, x)
    check_inputs(threat, x)
    check_count("max_nodes", max_nodes)
    check_positive("max_seconds", max_seconds)
    x = np.asarray(x)
    check_k(k, x.shape[1])
    if start is not None and np.shape(start) != x.shape:
        raise ValueError(
            f"start must have the shape of x, {x.shape}, got {np.shape(start)}"
        )
    run = _looking(subject.form, hashable(subject.layers), k)
    given = x if start is None else np.asarray(start, x.dtype)
    seen = run((subject.params, threat), (x, given))
    layer = _layer(subject.layers(subject.params), x.dtype)
    perturbed, least = x.copy(), np.zeros(len(x))
    nodes, seconds = np.zeros(len(x), int), np.zeros(len(x))
    # Where the given input is admissible; the clean one leaves all of them.
    use = seen.admissible & (seen.precision < 1)
    perturbed[use] = given[use]
    known = np.where(use, seen.precision, 1.0)
    for i, row in enumerate(x):
        top = np.flatnonzero(seen.mask[i])
        if not len(top) or not seen.matches[i]:
            continue
        clock = time.monotonic()
        center, movable, moves = _moves(threat, row)
        searched = search(
            layer,
            center,
            moves,
            movable,
            top,
            k=k,
            known=round(known[i] * len(top)),
            max_nodes=max_nodes,
            max_seconds=max_seconds,
        )
        least[i], nodes[i] = searched.least / len(top), searched.nodes
        if searched.move.any():
            perturbed[i] = (center + searched.move).astype(x.dtype)
        seconds[i] = time.monotonic() - clock
    again = run((subject.params, threat), (x, perturbed))
    lower = np.where(seen.mask.any(axis=1), least, np.nan)
    upper = np.where(again.admissible, again.precision, known)
    perturbed = np.where(again.admissible[:, None], perturbed, x)
    closed = np.abs(upper - lower) < _SHARE
    return ExactCertificate(
        lower, upper, perturbed, closed, nodes, seconds, seen.matches
    )


def is_piecewise_linear(subject: Subject) -> bool:
    """Whether `exact_certificate` serves a subject, on a ball, a box, frozen features.

    Args:
      subject: any subject, with parameters.

    Returns:
      True for one that is explained by its gradient, without contexts, and whose
      `layers` have units that bend at 0 alone.

    Example:
      >>> from r2et_jax.models import MLP
      >>> from r2et_jax.subject import subject
      >>> model = MLP(activation="softplus")
      >>> params = model.init(jax.random.key(0), jnp.ones(6))
      >>> is_piecewise_linear(subject(model, params))
      False
    """
    if subject.layers is None or subject.context is not None:
        return False
    if subject.form.explainer is not saliency.gradient:
        return False
    return _bends_at_zero(subject.layers(subject.params))[0]


def _check(subject: Subject, threat: ThreatModel) -> None:
    check_threat(threat)
    if subject.layers is None or subject.form.explainer is not saliency.gradient:
        raise ValueError(
            "the exact worst case needs a subject with `layers`, explained by "
            f"saliency.gradient, got layers {subject.layers!r} and explainer "
            f"{subject.form.explainer!r}; `certify` bounds other models"
        )
    if subject.context is not None:
        raise ValueError("the exact worst case serves no contexts, got some")
    if threat.groups or threat.prediction == "same_class":
        raise ValueError(
            "the exact worst case is over a ball, a box and frozen features, got a "
            f"threat model with groups {threat.groups} and the rule "
            f"{threat.prediction!r} for the prediction; `certify` leaves these out"
        )


def _layer(network, dtype) -> Layer:
    """The network in float64; raises unless φ′ is constant on each side of 0."""
    fits, ends, steep, flat = _bends_at_zero(network)
    if not fits:
        raise ValueError(
            "the exact worst case needs units that are linear on each side of 0, as "
            f"relu and leaky_relu are, got slopes {steep[0]} at {ends} and {flat[0]} "
            "below 0"
        )
    weights = (network.weight, network.bias, network.out, network.skip)
    return Layer(
        *(np.asarray(leaf, np.float64) for leaf in weights),
        flat=float(flat[0, 0]),
        steep=float(steep[0, 0]),
        unit=float(max(jnp.finfo(network.weight.dtype).eps, np.finfo(dtype).eps)),
    )


def _bends_at_zero(network):
    """Whether φ′ is constant on each side of 0; points, and φ′ at them and below."""
    ends = jnp.array([1e-6, 1e-3, 1.0, 1e3], network.weight.dtype)
    steep, flat = (
        np.stack([np.asarray(part) for part in network.slopes(side, side)])
        for side in (ends, -ends)
    )
    return not (np.ptp(steep) or np.ptp(flat)), ends, steep, flat


def _moves(threat: ThreatModel, row: np.ndarray):
    """The centre of the ball, which features move, and how far, in float64."""
    x, n = row.astype(np.float64), len(row)
    movable = np.ones(n, bool)
    if threat.movable is not None:
        movable = np.array(threat.movable)
    if threat.absent == "frozen":
        movable &= row != 0
    low = np.full(n, -np.inf) if threat.lower is None else np.asarray(threat.lower)
    high = np.full(n, np.inf) if threat.upper is None else np.asarray(threat.upper)
    low, high = (np.broadcast_to(end, n).astype(np.float64) for end in (low, high))
    center = np.where(movable, np.clip(x, low, high), x)
    low, high = (low - center)[movable], (high - center)[movable]
    radius = float(threat.epsilon)
    if threat.norm == "linf":
        low, high = np.maximum(low, -radius), np.minimum(high, radius)
    return center, movable, Moves(threat.norm, radius, low, high)


class _Seen(NamedTuple):
    mask: Array
    precision: Array
    admissible: Array
    matches: Array


@kept
def _looking(form: Form, layers: Callable, k: int):
    """What the model itself says of inputs and perturbed ones."""
    explain = form.saliency()

    def look(params, threat, x, moved):
        target = predicted_class(form.apply(params, x))
        mask = positive_top_k_mask(explain(params, x, target), k=k)
        precision = top_k_overlap(mask, explain(params, moved, target), k=k)
        matches = layers_agree(
            form.apply,
            params,
            layers(params),
            x,
            epsilon=threat.epsilon.astype(x.dtype),
            norm=threat.norm,
        )
        return _Seen(mask, precision, contains(threat, x, moved), matches)

    def chunk(shared, batched):
        params, threat = shared
        return jax.vmap(look, (None, None, 0, 0))(params, threat, *batched)

    return compile_chunked(chunk, in_cache=_IN_CACHE, work="much")
