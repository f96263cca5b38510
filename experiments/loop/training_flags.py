"""Flags that change how the methods are trained, for experiments that train them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags as absl_flags

from experiments.console import flags
from experiments.console.flags import Options
from experiments.problems import presets
from experiments.problems.registry import LOGISTIC
from r2et_jax import objectives
from r2et_jax.checks import check_positive
from r2et_jax.training.optimizers import SCHEDULES

NAMES = (
    "schedule",
    "reference",
    "learning_rate_schedule",
    "clip_norm",
    "average_decay",
    "prune",
)


def define_training(values: absl_flags.FlagValues) -> None:
    """Define the flags; what is not given is the preset's choice."""
    absl_flags.DEFINE_enum(
        "schedule",
        None,
        presets.SCHEDULES,
        "pretrain: begin with a vanilla model; scratch: with random parameters, for as "
        "many epochs in all (default: pretrain)",
        flag_values=values,
    )
    absl_flags.DEFINE_enum(
        "reference",
        None,
        presets.REFERENCES,
        "the model whose ranking the penalties keep (default: self)",
        flag_values=values,
    )
    absl_flags.DEFINE_enum(
        "learning_rate_schedule",
        None,
        SCHEDULES,
        "of the learning rate (default: constant)",
        flag_values=values,
    )
    absl_flags.DEFINE_float(
        "clip_norm",
        None,
        "largest norm of a gradient (default: none)",
        flag_values=values,
    )
    absl_flags.DEFINE_float(
        "average_decay",
        None,
        "decay, step by step, of an average of the parameters that takes their place "
        "(default: none)",
        flag_values=values,
    )
    absl_flags.DEFINE_bool(
        "prune",
        None,
        "stop the settings of a grid that do worst on validation data, half of them "
        "after a fifth of the epochs and half again after two fifths (default: by "
        "preset)",
        flag_values=values,
    )


def changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the flags change in a protocol, by the protocol's names.

    Args:
      given: `Options.given`; an experiment that has no such flags changes nothing.

    Raises:
      ValueError: for numbers out of range.
    """
    changed = {name: given.get(name) for name in NAMES}
    if changed["clip_norm"] is not None:
        check_positive("clip_norm", changed["clip_norm"])
    decay = changed["average_decay"]
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"--average_decay must lie in [0, 1), got {decay}")
    prune = changed.pop("prune")
    if prune is not None:
        changed["pruning"] = presets.HALVING if prune else ()
    return {name: value for name, value in changed.items() if value is not None}


def define_weights(values: absl_flags.FlagValues) -> None:
    """Define --weights, which `of_weights` reads."""
    absl_flags.DEFINE_list(
        "weights",
        None,
        "penalty weights of the one method with penalties, one for each of these, in "
        "place of a grid",
        flag_values=values,
    )


def of_weights(options: Options, *, alone: bool = False) -> dict[str, Any]:
    """What --weights changes in a protocol: one setting in place of a grid.

    Args:
      options: the flags of the run.
      alone: whether no other method may be trained beside.

    Raises:
      ValueError: unless exactly one of several methods has penalties, and as many as
        there are weights; for numbers out of range.
    """
    given = options.given.get("weights")
    if given is None:
        return {}
    terms = {
        method: () if method == LOGISTIC else objectives.method(method).terms
        for method in options.methods
    }
    trained = [method for method in options.methods if terms[method]]
    if alone or len(options.methods) == 1:
        trained = list(options.methods)
    if len(trained) != 1:
        raise ValueError(
            "--weights is for one method with penalties, got --methods="
            + ",".join(options.methods)
        )
    (method,) = trained
    names = terms[method]
    # One by one: two penalties may have the same weight.
    weights = [flags.parse_floats("weights", [item])[0] for item in given]
    if not names or len(weights) != len(names):
        raise ValueError(
            f"{method} takes {len(names)} penalty weights ({', '.join(names) or 'none'}"
            f"), got --weights={','.join(given)}"
        )
    grid = {name: (weight,) for name, weight in zip(names, weights, strict=True)}
    if grid.get("tau") == (0.0,):
        raise ValueError(
            f"{method} takes a step tau above 0, got --weights={','.join(given)}"
        )
    return {"grid" if len(names) == 1 else "paired": grid}
