"""Bombs and malicious files: refused, with memory and disk bounded."""

from __future__ import annotations

import functools
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import restricted_pickle, sources
from tests import damage
from tests.damage import Member
from tests.drill import world
from tests.drill.cases import FAILED, Case, Given, Verdict, refused
from tests.drill.children import MiB, Program

_MOST = 384 * MiB  # of memory, and of what a program may leave on disk a sixteenth
_SIZE = 1024  # MiB that a bomb unpacks to
_COMPAS = f"{world.DATA}/compas.npz"
_HIV = tuple(f"{world.RAW}/HIV_fMRI_fold_{fold}" for fold in (1, 2, 3))


class _Runs:
    """A pickle that runs a command where it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _objects(value: object) -> bytes:
    array = np.empty(3, object)
    array[:] = [value] * 3
    return damage.npy(array)


_TOUCH = f"echo gone > {world.VICTIM}/precious.txt"
_EVIL = {
    "check_output": _Runs(subprocess.check_output, ["sh", "-c", _TOUCH]),
    "eval": _Runs(eval, f"__import__('os').system({_TOUCH!r})"),
    "exec": _Runs(exec, f"import os; os.system({_TOUCH!r})"),
    "open": _Runs(open, f"{world.VICTIM}/precious.txt", "w"),
}
_PICKLES: dict[str, Callable[[], bytes]] = {
    "memo": damage.memo_bomb,
    "length": damage.length_bomb,
    "copies": damage.copies_bomb,
    "containers": damage.container_bomb,
    "laughs": damage.laughs,
    **{name: functools.partial(pickle.dumps, evil) for name, evil in _EVIL.items()},
}


def _trust_all() -> None:
    """Let no checksum stand before the pickles and archives, in this process."""
    world.use_made_up_raw()
    for name, known in sources.SOURCES.items():
        changed = tuple(source._replace(sha256=None, size=2**26) for source in known)
        sources.SOURCES[name] = changed


def _unpickle() -> None:
    restricted_pickle.loads(Path("bomb.pickle").read_bytes(), "bomb.pickle")


_UNPICKLE = Program("restricted_pickle.loads", function=_unpickle)


class _Bomb(NamedTuple):
    """Where a bomb lies, what it is made of, who meets it, and what is named then."""

    files: tuple[str, ...]
    content: Callable[[Path], bytes]
    program: Program
    named: str


def _array_bombs() -> dict[str, Callable[[str], Member]]:
    """Kind -> a member of an .npz of that name that is no array of bounded size."""
    header, member = damage.npy_header, damage.Member
    contents = {
        "shape": lambda: header((2**40, 28), "<f4"),
        "negative": lambda: header((-1, 28), "<f4"),
        "overflow": lambda: header((2**62, 2**62), "<f4"),
        "text": lambda: header((1,), "<U2000000000"),
        "nothing": lambda: header((2**40, 0), "<f4"),
        "header": lambda: header((1,), "<f4", spaces=2**26),
        "objects": lambda: _objects(1),
        **{
            name: functools.partial(_objects, evil) for name, evil in _EVIL.items()
        },
    }  # fmt: skip
    made = {
        name: functools.partial(lambda make, file: member(file, make()), make)
        for name, make in contents.items()
    }
    lie = header((2**29 - 32,), "<f4") + bytes(12)
    made["lies"] = lambda file: member(file, lie, size=2**31)
    length = _SIZE * MiB // 4
    made["zeros"] = lambda file: damage.bomb_member(
        file, _SIZE, head=header((length // 28, 28), "<f4")
    )
    return made


def _npz(bomb: Callable[[str], Member], key: str, others: dict[str, Any]) -> bytes:
    """An .npz file with one array in place of a sound one."""
    members = [bomb(f"{key}.npy")]
    members += [
        Member(f"{name}.npy", damage.npy(array))
        for name, array in others.items()
        if name != key
    ]
    return damage.zipped(members)


def _prepared_with(bomb: Callable[[str], Member], root: Path) -> bytes:
    with np.load(root / _COMPAS) as file:
        return _npz(bomb, "x", dict(file))


def _own_with(bomb: Callable[[str], Member], root: Path) -> bytes:
    return _npz(bomb, "adjacency", {"labels": np.arange(40) % 2})


def bombs() -> dict[str, _Bomb]:
    """Kind -> bomb."""
    tables = Program("data_prep.tabular", world.tabular("bank").arguments, None,
                     _trust_all)  # fmt: skip
    flags = f"--raw_dir={world.RAW}", f"--data_dir={world.DATA}"
    graphs = Program("data_prep.brain_graphs", ("--datasets=hiv", *flags), None,
                     _trust_all)  # fmt: skip
    images = Program("data_prep.images", ("--datasets=mnist", *flags), None, _trust_all)
    own_file = Program(
        "data_prep.brain_graphs", ("--datasets=", "--npz=own.npz", *flags)
    )
    reader = world.train(dataset="compas").given("--output_dir=new_out")
    gz = f"{world.RAW}/train-images-idx3-ubyte.gz"
    bank, csv = f"{world.RAW}/{world.BANK}", "bank-additional-full.csv"
    made = {
        "zip": _Bomb((bank,), lambda root: damage.zip_bomb(csv, _SIZE), tables, csv),
        "zip-lies": _Bomb(
            (bank,),
            lambda root: damage.zipped([damage.Member(
                csv, damage.deflated_zeros(_SIZE), size=100, packed=True
            )]),
            tables,
            world.BANK,
        ),
        "zip-in-zip": _Bomb(
            (bank,),
            lambda root: damage.zipped([damage.Member(
                "bank.zip", damage.zip_bomb(csv, _SIZE)
            )]),
            tables,
            csv,
        ),
        "gzip": _Bomb(
            (gz,), lambda root: damage.gzip_bomb(_SIZE), images, Path(gz).name
        ),
    }  # fmt: skip
    for name, content in _PICKLES.items():
        make = functools.partial(lambda content, root: content(), content)
        made[f"pickle-{name}"] = _Bomb(_HIV, make, graphs, "HIV_fMRI_fold_1")
        if name != "laughs":  # which cost nothing until they are printed
            made[f"unpickle-{name}"] = _Bomb(
                ("bomb.pickle",), make, _UNPICKLE, "bomb.pickle"
            )
    for name, bomb in _array_bombs().items():
        made[f"npz-{name}"] = _Bomb(
            (_COMPAS,), functools.partial(_prepared_with, bomb), reader, "compas.npz"
        )
        made[f"own-npz-{name}"] = _Bomb(
            ("own.npz",), functools.partial(_own_with, bomb), own_file, "own.npz"
        )
    deep = b"[" * 200_000
    again = world.train(dataset="compas")
    for name in ("config.json", "records.jsonl"):
        path = f"{world.OUT}/{name}"
        made[f"deep-{name}"] = _Bomb((path,), lambda root: deep, again, name)
        made[f"digits-{name}"] = _Bomb((path,), lambda root: b"1" * 10**5, again, name)
    return made


def cases() -> list[Case]:
    """All cases."""
    return [
        Case(f"bombs/{name}/0", ("compas",), functools.partial(_met, name))
        for name in bombs()
    ]


def _met(name: str, given: Given) -> Verdict:
    bomb = bombs()[name]
    root = world.copy(given.worlds["compas"].folder, given.folder)
    content = bomb.content(root)
    for file in bomb.files:
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).write_bytes(content)
    before = world.tree(root)
    outcome = given.run(bomb.program, memory=4 * _MOST, timeout=60)
    verdict = refused(outcome, bomb.named)
    if outcome.grown > _MOST:
        return Verdict(FAILED, f"took {outcome.grown // MiB} MiB; {verdict.why}")
    told = world.difference(before, world.tree(root, "new_out"))
    if told:
        return Verdict(FAILED, f"{told}; {verdict.why}")
    left = sum(p.stat().st_size for p in root.rglob("new_out/**/*") if p.is_file())
    if left > _MOST // 16:
        return Verdict(FAILED, f"left {left // MiB} MiB on disk; {verdict.why}")
    return verdict
