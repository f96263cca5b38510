"""The binary `attack`, from folders of models to records and tables."""

import functools
import importlib
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.console import cli
from experiments.measures import evaluation
from experiments.models import trained
from experiments.problems import protocols
from experiments.store import records
from r2et_jax import datasets, metrics, models, saved
from r2et_jax.datasets.containers import Split

TINY = protocols.PRESETS["smoke"]._replace(
    pretrain_epochs=2, epochs=2, eval_every=1, num_valid=10, num_test=12
)
ARGUMENTS = "--preset=smoke", "--noprogress", "--attacks=er_surrogate,random"
DATASET = datasets.breast_cancer()


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def imported(name):
    return importlib.import_module(f"experiments.{name}.experiment")


def call(binary, *arguments):
    cli.call(binary, *arguments)


@pytest.fixture(scope="module")
def binary():
    return imported("attack")


@pytest.fixture
def run(binary, tmp_path):
    """Attack in this process: run(*arguments), written to tmp_path/out."""
    out = f"--output_dir={tmp_path / 'out'}"
    return functools.partial(call, binary, *ARGUMENTS, out)


def described(method, **changes):
    return {
        **trained.describe_data(DATASET),
        "method": method, "schedule": "pretrain", "seed": 3, "tolerance": 0.01, "k": 8,
        **changes,
    }  # fmt: skip


def random_params(model, n=30):
    params = model.init(jax.random.key(1), np.zeros(n, np.float32))
    return jax.tree.map(lambda leaf: 2 * np.asarray(leaf), params)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a network and of a linear model, which no test may change."""
    root = tmp_path_factory.mktemp("models")
    for name, model in (("net", models.MLP(hidden=(8,))), ("line", models.Linear())):
        trained.write(root / name, model, random_params(model), described(name))
    return root


@pytest.fixture
def net(folders, tmp_path):
    """A copy of the network's folder."""
    return shutil.copytree(folders / "net", tmp_path / "net")


def test_models_are_attacked_by_their_folders_alone(folders, run, tmp_path, capsys):
    both = f"--model={folders / 'net'},{folders / 'line'}", "--epsilon=0.1,2"
    run(*both)
    out = tmp_path / "out"
    store = records.RecordStore(out / "records.jsonl")
    printed = capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "config.json", "records.jsonl", "table.md", "table.csv",
    }  # fmt: skip
    for method in ("net", "line"):
        _, params, told = saved.load(folders / method)
        cell = {"method": method, "seed": 3, "tolerance": 0.01, "k": 8}
        cell |= {"dataset": "breast_cancer", "trained_on": "breast_cancer"}
        cell["params_sha256"] = told["params_sha256"]
        for attack in ("er_surrogate", "random"):
            recorded = store.select(**cell, attack=attack, metric="p@k")
            low, high = (record["value"] for record in recorded)
            assert [record["epsilon"] for record in recorded] == [0.1, 2.0]
            assert [record["n"] for record in recorded] == [12, 12]
            if method == "line":
                assert low == high == 1
            else:
                assert 0 <= high < low <= 1
        (row,) = [line for line in printed.splitlines() if f"  {method} " in line]
        assert told["params_sha256"][:8] in row
    (auc,) = store.select(method="line", metric="auc")
    kernel, bias = (params["params"]["Dense_0"][name] for name in ("kernel", "bias"))
    wanted = metrics.roc_auc(DATASET.test.y, (DATASET.test.x @ kernel + bias)[:, 0])
    assert auc["value"] == pytest.approx(wanted, abs=1e-6)
    assert "changed random ε=2" in (out / "table.md").read_text()


def test_a_second_run_measures_nothing_and_a_cut_one_the_rest(
    folders, run, tmp_path, monkeypatch
):
    model = f"--model={folders / 'line'}"
    run(model)
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    data = before["records.jsonl"]
    (out / "records.jsonl").write_bytes(data[: int(0.6 * len(data))])
    run(model)

    def measure(*arguments, **keywords):
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluation.Evaluator, "attacked", measure)
    monkeypatch.setattr(evaluation.Evaluator, "clean", measure)
    run(model)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_trained_model_is_found_and_attacked(run, tmp_path, capsys):
    call(
        imported("train"), "--preset=smoke", "--noprogress", "--methods=logistic",
        f"--output_dir={tmp_path / 'train'}", f"--models_dir={tmp_path / 'kept'}",
    )  # fmt: skip
    name = "breast_cancer-logistic-seed0-tolerance"
    paths = [tmp_path / "train" / "models" / f"{name}{t}" for t in (0.01, 0.003)]
    capsys.readouterr()
    arguments = f"--output_dir={tmp_path / 'out'}", f"--model={paths[0]},{paths[1]}"
    call(imported("attack"), *ARGUMENTS, *arguments)
    rows = [r for r in capsys.readouterr().out.splitlines() if " logistic " in r]
    # One and the same model at both tolerances.
    assert len(rows) == 2 and len({r.split()[4] for r in rows}) == 1
    assert all("1.000 ± 0.000" in row for row in rows)
    (tests,) = records.RecordStore(tmp_path / "train" / "records.jsonl").select(
        metric="auc", tolerance=0.01
    )
    (again,) = records.RecordStore(tmp_path / "out" / "records.jsonl").select(
        metric="auc", tolerance=0.01
    )
    assert tests["value"] == again["value"]
    assert tests["params_sha256"] == again["params_sha256"]


@pytest.fixture
def refused(run, tmp_path, capsys, monkeypatch):
    """The one line of stderr of a run that must stop before any attack."""

    def measure(*arguments, **keywords):
        raise AssertionError("the mistake was noticed after the first measurement")

    monkeypatch.setattr(evaluation.Evaluator, "clean", measure)

    def check(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        printed = capsys.readouterr()
        assert caught.value.code == 1 and not printed.out
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return printed.err

    return check


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--model must name the folder of at least one"),
        (["--model={}/none"], "no such folder: "),
        (["--model={}"], "no saved model in "),
        (["--model={0}/net,{0}/net"], "--model repeats "),
        (["--model={}/net", "--attacks=pgd"], "entry of --attacks 'pgd'"),
        (["--model={}/net", "--methods=r2et"], "--methods has no use here"),
        (["--model={}/net", "--seeds=1"], "--seeds has no use here"),
        (["--model={}/net", "--k=30"], "k must lie in 1…n−1 = 1…29"),
        (["--model={}/net", "--epsilon=-1"], "epsilon must be nonnegative"),
        (["--model={}/net", "--datasets=adult,bank"], "--datasets takes one name"),
        (["--model={}/net", "--datasets=iris"], "'iris'"),
        (["--model={}/net", "--datasets=bank", "--data_dir={}"], "bank.npz"),
    ],
)
def test_a_mistake_is_one_line(refused, folders, arguments, text):
    assert text in refused(*(argument.format(folders) for argument in arguments))


def test_a_damaged_model_is_one_line(refused, net):
    description = net / "description.json"
    told = json.loads(description.read_text())
    del told["description_sha256"]
    description.write_text(json.dumps(told | {"params_sha256": "0" * 64}))
    assert "another params_sha256" in refused(f"--model={net}")
    description.write_text(json.dumps(told | {"architecture": {"class": "VGG"}}))
    assert "'VGG'" in refused(f"--model={net}")
    wide = told["architecture"] | {"hidden": [16]}
    description.write_text(json.dumps(told | {"architecture": wide}))
    assert "does not take the 30 features" in refused(f"--model={net}")
    description.write_text(json.dumps(told)[:50])
    assert "is damaged" in refused(f"--model={net}")
    description.write_text(json.dumps(told))
    for path in (net / told["params_folder"]).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert "is damaged" in refused(f"--model={net}")


def changed(**fields):
    """The data set with other fields, and arrays of its own."""
    copy = jax.tree.map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, DATASET)
    return copy._replace(**fields)


def other_values():
    dataset = changed()
    dataset.test.x[0, 0] += 1
    return dataset


def fewer_rows():
    test = Split(DATASET.test.x[:-2], DATASET.test.y[:-2])
    return changed(test=test)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (other_values, "same columns and sizes, other values (SHA-256 "),
        (fewer_rows, "its test split had 86 rows, now 84"),
        (
            lambda: changed(columns=("radius", *DATASET.columns[1:])),
            f"column 0 was {DATASET.columns[0]!r}, now 'radius'",
        ),
    ],
)
@pytest.mark.parametrize("named", [[], ["--datasets=breast_cancer"]])
def test_other_data_under_the_same_name_are_refused(
    refused, folders, monkeypatch, make, text, named
):
    dataset = make()
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: dataset)
    printed = refused(f"--model={folders / 'line'}", *named)
    assert "the data set breast_cancer is not the one that the model in" in printed
    assert text in printed


def test_another_data_set_may_be_named(run, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(
        datasets, "load", lambda name, data_dir: other_values()._replace(name=name)
    )
    run(f"--model={folders / 'line'}", "--datasets=bank")
    store = records.RecordStore(tmp_path / "out" / "records.jsonl")
    assert {r["dataset"] for r in store.select()} == {"bank"}
    assert {r["trained_on"] for r in store.select()} == {"breast_cancer"}


def test_another_number_of_features_is_refused(refused, folders, tmp_path, monkeypatch):
    narrow = DATASET._replace(
        name="bank",
        columns=DATASET.columns[:16],
        **{
            split: Split(part.x[:, :16], part.y)
            for split in ("train", "valid", "test")
            for part in [getattr(DATASET, split)]
        },
    )
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: narrow)
    printed = refused(f"--model={folders / 'line'}", "--datasets=bank")
    assert "takes 30 features, bank has 16" in printed
    # A model from elsewhere that says nothing of its data.
    params = saved.load(folders / "line").params
    saved.save(tmp_path / "bare", models.Linear(), params)
    bare = f"--model={tmp_path / 'bare'}"
    printed = refused(bare, "--datasets=bank", "--k=4")
    assert "does not take the 16 features of bank" in printed


def test_a_model_from_elsewhere_needs_data_and_k(refused, tmp_path):
    model = models.Linear()
    saved.save(tmp_path / "bare", model, random_params(model))
    bare, data = f"--model={tmp_path / 'bare'}", "--datasets=breast_cancer"
    assert "does not name its data set: give --datasets" in refused(bare)
    assert "does not name its k: give --k" in refused(bare, data)
    saved.save(tmp_path / "digits", model, random_params(model), {"dataset": "digits"})
    assert "'digits'" in refused(f"--model={tmp_path / 'digits'}")
    three = models.Linear(num_outputs=3)
    saved.save(tmp_path / "three", three, random_params(three))
    printed = refused(f"--model={tmp_path / 'three'}", data, "--k=4")
    assert "must give one logit, got shape (3,)" in printed
