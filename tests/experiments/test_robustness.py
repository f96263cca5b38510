"""The robustness experiment from flags to figures, on a protocol of seconds."""

import functools
import importlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.console import cli
from experiments.measures import evaluation
from experiments.models import candidates, fitting
from experiments.problems import presets, protocols
from experiments.report import exhibit
from experiments.store import records
from r2et_jax import datasets, execution, models
from r2et_jax.attacks import registry
from r2et_jax.training.checkpoint import load_model

METHODS, ATTACKS, EPSILON = (
    ("logistic", "vanilla", "r2et_nh"),
    ("er_surrogate",),
    ("1",),
)
ARGUMENTS = (
    "--preset=smoke", "--noprogress", "--methods=logistic,vanilla,r2et_nh",
    "--attacks=er_surrogate", "--epsilon=0.5,1", "--seeds=0,4", "--k=8",
)  # fmt: skip
TINY = protocols.PRESETS["smoke"]._replace(
    pretrain_epochs=2, epochs=2, eval_every=1, num_valid=10, num_test=12
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


@pytest.fixture(scope="module")
def robustness():
    return importlib.import_module("experiments.robustness.experiment")


def call(robustness, folder, *arguments):
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(robustness, *ARGUMENTS, *folders, *arguments)


@pytest.fixture
def run(robustness):
    """Run the experiment in this process: run(folder, *arguments)."""

    return functools.partial(call, robustness)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "models" not in path.parts
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, robustness):
    """The folder of an uninterrupted run, which no test may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PRESETS, "smoke", TINY)
        folder = tmp_path_factory.mktemp("finished")
        call(robustness, folder)
    return folder


def lines(folder):
    text = (folder / "records.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def untimed(folder):
    """The records but for the seconds, which no run repeats."""
    return [
        {
            k: v
            for k, v in line.items()
            if k != "cell_sha256"
            and (line["metric"] != "train_seconds" or k != "value")
        }
        for line in lines(folder)
    ]


def test_a_run_leaves_records_tables_and_figures(finished):
    assert set(contents(finished)) == {
        "config.json",
        "records.jsonl",
        "exhibit.json",
        "table.md",
        "table.csv",
        "table_tolerance_0.003.csv",
        "comparisons.csv",
        "comparisons.md",
        "p_at_k_by_method_breast_cancer.png",
        "p_at_k_by_epsilon_breast_cancer.png",
        "p_at_k_by_iteration_er_surrogate_breast_cancer.png",
    }
    # What another person has to give besides the data, the preset and the folders.
    narrowed = {"--attacks", "--epsilon", "--k", "--methods", "--seeds"}
    assert exhibit.read(finished).given == tuple(
        sorted(given for given in ARGUMENTS if given.split("=")[0] in narrowed)
    )
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"] == "robustness"
    assert config["flags"]["seeds"] == [0, 4] and config["flags"]["k"] == [8]
    table = (finished / "table.md").read_text()
    for method in ("logistic", "vanilla", "r2et_nh"):
        assert method in table and method in (finished / "table.csv").read_text()
    assert "`er_surrogate`" in table


def test_every_cell_was_measured_and_the_numbers_make_sense(finished):
    store = records.RecordStore(finished / "records.jsonl")
    for method in ("logistic", "vanilla", "r2et_nh"):
        for seed in (0, 4):
            for tolerance in presets.TOLERANCES:
                model = {"method": method, "seed": seed, "tolerance": tolerance}
                (auc,) = store.select(**model, metric="auc", attack="none")
                assert 0.5 < auc["value"] <= 1 and auc["k"] == 8
                (copies,) = store.select(**model, metric="copies")
                assert (copies["value"], copies["n"]) == (0, 569)
                recorded = store.select(**model, metric="p@k", attack="er_surrogate")
                # The second tolerance is attacked at the largest budget alone.
                main = tolerance == presets.MAIN_TOLERANCE
                budgets = [0.5, 1.0] if main else [1.0]
                assert [record["epsilon"] for record in recorded] == budgets
                assert [record["n"] for record in recorded] == [12] * len(budgets)
                (each,) = store.select(
                    **model, metric="p@k_inputs", attack="er_surrogate"
                )
                assert each["epsilon"] == 1.0 and len(each["values"]) == 12
                assert np.mean(each["values"]) == pytest.approx(each["value"], abs=1e-4)
                for record in recorded:
                    assert 0 <= record["value"] <= 1
                    if method == "logistic":
                        assert record["value"] == 1
                (noise,) = store.select(**model, metric="p@k", attack="noise")
                assert noise["value"] > 0.95
    for record in store.select(metric=("sensitivity", "vanished", "same", "null")):
        assert 0 <= record["value"] <= 1 + 1e-6


def test_precision_is_that_of_the_saved_models(finished):
    """P@k and AUC of the records again, from the files of the models, by NumPy."""
    store = records.RecordStore(finished / "records.jsonl")
    dataset = datasets.load("breast_cancer")
    x, y = dataset.test
    (folder,) = (finished / "models" / "breast_cancer").glob("vanilla-*")
    params, description = load_model(folder)
    layers = params["params"]
    (w1, b1), (w2, b2) = (
        (layers[name]["kernel"][1, 0], layers[name]["bias"][1, 0])
        for name in ("Dense_0", "Dense_1")
    )

    def logits(x):
        hidden = x @ w1 + b1
        return (np.where(hidden > 0, hidden, 0.01 * hidden) @ w2 + b2)[:, 0]

    z = logits(x)
    above = z[y == 1][:, None] - z[y == 0][None]
    auc = np.mean(above > 0) + 0.5 * np.mean(above == 0)
    model = {"method": "vanilla", "seed": 4, "tolerance": 0.01}
    (record,) = store.select(**model, metric="auc", attack="none")
    np.testing.assert_allclose(record["value"], auc, rtol=1e-6)
    # `same`: the mean overlap of the top sets of different inputs.
    slope = np.where(x[:12] @ w1 + b1 > 0, 1, 0.01) * w2[:, 0]
    top = np.argsort(-np.abs(slope @ w1.T), axis=1)[:, :8]
    overlaps = [len({*a} & {*b}) / 8 for i, a in enumerate(top) for b in top[:i]]
    (record,) = store.select(**model, metric="same", attack="none")
    np.testing.assert_allclose(record["value"], np.mean(overlaps), rtol=1e-5)
    # The rule of selection, on the recorded validation numbers.
    for row in description["choices"]:
        for choice in row:
            assert choice["fallback"] == (choice["num_admissible"] == 0)


def test_a_second_run_measures_nothing_and_changes_nothing(
    finished, run, monkeypatch, capsys
):
    def measure(*arguments, **keywords):
        raise AssertionError("measured again")

    monkeypatch.setattr(evaluation.Evaluator, "clean", measure)
    monkeypatch.setattr(evaluation.Evaluator, "attacked", measure)
    monkeypatch.setattr(fitting.Fitter, "_fit_network", measure)
    before = contents(finished)
    run(finished)
    assert contents(finished) == before
    assert "table.md" in capsys.readouterr().out


def copied(finished, tmp_path, keep=None):
    """A folder with the configuration and the first bytes of the records."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
    if keep is not None:
        data = (finished / "records.jsonl").read_bytes()
        (folder / "records.jsonl").write_bytes(data[: int(keep * len(data))])
    return folder


@pytest.mark.parametrize("keep", [0.0, 0.013, 0.4, 0.77])
def test_records_that_were_cut_off_are_measured_again(finished, run, tmp_path, keep):
    folder = copied(finished, tmp_path, keep)
    run(folder, f"--models_dir={finished / 'models'}")
    assert contents(folder) == contents(finished)


def test_an_interrupted_run_resumes(finished, run, tmp_path, monkeypatch, capsys):
    """Three interrupts: while training, and in the second and a later measurement."""
    folder = tmp_path / "interrupted"

    def interrupted(owner, name, allowed):
        done = 0
        original = getattr(owner, name)

        def call(self, *arguments, **keywords):
            nonlocal done
            done += 1
            if done > allowed:
                raise KeyboardInterrupt
            return original(self, *arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, call)
            with pytest.raises(SystemExit) as caught:
                run(folder)
        assert caught.value.code == 130
        assert "resumes" in capsys.readouterr().err

    interrupted(candidates.Candidates, "precision", 3)
    interrupted(evaluation.Evaluator, "attacked", 1)
    interrupted(evaluation.Evaluator, "attacked", 2)
    run(folder)
    assert untimed(folder) == untimed(finished)
    assert contents(folder).keys() == contents(finished).keys()
    for name in ("table.md", "table.csv", "comparisons.csv"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


@pytest.fixture
def refused(run, monkeypatch, tmp_path, capsys):
    """The one line of stderr of a run that must stop before any training."""

    def train(*arguments, **keywords):
        raise AssertionError("the mistake was noticed after the start of training")

    monkeypatch.setattr(fitting.Fitter, "fit", train)

    def call(*arguments, folder=None):
        with pytest.raises(SystemExit) as caught:
            run(folder or tmp_path / "refused", *arguments)
        printed = capsys.readouterr()
        assert caught.value.code == 1 and not printed.out
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        assert folder or not (tmp_path / "refused" / "records.jsonl").exists()
        return printed.err

    return call


@pytest.mark.parametrize(
    ("argument", "texts"),
    [
        ("--datasets=iris", ["entry of --datasets 'iris'", "breast_cancer"]),
        ("--methods=r3et", ["entry of --methods 'r3et'", "logistic", "r2et"]),
        ("--methods=wd+r2et_nh+r2et", ["names a penalty twice"]),
        ("--methods=wd+logistic", ["logistic"]),
        ("--attacks=pgd", ["entry of --attacks 'pgd'", "er_surrogate"]),
        ("--k=0", ["k must be an integer of at least 1, got 0"]),
        ("--k=30", ["k must lie in 1…n−1 = 1…29", "k = 30"]),
        ("--k=8.5", ["--k takes integers", "'8.5'"]),
        ("--epsilon=-1", ["epsilon must be nonnegative", "-1"]),
        ("--epsilon=nan", ["epsilon must be nonnegative and finite"]),
        ("--seeds=", ["--seeds must name at least one"]),
        ("--seeds=1,1", ["--seeds repeats '1'"]),
        ("--datasets=adult", ["adult.npz", "python -m data_prep.tabular"]),
    ],
)
def test_a_mistake_is_one_line_before_any_training(refused, argument, texts, tmp_path):
    printed = refused(argument, f"--data_dir={tmp_path / 'nowhere'}")
    for text in texts:
        assert text in printed


def test_r2et_mm_takes_no_more_pairs_than_there_are():
    for k, n in ((8, 30), (8, 16), (29, 30), (14, 16), (1, 2)):
        k_prime = protocols.default_k_prime(k, n)
        assert 1 <= k_prime <= min(k, n - k)
    assert protocols.default_k_prime(8, 30) == protocols.default_k_prime(8, 16) == 4


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--epsilon=0.25", "--epsilon was 0.5,1.0, now 0.25"),
        ("--seeds=0", "--seeds was 0,4, now 0"),
        ("--preset=standard", "--preset was smoke, now standard"),
    ],
)
def test_another_configuration_in_the_folder_is_refused(
    finished, refused, argument, text
):
    before = contents(finished)
    assert text in refused(argument, "--datasets=breast_cancer", folder=finished)
    assert contents(finished) == before


def test_nan_in_the_data_is_named_by_row_and_column(refused, monkeypatch):
    dataset = datasets.breast_cancer()
    dataset.valid.x[7, 3] = np.nan
    monkeypatch.setattr(datasets, "load", lambda name, data_dir: dataset)
    printed = refused()
    assert f"valid row 7, column '{dataset.columns[3]}': got nan" in printed


def test_the_command_fails_with_status_1_and_one_line(tmp_path):
    folder = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable, "-m", "experiments.robustness", "--preset=smoke",
            "--datasets=adult", f"--data_dir={tmp_path}", f"--output_dir={folder}",
        ],
        capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: no data set file")
    assert done.stderr.count("\n") == 1 and not folder.exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="Linux alone")
def test_a_data_set_that_is_done_leaves_no_compiled_programs(finished, robustness):
    def num_maps():
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    def measure():
        dataset, model = datasets.load("breast_cancer"), models.MLP(hidden=(3,))
        params = model.init(jax.random.key(0), dataset.train.x[0])
        evaluator = evaluation.Evaluator(dataset, model, k=4, num_test=4)
        evaluator.clean(params)
        evaluator.attacked(params, "er_surrogate", 0.5)

    measure()
    execution.free_programs()
    before = num_maps()
    measure()
    during = num_maps()
    execution.free_programs()
    assert registry._compiled.cache_info().currsize == 0
    assert num_maps() - before < 0.2 * (during - before)


def test_attacked_inputs_of_one_class_have_no_auc(tmp_path):
    dataset, model = datasets.load("breast_cancer"), models.MLP(hidden=(3,))
    params = model.init(jax.random.key(0), dataset.train.x[0])
    evaluator = evaluation.Evaluator(dataset, model, k=4, num_test=1)
    recorded = evaluator.attacked(params, "random", 0.5)
    values = {record["metric"]: record["value"] for record in recorded}
    assert np.isnan(values["aauc"]) and np.isnan(values["cauc"])
    assert 0 <= values["p@k"] <= 1
    cell = dict.fromkeys(records.REQUIRED, "none")
    store = records.RecordStore(tmp_path / "records.jsonl")
    store.append([{**cell, **record} for record in recorded])
    (kept,) = store.select(metric="aauc")
    assert kept["value"] is None and "nan" in kept["note"]
