"""Measures one chosen model: clean metrics and guards, then one attack at one budget."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.fitting import attacked_model
from r2et_jax import attacks, datasets, metrics, ranking, saliency, score, threat

# Noise under which a ranking must stand, unless the input sits on a kink or a tie.
GUARD_NOISE = 1e-6
_TRACE_POINTS = 20


class Evaluator:
    """Measures models of one architecture on the test inputs of one data set.

    Args:
      dataset: the data.
      model: the Flax module.
      k: size of the top set.
      num_test: test inputs under attack, at most.
    """

    def __init__(self, dataset: datasets.Dataset, model: Any, *, k: int, num_test: int):
        self.dataset = dataset
        self.model = model
        self.k = k
        self.x = jnp.asarray(dataset.test.x[:num_test])
        self.y = np.asarray(dataset.test.y[:num_test])

    def clean(self, params: Any) -> list[dict[str, Any]]:
        """Metrics without an attack, and the guards against cheating."""
        test = self.dataset.test
        out = _explain(self.model, self.k)(params, self.x, jax.random.key(0))
        maps, gradients, noisy = (np.asarray(value) for value in out)
        logits = np.asarray(self.model.apply(params, test.x))[:, 0]
        null = metrics.null_share(gradients, self.dataset.train.x)
        same = float(metrics.mean_topk_overlap(jnp.asarray(maps), k=self.k))
        n = len(self.x)
        found = [
            _cell("auc", metrics.roc_auc(test.y, logits), None, len(test.y)),
            _cell("same", same, None, n),
            _cell("null", null.mean, null.stderr, null.n),
            _cell("linear_r2", metrics.linear_r2(test.x, logits), None, len(test.y)),
            _cell("tied", float(np.mean(_ties(maps, self.k))), None, n),
        ]
        guard = _summary("p@k", noisy)
        guard.update(attack="noise", epsilon=GUARD_NOISE)
        return [*found, guard]

    def attacked(
        self, params: Any, name: str, epsilon: float, *, same: float
    ) -> list[dict[str, Any]]:
        """Metrics under one attack within l2 ≤ epsilon.

        Args:
          params: parameters.
          name: name of the attack.
          epsilon: budget.
          same: the model's mean overlap between inputs, for P@k⁺.
        """
        budget = threat.threat_model("l2", epsilon)
        measured = _attack(self.model, name, self.k)(
            params, self.x, budget, jax.random.key(0)
        )
        result, agreement = jax.tree.map(np.asarray, measured)
        precision = _summary("p@k", result.best.precision)
        last_scores = np.asarray(result.best_logits)[:, 0]
        changed = result.class_changed.astype(float)
        manipulated = result.manipulation_epoch > 0
        epochs = result.manipulation_epoch[manipulated]
        found = [
            precision,
            _summary("p@k_last", result.last_precision),
            _summary("p@k_same_class", result.best_same_class.precision),
            {
                **precision,
                "metric": "p@k+",
                "value": float(metrics.chance_corrected(precision["value"], same)),
                "stderr": precision["stderr"] / (1 - same) if same < 1 else None,
            },
            _cell("aauc", metrics.roc_auc(self.y, last_scores), None, len(self.y)),
            _cell("cauc", self._clean_auc(result), None, len(self.y)),
            _summary("sensitivity", changed),
            _summary("sensitivity_last", result.last_class_changed.astype(float)),
            _summary("prediction_change", result.prediction_change),
            _summary("vanished", (result.vanished == 1).astype(float)),
            _summary("manipulated", manipulated.astype(float)),
            _summary("manipulation_epoch", epochs) if epochs.size else None,
            _summary("pcc", agreement["pcc"]),
            _summary("mse", agreement["mse"]),
        ]
        found += self._trace(result)
        return [record for record in found if record is not None]

    def _clean_auc(self, result) -> float:
        return metrics.roc_auc(self.y, np.asarray(result.clean_logits)[:, 0])

    def _trace(self, result) -> list[dict[str, Any]]:
        """Mean P@k along the iterations, at about _TRACE_POINTS of them."""
        num_tracked = result.precision.shape[1]
        stride = max(1, num_tracked // _TRACE_POINTS)
        lowest = np.fmin.accumulate(result.precision, axis=1)
        return [
            {**_summary("p@k_trace", lowest[:, t]), "step_share": (t + 1) / num_tracked}
            for t in range(stride - 1, num_tracked, stride)
        ]


def _cell(metric, value, stderr, n) -> dict[str, Any]:
    record = {"metric": metric, "value": float(value), "stderr": stderr, "n": int(n)}
    if stderr is not None:
        record["stderr"] = float(stderr)
    return record


def _summary(metric: str, values: np.ndarray) -> dict[str, Any]:
    summary = metrics.mean_and_stderr(np.asarray(values, np.float64))
    record = _cell(metric, summary.mean, summary.stderr, summary.n)
    if summary.num_nonfinite:
        record["note"] = f"{int(summary.num_nonfinite)} inputs are not finite"
    return record


def _ties(maps: np.ndarray, k: int) -> np.ndarray:
    descending = -np.sort(-maps, axis=1)
    return descending[:, k - 1] == descending[:, k]


@functools.lru_cache
def _explain(model, k: int):
    """Compiled maps, raw gradients, and P@k under noise of norm GUARD_NOISE."""
    explained = score.log_odds(model.apply)
    explain = saliency.gradient(explained)
    raw = jax.grad(explained, argnums=1)

    def one(params, x, key):
        target = score.predicted_class(model.apply(params, x))
        clean = explain(params, x, target)
        noise = jax.random.normal(key, x.shape, x.dtype)
        noise = GUARD_NOISE * noise / jnp.linalg.norm(noise)
        mask = ranking.positive_top_k_mask(clean, k=k)
        noisy = explain(params, x + noise, target)
        overlap = ranking.top_k_overlap(mask, noisy, k=k)
        return clean, raw(params, x, target), overlap

    def run(params, x, key):
        return jax.vmap(one, (None, 0, 0))(params, x, jax.random.split(key, len(x)))

    return jax.jit(run)


@functools.lru_cache
def _attack(model, name: str, k: int):
    named = attacks.named_attack(name, attacked_model(model), k=k)
    run = attacks.attack_batch(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )

    def measured(params, x, budget, key):
        result = run(params, x, budget, key=key)
        agreement = {
            "pcc": jax.vmap(metrics.pearson)(result.clean_map, result.best_map),
            "mse": jax.vmap(metrics.mse)(result.clean_map, result.best_map),
        }
        return result, agreement

    return jax.jit(measured)
