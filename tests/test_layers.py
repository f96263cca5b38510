"""The library is built in floors, and the rules of the house that a parser can see.

A module of r2et_jax imports only from floors below its own, or from its own package.
Modules that share a floor do not import each other.
"""

import ast
import doctest
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
LIBRARY = "r2et_jax"

GROUND = frozenset({"types", "checks"})
# On the ground floor, for all above.
HELPERS = frozenset({"_callable", "context", "execution", "files", "numerics"})
FLOORS = (
    GROUND,
    {"devices"},
    HELPERS,
    {"programs", "tracing"},
    {"score"},
    {"saliency", "curvature"},
    {"ranking"},
    {"threat"},
    {"subject"},
    {"attacks", "bounds"},
    {"certificates"},
    {"objectives"},
    {"metrics"},
    {"training"},
)
# Beside the floors: these serve any of them, and only the top may build on them.
ASIDE = frozenset({"models", "datasets", "plots"})
# On both: models of other libraries as subjects, for the top.
ADAPTERS = frozenset({"adapters"})
TOP = frozenset({"saved"})
# Over all: the whole question in one call.
ROOF = frozenset({"audit"})

MAX_LINES = 450
COMPILING = frozenset({"execution", "tracing", "attacks", "training", "audit"})
# Nor is what draws first parameters maths.
DRAWING = frozenset({Path("models/initial.py")})
# Imported nowhere in the library: it stands alone, and it never downloads.
FOREIGN = frozenset(
    {"experiments", "data_prep", "tests", "pooch", "requests", "urllib"}
)
# Heavy packages that import time must not pay for, and the modules they are for.
LAZY = {
    "sklearn": {"datasets", "metrics", "adapters"},
    **dict.fromkeys(("equinox", "keras", "torch", "torchax"), {"adapters"}),
}
ONLY_IN = {"matplotlib": {"plots"}, "absl": {"training", "audit"}}


# Names that do not say what is held.
EMPTY_NAMES = frozenset({"found", "common", "own", "one"})

# Commands, which print and return an exit status.
COMMANDS = frozenset({Path("audit/command.py")})


def allowed_imports() -> dict[str, frozenset[str]]:
    """Each module or subpackage -> the modules and subpackages it may import."""
    allowed = {}
    below: frozenset[str] = frozenset()
    for floor in FLOORS:
        allowed |= dict.fromkeys(floor, below)
        below |= floor
    allowed |= dict.fromkeys(ASIDE, GROUND | HELPERS)
    allowed |= dict.fromkeys(ADAPTERS, below | ASIDE)
    allowed |= dict.fromkeys(TOP, below | ASIDE | ADAPTERS)
    allowed |= dict.fromkeys(ROOF, below | ASIDE | ADAPTERS | TOP)
    return allowed


ALLOWED = allowed_imports()


def unit(path: Path) -> str:
    """The part of the library that a file belongs to: attacks/er.py -> attacks."""
    return path.parts[0].removesuffix(".py")


def imported_names(path: Path, tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import in a file of the library, as (statement, absolute dotted name)."""
    package = (LIBRARY, *path.parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield node, f"{source}.{alias.name}"


def floor_violations(path: Path, source: str) -> list[str]:
    """What a file (path inside the library) imports against the order of the floors."""
    room = unit(path)
    if room == "__init__":  # the library's front door shows every floor
        return []
    if room not in ALLOWED:
        return [
            f"{path}:1: {room!r} has no floor; give it one in {Path(__file__).name}"
        ]
    violations = []
    for node, name in imported_names(path, ast.parse(source)):
        root, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if root == LIBRARY and other != room and other not in ALLOWED[room]:
            violations.append(f"{path}:{node.lineno}: {room!r} may not import {name!r}")
    return violations


def rule_violations(path: Path, source: str) -> list[str]:
    """Printing, compiling and imports that a file of the library must do without."""
    room = unit(path)
    tree = ast.parse(source)
    violations = []

    def report(node: ast.AST, message: str) -> None:
        violations.append(f"{path}:{node.lineno}: {message}")

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "print" and path not in COMMANDS:
                report(node, "the library does not print")
        if isinstance(node, ast.Attribute) and node.attr == "jit":
            if room not in COMPILING and path not in DRAWING:
                report(node, "the caller compiles: no jit in the maths")
    inside_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    for node, name in imported_names(path, tree):
        root = name.partition(".")[0]
        if name == "jax.jit" and room not in COMPILING:
            report(node, "the caller compiles: no jit in the maths")
        if root in FOREIGN:
            report(node, f"the library does not import {root!r}")
        if room not in ONLY_IN.get(root, {room}):
            report(node, f"{root!r} is for {sorted(ONLY_IN[root])} alone")
        if root in LAZY:
            if room not in LAZY[root]:
                report(node, f"{root!r} is for {sorted(LAZY[root])} alone")
            elif node not in inside_functions:
                report(node, f"{root!r} is imported inside the function that needs it")
    return violations


def init_violations(path: Path, source: str) -> list[str]:
    """What a subpackage's __init__ holds besides its docstring and its public names."""
    violations = []
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = isinstance(node, ast.Assign) and [
            ast.unparse(target) for target in node.targets
        ] == ["__all__"]
        if not (docstring or names or isinstance(node, ast.Import | ast.ImportFrom)):
            violations.append(
                f"{path}:{node.lineno}: an __init__ only imports public names"
            )
    return violations


def name_violations(path: Path, source: str) -> list[str]:
    """Names, also in examples, that do not say what is held."""
    code = [(0, source)]
    for node in ast.walk(ast.parse(source)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node):
            line = node.body[0].lineno - 1
            text = ast.get_docstring(node, clean=False)
            for example in doctest.DocTestParser().get_examples(text):
                code.append((line + example.lineno, example.source))
    return [
        f"{path}:{start + token.start[0]}: the name {token.string!r} says nothing"
        for start, text in code
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NAME and token.string in EMPTY_NAMES
    ]


def library_files() -> list[tuple[Path, str]]:
    root = CHECKOUT / LIBRARY
    files = sorted(root.rglob("*.py"))
    assert files, f"found no Python file under {root}"
    return [(file.relative_to(root), file.read_text("utf-8")) for file in files]


def python_files() -> list[Path]:
    """All Python files of the checkout's rooms."""
    rooms = (LIBRARY, "experiments", "data_prep", "tests")
    return [file for room in rooms for file in sorted((CHECKOUT / room).rglob("*.py"))]


def report(violations: list[str]) -> str:
    return "\n" + "\n".join(violations)


def test_modules_import_only_from_floors_below():
    violations = [v for file in library_files() for v in floor_violations(*file)]
    assert not violations, report(violations)


def test_library_does_not_print_compile_or_reach_outside():
    violations = [v for file in library_files() for v in rule_violations(*file)]
    assert not violations, report(violations)


def test_init_files_hold_public_names_only():
    inits = [f for f in library_files() if f[0].name == "__init__.py"]
    violations = [v for f in inits if len(f[0].parts) > 1 for v in init_violations(*f)]
    assert not violations, report(violations)


def test_names_say_what_is_held():
    violations = []
    for file in python_files():
        path = file.relative_to(CHECKOUT)
        violations += name_violations(path, file.read_text("utf-8"))
    assert not violations, report(violations)


def test_files_are_short():
    lengths = {
        file.relative_to(CHECKOUT): len(file.read_text("utf-8").splitlines())
        for file in python_files()
    }
    long = [f"{file}: {n} lines" for file, n in lengths.items() if n > MAX_LINES]
    assert not long, f"more than {MAX_LINES} lines: {report(long)}"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("score.py", "import r2et_jax.saliency"),
        ("score.py", "from r2et_jax import saliency"),
        ("score.py", "from r2et_jax.saliency import gradient"),
        ("score.py", "from . import saliency"),
        ("score.py", "from .saliency import gradient as g"),
        ("score.py", "def f():\n    from .saliency import gradient"),
        ("score.py", "import r2et_jax"),
        ("score.py", "from r2et_jax import __version__"),
        ("ranking/pairs.py", "from ..attacks.er import er_attack"),
        ("ranking/pairs.py", "from .. import attacks"),
        ("attacks/er.py", "from ..certificates import bounds"),
        ("attacks/deep/er.py", "from ...certificates import bounds"),
        ("saliency.py", "from r2et_jax.curvature import norms"),
        ("models/mlp.py", "from r2et_jax import score"),
        ("training/step.py", "from r2et_jax.models import MLP"),
        ("training/step.py", "import r2et_jax.audit"),
        ("saved.py", "from r2et_jax import audit"),
        ("subject.py", "from r2et_jax import adapters"),
        ("adapters/estimator.py", "from r2et_jax import audit"),
        ("checks.py", "from r2et_jax import types"),
        ("attic.py", ""),
    ],
)
def test_checker_finds_planted_import(path, source):
    (violation,) = floor_violations(Path(path), source)
    line = len(source.splitlines()) or 1
    assert violation.startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from r2et_jax import audit"),
        ("score.py", "import jax\nfrom r2et_jax import checks\nfrom .types import F"),
        ("attacks/er.py", "from . import a\nfrom .a import b\nfrom ..threat import t"),
        ("attacks/__init__.py", "from .er import er_attack"),
        ("metrics/agreement.py", "from r2et_jax.ranking import top_k_mask"),
        ("models/mlp.py", "from ..execution import map_batched"),
        ("audit.py", "from . import attacks, datasets, training"),
        ("saved.py", "from . import models, training"),
        ("audit/whole.py", "from r2et_jax import adapters"),
        ("adapters/estimator.py", "from r2et_jax import models, subject"),
    ],
)
def test_checker_admits_lower_floors_and_own_package(path, source):
    assert floor_violations(Path(path), source) == []


@pytest.mark.parametrize(
    ("path", "source", "count"),
    [
        ("score.py", "print(1)", 1),
        ("audit/whole.py", "print(1)", 1),
        ("audit/command.py", "print(1)", 0),
        ("score.py", "import jax\n@jax.jit\ndef f(x): ...", 1),
        ("score.py", "from jax import jit", 1),
        ("score.py", "import jax\nf = functools.partial(jax.jit, inline=True)", 1),
        ("training/step.py", "import jax\nstep = jax.jit(abs)", 0),
        ("audit.py", "import jax\nstep = jax.jit(abs)", 0),
        ("score.py", '"""jax.jit(f)(x); print(x)"""', 0),
        ("datasets/tabular.py", "from experiments import common", 1),
        ("datasets/tabular.py", "def f():\n    import urllib.request", 1),
        ("datasets/tabular.py", "from sklearn.datasets import load_digits", 1),
        ("datasets/tabular.py", "def f():\n    import sklearn.datasets", 0),
        ("saliency.py", "def f():\n    import sklearn.datasets", 1),
        ("adapters/torch_module.py", "import torch", 1),
        ("adapters/torch_module.py", "def f():\n    import torch", 0),
        ("saved.py", "def f():\n    import torch", 1),
        ("plots.py", "import matplotlib.pyplot as plt", 0),
        ("metrics/auc.py", "import matplotlib", 1),
    ],
)
def test_checker_finds_planted_breach_of_a_rule(path, source, count):
    assert len(rule_violations(Path(path), source)) == count


def test_checker_finds_code_in_an_init():
    source = '"""Doc."""\nfrom .er import er\n__all__ = ["er"]\nREGISTRY = {}\n'
    (violation,) = init_violations(Path("attacks/__init__.py"), source)
    assert violation.startswith("attacks/__init__.py:4: ")


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("found = 1\nmany = found + 1", [1, 2]),
        ("def f(one): ...", [1]),
        ("class A:\n    own: int", [2]),
        ("x = result.common", [1]),
        ("f(own=2)", [1]),
        ('def f():\n    """One.\n\n    >>> found = f()\n    """', [4]),
        ("foundation, alone = 1, 2  # found, one", []),
        ('x = "found"', []),
    ],
)
def test_checker_finds_a_name_that_says_nothing(source, lines):
    violations = name_violations(Path("score.py"), source)
    assert [int(v.split(":")[1]) for v in violations] == lines
