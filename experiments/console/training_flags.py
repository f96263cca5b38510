"""Flags that change how the methods are trained, for experiments that train them."""

from __future__ import annotations

from absl import flags as absl_flags

from experiments.problems import presets as protocols
from r2et_jax import training
from r2et_jax.checks import check_positive

absl_flags.disclaim_key_flags()

NAMES = (
    "schedule",
    "reference",
    "learning_rate_schedule",
    "clip_norm",
    "average_decay",
    "prune",
)


def define_training(flag_values: absl_flags.FlagValues = absl_flags.FLAGS) -> None:
    """Define the flags; what is not given is the preset's choice."""
    keywords = {"flag_values": flag_values, "allow_override": True}
    absl_flags.DEFINE_enum(
        "schedule",
        None,
        protocols.SCHEDULES,
        "pretrain: begin with a vanilla model; scratch: with random parameters, for as "
        "many epochs in all (default: pretrain)",
        **keywords,
    )
    absl_flags.DEFINE_enum(
        "reference",
        None,
        protocols.REFERENCES,
        "the model whose ranking the penalties keep (default: self)",
        **keywords,
    )
    absl_flags.DEFINE_enum(
        "learning_rate_schedule",
        None,
        training.SCHEDULES,
        "of the learning rate (default: constant)",
        **keywords,
    )
    absl_flags.DEFINE_float(
        "clip_norm", None, "largest norm of a gradient (default: none)", **keywords
    )
    absl_flags.DEFINE_float(
        "average_decay",
        None,
        "decay, step by step, of an average of the parameters that takes their place "
        "(default: none)",
        **keywords,
    )
    absl_flags.DEFINE_bool(
        "prune",
        None,
        "stop the settings of a grid that do worst on validation data, half of them "
        "after a fifth of the epochs and half again after two fifths (default: by "
        "preset)",
        **keywords,
    )


def read_protocol(
    preset: str, flag_values: absl_flags.FlagValues = absl_flags.FLAGS
) -> protocols.Protocol:
    """The preset's protocol with what the flags change, see `change`."""
    return change(protocols.PRESETS[preset], flag_values)


def change(
    protocol: protocols.Protocol,
    flag_values: absl_flags.FlagValues = absl_flags.FLAGS,
) -> protocols.Protocol:
    """A protocol with what the flags change.

    Raises:
      ValueError: for numbers out of range.
    """
    changes = {}
    for name in ("schedule", "reference", "learning_rate_schedule", "clip_norm"):
        changes[name] = _given(name, flag_values)
    if changes["clip_norm"] is not None:
        check_positive("clip_norm", changes["clip_norm"])
    decay = _given("average_decay", flag_values)
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"--average_decay must lie in [0, 1), got {decay}")
    changes["average_decay"] = decay
    prune = _given("prune", flag_values)
    if prune is not None:
        changes["pruning"] = protocols.HALVING if prune else ()
    settled = {name: value for name, value in changes.items() if value is not None}
    return protocol._replace(**settled)


def _given(name, flag_values):
    """A flag's value; None where it is not given or the experiment has no such flag."""
    return flag_values[name].value if name in flag_values else None
