"""Bad flags and arguments: one clear line, and nothing written so far is lost."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.drill import children, world
from tests.drill.cases import FAILED, Case, Given, Verdict, refused, survived
from tests.drill.children import Program

NEW = "new_out"
_FILE = f"{world.VICTIM}/precious.txt"
_MODELS = f"{world.OUT}/models"
_HUGE = "99999999999999999999"
# What is wrong for every experiment that trains.
_COMMON = (
    "--datasets=iris", "--datasets=", "--datasets=breast_cancer,breast_cancer",
    "--datasets=adult", "--datasets=../other", "--methods=no_method", "--methods=",
    "--methods=wd+", "--methods=wd,wd", "--k=0", "--k=-1", "--k=nan", "--k=30",
    f"--k={_HUGE}", "--k=2147483647", "--k=", "--k=3,3", "--k=1.5", "--seeds=-1",
    "--seeds=4294967296", f"--seeds={_HUGE}", "--seeds=1e3", "--seeds=0,0", "--seeds=",
    "--clip_norm=nan", "--clip_norm=0", "--clip_norm=-1", "--clip_norm=inf",
    "--average_decay=1", "--average_decay=nan", "--average_decay=-0.1",
    "--schedule=never", "--preset=enormous", "--reference=nobody",
    "--learning_rate_schedule=steep", "--prune=maybe", "--no_such_flag=1", "stray",
    "--pooling=max", "--pooling=min", "--absent_edges=free", "--output_dir=",
    "--output_dir=  ", "--models_dir=", "--data_dir=", "--output_dir=/dev/null/x",
    "--output_dir=/proc/drill", f"--output_dir={_FILE}", f"--output_dir={_FILE}/x",
    f"--models_dir={_FILE}", "--models_dir=/proc/drill",
)  # fmt: skip
# Program -> flags; each must be named by its value, or by its name where that is empty.
_BAD = {
    "train": (
        *_COMMON, "--attacks=er", "--epsilon=1", "--weights=nan", "--weights=-1",
        "--weights=inf", "--weights=1e39", "--weights=1,2", "--weights=",
        "--weights=heavy", "--fold=1", "--fold=-1", "--fold=x",
    ),
    "robustness": (
        *_COMMON, "--attacks=no_attack", "--attacks=", "--attacks=er,er",
        "--epsilon=nan", "--epsilon=-1", "--epsilon=inf", "--epsilon=1e39",
        "--epsilon=", "--epsilon=much", "--epsilon=1,1.0", "--norm=l1", "--norm=linf",
        "--folds=0", "--folds=", "--folds=x", "--reference_methods=r2et",
    ),
    "attack": (
        "--model=", "--model=nowhere", f"--model={_FILE}", f"--model={world.VICTIM}",
        "--methods=vanilla", "--seeds=0", "--datasets=iris", "--datasets=adult,bank",
        "--k=0", "--k=30", "--k=x", "--epsilon=nan", "--epsilon=-1", "--epsilon=1e39",
        "--attacks=no_attack", "--output_dir=", "--output_dir=/proc/drill", "stray",
        "--no_such_flag=1", "--absent_edges=free",
    ),
    "tabular": (
        "--datasets=iris", "--datasets=", "--datasets=mnist", "--raw_dir=nowhere",
        f"--raw_dir={_FILE}", f"--raw_dir={world.VICTIM}", "--raw_dir=",
        f"--data_dir={_FILE}", "--data_dir=/proc/drill", "--data_dir=", "--seed=-1",
        "--seed=nan", "--seed=4294967296", f"--seed={_HUGE}", "stray",
        "--no_such_flag=1",
    ),
    "images": (
        "--datasets=iris", "--datasets=", "--raw_dir=nowhere", f"--raw_dir={_FILE}",
        "--seed=-1", f"--seed={_HUGE}", "stray", "--no_such_flag=1", "--data_dir=",
    ),
    "brain_graphs": (
        "--datasets=iris", "--raw_dir=", "--raw_dir=  ",
        "--npz=nowhere.npz", f"--npz={_FILE}", f"--npz={world.VICTIM}", "--npz=",
        "--partners=0",
        "--partners=-1", f"--partners={_HUGE}", "--seed=-1", "stray",
        "--no_such_flag=1", "--data_dir=",
    ),
}  # fmt: skip
_RAW_FLAGS = f"--raw_dir={world.RAW}", f"--data_dir={world.DATA}"
_PROGRAMS = {
    "train": world.train("wd"),
    "robustness": world.robustness(),
    "attack": world.attack(world.MODEL),
    "tabular": world.tabular("compas"),
    "images": Program("data_prep.images", ("--datasets=mnist", *_RAW_FLAGS)),
    "brain_graphs": Program(
        "data_prep.brain_graphs", ("--datasets=", f"--npz={world.OWN}", *_RAW_FLAGS)
    ),
}


def cases() -> list[Case]:
    """All cases."""
    made = [
        Case(f"flags/{name}/{i}", ("train",), functools.partial(_bad, name, flag))
        for name, flags in _BAD.items()
        for i, flag in enumerate(flags)
    ]
    made += [
        Case(f"flags/audit/{i}", ("train",), functools.partial(_bad_audit, *row))
        for i, row in enumerate(_AUDIT)
    ]
    made += [
        Case(f"flags/{name}/0", ("train",), judge)
        for name, judge in (
            ("two-runs", _two_runs),
            ("other-flags", _other_flags),
            ("read-only-output", _read_only),
            ("read-only-data", _read_only_data),
            ("pointer", _pointer),
        )
    ]
    return made


def _bad(name: str, flag: str, given: Given) -> Verdict:
    program = _PROGRAMS[name]
    if name in ("train", "robustness"):
        program = program.given(f"--output_dir={NEW}")
    if flag.startswith("--reference_methods"):
        flag = f"{flag},no_method"
    return _all_kept(given, program.given(flag), _named(flag), flag)


def _named(flag: str) -> tuple[str, ...]:
    """What of a flag a message may name: its value, as a number too, or the flag."""
    name, _, value = flag.removeprefix("--").partition("=")
    if not value.strip() or name.startswith("no_"):
        return (name,)
    forms = [value, f"--{name}"]
    try:
        forms.append(str(float(value)))
    except ValueError:
        pass
    return tuple(forms)


def _all_kept(
    given: Given, program: Program, named: str | tuple, what: str, **options
) -> Verdict:
    """Whether a program is refused, and leaves all that was there as it was."""
    if not given.folder.exists():
        world.copy(given.worlds["train"].folder, given.folder)
    before = world.tree(given.folder)
    verdict = refused(given.run(program, **options), named)
    after = world.tree(given.folder, NEW)
    told = world.difference(before, after)
    if told:
        verdict = Verdict(FAILED, f"{told}; {verdict.why}")
    records = given.folder / NEW / "records.jsonl"
    if records.exists():
        verdict = Verdict(FAILED, f"measured something first; {verdict.why}")
    return verdict._replace(why=f"{what!r}: {verdict.why}") if verdict.why else verdict


def _two_runs(given: Given) -> Verdict:
    world.copy(given.worlds["train"].folder, given.folder)
    # So that there is something to be done again.
    (given.folder / world.OUT / "records.jsonl").write_text("")
    first = children.start(world.train("wd"), given.folder)
    held = given.folder / world.OUT / ".lock"
    while not held.exists() and time.monotonic() < first.began + 30:
        time.sleep(0.002)
    second = given.run(world.train("wd"))
    ended = children.finish(first, deadline=given.deadline)
    verdict = refused(second, world.OUT)
    if verdict.word == FAILED:
        return verdict
    return survived(given, "train", ended, (world.OUT, world.KEPT))._replace(
        word=verdict.word
    )


def _other_flags(given: Given) -> Verdict:
    more = given.rng.choice(["--k=2", "--seeds=1", "--methods=sp", "--preset=standard"])
    name = more.removeprefix("--").partition("=")[0]
    return _all_kept(given, world.train("wd").given(more), f"--{name}", more)


def _read_only(given: Given) -> Verdict:
    root = world.copy(given.worlds["train"].folder, given.folder)
    (root / world.OUT).chmod(0o555)
    again = world.train("wd")
    return _all_kept(given, again, world.OUT, "read-only", unprivileged=True)


def _read_only_data(given: Given) -> Verdict:
    root = world.copy(given.worlds["train"].folder, given.folder)
    (root / world.DATA).mkdir(mode=0o555)
    program = world.tabular("compas")
    return _all_kept(given, program, world.DATA, "read-only", unprivileged=True)


def _pointer(given: Given) -> Verdict:
    """A saved model whose description names a folder outside of it."""
    root = world.copy(given.worlds["train"].folder, given.folder)
    path = min((root / _MODELS).glob("*/description.json"))
    content = json.loads(path.read_text())
    content["params_folder"] = given.rng.choice(
        ["../../../other", str(root / world.VICTIM), ".", "", 3, None, ["x"]]
    )
    content.pop("description_sha256", None)
    path.write_text(json.dumps(content))
    return _all_kept(
        given,
        world.attack(str(path.parent.relative_to(root))),
        path.parent.name,
        f"params_folder {content['params_folder']!r}",
    )


def _audit(**changed: Any) -> Callable[[], Any]:
    def call():
        import jax

        from r2et_jax.audit import audit
        from r2et_jax.models import MLP

        x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
        model = MLP(hidden=(4,), activation="softplus")
        asked = {
            "apply": model.apply,
            "params": model.init(jax.random.key(0), x[0]),
            "x": x,
            "k": 2,
            **changed,
        }
        arguments = [asked.pop(name) for name in ("apply", "params", "x")]
        print(audit(*arguments, **asked))

    return call


_X = np.zeros((6, 5), np.float32)
_NAN, _INF = _X.copy(), _X.copy()
_NAN[3, 2], _INF[1, 0] = np.nan, np.inf
# Arguments of audit, and what the message must hold.
_AUDIT = (
    ({"x": _NAN}, "nan"), ({"x": _INF}, "inf"), ({"x": _X[:0]}, "(0, 5)"),
    ({"x": _X[0]}, "(5,)"), ({"x": _X.astype(str)}, "U"), ({"x": _X[:, :3]}, "3"),
    ({"x": _X.astype(complex)}, "complex"), ({"x": "adult.csv"}, "()"),
    ({"k": 0}, "0"), ({"k": 5}, "5"), ({"k": -1}, "-1"), ({"k": 2.5}, "2.5"),
    ({"k": float("nan")}, "nan"), ({"k": True}, "True"), ({"k": 10**20}, str(10**20)),
    ({"threat": 0.5}, "0.5"), ({"explainer": "gradient"}, "gradient"),
    ({"smoothed": 3.0}, "3.0"), ({"output": "odds"}, "odds"), ({"evaluations": 0}, "0"),
    ({"evaluations": -5}, "-5"), ({"evaluations": float("nan")}, "nan"),
    ({"key": 0}, "0"),
    ({"params": None}, ("params", "apply", "model")), ({"apply": None}, "None"),
)  # fmt: skip


def _bad_audit(changed: dict[str, Any], named: Any, given: Given) -> Verdict:
    program = Program("audit", function=_audit(**changed))
    what = f"audit with {', '.join(changed)} = {str(next(iter(changed.values())))[:30]}"
    return _all_kept(given, program, named, what)
