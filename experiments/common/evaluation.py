"""Measures one model: clean metrics and guards, then one attack at one budget."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.candidates import attacked_model
from r2et_jax import (
    attacks,
    checks,
    datasets,
    metrics,
    ranking,
    saliency,
    score,
    threat,
)

# Noise under which a ranking must stand, unless the input sits on a kink or a tie.
GUARD_NOISE = 1e-6
_TRACE_POINTS = 20
# The ensemble, which is driven in rounds and has no entry in attacks.NAMES.
STRONGEST = "strongest"
# Metric whose record has the P@k of every input in its field `values`.
PER_INPUT = "p@k_inputs"


class Evaluator:
    """Measures models of one architecture on the test inputs of one data set.

    What it measured of a model it does not measure again, as when two tolerances
    choose the same checkpoint.

    Args:
      dataset: the data.
      model: the Flax module.
      k: size of the top set.
      num_test: test inputs under attack, at most.
      strongest_budget: gradient evaluations of `strongest` for each input.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        model: Any,
        *,
        k: int,
        num_test: int,
        strongest_budget: int = attacks.DEFAULT_BUDGET,
    ):
        self.dataset = dataset
        self.model = model
        self.k = k
        self.x = jnp.asarray(dataset.test.x[:num_test])
        self.y = np.asarray(dataset.test.y[:num_test])
        self.strongest_budget = strongest_budget
        self._measured: dict[Any, list[dict[str, Any]]] = {}

    def clean(self, params: Any) -> list[dict[str, Any]]:
        """Metrics without an attack, and the guards against cheating."""
        checks.check_model(self.model.apply, params, self.x[0])
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
        cell = (_digest(params), name, epsilon)
        if cell not in self._measured:
            measure = self._strongest if name == STRONGEST else self._single
            self._measured[cell] = measure(params, name, epsilon, same)
        return self._measured[cell]

    def _single(self, params, name, epsilon, same):
        budget = threat.threat_model("l2", epsilon)
        run = _attack(self.model, name, self.k)
        result = run(params, self.x, budget, key=jax.random.key(0))
        manipulated = result.manipulation_epoch > 0
        epochs = result.manipulation_epoch[manipulated]
        found = [
            *self._outcome(
                result.best.precision,
                result.best_same_class.precision,
                result.clean_logits,
                result.best_logits,
                same,
            ),
            _summary("p@k_last", result.last_precision),
            _summary("sensitivity_last", result.last_class_changed.astype(float)),
            _summary("vanished", (result.vanished == 1).astype(float)),
            _summary("manipulated", manipulated.astype(float)),
            _summary("manipulation_epoch", epochs) if epochs.size else None,
            *_agreement(result.clean_map, result.best_map),
            *self._trace(result),
        ]
        return [record for record in found if record is not None]

    def _strongest(self, params, name, epsilon, same):
        del name
        run = strongest(self.model, self.k, self.strongest_budget)
        budget = threat.threat_model("l2", epsilon)
        result = run(params, self.x, budget, key=jax.random.key(0))
        found = self._outcome(
            result.best.precision,
            result.best_same_class.precision,
            result.clean_logits,
            result.best_logits,
            same,
        )
        left = result.manipulation_budget[result.manipulation_budget > 0]
        found += [
            _summary("vanished", (result.vanished == 1).astype(float)),
            _summary("manipulated", (result.manipulation_budget > 0).astype(float)),
            _summary("manipulation_budget", left) if left.size else None,
            *_agreement(result.clean_map, result.best_map),
        ]
        found = [record for record in found if record is not None]
        curve = [
            {**_summary("p@k_curve", values), "evaluations": int(spent)}
            for spent, values in zip(result.curve_budget, result.curve, strict=True)
        ]
        return [*found, *curve]

    def _outcome(self, precision, same_class, clean_logits, logits, same):
        """What every attack reports of the inputs that it found."""
        summary = _summary("p@k", precision)
        each = {**summary, "metric": PER_INPUT, "values": _shares(precision)}
        changed = metrics.sensitivity(clean_logits, logits)
        shift = metrics.prediction_shift(clean_logits, logits)
        corrected = {**summary, "metric": "p@k+"}
        corrected["value"] = float(metrics.chance_corrected(summary["value"], same))
        corrected["stderr"] = summary["stderr"] / (1 - same) if same < 1 else None
        return [
            summary,
            _summary("p@k_same_class", same_class),
            corrected,
            each,
            _cell("aauc", self._auc(logits), None, len(self.y)),
            _cell("cauc", self._auc(clean_logits), None, len(self.y)),
            _cell("sensitivity", changed.mean, changed.stderr, changed.n),
            _cell("prediction_change", shift.mean, shift.stderr, shift.n),
        ]

    def _auc(self, logits) -> float:
        return metrics.roc_auc(self.y, np.asarray(logits)[:, 0])

    def _trace(self, result) -> list[dict[str, Any]]:
        """Mean P@k along the iterations, at about _TRACE_POINTS of them."""
        num_tracked = result.precision.shape[1]
        stride = max(1, num_tracked // _TRACE_POINTS)
        lowest = np.fmin.accumulate(result.precision, axis=1)
        return [
            {**_summary("p@k_trace", lowest[:, t]), "step_share": (t + 1) / num_tracked}
            for t in range(stride - 1, num_tracked, stride)
        ]


def _digest(params: Any) -> str:
    parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


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


def _shares(values: np.ndarray) -> list[float | None]:
    """P@k of every input, short enough for a record; None where it has no meaning."""
    return [round(v, 4) if np.isfinite(v) else None for v in np.asarray(values, float)]


_pearson = jax.jit(jax.vmap(metrics.pearson))
_mse = jax.jit(jax.vmap(metrics.mse))


def _agreement(clean_maps, maps) -> list[dict[str, Any]]:
    """Correlation and distance of the explanations before and after."""
    pair = jnp.asarray(clean_maps), jnp.asarray(maps)
    return [_summary("pcc", _pearson(*pair)), _summary("mse", _mse(*pair))]


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
    return attacks.compile_attack(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )


@functools.lru_cache
def strongest(model, k: int, budget: int):
    """The compiled ensemble on a module: `run(params, x, threat, *, key)`."""
    members = attacks.default_ensemble(
        model.apply, lambda rho: model.surrogate(rho=rho).apply, k=k
    )
    return attacks.compile_strongest(members, budget=budget)
