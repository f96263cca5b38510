"""The experiments are built in rooms, and the rules of the house that a parser can see.

A module imports only from rooms below its own and from its own folder; an experiment
imports no other one. Inside an experiment measure.py knows nothing of the report, and
neither knows the flags in experiment.py. A report is made from records: it knows
neither how a run goes, nor how models are trained.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "experiments"
# From the ground up: what experiments share. Rooms of a floor do not import each other.
FLOORS = (
    {"store", "console", "problems"},
    {"models", "report"},
    {"measures", "loop"},
)
ROOMS = frozenset.union(*map(frozenset, FLOORS))
# Starts the experiments as processes of their own.
TOP = "reproduce"
EXPERIMENTS = frozenset(
    path.parent.name for path in ROOT.glob("*/__main__.py") if path.parent.name != TOP
)
# Inside an experiment, from the ground up; its other modules measure or tell.
INNER = ("measure", "report", "experiment", "__main__")
# What tells, and the rooms that it has no use for.
TELLING = ("report", "claims")
UNTOLD = ("loop", "models")
MAX_LINES = 400


def allowed_rooms(room: str) -> frozenset[str]:
    """The rooms from which one may import, besides itself."""
    below: frozenset[str] = frozenset()
    for floor in FLOORS:
        if room in floor:
            return below
        below |= floor
    return ROOMS


def imported(path: Path, source: str, modules: frozenset[str]) -> Iterator:
    """Imports inside experiments as (line, module, name of it or None)."""
    package = ("experiments", *path.parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "experiments":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source_name = ".".join((*base, *filter(None, [node.module])))
            if source_name.split(".")[0] != "experiments":
                continue
            for alias in node.names:
                whole = f"{source_name}.{alias.name}"
                yield node.lineno, whole if whole in modules else source_name


def module_name(path: Path) -> str:
    return ".".join(("experiments", *path.with_suffix("").parts))


def room_violations(path: Path, source: str, modules: frozenset[str]) -> list[str]:
    """What a file (path inside experiments) imports against the order of the rooms."""
    if path.name == "__init__.py" and len(path.parts) == 1:
        return []
    room = path.parts[0]
    if room not in {*ROOMS, *EXPERIMENTS, TOP}:
        return [f"{path}:1: {room!r} is neither a room nor an experiment"]
    violations = []
    for line, name in imported(path, source, modules):
        other, _, inner = name.removeprefix("experiments").lstrip(".").partition(".")
        if not other:  # a name in the package itself
            continue
        if other != room:
            untold = path.stem in TELLING and other in UNTOLD
            if untold or other not in allowed_rooms(room):
                violations.append(f"{path}:{line}: {room!r} may not import {name!r}")
        elif room not in ROOMS and path.stem in INNER:
            part = inner.partition(".")[0]
            if part in INNER and INNER.index(part) >= INNER.index(path.stem):
                violations.append(
                    f"{path}:{line}: {path.stem!r} may not import {name!r}"
                )
    return violations


def global_flags(path: Path, source: str) -> list[str]:
    """Uses of absl's one global FlagValues: flags are parsed where a run begins."""
    tree = ast.parse(source)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "absl"
        for alias in node.names
        if alias.name == "flags"
    } | {"absl.flags"}
    violations = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "FLAGS":
            if ast.unparse(node.value) in aliases:
                violations.append(f"{path}:{node.lineno}: absl's global FLAGS")
        if isinstance(node, ast.ImportFrom) and node.module == "absl.flags":
            if "FLAGS" in {alias.name for alias in node.names}:
                violations.append(f"{path}:{node.lineno}: absl's global FLAGS")
    return violations


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    """The modules along a circle of imports; empty where there is none."""
    done: set[str] = set()

    def visit(name, trail):
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                if circle := visit(other, [*trail, name]):
                    return circle
            done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(arrows))), [])


def files() -> list[tuple[Path, str]]:
    paths = sorted(ROOT.rglob("*.py"))
    assert len(paths) > 50, f"found {len(paths)} Python files under {ROOT}"
    return [(path.relative_to(ROOT), path.read_text("utf-8")) for path in paths]


FILES = files()
# With the folders, which may be imported as well.
MODULES = frozenset(
    name
    for path, _ in FILES
    for name in (module_name(path), ".".join(("experiments", *path.parent.parts)))
)


def listed(violations: list[str]) -> str:
    return "\n" + "\n".join(violations)


def test_modules_import_only_from_rooms_below():
    violations = [v for file in FILES for v in room_violations(*file, MODULES)]
    assert not violations, listed(violations)


def test_no_circle_of_imports():
    arrows = {
        module_name(path): {name for _, name in imported(path, source, MODULES)}
        for path, source in FILES
    }
    assert sum(map(len, arrows.values())) > 100
    assert not cycle(arrows), " -> ".join(cycle(arrows))


def test_every_experiment_asks_in_its_experiment_module():
    assert len(EXPERIMENTS) >= 15
    for name in (*EXPERIMENTS, TOP):
        assert (ROOT / name / "experiment.py").is_file(), name
        assert name == TOP or (ROOT / name / "measure.py").is_file(), name
        assert len((ROOT / name / "__main__.py").read_text().splitlines()) < 10, name


def measuring(path: Path, source: str) -> list[str]:
    """Records that an experiment.py appends, which is for what measures."""
    return [
        f"{path}:{node.lineno}: records are measured in measure.py"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "append"
        and ast.unparse(node.value) == "store"
    ]


def test_what_asks_does_not_measure():
    asking = [file for file in FILES if file[0].name == "experiment.py"]
    violations = [v for file in asking for v in measuring(*file)]
    assert not violations, listed(violations)
    planted = "def main(values):\n    store.append(records)\n    found.append(1)"
    assert len(measuring(Path("x/experiment.py"), planted)) == 1


def test_files_are_short():
    lengths = {path: len(source.splitlines()) for path, source in FILES}
    violations = [f"{path}: {n} lines" for path, n in lengths.items() if n > MAX_LINES]
    assert not violations, f"more than {MAX_LINES} lines: {listed(violations)}"


def test_no_global_flags():
    violations = [v for file in FILES for v in global_flags(*file)]
    assert not violations, listed(violations)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("store/records.py", "from experiments.console import cli"),
        ("store/records.py", "import experiments.loop.parts"),
        ("report/tables.py", "from experiments.loop import runs"),
        ("report/tables.py", "from ..loop import runs"),
        ("report/tables.py", "def f():\n    from experiments.loop import runs"),
        ("report/tables.py", "from experiments import measures"),
        ("thickness/report.py", "from experiments import INTERRUPTED, robustness"),
        ("loop/runs.py", "from experiments.robustness import tables"),
        ("thickness/report.py", "from experiments.convergence import report"),
        ("thickness/report.py", "from experiments.loop import runs"),
        ("robustness/claims.py", "from experiments.models.trained import Guards"),
        ("evidence/measure.py", "from experiments.convergence import report"),
        ("evidence/measure.py", "from experiments.reproduce import jobs"),
        ("reproduce/experiment.py", "from experiments.robustness import report"),
        ("thickness/measure.py", "from experiments.thickness import report"),
        ("thickness/measure.py", "from experiments.thickness.experiment import FLAGS"),
        ("thickness/report.py", "from . import experiment"),
        ("attic/x.py", ""),
    ],
)
def test_checker_finds_planted_import(path, source):
    (violation,) = room_violations(Path(path), source, MODULES)
    assert violation.startswith(f"{path}:{len(source.splitlines()) or 1}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("loop/setup.py", "from experiments.store import output\nimport absl"),
        ("console/cli.py", "from experiments import INTERRUPTED"),
        ("loop/runs.py", "from experiments.loop import parts\nfrom . import setup"),
        ("thickness/report.py", "from experiments.thickness.measure import measure"),
        ("thickness/experiment.py", "from . import measure, report"),
        ("thickness/report.py", "from experiments.thickness import stability"),
        ("thickness/report.py", "from r2et_jax import plots"),
        ("reproduce/experiment.py", "from experiments.loop import parts"),
    ],
)
def test_checker_admits_lower_rooms_and_own_folder(path, source):
    assert room_violations(Path(path), source, MODULES) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from absl import flags as absl_flags\nabsl_flags.FLAGS.k", 1),
        ("from absl import flags\nk = flags.FLAGS['k']", 1),
        ("import absl.flags\nabsl.flags.FLAGS.k", 1),
        ("from absl.flags import FLAGS", 1),
        ("from experiments.console import flags\nFLAGS = flags.describe('a')", 0),
        ("from absl import flags as f\nf.DEFINE_list('a', None, '', flag_values=v)", 0),
    ],
)
def test_checker_finds_global_flags(source, count):
    assert len(global_flags(Path("x.py"), source)) == count


def test_checker_finds_a_circle():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
