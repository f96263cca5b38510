"""The audit as a command: exit status 0 passed, 1 failed, 2 wrong use."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from r2et_jax import adapters, saliency, saved
from r2et_jax.audit.tables import Table, read
from r2et_jax.audit.whole import audit
from r2et_jax.audit.writing import can_draw
from r2et_jax.checks import adapter_of, as_folder
from r2et_jax.subject import OUTPUTS, Subject, subject
from r2et_jax.threat import threat_model
from r2et_jax.threat.definition import NORMS

PASSED, FAILED, WRONG = 0, 1, 2
_EXPLAINERS = ("gradient", "gradient_times_input", "integrated_gradients")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part.strip()]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="r2et-audit",
        description="How far the top features that a model shows can be trusted.",
        epilog="Exit status: 0 passed, 1 failed (also where no input has a ranking), 2 "
        "wrong use.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="import.path:object, or a folder of saved.save. "
        "The object is a subject, (model, params), or a function of no arguments that "
        "returns one of them")  # fmt: skip
    add("--import", dest="imports", type=_words, default=[], metavar="MODULE,…",
        help="imported first, where a folder's model is of a class or function of your "
        "own")  # fmt: skip
    add("--data", required=True, help="file.csv with a header, or file.npz with x")
    add("--k", type=int, required=True, help="size of the top set")
    add("--drop", type=_words, default=[], metavar="COLUMN,…", help="columns of the "
        "CSV that are no inputs")  # fmt: skip
    add("--label", metavar="COLUMN", help="column of the labels of the CSV, which is "
        "then standardised and split as datasets.from_csv does; the test part is "
        "audited. Else numbers are taken as they stand")  # fmt: skip
    add("--categories", type=_words, default=[], metavar="COLUMN,…", help="columns of "
        "numbers that are categories, as columns of texts are: a 0/1 column for each "
        "level, in their order, which the gradient explains as one")  # fmt: skip
    add("--rows", type=int, default=100, help="inputs taken, from the first one")
    add("--norm", choices=NORMS, default="l2")
    add("--epsilon", type=float, default=1.0, help="budget of the change")
    add("--epsilons", type=_numbers, metavar="ε,…", help="further budgets; a tenth, a "
        "quarter and a half of --epsilon by default")  # fmt: skip
    add("--lower", type=float, help="least value of any column")
    add("--upper", type=float, help="largest value of any column")
    add("--frozen", type=_words, default=[], metavar="COLUMN,…", help="columns that "
        "may not change")  # fmt: skip
    add("--output", choices=OUTPUTS, default="auto", help="what the model returns")
    add("--target", type=int, help="class or output that is explained")
    add("--batched", action="store_true", help="the model takes batches alone")
    add("--classes", type=_words, metavar="NAME,…", help="names of the classes")
    add("--explainer", choices=_EXPLAINERS, default="gradient")
    add("--certify", choices=("auto", "yes", "no"), default="auto", help="prove what "
        "stays: auto, where that is quick; yes, by bounds of any program")  # fmt: skip
    add("--evaluations", "--budget", type=int, help="of an input by the attack; by "
        "default 16,000, and less where one has more than 256 numbers")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--min_precision", type=float, help="level of mean P@k, in [0, 1]")
    add("--at", type=float, help="budget at which it is asked; --epsilon by default")
    add("--output_dir", type=Path, help="folder for the page, the numbers, pictures")
    add("--title", default="Audit of explanations")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: of the command; those of the process by default.

    Returns:
      The exit status.
    """
    try:
        return _run(_parser().parse_args(arguments))
    # Also what the code of a model raises: whatever it is, no gate has failed.
    except Exception as error:
        told = " ".join(str(error).split()) or "it says no more"
        usual = ValueError, ImportError, OSError, jax.errors.JaxRuntimeError
        kind = "" if isinstance(error, usual) else f"{type(error).__name__}: "
        print(f"r2et-audit: {kind}{told}", file=sys.stderr)
        return WRONG


def _run(asked: argparse.Namespace) -> int:
    table = read(
        asked.data, drop=asked.drop, categories=asked.categories, label=asked.label
    )
    if asked.rows < 1:
        raise ValueError(f"--rows must be at least 1, got {asked.rows}")
    if asked.at is not None and asked.min_precision is None:
        raise ValueError(
            f"--at belongs to --min_precision, got --at={asked.at:g} alone"
        )
    if not 0 <= asked.seed < 2**32:
        raise ValueError(f"--seed must lie in 0…2³²−1, got {asked.seed}")
    if asked.output_dir is not None:
        as_folder("--output_dir", asked.output_dir)
    level = asked.min_precision
    if level is not None and not 0 <= level <= 1:
        raise ValueError(f"--min_precision must lie in [0, 1], got {level:g}")
    x = table.x[: asked.rows]
    # A model of float32 would see other numbers in float64.
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    shares = (0.1, 0.25, 0.5)
    epsilons = [share * asked.epsilon for share in shares]
    epsilons = epsilons if asked.epsilons is None else list(asked.epsilons)
    if asked.at is not None:
        epsilons.append(asked.at)
    threat = threat_model(
        asked.norm,
        asked.epsilon,
        lower=asked.lower,
        upper=asked.upper,
        frozen=_columns(asked.frozen, table),
        num_features=int(np.prod(x.shape[1:])),
    )
    try:
        report = audit(
            _subject(asked, table),
            x,
            k=asked.k,
            threat=threat,
            certify={"auto": "auto", "yes": True, "no": False}[asked.certify],
            epsilons=epsilons,
            evaluations=asked.evaluations,
            key=jax.random.key(asked.seed),
            progress=True,
        )
    except ValueError as error:
        if table.names is None or "shape" not in str(error):
            raise
        raise ValueError(
            f"{error}; the inputs of {asked.data} have the {len(table.names)} columns "
            f"{', '.join(table.names)}"
        ) from error
    print(report)
    if len(table.x) > len(x):
        print(f"the first {len(x)} of {len(table.x)} rows; --rows takes more")
    if asked.output_dir is not None:
        drawn = can_draw()
        written = report.save(asked.output_dir, title=asked.title, figures=drawn)
        names = ", ".join(path.name for path in written)
        without = "" if drawn else " (no PNGs: Matplotlib is not installed)"
        print(f"wrote {names}{without} to {asked.output_dir}")
    if level is None:
        return PASSED if report.counted.any() else FAILED
    gate = report.check(level, asked.at)
    print(gate)
    return gate.exit_status


def _columns(names: Sequence[str], table: Table) -> list[int]:
    """Columns of x by their names, or by those of categories."""
    known = table.variables
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--frozen: there is no column {unknown[0]!r}; columns: {', '.join(known)}"
        )
    return [i for name in names for i in known[name]]


def _subject(asked: argparse.Namespace, table: Table) -> Subject:
    """The subject that --model names, with the names of the table's columns."""
    for path in asked.imports:
        _imported(path, f"--import={path}")
    made = _model(asked.model)
    options = {
        "output": asked.output,
        "target": asked.target,
        "classes": asked.classes,
        "explainer": getattr(saliency, asked.explainer),
        "batched": asked.batched or None,
    }
    if isinstance(made, Subject):
        defaults = {"output": "auto", "explainer": saliency.gradient}
        for name, value in options.items():
            if value != defaults.get(name):
                raise ValueError(
                    f"--{name} belongs to a model; the subject {asked.model} says it "
                    "itself"
                )
        return _with_columns(made, table)
    if asked.output == "auto":
        del options["output"]  # an adapter may know it
    parts = made if isinstance(made, tuple) else (made,)
    if isinstance(made, saved.Saved):
        parts = parts[:2]  # the description is no part of the model
    options = {name: value for name, value in options.items() if value is not None}
    if table.names is not None:
        options["names"] = table.names
    if asked.explainer == "gradient" and table.groups:
        options["groups"] = table.groups
    kind = adapter_of(parts[0])
    if kind in (None, "linen") and table.classes and asked.output != "regression":
        options.setdefault("classes", table.classes)
    if kind in (None, "linen") and len(parts) == 2:
        return subject(*parts, **options)
    if kind in (None, "linen") or len(parts) > 2:
        raise ValueError(
            f"--model={asked.model} must name a subject, (model, params), a model that "
            f"has its parameters inside, or a function that returns one; got a "
            f"{type(made).__name__}"
        )
    return adapters.subject(*parts, table.x[:8].astype(np.float32), **options)


def _with_columns(made: Subject, table: Table) -> Subject:
    """A subject with the table's names and groups, where it says none itself."""
    if made.names is None and not made.groups:
        by_gradient = made.form.explainer is saliency.gradient
        groups = table.groups if by_gradient else ()
        made = dataclasses.replace(made, names=table.names, groups=groups)
    return made


def _model(text: str) -> Any:
    if Path(text).is_dir():
        return saved.load(text)
    path, colon, name = text.partition(":")
    if not colon or not path or not name:
        raise ValueError(
            f"--model must be import.path:object or a folder, got {text!r}"
        )
    named = _imported(path, f"--model={text}")
    for part in name.split("."):
        if not hasattr(named, part):
            raise ValueError(f"--model={text}: {path!r} has no {name!r}")
        named = getattr(named, part)
    if inspect.isfunction(named):
        needed = [
            parameter
            for parameter in inspect.signature(named).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind
            in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        if not needed:
            try:
                return named()
            except Exception as error:
                raise ValueError(f"--model={text}() raised {_named(error)}") from error
    return named


def _imported(path: str, flag: str) -> Any:
    # As `python -m`: what stands in the folder that the command is called in.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(path)
    except Exception as error:
        why = error if isinstance(error, ImportError) else _named(error)
        raise ValueError(f"{flag}: cannot import {path!r} ({why})") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
