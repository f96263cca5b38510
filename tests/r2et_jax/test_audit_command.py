"""The audit as a command: what it reads, refuses, and its exit status."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from r2et_jax import datasets, models, saved
from r2et_jax.audit.command import main
from r2et_jax.audit.tables import read

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE = """
import jax.numpy as jnp
def apply(w, x):
    return (w @ x)[None]
pair = apply, jnp.array([3.0, 2.0, 1.0])
def made():
    return pair
alone = 3
def ridge():
    import numpy as np
    from sklearn.linear_model import Ridge
    x = np.random.default_rng(0).normal(size=(40, 3))
    return Ridge().fit(x, x @ [3.0, 2.0, 1.0])
def broken():
    raise RuntimeError("no such device")
"""
ROWS = ["a,b,c,label", "1,2,3,0", "0.5,-1,2,1", "2,0,1,1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "somebodys.py").write_text(MODULE)
    (tmp_path / "data.csv").write_text("\n".join(ROWS) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("somebodys", "nets", "coded"):
        sys.modules.pop(name, None)


BASE = {
    "model": "somebodys:pair",
    "data": "data.csv",
    "k": "1",
    "drop": "label",
    "evaluations": "1000",
    "epsilons": "",
}


def flags(**changed):
    asked = {**BASE, **changed}
    return [f"--{name}={value}" for name, value in asked.items() if value is not None]


def test_a_linear_model_passes_and_leaves_a_page(folder, capsys):
    status = main(
        flags(min_precision=1, output_dir="out", model="somebodys:made", title="Mine")
    )
    out, err = capsys.readouterr()
    assert status == 0
    assert out.startswith("P@1 1.000 under attack") and "passed: mean P@1" in out
    assert "░ 0/5" in err and "the attack at ε = 1" in err and "█ 5/5" in err
    assert "Mine" in (folder / "out" / "index.html").read_text("utf-8")
    assert "wrote index.html, results.json, features.csv, curve.png, " in out
    assert "a,b,c" not in out


def test_what_an_adapter_knows_of_its_model_counts(folder):
    assert main(flags(model="somebodys:ridge", output_dir="out")) == 0
    asked = json.loads((folder / "out" / "results.json").read_text())["asked"]
    assert asked["output"] == "regression"


def test_nothing_to_measure_is_no_pass(folder, capsys):
    text = MODULE.replace("(w @ x)[None]", "0 * (w @ x)[None]")
    (folder / "zeros.py").write_text(text)
    assert main(flags(model="zeros:pair")) == 1
    assert "no input has a ranking" in capsys.readouterr().out


def test_a_saved_model_fails_and_its_data_are_an_npz(folder, capsys):
    model = models.MLP(hidden=(8,))
    x = np.asarray(jax.random.normal(jax.random.key(0), (6, 4)))
    saved.save(folder / "kept", model, model.init(jax.random.key(1), x[0]))
    np.savez("data.npz", x=x, names=np.array(["p", "q", "r", "s"]))
    asked = {"model": "kept", "data": "data.npz", "drop": None, "epsilon": 3}
    status = main(flags(**asked, k=2, min_precision=1, at=1.5))
    out, _ = capsys.readouterr()
    assert status == 1 and "FAILED: mean P@2 of at least 1 at ε = 1.5" in out


def test_a_folder_of_a_function_is_found_once_that_is_imported(folder, capsys):
    (folder / "nets.py").write_text("def net(w, x):\n    return (w @ x)[None]\n")
    made = {"model": "kept", "k": 9}
    saved.save(folder / "kept", importlib.import_module("nets").net, np.ones(3))
    del sys.modules["nets"]
    for imported, message in (
        (None, "is the function nets:net, which is not there: import 'nets' first"),
        ("nobodys", "--import=nobodys: cannot import 'nobodys'"),
        ("nets", r"k must lie in 1…n−1 = 1…2"),  # the model is there
    ):
        assert main(flags(**made, **{"import": imported})) == 2
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": "three"}, "argument --k: invalid int value: 'three'"),
        ({"k": 3}, "k must lie in 1…n−1 = 1…2"),
        ({"k": None}, "required: --k"),
        ({"model": "somebodys"}, "import.path:object or a folder, got 'somebodys'"),
        ({"model": "nobodys:pair"}, "cannot import 'nobodys'"),
        ({"model": "somebodys:absent"}, "'somebodys' has no 'absent'"),
        ({"model": "somebodys:alone"}, "must name a subject.*got a int"),
        ({"model": "somebodys:apply"}, "must name a subject.*got a function"),
        ({"data": "absent.csv"}, "data must be a file, got 'absent.csv'"),
        ({"data": "somebodys.py"}, "must be a .csv or .npz file"),
        (
            {"drop": "lable"},
            "drop names 'lable', which is no column; its columns: a, b",
        ),
        ({"epsilon": -1}, "epsilon must be nonnegative and finite, got -1.0"),
        ({"epsilons": "1,x"}, "--epsilons: invalid _numbers value: '1,x'"),
        ({"norm": "l1"}, "argument --norm: invalid choice: 'l1'"),
        ({"frozen": "z"}, "--frozen: there is no column 'z'; columns: a, b, c"),
        ({"rows": 0}, "--rows must be at least 1, got 0"),
        ({"evaluations": None, "budget": 0}, "evaluations must be .* got 0"),
        ({"min_precision": 2}, r"--min_precision must lie in \[0, 1\], got 2"),
        ({"at": 0.5}, "--at belongs to --min_precision"),
        ({"target": 5}, "target must be a class index in 0…1, got 5"),
        ({"output": "scores"}, "invalid choice: 'scores'"),
        ({"lower": 5}, "outside of what the threat model allows"),
        ({"classes": "no,no"}, "classes must differ, got 'no' twice"),
        ({"colour": "red"}, "unrecognized arguments: --colour=red"),
        # 1 is the status of a gate that fails.
        ({"model": "somebodys:broken"}, "RuntimeError: no such device"),
    ],
)
def test_wrong_use_is_one_line_that_names_it(folder, capsys, changed, message):
    assert main(flags(**changed)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("r2et-audit: ")]
    assert re.search(message, line), line
    assert err.splitlines()[-1] == line


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,,3,0", "row 1, column 'b' is missing"),
        ("1,NA,3,0", r"row 1, column 'b' is missing \('NA'\)"),
        ("1,red,3,0", "column 'b' holds numbers and texts, 2 in row 0 and 'red'"),
        ("1,inf,3,0", "row 1, column 'b' must be finite, got inf"),
        ("1,2,3", "row 1 has 3 values, expected 4"),
    ],
)
def test_a_bad_value_is_named_by_row_and_column(folder, row, message):
    (folder / "bad.csv").write_text("\n".join([*ROWS[:2], row]) + "\n")
    with pytest.raises(ValueError, match=message):
        read("bad.csv", drop=["label"])
    # What is dropped is not read.
    (folder / "good.csv").write_text("a,b\n1,red\n")
    np.testing.assert_array_equal(read("good.csv", drop=["b"]).x, [[1]])


def categories():
    """A CSV with texts, codes that are numbers, and labels that are texts."""
    rows = [
        f"{i},{'red green-ish blue'.split()[i % 3]},{(3, 5)[i // 2 % 2]},"
        f"{'no yes'.split()[i // 3 % 2]}"
        for i in range(60)
    ]
    return "\n".join(["age,colour,zip,paid", *rows]) + "\n"


def test_a_table_with_categories_is_what_from_csv_makes_of_it(folder):
    (folder / "texts.csv").write_text(categories())
    options = {"drop": [], "categories": ["zip"]}
    table = read("texts.csv", label="paid", **options)
    data = datasets.from_csv("texts.csv", target="paid", **options)
    np.testing.assert_array_equal(table.x, data.test.x)
    assert table.names == data.columns and table.groups == data.groups
    assert table.classes == ("no", "yes")
    # As they stand: the same columns of all rows, and no standardised number.
    plain = read("texts.csv", drop=["paid"], categories=["zip"])
    assert plain.names == data.columns and plain.groups == data.groups
    assert len(plain.x) == 60
    expected = [2, 1, 0, 0, 0, 1]  # age, blue, green-ish, red, 3, 5
    np.testing.assert_array_equal(plain.x[2], expected)
    assert plain.variables["colour"] == (1, 2, 3) and plain.variables["zip"] == (4, 5)
    assert plain.variables["colour=red"] == (3,)


def test_categories_are_explained_and_frozen_as_one(folder, capsys):
    (folder / "texts.csv").write_text(categories())
    weights = "jnp.array([2.0, 1.0, -1.0, 3.0, 0.5, 0.2])"
    text = f"{MODULE}from r2et_jax import subject\ncoded = apply, {weights}\n"
    text += "named = subject(*coded, classes=['no', 'yes'])\n"
    (folder / "coded.py").write_text(text)
    asked = {"data": "texts.csv", "drop": "", "categories": "zip", "rows": 4}
    asked |= {"model": "coded:coded", "frozen": "colour"}
    assert main(flags(**asked, label="paid", output_dir="out")) == 0
    told = json.loads((folder / "out" / "results.json").read_text())["asked"]
    assert told["names"] == ["age", "colour", "zip"]
    assert told["classes"] == ["no", "yes"]
    # A subject that names no columns has those of the table, too.
    asked["model"] = "coded:named"
    assert main(flags(**asked, label="paid", output_dir="again")) == 0
    again = json.loads((folder / "again" / "results.json").read_text())["asked"]
    assert again == told
    frozen = "colour=blue, colour=green-ish, colour=red"
    assert told["rules"] == [f"3 of 6 columns may not change: {frozen}"]
    # A label that is taken for an input makes two columns more than the model has.
    assert main(flags(**asked)) == 2
    message = "have the 8 columns age, colour=blue, .*, paid=no, paid=yes"
    assert re.search(message, capsys.readouterr().err)


def test_columns_of_a_csv_belong_to_a_csv(folder):
    np.savez("data.npz", x=np.ones((2, 3)))
    for asked in ({"drop": ["a"]}, {"categories": ["a"]}, {"label": "a"}):
        (name,) = asked
        with pytest.raises(ValueError, match=f"{name} is of columns of a CSV alone"):
            read("data.npz", **asked)
    with pytest.raises(ValueError, match="all are dropped"):
        read("data.csv", drop=["a", "b", "c", "label"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header and at least one row"),
        ("a,b\n", "expected a header and at least one row"),
        ("a,a\n1,2\n", "the column 'a' is there twice"),
        ("1,2\n3,4\n", "expected a header, got numbers"),
    ],
)
def test_a_bad_csv_is_named(folder, text, message):
    (folder / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read("bad.csv")


def test_arrays_bring_their_names(tmp_path):
    prepared = datasets.breast_cancer()
    path = tmp_path / "mine.npz"
    np.savez(path, x=prepared.test.x, names=np.array(prepared.columns))
    table = read(path)
    np.testing.assert_array_equal(table.x, prepared.test.x)
    assert table.names == tuple(prepared.columns) and table.groups == ()
    np.savez(path, y=prepared.test.x)
    with pytest.raises(ValueError, match="array 'x' is missing"):
        read(path)


def test_the_exit_status_is_the_commands(folder):
    def status(*arguments):
        run = subprocess.run(
            [sys.executable, "-m", "r2et_jax.audit", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            cwd=folder,
        )
        return run.returncode, run.stdout, run.stderr

    code, out, err = status(*flags(k=7))
    assert code == 2 and out == "" and "k must lie in" in err.splitlines()[-1]
    code, out, _ = status(*flags(min_precision=1))
    assert code == 0 and "passed" in out
