"""Every public name is on a page of the documentation, and its docstring is whole.

A public function says what its arguments are, with the shapes of arrays, what it
returns, which errors it raises and how it is called; a public class says what its
fields are; what was published says where.
"""

import ast
import doctest
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import r2et_jax
from r2et_jax.types import Array

CHECKOUT = Path(__file__).resolve().parents[1]
PAGES = CHECKOUT / "docs"
SUBMODULES = r2et_jax._SUBMODULES
# What computes a published method or measure, and must say whose.
PUBLISHED = {
    "attacks": {"evolution", "gradient_attack", "multiobjective_attack"},
    "curvature": {"frobenius_norm_squared_hutchinson", "largest_eigenvalue"},
    "metrics": {"deletion_insertion", "faithfulness", "faithfulness_correlation",
                "holm", "infidelity", "local_lipschitz", "precision_at_k",
                "sensitivity", "sensitivity_max", "thickness"},
    "models": {"CNN", "GCN", "ResNet9", "Siamese"},
    "ranking": {"mean_thickness", "pairwise_gaps", "published_gap_bounds"},
    "saliency": {"convergence_delta", "expected_gradients", "gradient",
                 "gradient_times_input", "integrated_gradients", "smooth_grad"},
}  # fmt: skip
# Modules whose examples no other test runs.
EXAMPLES = (
    "attacks.descent", "attacks.evolution", "attacks.multiobjective",
    "attacks.protocols", "attacks.results", "attacks.runner", "datasets.pair_files",
    "plots._bars", "plots._circular_graphs", "plots._curves", "plots._dots",
    "plots._explained_bars", "plots._marked_images", "plots._paired", "plots._panels",
    "plots._points", "plots._scatter_panels", "ranking.thickness",
    "ranking.thickness_bounds", "threat.geometry",
    "training.epochs", "training.grid", "training.selection",
)  # fmt: skip
ARRAYS = ("Array", "ArrayLike", "np.ndarray")
SECTION = re.compile(r"^([A-Z]\w+):(?=\s)", re.MULTILINE)
IDENTIFIER = re.compile(r"^::: (r2et_jax[\w.]*)$", re.MULTILINE)


def public(submodule: str) -> dict[str, object]:
    module = importlib.import_module(f"r2et_jax.{submodule}")
    return {name: getattr(module, name) for name in module.__all__}


def sections(docstring: str | None) -> dict[str, str]:
    """The text of a docstring's sections by their titles."""
    parts = SECTION.split(inspect.cleandoc(docstring or ""))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def described(section: str) -> dict[str, str]:
    """Name -> what `Args:` or `Attributes:` says of it; `a, b: text` is of both."""
    texts = {}
    for item in re.split(r"\n(?=\S)", textwrap.dedent(section).strip("\n")):
        names, _, text = item.partition(":")
        texts |= {name.strip().strip("*"): text for name in names.split(",")}
    return {name: text for name, text in texts.items() if name}


def raises(function: Callable) -> bool:
    """Whether its own code raises ValueError, or calls a check, which does."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if ast.unparse(node.exc.func) == "ValueError":
                return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name.lstrip("_").startswith("check_"):
                return True
    return False


def has_shape(text: str) -> bool:
    """Whether it says a shape, or that there is none, or where that is said."""
    known = r"\[.*\]|\bscalar|\bnumber|\bas (in|of)\b|\bkey\b"
    return bool(re.search(known, text, re.DOTALL))


def faults_of_function(function: Callable) -> Iterator[str]:
    said = sections(function.__doc__)
    signature = inspect.signature(function)
    arguments = described(said.get("Args", ""))
    for name, parameter in signature.parameters.items():
        annotation = str(parameter.annotation).removesuffix(" | None")
        if name not in arguments:
            yield f"does not describe {name!r}"
        elif annotation in ARRAYS and not has_shape(arguments[name]):
            yield f"does not say the shape of {name!r}"
    for name in arguments.keys() - signature.parameters.keys():
        yield f"describes {name!r}, which is no argument"
    if signature.return_annotation not in ("None", None) and "Returns" not in said:
        yield "does not say what it returns"
    if raises(function) and "Raises" not in said:
        yield "does not say what it raises"
    if ">>>" not in said.get("Example", ""):
        yield "has no example"


def faults_of_class(value: type) -> Iterator[str]:
    said = sections(value.__doc__)
    fields = vars(value).get("__annotations__", {}).keys() - {"name", "parent"}
    told = described(said.get("Attributes", said.get("Args", "")))
    yield from (f"does not describe {name!r}" for name in sorted(fields - told.keys()))


def faults(value: object, *, published: bool = False) -> list[str]:
    """What the docstring of a public name lacks; of plain values nothing is asked."""
    lacking = []
    if inspect.isfunction(value):
        lacking += faults_of_function(value)
    elif inspect.isclass(value):
        lacking += faults_of_class(value)
    if published and "Source" not in sections(value.__doc__):
        lacking.append("does not name its source")
    return lacking


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_docstrings_are_whole(submodule):
    names = public(submodule)
    published = PUBLISHED.get(submodule, set())
    assert published <= names.keys()
    lacking = [
        f"{submodule}.{name} {fault}"
        for name, value in names.items()
        for fault in faults(value, published=name in published)
    ]
    assert not lacking, "\n" + "\n".join(lacking)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"r2et_jax.{name}"))
    assert result.attempted > 0 and result.failed == 0


def test_every_public_name_is_on_the_page_of_its_module():
    pages = {path.stem: path.read_text("utf-8") for path in PAGES.glob("api/*.md")}
    assert pages.keys() == {*SUBMODULES, "index"}
    nav = (CHECKOUT / "mkdocs.yml").read_text("utf-8")
    for submodule in SUBMODULES:
        shown = IDENTIFIER.findall(pages[submodule])
        root = f"r2et_jax.{submodule}"
        expected = {f"{root}.{name}" for name in public(submodule)} | {root}
        # Modules among the names show what is in them, too.
        assert {name for name in shown if name.count(".") <= 2} == expected
        assert len(shown) == len(set(shown))
        assert f"api/{submodule}.md" in nav
        for name in shown:
            value = r2et_jax
            for part in name.split(".")[1:]:
                value = getattr(value, part)


def test_the_front_door_shows_each_first_name_and_submodule():
    text = (PAGES / "api/index.md").read_text("utf-8")
    for name in r2et_jax.__all__:
        assert f"[`{name}`]" in text, name


def test_the_house_names_every_floor_and_room():
    text = (PAGES / "house.md").read_text("utf-8")
    for path in (CHECKOUT / "r2et_jax").iterdir():
        if not path.name.startswith("_"):
            assert f"`{path.stem}`" in text, path.name
    folders = {path.parent for path in CHECKOUT.glob("experiments/*/*.py")}
    for folder in folders:
        if not (folder / "__main__.py").exists():
            assert f"`{folder.name}/`" in text, folder.name


def whole(x: Array, *, k: int) -> Array:
    """One line.

    Args:
      x: input [n].
      k: a count.

    Returns:
      Something [k].

    Raises:
      ValueError: for k < 1.

    Example:
      >>> whole
    """
    if k < 1:
        raise ValueError(k)
    return x


whole.__annotations__ = {"x": "Array", "k": "int", "return": "Array"}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("      k: a count.\n", "", "does not describe 'k'"),
        ("x: input [n].", "x: input.", "does not say the shape of 'x'"),
        ("k: a count.", "k, l: counts.", "describes 'l', which is no argument"),
        ("Returns:", "Note:", "does not say what it returns"),
        ("Raises:", "Note:", "does not say what it raises"),
        (">>>", "", "has no example"),
    ],
)
def test_the_checker_finds_what_is_missing(monkeypatch, old, new, fault):
    assert faults(whole) == []
    assert old in whole.__doc__
    monkeypatch.setattr(whole, "__doc__", whole.__doc__.replace(old, new))
    assert faults(whole) == [fault]


def test_the_checker_finds_a_field_and_a_source_that_are_missing():
    class Pair(NamedTuple):
        """Two.

        Attributes:
          first: one.
        """

        first: int
        second: int

    expected = ["does not describe 'second'", "does not name its source"]
    assert faults(Pair, published=True) == expected
