"""The tutorials run, cell by cell, and what a cell ends with can be shown."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
# Tells a notebook to show figures, which are closed here. No other magic is taken.
INLINE = "%matplotlib inline"


def code_cells(path: Path) -> Iterator[tuple[int, str]]:
    """The number of each cell of code among all cells, and its source."""
    for i, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            source = cell["source"]
            yield i, source if isinstance(source, str) else "".join(source)


def run(source: str, where: str, names: dict) -> None:
    """Execute a cell in its notebook's namespace, and show what it ends with."""
    tree = ast.parse(source.replace(INLINE, ""), where)
    last = [tree.body.pop()] if isinstance(tree.body[-1], ast.Expr) else []
    exec(compile(tree, where, "exec"), names)
    for expression in last:
        value = eval(compile(ast.Expression(expression.value), where, "eval"), names)
        getattr(value, "_repr_html_", value.__repr__)()


def run_notebook(path: Path) -> None:
    names = {"__name__": "__main__"}
    for i, source in code_cells(path):
        try:
            run(source, f"{path.name}, cell {i}", names)
        except Exception as error:
            error.add_note(f"in {path.name}, cell {i}:\n{source}")
            raise


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path):
    try:
        run_notebook(path)
    finally:
        plt.close("all")


UNSHOWN = """
class Unshown:
    def _repr_html_(self):
        raise ValueError("not to be shown")
"""


@pytest.mark.parametrize(
    "wrong", ["assert 1 > 2", "x = ", "%time 1", "1 / 0", "Unshown()"]
)
def test_a_cell_that_fails_is_named(tmp_path, wrong):
    sources = ["%matplotlib inline\nx = 2", UNSHOWN, ["x = x + 3\n", wrong]]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    cells.insert(0, {"cell_type": "markdown", "source": "1 / 0"})
    path = tmp_path / "wrong.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    expected = AssertionError, SyntaxError, ArithmeticError, ValueError
    with pytest.raises(expected) as raised:
        run_notebook(path)
    assert "in wrong.ipynb, cell 3" in raised.value.__notes__[0]
