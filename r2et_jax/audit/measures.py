"""What is measured of a subject's rows: P@k at budgets, distances, certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from r2et_jax import certificates, saliency
from r2et_jax.audit import ways
from r2et_jax.audit.layout import Layout
from r2et_jax.certificates.batch import CertifiedRadii
from r2et_jax.certificates.exact import is_piecewise_linear
from r2et_jax.subject import Form, Subject
from r2et_jax.threat import ThreatModel
from r2et_jax.threat.definition import with_epsilon
from r2et_jax.types import Array, Params

# Of branch and bound, for each input and budget, where certify=True.
_SEARCH_SECONDS = 1.0
# How finely certified radii are searched for: halvings by layers, and the balls whole,
# which proves a little less in a tenth of the time; by a program, which takes longer,
# shares of the smallest budget.
_HALVINGS, _SHARES = 8, (0.5, 0.25, 0.125, 0.0625)
# So many inputs are compared pair by pair.
_FEW_ROWS = 256


class Point(NamedTuple):
    """What an attack left of m inputs under one budget, or, stacked, under e of them.

    Attributes:
      precision: lowest P@k [m].
      precision_same_class: the same with the predicted class kept [m].
      perturbed: the inputs that reached `precision` [m, n].
      perturbed_same_class: those of `precision_same_class`.
      map: explanations of `perturbed` [m, f].
      outputs: logits or value of `perturbed` [m, C].
      clean_outputs: those of the clean inputs [m, C].
    """

    precision: np.ndarray
    precision_same_class: np.ndarray
    perturbed: np.ndarray
    perturbed_same_class: np.ndarray
    map: np.ndarray
    outputs: np.ndarray
    clean_outputs: np.ndarray

    def at(self, i: int) -> Point:
        """The i-th budget's."""
        return Point(*(part[i] for part in self))


def curve(
    attack: Callable,
    subject: Subject,
    x: np.ndarray,
    threat: ThreatModel,
    budgets: Sequence[float],
    *,
    key: Array,
    tell: Callable[[str], None],
) -> Point:
    """P@k under attack at rising budgets; what a smaller one found counts on."""
    points: list[Point] = []
    for epsilon in budgets:
        tell(f"the attack at ε = {epsilon:g}")
        attacked = attack(subject, x, with_epsilon(threat, epsilon), key=key)
        now = Point(
            attacked.precision,
            attacked.best_same_class.precision,
            attacked.perturbed,
            attacked.best_same_class.perturbed,
            attacked.best_map,
            attacked.best_logits,
            attacked.clean_logits,
        )
        points.append(_lower(now, points[-1]) if points else now)
    return Point(*(np.stack(parts) for parts in zip(*points, strict=True)))


def _lower(now: Point, before: Point) -> Point:
    """The better of two budgets' inputs, each part by its own P@k."""
    free = before.precision < now.precision
    same = before.precision_same_class < now.precision_same_class
    by_class = {"precision_same_class", "perturbed_same_class"}
    parts = {}
    for name, old, new in zip(Point._fields, before, now, strict=True):
        use = same if name in by_class else free
        use = use.reshape(-1, *[1] * (np.ndim(new) - 1))
        parts[name] = np.where(use, old, new)
    return Point(**parts)


def on_the_ways(
    form: Form,
    params: Params,
    x: np.ndarray,
    curve: Point,
    threat: ThreatModel,
    k: int,
    largest: float,
    context,
) -> ways.Ways:
    """What was seen on the ways to what the attacks found, see `ways`."""
    ends = np.concatenate([curve.perturbed, curve.perturbed_same_class])
    ends = np.moveaxis(ends, 0, 1)
    return ways.seen(
        form, params, x, ends, threat, k=k, largest=largest, context=context
    )


class OnTheWay(NamedTuple):
    """P@k seen on the ways to what the attacks found: an upper bound at any budget.

    Attributes:
      epsilons: rising budgets [s], equal shares of the largest one that was attacked.
      precision: the lowest P@k seen within each [s, m], NaN of an input that is left
        out; no lower than under attack at the next budget.
    """

    epsilons: np.ndarray
    precision: np.ndarray


def joined(way: ways.Ways, budgets: Sequence[float], attacked: np.ndarray) -> OnTheWay:
    """The ways [s, m], beside P@k under attack at e budgets [e, m]."""
    above = np.searchsorted(np.asarray(budgets) * (1 + 1e-6), way.levels)
    return OnTheWay(way.levels, np.maximum(way.precision, attacked[above]))


class Certified(NamedTuple):
    """What is provable at e budgets.

    Attributes:
      precision: certified P@k [e, m], or None.
      kept: whether each top feature provably stays [e, m, k], or None.
      radii: up to which distance it does, in units of x [m, k], at most the largest
        budget; or None. Lower bounds, searched for in steps.
      why_not: why there is none, "" where there is.
    """

    precision: np.ndarray | None
    kept: np.ndarray | None
    radii: np.ndarray | None
    why_not: str


def certified(
    subject: Subject,
    layout: Layout,
    x: np.ndarray,
    threat: ThreatModel,
    budgets: Sequence[float],
    top_k: np.ndarray,
    *,
    certify: bool | str = "auto",
) -> Certified:
    """Certified P@k at each budget, or the reason why there is none.

    `kept` is in the order of the features `top_k` [m, k]. With certify=True P@k of one
    hidden layer of piecewise-linear units is also searched for by branch and bound.
    """
    k = top_k.shape[1]
    by_gradient = subject.form.explainer is saliency.gradient
    quick = subject.layers is not None and layout.is_plain and by_gradient
    if not certify:
        return _nothing("certify=False")
    if certify == "auto" and not quick:
        return _nothing(
            "an audit proves by itself what the gradient shows of r2et_jax.models.MLP "
            "with one hidden layer, on rows of numbers; certify=True bounds any other "
            "model's program, which takes longer"
        )

    def at(epsilon):
        return certificates.certify(subject, x, with_epsilon(threat, epsilon), k=k)

    try:
        proofs = [at(epsilon) for epsilon in budgets]
        kept = np.stack([_in_order(proof, top_k) for proof in proofs])
        radii = np.max(_reached(budgets, kept), axis=0)
        largest, least = budgets[-1], min((e for e in budgets if e), default=0.0)
        if quick and largest:
            searched = certificates.certified_radii(
                subject, x, threat, k=k, largest=largest, num_steps=_HALVINGS,
                num_slabs=1,
            )  # fmt: skip
            radii = np.fmax(radii, _of_features(searched, top_k))
        elif largest:
            smaller = [share * least for share in _SHARES]
            stays = np.stack([_in_order(at(epsilon), top_k) for epsilon in smaller])
            radii = np.fmax(radii, np.max(_reached(smaller, stays), axis=0))
    except ValueError as error:
        return _nothing(str(error))
    precision = np.stack([proof.precision for proof in proofs])
    if certify is True and quick:
        precision = np.fmax(precision, _searched(subject, x, threat, budgets, k))
    return Certified(precision, kept, radii, "")


def _nothing(why: str) -> Certified:
    return Certified(None, None, None, f"nothing is proved: {why}")


def _reached(budgets: Sequence[float], kept: np.ndarray) -> np.ndarray:
    """The budgets [e, m, k] at which a feature is kept, 0 where it is not."""
    return np.where(kept, np.asarray(budgets)[:, None, None], 0.0)


def _of_features(certified: CertifiedRadii, top_k: np.ndarray) -> np.ndarray:
    """Radii [m, k] in the order of `top_k`; 0 of a feature that is not among them."""
    same = certified.features[:, None, :] == top_k[:, :, None]
    return np.max(np.where(same, certified.feature_radii[:, None, :], 0.0), axis=2)


def _searched(subject, x, threat, budgets, k) -> np.ndarray:
    """Proven P@k by branch and bound [e, m] where it serves, else 0."""
    served = not threat.groups and threat.prediction != "same_class"
    if not (served and is_piecewise_linear(subject)):
        return np.zeros((len(budgets), len(x)))
    return np.stack(
        [
            certificates.exact_certificate(
                subject,
                x,
                with_epsilon(threat, epsilon),
                k=k,
                max_seconds=_SEARCH_SECONDS,
            ).lower
            for epsilon in budgets
        ]
    )


def _in_order(certificate: certificates.Certificate, top_k: np.ndarray) -> np.ndarray:
    same = certificate.features[:, None, :] == top_k[:, :, None]
    return np.any(same & certificate.kept[:, None, :], axis=2)


def nearest(x: np.ndarray, norm: str) -> float:
    """Median distance of distinct inputs to the nearest other one; NaN of one alone."""
    rows = np.unique(np.asarray(x, np.float64), axis=0)
    if len(rows) < 2:
        return float("nan")
    order = 2 if norm == "l2" else np.inf
    if len(rows) <= _FEW_ROWS:
        # Of few rows all pairs, which is done before the tree's module is imported.
        to_others = [np.linalg.norm(rows - row, ord=order, axis=1) for row in rows]
        return float(
            np.median([np.partition(distances, 1)[1] for distances in to_others])
        )
    nearest_two, _ = scipy.spatial.cKDTree(rows).query(rows, k=2, p=order)
    return float(np.median(nearest_two[:, 1]))
