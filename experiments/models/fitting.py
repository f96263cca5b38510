"""Trains every method on a data set and chooses its checkpoints by the one rule.

Fitted models are kept under a folder that their whole configuration names, so that
any experiment finds what another one has trained.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.console.progress import say, track
from experiments.models import kept
from experiments.models.candidates import Candidates
from experiments.problems import presets, protocols
from experiments.problems.registry import LOGISTIC, Problem, problem
from r2et_jax import datasets, execution, metrics, objectives, training
from r2et_jax.training.checkpoint import save_model
from r2et_jax.training.search import Plan, search
from r2et_jax.types import Params

# Settings that a fitted model does not depend on; its own grid and k′ are recorded
# instead.
_NOT_TRAINING = (
    "grid",
    "paired",
    "k_prime",
    "num_test",
    "strongest_evaluations",
    "everywhere",
)
_PRETRAINED = "pretrained_"
# Counts up when a method, its training or the attack of the selection becomes another
# one under the same settings: models of before are then no longer found.
_VERSION = 3
# Settings that matter only to what follows the vanilla training, at their defaults.
_LATER = {
    name: protocols.Protocol._field_defaults[name]
    for name in ("schedule", "reference", "k_prime")
}
# Of one objective for several folds, one compiled program. As many as a fold has
# methods: programs hold memory, and those of tables are not asked for again.
_adam = execution.kept(training.adam, most=20)
_compile_grid = execution.kept(training.compile_grid, most=20)


class Fitted(NamedTuple):
    """A method's chosen models on one data set.

    Attributes:
      model: the Flax module that the method trains.
      params: parameters with leading axes [seeds, tolerances].
      fallback: the vanilla module, of the seeds without an admissible checkpoint.
      fallback_params: its parameters, with a leading axis of seeds.
      choices: for each seed and tolerance: weights, epoch, validation AUC and P@k,
        the number of admissible candidates, and whether it fell back to vanilla.
      folder: where the models are kept.
      config: all that the models depend on, as JSON.
    """

    model: Any
    params: Params
    fallback: Any
    fallback_params: Params
    choices: list[list[dict[str, Any]]]
    folder: Path
    config: dict[str, Any]

    def at(self, seed: int, tolerance: int) -> tuple[Any, Params]:
        """Module and parameters of one seed and tolerance, by position."""
        if self.choices[seed][tolerance]["fallback"]:
            vanilla = jax.tree.map(lambda leaf: leaf[seed], self.fallback_params)
            return self.fallback, vanilla
        return self.model, jax.tree.map(lambda leaf: leaf[seed, tolerance], self.params)


class Fitter:
    """Fits methods on one data set, each of them once.

    Args:
      dataset: the data, or its `Problem`.
      seeds: seeds of initialisation and shuffling.
      protocol: how much is trained.
      k: size of the top set.
      models_dir: where fitted models are kept and found.
      progress: whether to show progress bars.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | datasets.PairDataset | Problem,
        *,
        seeds: tuple[int, ...],
        protocol: protocols.Protocol,
        k: int,
        models_dir: Path,
        progress: bool,
    ):
        self.problem = problem(dataset)
        self.dataset = self.problem.dataset
        self.seeds = seeds
        self.protocol = protocol
        self.k = k
        self.models_dir = models_dir
        self.progress = progress
        self.x, self.y = self.problem.training(protocol.num_train)

    def model(self, method: str) -> Any:
        """The module that a method trains."""
        return self.problem.model(method)

    def fit(self, method: str) -> Fitted:
        """The chosen models of a method, trained now or found."""
        model = self.model(method)
        folder, config = self._folder(method)

        def fit():
            run = self._fit_logistic if method == LOGISTIC else self._fit_network
            params, choices = run(method, folder, config)
            description = {"config": config, "choices": choices}
            save_model(folder, params, description)
            return params, description

        params, description = self._kept_or_fitted(folder, fit, config)
        choices = description.get("choices")
        kept.check_choices(
            folder, params, choices, (len(self.seeds), len(config["tolerances"]))
        )
        vanilla = self.model("vanilla")
        return Fitted(
            model,
            params,
            vanilla,
            self.pretrained("vanilla"),
            choices,
            folder,
            config,
        )

    def _folder(self, name: str) -> tuple[Path, dict[str, Any]]:
        trained = not name.startswith((LOGISTIC, _PRETRAINED))
        grid = protocols.weight_grid(name, self.protocol) if trained else None
        protocol = self.protocol if trained else self.protocol._replace(**_LATER)
        k = self.problem.penalty_k(self.k)
        default = protocols.default_k_prime(k, self.problem.num_features)
        config = {
            "version": _VERSION,
            "method": name,
            "dataset": self.problem.name,
            "data_sha256": self.problem.fingerprint,
            "seeds": self.seeds,
            "k": self.k,
            "k_prime": protocol.k_prime or default,
            "protocol": {
                name: value
                for name, value in protocol._asdict().items()
                if name not in _NOT_TRAINING and (name, value) != ("num_train", None)
            },
            "grid": grid,
            "tolerances": presets.TOLERANCES,
            "surrogate_rho": self.problem.view.rho,
            **self.problem.config(name.removeprefix(_PRETRAINED)),
        }
        text = json.dumps(config, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        # As it comes back from JSON, to be compared with what was stored.
        folder = self.models_dir / self.problem.name / f"{name}-{digest}"
        return folder, json.loads(text)

    def _kept_or_fitted(self, folder: Path, fit: Callable, config: dict[str, Any]):
        fitted = kept.kept_or_fitted(folder, fit, config)
        # Also where an earlier process was killed before it could do so.
        self._checkpoints(folder, config).delete()
        return fitted

    @staticmethod
    def _checkpoints(folder: Path, config: dict[str, Any]) -> training.Checkpoints:
        return training.Checkpoints(folder / "training", config=config)

    def _candidates(self, method: str) -> Candidates:
        return Candidates(
            self.problem,
            self.model(method),
            k=self.k,
            num_valid=self.protocol.num_valid,
        )

    def _fit_logistic(self, method: str, folder: Path, config: dict[str, Any]):
        from sklearn.linear_model import LogisticRegression

        del method, folder, config
        train, valid = self.dataset.train, self.dataset.valid
        fit = LogisticRegression(max_iter=2000).fit(train.x, train.y)
        chosen = {
            "params": {
                "Dense_0": {
                    "kernel": fit.coef_.T.astype(np.float32),
                    "bias": fit.intercept_.astype(np.float32),
                }
            }
        }
        shape = (len(self.seeds), len(presets.TOLERANCES))
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, shape + leaf.shape), chosen
        )
        auc = metrics.roc_auc(valid.y, fit.decision_function(valid.x))
        choice = {
            "weights": {},
            "epoch": 0,
            "valid_auc": auc,
            "valid_precision": 1.0,
            "num_admissible": 1,
            "fallback": False,
        }
        return params, [[choice] * shape[1] for _ in self.seeds]

    def _fit_network(self, method: str, folder: Path, config: dict[str, Any]):
        protocol = self.protocol
        scratch = protocol.schedule == "scratch"
        start = self._initial(method) if scratch else self.pretrained(method)
        epochs = protocol.epochs + (protocol.pretrain_epochs if scratch else 0)
        vanilla = self.pretrained("vanilla")
        fixed = protocol.reference == "vanilla"
        grid = protocols.weight_grid(method, protocol)
        plan, states = self._prepare(
            method, start, grid, epochs, self.pretrained(method) if fixed else None
        )
        searched = search(
            plan,
            states,
            self.x,
            self.y,
            candidates=self._candidates(method),
            reference_auc=self._candidates("vanilla").auc(vanilla),
            checkpoints=self._checkpoints(folder, config),
            track=lambda blocks: track(
                blocks,
                description=f"{self.problem.name} {method} train",
                show=self.progress,
            ),
        )
        return searched.params, searched.choices

    @functools.lru_cache  # noqa: B019 - lives as long as one data set's fits
    def _pretrained(self, smooth: bool, skip: bool) -> Params:
        name = "skip" * skip + "+" * (skip and smooth) + "sp" * smooth or "vanilla"
        folder, config = self._folder(_PRETRAINED + name)
        fit = functools.partial(self._pretrain, name, folder, config)
        return self._kept_or_fitted(folder, fit, config)[0]

    def _pretrain(self, name: str, folder: Path, config: dict[str, Any]):
        epochs = self.protocol.pretrain_epochs
        plan, states = self._prepare(name, self._initial(name), [()], epochs, None)
        checkpoints = self._checkpoints(folder, config)
        restored = checkpoints.restore(states)
        if restored is not None:
            states = restored.state
        done = 0 if restored is None else restored.epoch
        for block in track(
            range(done, plan.num_blocks),
            description=f"{self.problem.name} {name} pretrain",
            show=self.progress,
        ):
            states = plan.run(states, jnp.zeros((1, 0)), self.x, self.y)
            checkpoints.save(block + 1, states)
        params = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], states.params)
        save_model(folder, params, {"config": config})
        return params, {"config": config}

    def pretrained(self, method: str) -> Params:
        """Vanilla parameters [seeds] from which a method is retrained."""
        trained_as = objectives.method(method)
        return self._pretrained(trained_as.smooth, trained_as.skip)

    def _initial(self, method: str) -> Params:
        """Random parameters [seeds]."""
        model = self.model(method)
        init = jax.jit(jax.vmap(model.init, (0, None)))
        return self.problem.settle(model, init(self._keys(0), self.problem.sample))

    def _keys(self, purpose: int):
        """A key for each seed: 0 for initialisation, 1 for training."""
        return jnp.stack(
            [jax.random.fold_in(jax.random.key(seed), purpose) for seed in self.seeds]
        )

    def _prepare(self, method, params, grid, epochs, reference_params):
        """The plan of a search and the states with which it begins."""
        model, protocol = self.model(method), self.protocol
        block = min(protocol.eval_every, epochs)
        if epochs % block:
            raise ValueError(f"{epochs} epochs are no multiple of eval_every = {block}")
        size = min(protocol.batch_size, len(self.y))
        optimizer = _adam(
            protocol.learning_rate,
            schedule=protocol.learning_rate_schedule,
            num_steps=epochs * (len(self.y) // size),
            clip_norm=protocol.clip_norm,
        )
        objective = self.problem.objective(
            method, model, k=self.k, k_prime=protocol.k_prime
        )
        # Nothing is ranked without a penalty or an attack: no second parameters.
        ranked = objective.terms or objectives.method(method).attacked
        reference = protocol.reference if ranked else "self"
        reference = "fixed" if reference == "vanilla" else reference
        averaged = protocol.average_decay is not None
        run = _compile_grid(
            objective,
            optimizer,
            num_epochs=block,
            batch_size=protocol.batch_size,
            reference=reference,
            total_epochs=epochs,
            average_decay=protocol.average_decay,
            max_models=protocol.max_models,
        )
        states = training.grid_states(
            params,
            optimizer,
            keys=self._keys(1),
            num_weights=len(grid),
            reference=reference,
            reference_params=reference_params if reference == "fixed" else None,
            average=averaged,
        )

        def block_run(states, weights, x, y):
            before = np.asarray(states.num_nonfinite) > 0
            states = run(states, weights, x, y)
            lost = np.asarray(states.num_nonfinite) > 0
            if (lost > before).any():
                say(
                    f"{self.problem.name} {method}: training met NaN or infinity in "
                    f"{np.count_nonzero(lost > before)} of {lost.size} models (seeds × "
                    f"weights), after {states.epoch.max()} epochs or before; they are "
                    "not chosen"
                )
            average = states.average
            if averaged:
                average = self.problem.settle(model, average)
            params = self.problem.settle(model, states.params)
            return states._replace(params=params, average=average)

        plan = Plan(
            block_run,
            grid,
            objective.terms,
            epochs // block,
            block,
            protocol.pruning,
            presets.TOLERANCES,
            with_start=protocol.schedule == "pretrain",
        )
        return plan, states
