"""Deliberate faults, and the tests that must see each of them.

A mutant replaces one piece of one file. What it stands for is a mistake that somebody
would make: a sign, a bound without its slack, an index by one, a label of one class too
many. `before` stands exactly once in the file.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault: where, what it replaces, and the test files that must fail."""

    path: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.path}: {self.before.strip()} → {self.after.strip()}"


def _of(path: str, tests: str, *pairs: tuple[str, str]) -> list[Mutant]:
    named = tuple(f"tests/{name}.py" for name in tests.split())
    return [Mutant(path, before, after, named) for before, after in pairs]


MUTANTS: tuple[Mutant, ...] = (
    # Ranking, saliency, curvature.
    *_of(
        "r2et_jax/ranking/topk.py",
        "r2et_jax/test_ranking",
        ("other >= value, other > value",
         "other > value, other >= value"),
        ("jnp.where(jnp.isnan(values), -jnp.inf, values)", "values"),
        ("kept = mask & top_k_mask(values, k=k) & (values > 0)",
         "kept = mask & top_k_mask(values, k=k)"),
    ),
    *_of(
        "r2et_jax/ranking/gaps.py",
        "r2et_jax/test_ranking",
        ("anchor = (k_prime - above) * (top - inside)",
         "anchor = 0 * (top - inside)"),
        ("return (inside - outside) / k_prime", "return inside - outside"),
    ),
    *_of(
        "r2et_jax/ranking/thickness.py",
        "r2et_jax/test_ranking_thickness",
        ("times = (jnp.arange(num_points, dtype=x.dtype) + 0.5) / num_points",
         "times = jnp.arange(num_points, dtype=x.dtype) / num_points"),
        ("below = jnp.where(jnp.isnan(inside), 0, below)", "below = below + 0"),
    ),
    *_of(
        "r2et_jax/ranking/thickness_bounds.py",
        "r2et_jax/test_ranking_thickness_bounds",
        ("slope = jnp.maximum(norms.differences, norms.sums)",
         "slope = norms.differences"),
        ("slope = jnp.where(product > 0, at_input.differences, at_input.sums)",
         "slope = at_input.differences"),
    ),
    *_of(
        "r2et_jax/curvature/lanczos.py",
        "r2et_jax/test_curvature_lanczos",
        ("value = quotient * jax.lax.stop_gradient(jnp.sign(quotient))",
         "value = quotient"),
    ),
    *_of(
        "r2et_jax/curvature/logit_space.py",
        "r2et_jax/test_curvature_logit_space",
        ("return probability * (jnp.outer(difference, difference) - covariance)",
         "return probability * (jnp.outer(difference, difference) + covariance)"),
    ),
    *_of(
        "r2et_jax/curvature/products.py",
        "r2et_jax/test_curvature_products r2et_jax/test_curvature_norms",
        ("return safe_norm(gradient(x + step * sign_direction(g)) - g) / step",
         "return safe_norm(gradient(x + step * sign_direction(g)) - g)"),
    ),
    # The threat model.
    *_of(
        "r2et_jax/threat/geometry.py",
        "r2et_jax/test_threat r2et_jax/test_threat_model",
        ("perturbed = jnp.where(threat.movable, perturbed, clean)",
         "perturbed = jnp.where(threat.movable, perturbed, perturbed)"),
        ("return jnp.where(fits, nearest, at(low))", "return nearest"),
        ("total=jnp.sum(clean[index])", "total=jnp.ones((), x.dtype)"),
    ),
    # Attacks.
    *_of(
        "r2et_jax/attacks/descent.py",
        "r2et_jax/test_attacks_whose_ranking r2et_jax/test_attacks_descent",
        ("reference = goal.prepare(clean_map, seen, k=k, key=goal_key)",
         "reference = goal.prepare(seen, seen, k=k, key=goal_key)"),
        ("update, optimizer_state = optimizer(threat.norm).update(",
         'update, optimizer_state = optimizer("l2").update('),
        ("perturbed = threat_lib.project(threat, context.clean, moved)",
         "perturbed = moved"),
        ("num_steps=() if anneal is None else state.num_steps + 1",
         "num_steps=state.num_steps"),
    ),
    *_of(
        "r2et_jax/attacks/goals.py",
        "r2et_jax/test_attacks_goals",
        ("(jnp.where(mask, 1, 0) - share)", "(jnp.where(mask, 0, 1) - share)"),
    ),
    *_of(
        "r2et_jax/attacks/evolution.py",
        "r2et_jax/test_attacks_evolution",
        ("beyond = _BEYOND * far_share * jnp.abs(z)",
         "beyond = -_BEYOND * far_share * jnp.abs(z)"),
        ("better = values <= state.fitness", "better = values >= state.fitness"),
    ),
    *_of(
        "r2et_jax/attacks/cells.py",
        "r2et_jax/test_attacks_cells",
        ("dual = jnp.maximum(sign[h] * signed[h] + step, 0)",
         "dual = sign[h] * signed[h] + step"),
        ("level = switches(params, at) - normals @ (at - clean)",
         "level = switches(params, at)"),
    ),
    # Bounds and certificates: a rule that promises too much.
    *_of(
        "r2et_jax/bounds/products.py",
        "r2et_jax/test_bounds_rules",
        ("most = reach_x * reach_y * (1 + unit)", "most = 0 * reach_x * reach_y"),
        ("return jnp.fmax(-most, -squares[1]), jnp.fmin(most, squares[0])",
         "return jnp.fmax(-most, -squares[1]), jnp.fmin(most, squares[0]) / 2"),
        ("most = f(reach_x, reach_y) * (1 + gamma)", "most = 0 * f(reach_x, reach_y)"),
    ),
    *_of(
        "r2et_jax/bounds/switches.py",
        "r2et_jax/test_bounds_rules",
        ("radius = jnp.maximum(jnp.abs(low), jnp.abs(high)) / 2",
         "radius = jnp.maximum(jnp.abs(low), jnp.abs(high)) / 4"),
        ("alone = here & (jnp.max(others, axis=-1, keepdims=True) < 0)",
         "alone = here"),
        ("value = shifted(space, value, jnp.zeros_like(excess), excess)",
         "value = shifted(space, value, jnp.zeros_like(excess), 0 * excess)"),
    ),
    *_of(
        "r2et_jax/bounds/elementwise.py",
        "r2et_jax/test_bounds_elementwise",
        ("peaked(lambda t: 4 * lax.logistic(2 * t) * lax.logistic(-2 * t))",
         "peaked(lambda t: 2 * lax.logistic(2 * t) * lax.logistic(-2 * t))"),
        ("falling(lax.rsqrt),", "growing(lax.rsqrt),"),
        ("surely = (low(a) == high(a)) & (low(b) == high(b)) & (low(a) == low(b))",
         "surely = low(a) == low(b)"),
    ),
    *_of(
        "r2et_jax/certificates/counting.py",
        "r2et_jax/test_certificates_counting",
        ("t = jnp.array([1, -1], center.dtype)", "t = jnp.array([1, 1], center.dtype)"),
        ("kept = below >= x.size - k", "kept = below >= x.size - k - 1"),
        ("least, most = network.slopes(low, high)\n    steep",
         "least, most = network.slopes(center, center)\n    steep"),
    ),
    *_of(
        "r2et_jax/certificates/agreement.py",
        "r2et_jax/test_certificates_agreement",
        ("return jnp.all(same(_points(x, epsilon))) & _slopes_hold(network, x, reach)",
         "return jnp.all(same(_points(x, epsilon)))"),
    ),
    # Objectives.
    *_of(
        "r2et_jax/objectives/gradient_penalties.py",
        "r2et_jax/test_objectives r2et_jax/test_objectives_terms",
        ("return 2 / (num_logits - 1) * jnp.sum(spread**2)",
         "return 2 / num_logits * jnp.sum(spread**2)"),
    ),
    *_of(
        "r2et_jax/objectives/curvature_penalties.py",
        "r2et_jax/test_objectives_curvature_dense",
        ("return safe_sqrt(jnp.sum(product * product.T))",
         "return safe_sqrt(jnp.sum(product * product))"),
    ),
    *_of(
        "r2et_jax/objectives/certified.py",
        "r2et_jax/test_objectives_certified",
        ("return epsilon * jnp.minimum(2 * jnp.asarray(progress).astype(x.dtype), 1)",
         "return epsilon * jnp.minimum(jnp.asarray(progress).astype(x.dtype), 1)"),
    ),
    # Metrics and statistics.
    *_of(
        "r2et_jax/metrics/same.py",
        "r2et_jax/test_metrics_agreement r2et_jax/test_metrics_summary "
        "experiments/test_evaluation",
        ("others = (masks.sum(axis=0) - masks)[units]",
         "others = (masks.sum(axis=0))[units]"),
    ),
    *_of(
        "r2et_jax/metrics/statistics.py",
        "r2et_jax/test_metrics_statistics",
        ("highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))",
         "highest = max(highest, min(1.0, len(known) * p_values[i]))"),
        ("return np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))",
         "return np.sqrt(np.sum((without - without.mean()) ** 2) / (n - 1) / n)"),
        ("seed: math.fsum(cells.get((seed, fold), math.nan) for fold in folds)",
         "seed: math.fsum(cells.get((seed, fold), 0.0) for fold in folds)"),
    ),
    *_of(
        "r2et_jax/metrics/summary.py",
        "r2et_jax/test_metrics_summary",
        ("xp.sqrt(squares / xp.maximum(count - 1.0, 1.0) / xp.maximum(count, 1.0))",
         "xp.sqrt(squares / xp.maximum(count, 1.0) / xp.maximum(count, 1.0))"),
    ),
    # Training, data.
    *_of(
        "r2et_jax/training/selection.py",
        "r2et_jax/test_training experiments/test_search",
        ("usable = mask & ~np.isnan(precision)", "usable = ~np.isnan(precision)"),
    ),
    *_of(
        "r2et_jax/training/resume.py",
        "r2et_jax/test_training_checkpoint",
        ('if told != _sha256(_canonical(content)):', "if told is None:"),
    ),
    *_of(
        "r2et_jax/datasets/splitting.py",
        "r2et_jax/test_datasets_copies",
        ("if joined.max() == groups.max():", "if True:"),
    ),
    # The experiments' rooms.
    *_of(
        "experiments/store/records.py",
        "experiments/test_common_records",
        ("if record.get(_SHA256) not in (None, _digest(cell)):",
         "if record.get(_SHA256) is False:"),
        ("return records[: last + 1], bool(tail) or last + 1 < len(records)",
         "return records, bool(tail) or last + 1 < len(records)"),
        ("file.truncate(start)", "pass"),
    ),
    *_of(
        "experiments/store/output.py",
        "experiments/test_common_output",
        ("differences = _other_data(content.get(_DATA, {}), data)",
         "differences = []"),
    ),
    *_of(
        "experiments/store/locks.py",
        "experiments/test_common_locks",
        ("fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
    ),
    *_of(
        "experiments/report/statistics.py",
        "experiments/test_common_tables experiments/test_robustness_results "
        "experiments/test_robustness_report",
        ('cell = record["seed"], record["fold"]', 'cell = record["seed"], 0'),
    ),
    *_of(
        "experiments/loop/cluster.py",
        "experiments/test_cluster",
        ("return bool(select(self.known, **cell))", "return False"),
    ),
    *_of(
        "experiments/report/exhibit.py",
        "experiments/test_judged_claims experiments/test_common_runs",
        ("return True if verdicts and all(verdicts) else None",
         "return True if verdicts and any(verdicts) else None"),
    ),
    *_of(
        "data_prep/folds.py",
        "data_prep/test_graph_files data_prep/test_brain_graphs",
        ('for part in ("train", "test"):', 'for part in ("train",):'),
    ),
)  # fmt: skip
