"""Trains every method on a data set and chooses its checkpoints by the one rule.

Fitted models are kept under a folder that their whole configuration names, so that
any experiment finds what another one has trained.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.common import protocol as protocols
from experiments.common.progress import track
from r2et_jax import attacks, datasets, metrics, models, objectives, threat, training
from r2et_jax.batching import num_cores
from r2et_jax.types import Params

LOGISTIC = "logistic"
# Settings that a fitted model does not depend on; its own grid is recorded instead.
_NOT_TRAINING = (
    "grid",
    "paired",
    "num_test",
    "strongest_budget",
    "strongest_everywhere",
)
_PRETRAINED = "pretrained_"
_VALID_ATTACK = "er_surrogate"


class Fitted(NamedTuple):
    """A method's chosen models on one data set.

    Attributes:
      model: the Flax module that the method trains.
      fallback: the vanilla module, of the seeds without an admissible checkpoint.
      params: parameters with leading axes [seeds, tolerances].
      choices: for each seed and tolerance: weights, epoch, validation AUC and P@k,
        the number of admissible candidates, and whether it fell back to vanilla.
    """

    model: Any
    fallback: Any
    params: Params
    choices: list[list[dict[str, Any]]]

    def at(self, seed: int, tolerance: int) -> tuple[Any, Params]:
        """Module and parameters of one seed and tolerance, by position."""
        chosen = self.choices[seed][tolerance]
        params = jax.tree.map(lambda leaf: leaf[seed, tolerance], self.params)
        return self.fallback if chosen["fallback"] else self.model, params


class Fitter:
    """Fits methods on one data set, each of them once.

    Args:
      dataset: the data.
      seeds: seeds of initialisation and shuffling.
      protocol: how much is trained.
      k: size of the top set.
      models_dir: where fitted models are kept and found.
      progress: whether to show progress bars.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        *,
        seeds: tuple[int, ...],
        protocol: protocols.Protocol,
        k: int,
        models_dir: Path,
        progress: bool,
    ):
        self.dataset = dataset
        self.seeds = seeds
        self.protocol = protocol
        self.k = k
        self.models_dir = models_dir
        self.progress = progress
        self.x = jnp.asarray(dataset.train.x)
        self.y = jnp.asarray(dataset.train.y)
        self.fingerprint = datasets.fingerprint(dataset)

    def model(self, method: str) -> Any:
        """The module that a method trains."""
        if method == LOGISTIC:
            return models.Linear()
        smooth = objectives.method(method).smooth
        return models.MLP(activation="softplus" if smooth else "leaky_relu")

    def fit(self, method: str) -> Fitted:
        """The chosen models of a method, trained now or found."""
        model = self.model(method)
        folder, config = self._folder(method)
        try:
            params, description = training.load_model(folder)
        except FileNotFoundError:
            fit = self._fit_logistic if method == LOGISTIC else self._fit_network
            params, choices = fit(method)
            description = {"config": config, "choices": choices}
            training.save_model(folder, params, description)
        vanilla = self.model("vanilla")
        return Fitted(model, vanilla, params, description["choices"])

    def _folder(self, name: str) -> tuple[Path, dict[str, Any]]:
        trained = not name.startswith((LOGISTIC, _PRETRAINED))
        grid = protocols.weight_grid(name, self.protocol) if trained else None
        config = {
            "method": name,
            "dataset": self.dataset.name,
            "data_sha256": self.fingerprint,
            "seeds": self.seeds,
            "k": self.k,
            "k_prime": protocols.default_k_prime(self.k, self.x.shape[1]),
            "protocol": {
                name: value
                for name, value in self.protocol._asdict().items()
                if name not in _NOT_TRAINING
            },
            "grid": grid,
            "tolerances": protocols.TOLERANCES,
            "surrogate_rho": protocols.SURROGATE_RHO,
        }
        text = json.dumps(config, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.models_dir / self.dataset.name / f"{name}-{digest}", config

    def _fit_logistic(self, method: str):
        from sklearn.linear_model import LogisticRegression

        del method
        train, valid = self.dataset.train, self.dataset.valid
        fit = LogisticRegression(max_iter=2000).fit(train.x, train.y)
        one = {
            "params": {
                "Dense_0": {
                    "kernel": fit.coef_.T.astype(np.float32),
                    "bias": fit.intercept_.astype(np.float32),
                }
            }
        }
        shape = (len(self.seeds), len(protocols.TOLERANCES))
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, shape + leaf.shape), one
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

    def _fit_network(self, method: str):
        start = self.pretrained(method)
        vanilla = self.pretrained("vanilla")
        reference_auc = self._auc(self.model("vanilla"), vanilla)
        candidates, labels = self._retrain(method, start)
        num_seeds, num_candidates = len(self.seeds), len(labels)
        flat = jax.tree.map(
            lambda leaf: leaf.reshape(num_seeds * num_candidates, *leaf.shape[2:]),
            candidates,
        )
        model = self.model(method)
        auc = self._auc(model, flat).reshape(num_seeds, num_candidates)
        widest = max(protocols.TOLERANCES)
        wanted = np.stack(
            [
                training.admissible(auc[s], reference_auc=r, tolerance=widest)
                for s, r in enumerate(reference_auc)
            ]
        )
        precision = np.full(auc.shape, np.nan)
        rows = np.flatnonzero(wanted)
        if rows.size:
            chosen = jax.tree.map(lambda leaf: leaf[rows], flat)
            precision[wanted] = self._precision(method, chosen)
        return self._choose(
            method, candidates, labels, auc, precision, reference_auc, vanilla
        )

    def _choose(
        self, method, candidates, labels, auc, precision, reference_auc, vanilla
    ):
        picked, choices = [], []
        for s, r in enumerate(reference_auc):
            row, row_choices = [], []
            for tolerance in protocols.TOLERANCES:
                choice = training.select(
                    auc[s], precision[s], reference_auc=r, tolerance=tolerance
                )
                fallback = choice.index is None
                if fallback:
                    label = {"weights": {}, "epoch": 0}
                    row.append(jax.tree.map(lambda leaf, s=s: leaf[s], vanilla))
                else:
                    label = labels[choice.index]
                    row.append(
                        jax.tree.map(
                            lambda leaf, s=s, i=choice.index: leaf[s, i], candidates
                        )
                    )
                row_choices.append(
                    {
                        **label,
                        "valid_auc": choice.auc if not fallback else float(r),
                        "valid_precision": None if fallback else choice.precision,
                        "num_admissible": choice.num_admissible,
                        "fallback": fallback,
                    }
                )
            picked.append(jax.tree.map(lambda *leaves: np.stack(leaves), *row))
            choices.append(row_choices)
        params = jax.tree.map(lambda *leaves: np.stack(leaves), *picked)
        return params, choices

    @functools.lru_cache  # noqa: B019 - lives as long as one data set's fits
    def _pretrained(self, smooth: bool) -> Params:
        name = "sp" if smooth else "vanilla"
        folder, config = self._folder(_PRETRAINED + name)
        try:
            return training.load_model(folder)[0]
        except FileNotFoundError:
            pass
        model = self.model(name)
        keys = self._keys("init")
        params = jax.vmap(model.init, (0, None))(keys, self.x[0])
        states = self._train(name, params, [()], self.protocol.pretrain_epochs, "pre")
        params = jax.tree.map(lambda leaf: np.asarray(leaf[-1, :, 0]), states)
        training.save_model(folder, params, {"config": config})
        return params

    def pretrained(self, method: str) -> Params:
        """Vanilla parameters [seeds] from which a method is retrained."""
        return self._pretrained(objectives.method(method).smooth)

    def _keys(self, purpose: str):
        offset = {"init": 0, "pre": 1, "re": 2}[purpose]
        return jnp.stack(
            [jax.random.fold_in(jax.random.key(seed), offset) for seed in self.seeds]
        )

    def _train(self, method, params, grid, epochs, purpose):
        """Checkpoints [E, S, W, ...] of a grid, the start included as the first."""
        model, protocol = self.model(method), self.protocol
        optimizer = optax.adam(protocol.learning_rate)
        objective = objectives.objective(
            method,
            model.apply,
            k=self.k,
            k_prime=protocols.default_k_prime(self.k, self.x.shape[1]),
            surrogate=model.surrogate(rho=protocols.SURROGATE_RHO).apply,
        )
        block = min(protocol.eval_every, epochs)
        if epochs % block:
            raise ValueError(f"{epochs} epochs are no multiple of eval_every = {block}")
        run = training.compile_grid(
            objective.loss,
            optimizer,
            num_epochs=block,
            batch_size=protocol.batch_size,
        )
        states = training.grid_states(
            params, optimizer, keys=self._keys(purpose), num_weights=len(grid)
        )
        weights = jnp.asarray(grid, jnp.float32).reshape(len(grid), -1)
        saved = [jax.tree.map(np.asarray, states.params)]
        description = f"{self.dataset.name} {method} {purpose}train"
        for _ in track(
            range(epochs // block), description=description, show=self.progress
        ):
            states = run(states, weights, self.x, self.y)
            saved.append(jax.tree.map(np.asarray, states.params))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *saved)

    def _retrain(self, method, start):
        grid = protocols.weight_grid(method, self.protocol)
        terms = objectives.method(method).terms
        saved = self._train(method, start, grid, self.protocol.epochs, "re")
        num_saved = jax.tree.leaves(saved)[0].shape[0]
        block = min(self.protocol.eval_every, self.protocol.epochs)
        labels = [{"weights": {}, "epoch": 0}]
        labels += [
            {"weights": dict(zip(terms, weights, strict=True)), "epoch": e * block}
            for e in range(1, num_saved)
            for weights in grid
        ]

        def candidates(leaf):
            # [E, S, W, ...] -> [S, 1 + (E − 1)W, ...]; the start is one candidate.
            first = leaf[0, :, :1]
            rest = np.moveaxis(leaf[1:], 0, 1)
            rest = rest.reshape(rest.shape[0], -1, *leaf.shape[3:])
            return np.concatenate([first, rest], axis=1)

        return jax.tree.map(candidates, saved), labels

    def _auc(self, model, params) -> np.ndarray:
        """Validation AUC of models [c]."""
        return np.asarray(
            _validation_auc(model)(
                params,
                jnp.asarray(self.dataset.valid.x),
                jnp.asarray(self.dataset.valid.y),
            )
        )

    def _precision(self, method, params) -> np.ndarray:
        """Validation P@k of models [c] under the selection attack."""
        x = jnp.asarray(self.dataset.valid.x[: self.protocol.num_valid])
        run = validation_precision(self.model(method), self.k)
        num = jax.tree.leaves(params)[0].shape[0]

        def precision(c):
            return float(run(jax.tree.map(lambda leaf: leaf[c], params), x))

        # The first one compiles; then every core measures a candidate of its own.
        first = precision(0)
        with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
            rest = track(
                pool.map(precision, range(1, num)),
                description=f"{self.dataset.name} {method} select",
                show=self.progress,
                total=num - 1,
            )
            return np.array([first, *rest])


@functools.lru_cache
def _validation_auc(model):
    def one(params, x, y):
        return metrics.roc_auc_ranked(y, model.apply(params, x)[:, 0])

    return jax.jit(lambda params, x, y: jax.lax.map(lambda p: one(p, x, y), params))


def attacked_model(model) -> attacks.Model:
    """A module and its smooth stand-in, as attacks want them."""
    return attacks.Model(
        model.apply, model.surrogate(rho=protocols.SURROGATE_RHO).apply
    )


@functools.lru_cache
def validation_precision(model, k: int):
    """Compiled mean P@k of the selection attack: `run(params, x) -> scalar`.

    It is er_surrogate at l2 ≤ 1, the attack that selection uses for every method.
    """
    named = attacks.named_attack(_VALID_ATTACK, attacked_model(model), k=k)
    run = attacks.attack_batch(
        named.attack, num_steps=named.num_steps, track_every=named.track_every
    )
    budget = threat.threat_model("l2", 1.0)

    def precision(params, x):
        result = run(params, x, budget, key=jax.random.key(0))
        return jnp.nanmean(result.best.precision)

    return jax.jit(precision)
