"""The binary `train` from flags to saved models, killed and restarted on the way."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.console import cli
from experiments.models import fitting
from experiments.problems import presets, protocols
from experiments.store import records
from experiments.train import experiment
from r2et_jax import datasets, metrics, models, saved, training
from r2et_jax.datasets.soundness import fingerprint
from r2et_jax.training.checkpoint import load_model
from r2et_jax.training.packing import params_sha256

GAPS = (0.1, 1.0, 3.0, 10.0)
# Half of the settings are pruned after block 1 of 4.
CHANGES = {
    "pretrain_epochs": 2, "epochs": 4, "eval_every": 1, "num_valid": 8,
    "num_test": 12, "grid": {"gap": GAPS, "l2": GAPS}, "pruning": ((0.25, 0.5),),
}  # fmt: skip
LONG = CHANGES | {"epochs": 16}  # for a kill among the blocks after the pruning
ARGUMENTS = (
    "--preset=smoke", "--noprogress", "--methods=logistic,r2et_nh", "--seeds=0,4",
)  # fmt: skip
CHECKOUT = Path(__file__).resolve().parents[2]


def preset(changes):
    return protocols.PRESETS["smoke"]._replace(**changes)


TINY = preset(CHANGES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'kept'}"
    cli.call(experiment, *ARGUMENTS, *folders, *arguments)


@pytest.fixture
def run():
    """Run the binary in this process: run(folder, *arguments)."""
    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an uninterrupted run, which no test may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PRESETS, "smoke", TINY)
        folder = tmp_path_factory.mktemp("finished")
        call(folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def digests(folder):
    """params_sha256 of every model, as the records have them."""
    store = records.RecordStore(folder / "records.jsonl")
    return {
        (r["method"], r["seed"], r["tolerance"]): r["params_sha256"]
        for r in store.select(metric="auc")
    }


def logits(params, x):
    layers = params["params"]
    if len(layers) == 1:
        return (x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])[:, 0]
    hidden = x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    return (hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"])[:, 0]


def test_every_chosen_model_is_in_a_folder_of_its_own(finished):
    assert {path.name for path in (finished / "models").iterdir()} == {
        f"breast_cancer-{method}-seed{seed}-tolerance{tolerance}"
        for method in ("logistic", "r2et_nh")
        for seed in (0, 4)
        for tolerance in presets.TOLERANCES
    }
    for name in ("config.json", "table.md", "table.csv"):
        assert (finished / name).is_file()
    # Nothing is left of the training checkpoints.
    assert not list((finished / "kept").rglob("training"))


def test_a_model_is_told_by_its_folder_and_its_records_alone(finished):
    store = records.RecordStore(finished / "records.jsonl")
    dataset = datasets.load("breast_cancer")
    for method in ("logistic", "r2et_nh"):
        for seed in (0, 4):
            name = f"breast_cancer-{method}-seed{seed}-tolerance0.01"
            model, params, told = saved.load(finished / "models" / name)
            linear = method == "logistic"
            assert model == (models.Linear() if linear else models.MLP())
            given = {"method": method, "seed": seed, "tolerance": 0.01, "k": 8}
            recorded = {r["metric"]: r for r in store.select(**given)}
            assert {told[key] for key in given} == set(given.values())
            assert told["dataset"] == "breast_cancer"
            assert told["data_sha256"] == fingerprint(dataset)
            sha256 = params_sha256(params)
            assert told["params_sha256"] == sha256
            assert {r["params_sha256"] for r in recorded.values()} == {sha256}
            for split, key in ((dataset.test, "auc"), (dataset.valid, "valid_auc")):
                auc = metrics.roc_auc(split.y, logits(params, split.x))
                assert recorded[key]["value"] == pytest.approx(auc, abs=1e-6)
            assert recorded["auc"]["n"] == len(dataset.test.y)
            assert told["auc"] == recorded["auc"]["value"]
            choice = told["choice"]
            assert recorded["epoch"]["value"] == choice["epoch"] <= 4
            assert recorded["fallback"]["value"] == choice["fallback"] == 0
            assert recorded["valid_p@k"]["value"] == choice["valid_precision"]
            assert told["training"]["protocol"]["epochs"] == 4
            if linear:
                assert told["training"]["grid"] is None
                continue
            assert told["training"]["grid"] == [[gap] for gap in GAPS]
            assert recorded["train_seconds"]["value"] > 0
            if choice["epoch"]:
                assert recorded["weight_gap"]["value"] == choice["weights"]["gap"]
                assert choice["weights"]["gap"] in GAPS


def test_a_second_run_trains_nothing_and_changes_nothing(
    finished, run, monkeypatch, capsys
):
    def train(*arguments, **keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr(fitting.Fitter, "_fit_network", train)
    before = contents(finished)
    run(finished)
    assert contents(finished) == before
    assert "breast_cancer-r2et_nh-seed4-tolerance0.003" in capsys.readouterr().out


def test_a_lost_or_damaged_model_is_written_again(finished, copied, run):
    first, two, *_ = sorted((copied / "models").iterdir())
    shutil.rmtree(first)
    for path in two.rglob("*"):
        if path.is_file() and path.suffix != ".json":
            path.write_bytes(path.read_bytes()[:7])
    run(copied)
    for folder in (first, two):
        told = saved.load(finished / "models" / folder.name).description
        params = saved.load(folder).params
        assert params_sha256(params) == told["params_sha256"]


def test_records_of_other_parameters_are_refused(copied, run, capsys):
    sha256 = digests(copied)["r2et_nh", 4, 0.01]
    path = copied / "records.jsonl"
    text = re.sub(r', "cell_sha256": "\w+"', "", path.read_text())
    path.write_text(text.replace(sha256, "0" * 64))
    with pytest.raises(SystemExit):
        run(copied)
    assert "other parameters of r2et_nh, seed 4" in capsys.readouterr().err


def test_other_data_in_the_folder_are_refused(finished, run, monkeypatch, capsys):
    """The same name with other numbers, as of data prepared anew."""
    data = datasets.load("breast_cancer")
    other = data._replace(test=data.valid)
    monkeypatch.setattr(datasets, "load", lambda *args, **options: other)
    before, (old, new) = contents(finished), map(fingerprint, (data, other))
    with pytest.raises(SystemExit):
        run(finished)
    text = f"of other data: breast_cancer had the SHA-256 {old[:12]}…, now {new[:12]}…"
    assert text in capsys.readouterr().err
    assert contents(finished) == before
    store = records.RecordStore(finished / "records.jsonl")
    assert {record["data_sha256"] for record in store.select()} == {old}


def test_a_flipped_byte_in_a_kept_model_is_refused(copied, run, tmp_path, capsys):
    (folder,) = (copied / "kept" / "breast_cancer").glob("r2et_nh-*")
    files = (path for path in folder.rglob("*") if path.is_file())
    data = bytearray((largest := max(files, key=os.path.getsize)).read_bytes())
    data[len(data) // 2] ^= 0x55
    largest.write_bytes(data)
    with pytest.raises(SystemExit):
        run(tmp_path / "new", f"--models_dir={copied / 'kept'}")
    assert f"delete {folder}" in capsys.readouterr().err


def test_a_pointer_out_of_a_model_deletes_nothing(copied, run, capsys):
    path = min((copied / "models").iterdir()) / "description.json"
    told = json.loads(path.read_text()) | {"params_folder": "../../kept"}
    del told["description_sha256"]
    path.write_text(json.dumps(told))
    before = contents(copied)
    with pytest.raises(SystemExit):
        run(copied)
    assert "got '../../kept'" in capsys.readouterr().err
    assert contents(copied) == before


def interrupt(monkeypatch, run, folder, *arguments, owner, name, before=False):
    """A run that ends with the first call of `owner.name`; False if it is not called.

    The exception comes after the call is done, or before it begins.
    """
    original = getattr(owner, name)

    def stop(*args, **keywords):
        if not before:
            original(*args, **keywords)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        try:
            run(folder, *arguments)
        except SystemExit as done:
            assert done.code == 130
            return True
    return False


def test_stopped_after_every_block_it_ends_with_the_same_parameters(
    finished, run, tmp_path, monkeypatch
):
    stop = functools.partial(interrupt, monkeypatch, run, tmp_path)
    method = "--methods=r2et_nh"
    # One block is lost with its checkpoint; then every checkpoint is the last.
    assert stop(method, owner=training.Checkpoints, name="save", before=True)
    stops = 0
    while stop(method, owner=training.Checkpoints, name="save"):
        stops += 1
        if stops == 6:  # the blocks are done, and the rest is cut off in its turn
            break
    assert stops == 2 + 4
    assert stop(method, owner=training.Checkpoints, name="delete", before=True)
    assert stop(method, owner=records.RecordStore, name="append")
    run(tmp_path, method)
    wanted = {
        key: sha for key, sha in digests(finished).items() if key[0] != "logistic"
    }
    assert digests(tmp_path) == wanted
    for (_, seed, tolerance), sha256 in wanted.items():
        name = f"breast_cancer-r2et_nh-seed{seed}-tolerance{tolerance}"
        params = saved.load(tmp_path / "models" / name).params
        assert params_sha256(params) == sha256


CHILD = """
import json, sys
from experiments.console import cli
from experiments.problems import protocols
changes = json.loads(sys.argv.pop(1))
protocols.PRESETS["smoke"] = protocols.PRESETS["smoke"]._replace(**changes)
from experiments.train import experiment
cli.run(experiment)
"""


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_parameters(
    run, tmp_path, monkeypatch
):
    monkeypatch.setitem(protocols.PRESETS, "smoke", preset(LONG))
    arguments = "--methods=wd", "--seeds=0"
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [
            sys.executable, "-c", CHILD, json.dumps(LONG), *ARGUMENTS, *arguments,
            f"--output_dir={folder}", f"--models_dir={folder / 'kept'}",
        ],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        pattern = "kept/breast_cancer/wd-*/training/save-*"
        while not any(p.name > "save-00000004" for p in folder.glob(pattern)):
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not list(folder.glob("kept/breast_cancer/wd-*/description.json"))

    epochs = []
    save = training.Checkpoints.save

    def counted(self, epoch, *args, **keywords):
        epochs.append(epoch)
        save(self, epoch, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(training.Checkpoints, "save", counted)
        run(folder, *arguments)
    assert 4 < epochs[0] <= 16 and epochs == list(range(epochs[0], 17))
    run(tmp_path / "whole", *arguments)
    assert digests(folder) == digests(tmp_path / "whole") != {}


def fitter(folder, changes):
    return fitting.Fitter(
        datasets.load("breast_cancer"),
        seeds=(0, 4),
        protocol=preset(changes),
        k=8,
        models_dir=folder / "kept",
        progress=False,
    )


def test_a_model_of_another_configuration_is_refused(copied):
    other = fitter(copied, CHANGES | {"learning_rate": 0.5})
    old, new = (each._folder("r2et_nh")[0] for each in (fitter(copied, CHANGES), other))
    os.replace(old, new)
    with pytest.raises(ValueError, match="is of another configuration"):
        other.fit("r2et_nh")


def test_a_checkpoint_of_another_configuration_is_refused(
    copied, run, tmp_path, capsys
):
    """One of the grid, where `--weights=1` looks for its own."""
    method, kept = "--methods=r2et_nh", f"--models_dir={copied / 'kept'}"
    _, config = fitter(copied, CHANGES)._folder("r2et_nh")
    folder, _ = fitter(copied, CHANGES | {"grid": {"gap": (1.0,)}})._folder("r2et_nh")
    training.Checkpoints(folder / "training", config=config).save(1, {})
    before = contents(copied / "kept")
    with pytest.raises(SystemExit):
        run(tmp_path / "new", method, "--weights=1", kept)
    printed = capsys.readouterr().err
    assert "checkpoints in" in printed and "are of another configuration" in printed
    assert "grid: saved [[0.1], [1.0], [3.0], [10.0]], given [[1.0]]" in printed
    assert contents(copied / "kept") == before


def test_one_setting_of_weights_takes_the_place_of_the_grid(finished, run, tmp_path):
    run(
        tmp_path, "--methods=r2et_nh", "--seeds=0", "--weights=3", "--schedule=scratch",
        f"--models_dir={tmp_path / 'kept'}",
    )  # fmt: skip
    (path,) = (tmp_path / "kept" / "breast_cancer").glob("r2et_nh-*")
    kept = finished / "kept" / "breast_cancer"
    assert path.name not in {other.name for other in kept.iterdir()}
    for folder in (tmp_path / "models").iterdir():
        model, params, told = saved.load(folder)
        assert told["training"]["grid"] == [[3.0]]
        assert told["training"]["protocol"]["schedule"] == "scratch"
        assert told["choice"]["settings_tried"] == 1
        assert told["choice"]["weights"] in ({"gap": 3.0}, {})
        assert told["choice"]["fallback"] == (told["choice"]["weights"] == {})


def test_a_seed_that_fell_back_is_the_vanilla_model(run, tmp_path):
    run(tmp_path, "--methods=wd", "--seeds=0", "--weights=1e6", "--schedule=scratch")
    (path,) = (tmp_path / "kept" / "breast_cancer").glob("pretrained_vanilla-*")
    vanilla, _ = load_model(path)
    for folder in (tmp_path / "models").iterdir():
        _, params, told = saved.load(folder)
        assert told["choice"]["fallback"] is True
        for name in ("Dense_0", "Dense_1"):
            leaf, wanted = params["params"][name], vanilla["params"][name]
            assert np.array_equal(leaf["kernel"], wanted["kernel"][0])
            assert np.array_equal(leaf["bias"], wanted["bias"][0])
    store = records.RecordStore(tmp_path / "records.jsonl")
    assert [r["value"] for r in store.select(metric="fallback")] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--weights=1"], ["--weights is for one method", "logistic,r2et_nh"]),
        (
            ["--methods=r2et", "--weights=1"],
            ["r2et takes 2 penalty weights (gap, curvature), got --weights=1"],
        ),
        (
            ["--methods=vanilla", "--weights=1"],
            ["vanilla takes 0 penalty weights (none)"],
        ),
        (["--methods=logistic", "--weights=1"], ["logistic takes 0 penalty weights"]),
        (
            ["--methods=est_h_fd", "--weights=.1,0"],
            ["est_h_fd takes a step tau above 0, got --weights=.1,0"],
        ),
        (["--methods=wd", "--weights="], ["wd takes 1 penalty weights (l2)"]),
        (["--methods=wd", "--weights=-1"], ["weights must be nonnegative", "-1"]),
        (["--methods=wd", "--weights=x"], ["--weights takes numbers", "'x'"]),
        (["--methods=r3et"], ["entry of --methods 'r3et'", "r2et"]),
        (["--attacks=er"], ["--attacks has no use here"]),
        (["--epsilon=1"], ["--epsilon has no use here"]),
        (["--average_decay=1"], ["--average_decay must lie in [0, 1)"]),
        (["--pooling=max"], ["--pooling is for images, breast_cancer has none"]),
        (["--absent_edges=free"], ["--absent_edges is for graphs"]),
        (["--fold=1"], ["--fold is for graphs, breast_cancer has none: got --fold=1"]),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    run, tmp_path, monkeypatch, capsys, arguments, texts
):
    def train(*arguments, **keywords):
        raise AssertionError("the mistake was noticed after the start of training")

    monkeypatch.setattr(fitting.Fitter, "fit", train)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "refused", *arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 1 and not printed.out
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    for text in texts:
        assert text in printed.err
    assert not (tmp_path / "refused").exists()


def test_another_configuration_in_the_folder_is_refused(finished, run, capsys):
    before = contents(finished)
    with pytest.raises(SystemExit):
        run(finished, "--methods=r2et_nh", "--weights=1")
    printed = capsys.readouterr().err
    assert "--weights was None, now 1" in printed
    assert contents(finished) == before
