"""How `harden` measures checkpoints, and by what it knows a search again."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2et_jax import attacks, metrics, training
from r2et_jax.audit.examples import Part
from r2et_jax.audit.hardened import Checkpoint, Quality
from r2et_jax.checks import check_labels
from r2et_jax.execution import compile_chunked, kept
from r2et_jax.metrics.classification import roc_auc_ranked
from r2et_jax.subject import Form, Subject
from r2et_jax.training import selection
from r2et_jax.training.packing import params_sha256
from r2et_jax.training.search import Plan, Searched
from r2et_jax.types import Params

QUALITIES = ("accuracy", "auc")
# The selection's attack, of every method; never `strongest`, by which is reported.
_SELECTION = "er_surrogate"


class Candidates:
    """What measures models on the validation part, see `training.search`."""

    def __init__(self, ranked, valid: Part, under_attack: Part, threat, k, quality):
        self.ranked, self.valid, self.under_attack = ranked, valid, under_attack
        self.threat, self.quality = threat, quality
        self.attack = attacks.attack(_SELECTION, k=k)

    def auc(self, params: Params) -> np.ndarray:
        """The quality that is to be kept, of models with any leading axes."""
        return self._each(params, None, self._quality)

    def precision(self, params: Params, wanted: np.ndarray) -> np.ndarray:
        return self._each(params, wanted, self._precision)

    def _quality(self, params: Params) -> float:
        return getattr(quality_of(self.ranked, params, self.valid), self.quality)

    def _precision(self, params: Params) -> float:
        precision = self.attack(
            self.ranked.at(params),
            self.under_attack.x,
            self.threat,
            key=jax.random.key(0),
        ).precision
        # An input without a ranking has none to lose, and is not to be won by.
        return float(np.mean(np.where(np.isnan(precision), 0, precision)))

    def _each(self, params, wanted, measure) -> np.ndarray:
        leading = jax.tree.leaves(self.ranked.params)[0]
        leaf = jax.tree.leaves(params)[0]
        shape = leaf.shape[: leaf.ndim - leading.ndim]
        precision = np.full(shape, np.nan)
        for at in np.ndindex(shape):
            if wanted is None or wanted[at]:
                member = jax.tree.map(lambda leaf, at=at: jnp.asarray(leaf[at]), params)
                precision[at] = measure(member)
        return precision


@kept
def _predicting(form: Form):
    def chunk(params, x):
        return jax.vmap(form.apply, (None, 0))(params, x)

    return compile_chunked(chunk)


def quality_of(ranked: Subject, params: Params, part: Part) -> Quality:
    """NaN of a model with outputs that are not finite: it is never chosen."""
    logits = np.asarray(_predicting(ranked.form)(params, part.x), np.float32)
    check_labels("labels", part.y, len(logits), max(logits.shape[1], 2))
    if not np.isfinite(logits).all():
        return Quality(float("nan"), float("nan"))
    scores = logits[:, 0] if logits.shape[1] == 1 else logits
    return Quality(
        float(metrics.accuracy(part.y, logits)),
        float(roc_auc_ranked(part.y, scores)),
    )


class Nowhere:
    """Checkpoints of a search without a folder."""

    def restore(self, template: Any) -> None:
        return None

    def save(self, epoch: int, state: Any, *, extra: Any) -> None:
        pass


def history_of(searched: Searched, plan: Plan, reference: float):
    """All candidates; the one that was chosen is found as the search found it."""
    auc, precision = searched.auc[0], searched.precision[0]
    (tolerance,) = plan.tolerances
    chosen = training.select(
        auc, precision, reference_auc=reference, tolerance=tolerance
    ).index
    if chosen is None:
        chosen = 0
    kept_quality = selection.admissible(
        auc, reference_auc=reference, tolerance=tolerance
    )
    rows = []
    for i, (quality, stays) in enumerate(zip(auc, precision, strict=True)):
        if np.isnan(quality) and i:
            continue  # pruned, stopped before, or diverged
        block, setting = divmod(i - 1, len(plan.weights))
        weights = dict(zip(plan.terms, plan.weights[setting], strict=True))
        rows.append(
            Checkpoint(
                epoch=(block + 1) * plan.block_epochs if i else 0,
                weights=weights if i else {},
                quality=float(quality),
                precision=float(stays),
                admissible=bool(kept_quality[i]),
                chosen=i == chosen,
            )
        )
    return tuple(rows)


def program_sha256(ranked: Subject, row: np.ndarray) -> str:
    """Of the model's own program: parameters alone do not tell ReLU from softplus."""
    program = jax.make_jaxpr(ranked.apply)(ranked.params, row)
    # Addresses differ from process to process.
    text = re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))
    constants = [leaf for leaf in program.consts if hasattr(leaf, "dtype")]
    return hashlib.sha256((text + params_sha256(constants)).encode()).hexdigest()
