"""Trains a model, hardens it by several methods, and audits all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import r2et_jax as r2
from experiments.problems import presets
from r2et_jax.audit import Audit
from r2et_jax.datasets import Dataset
from r2et_jax.types import Params

VANILLA = "vanilla"
Progress = Callable[[int, int, str], None]


class Request(NamedTuple):
    """What is done; all choices are made on validation data.

    Attributes:
      methods: by which the model is hardened.
      k, epsilon: size of the top set, budget of the adversary (l2).
      tolerance: AUC on validation data that may be given up.
      num_test: test inputs that are audited.
      evaluations: of the gradient by the audit for each input.
      search: further arguments of `r2et_jax.harden`.
    """

    methods: tuple[str, ...] = ("r2et", "cert_rank")
    k: int = 8
    epsilon: float = 0.5
    tolerance: float = 0.01
    num_test: int = presets.QUICKSTART_INPUTS
    evaluations: int = presets.QUICKSTART_EVALUATIONS
    search: tuple[tuple[str, Any], ...] = tuple(presets.QUICKSTART_SEARCH.items())


class Outcome(NamedTuple):
    """What came out.

    Attributes:
      audits: name of the model -> audit on the same test inputs, vanilla the first.
      hardened: method -> how it was chosen and what it changed.
    """

    audits: dict[str, Audit]
    hardened: dict[str, Any]


def train(
    model: Any, data: Dataset, *, num_epochs: int = presets.QUICKSTART_EPOCHS
) -> Params:
    """Parameters trained by cross-entropy alone."""
    key = jax.random.key(0)
    params = model.init(key, data.train.x[0])
    goal = r2.objective(VANILLA, model.apply, k=1)
    x, y = jnp.asarray(data.train.x), jnp.asarray(data.train.y)
    return r2.train(goal, params, x, y, num_epochs=num_epochs, key=key)


def measure(
    model: Any,
    params: Params,
    data: Dataset,
    request: Request,
    *,
    folder: Path,
    progress: Callable[[str], Progress | None],
) -> Outcome:
    """Harden by each method, then audit the vanilla model and theirs.

    The searches are kept in the folder, and go on there after a kill.
    """
    threat = r2.threat_model("l2", request.epsilon)
    trained = {}
    for method in request.methods:
        trained[method] = r2.harden(
            model, params, data, k=request.k, method=method, threat=threat,
            tolerance=request.tolerance, quality="auc", num_test=0,
            folder=folder / method, progress=progress(f"harden by {method}"),
            **dict(request.search),
        )  # fmt: skip
    audits = {}
    for name, some in [(VANILLA, params), *((m, h.params) for m, h in trained.items())]:
        audits[name] = r2.audit(
            model,
            some,
            data.test.x[: request.num_test],
            k=request.k,
            threat=threat,
            names=data.columns,
            evaluations=request.evaluations,
            progress=progress(f"audit {name}"),
        )
    hardened = {
        method: dataclasses.replace(
            outcome, before=audits[VANILLA], after=audits[method]
        )
        for method, outcome in trained.items()
    }
    return Outcome(audits, hardened)
