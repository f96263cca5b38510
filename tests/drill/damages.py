"""Damaged files: refused by name, or noticed and made anew; never taken silently."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import NamedTuple

from r2et_jax import datasets, saved
from r2et_jax.datasets.soundness import fingerprint
from r2et_jax.training.packing import params_sha256
from tests import damage
from tests.drill import world
from tests.drill.cases import FAILED, SURVIVED, Case, Given, Verdict, refused, survived
from tests.drill.children import Program


def _load() -> None:
    for name in ("compas", "bank"):
        dataset = datasets.load(name, data_dir=world.DATA)
        print(name, dataset.columns, fingerprint(dataset))


def _load_models() -> None:
    for folder in sorted(Path(world.OUT, "models").iterdir()):
        loaded = saved.load(folder)
        print(folder, loaded.model, params_sha256(loaded.params))


LOAD = Program("datasets.load", function=_load)
LOAD_MODELS = Program("saved.load", function=_load_models)


class _Target(NamedTuple):
    """Which files of a world are damaged, one at a time, and what reads them then.

    Attributes:
      world: its name.
      patterns: of the files, each pattern equally often.
      program: the reader; None for one of those that have made the world.
      outputs: folders that it may write.
      number: of the program that has made the world.
    """

    world: str
    patterns: tuple[str, ...]
    program: Program | None
    outputs: tuple[str, ...]
    number: int = 0


_MODEL = ("description.json", "params-*/**/*", "params-*/*")
_RUN = (world.OUT, world.KEPT)
TARGETS = {
    "records": _Target("train", (f"{world.OUT}/records.jsonl",), None, _RUN),
    "config": _Target("train", (f"{world.OUT}/config.json",), None, _RUN),
    "kept-model": _Target(
        "train", tuple(f"{world.KEPT}/*/wd-*/{end}" for end in _MODEL), None, _RUN
    ),
    "saved-model-again": _Target(
        "train", tuple(f"{world.OUT}/models/*/{end}" for end in _MODEL), None, _RUN
    ),
    "saved-model-loaded": _Target(
        "train", tuple(f"{world.OUT}/models/*/{end}" for end in _MODEL), LOAD_MODELS, ()
    ),
    "prepared": _Target("tabular", (f"{world.DATA}/*.npz",), LOAD, ()),
    "prepared-again": _Target("compas", (f"{world.DATA}/compas.npz",), None, _RUN, 1),
    "raw": _Target(
        "tabular",
        (f"{world.RAW}/{world.COMPAS}", f"{world.RAW}/{world.BANK}"),
        None,
        (world.DATA,),
    ),
}


def _swapped(path: Path, root: Path, rng: random.Random) -> bytes:
    others = [p for p in root.rglob("*") if p.is_file() and p.suffix == path.suffix]
    contents = {p.read_bytes() for p in others} - {path.read_bytes()}
    return rng.choice(sorted(contents) or [b"{}"])


def _flipped_bit(content: bytes, rng: random.Random) -> bytes:
    return damage.flipped(content, rng.random(), 1 << rng.randrange(8))


# What becomes of a file's content; the last two are done with the file itself.
DAMAGES = {
    "bit": _flipped_bit,
    "byte": lambda content, rng: damage.flipped(content, rng.random()),
    "digit": lambda content, rng: damage.other_digit(content, rng.random()),
    "cut": lambda content, rng: damage.cut(content, rng.random()),
    "empty": lambda content, rng: b"",
    "zeros": lambda content, rng: damage.zeroed(content, rng.random()),
    "swapped": None,
    "gone": None,
}
_REPEATED = {"bit": 6, "digit": 5, "byte": 3, "cut": 3, "zeros": 2, "swapped": 2}


def cases() -> list[Case]:
    """All cases."""
    return [
        Case(
            f"damage/{name}-{how}/{number}",
            (target.world,),
            functools.partial(_damaged, target, how),
        )
        for name, target in TARGETS.items()
        for how in DAMAGES
        for number in range(_REPEATED.get(how, 1))
    ]


def _damaged(target: _Target, how: str, given: Given) -> Verdict:
    unharmed = given.worlds[target.world]
    program = target.program or unharmed.programs[target.number]
    root, rng = world.copy(unharmed.folder, given.folder), given.rng
    files = sorted(p for p in root.glob(rng.choice(target.patterns)) if p.is_file())
    path = rng.choice(files)
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "swapped":
        path.write_bytes(_swapped(path, root, rng))
    else:
        path.write_bytes(DAMAGES[how](content, rng))
    before = world.tree(root)
    outcome = given.run(program)
    what = f"{path.relative_to(root)} {how}"
    if outcome.status != 0:
        parents = path.relative_to(root).parents
        named = (path.name, *(str(parent) for parent in parents if parent.name))
        verdict = refused(outcome, named)
        lost = before.keys() - world.tree(root).keys()
        if lost:
            verdict = Verdict(FAILED, f"refused, and deleted {', '.join(sorted(lost))}")
    elif not target.outputs:
        # The reader writes nothing, but prints what it has read.
        read = unharmed.outcomes[unharmed.programs.index(program)].out
        verdict = Verdict(SURVIVED)
        if outcome.out != read:
            verdict = Verdict(FAILED, f"taken silently: {outcome.out[:200]!r}")
    else:
        verdict = survived(given, target.world, outcome, target.outputs)
        if verdict.word == FAILED and _only_left(verdict, path):
            verdict = Verdict(SURVIVED)
    return verdict._replace(why=f"{what}: {verdict.why}") if verdict.why else verdict


def _only_left(verdict: Verdict, path: Path) -> bool:
    """Whether all that differs is the damaged source itself, which nobody mends."""
    told = verdict.why.removeprefix("touched what is not its own: ")
    return told == f"{path.parent.name}/{path.name} is another"
