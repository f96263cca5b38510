"""`--datasets=path/to/mine.npz`: one's own table in every experiment for tables."""

import importlib

import numpy as np
import pytest

from experiments.console import cli
from experiments.evidence import experiment as evidence
from experiments.store import output
from r2et_jax import datasets
from r2et_jax.datasets import soundness

MEASURING = (
    "case_study", "certify", "constrained_attack", "convergence", "correlation", "cost",
    "explainers", "faithfulness", "gradient_profile", "motivation", "robustness",
    "sensitivity", "thickness", "tradeoff", "train",
)  # fmt: skip
ONE_MODEL = ("--methods=vanilla", "--seeds=0")


class Reached(Exception):
    """A run has read its flags and its data, and begins to measure."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Made by the library, under another name than the file's."""
    rng = np.random.default_rng(0)
    columns = {f"column {i}": rng.normal(size=90) for i in range(10)}
    columns |= {"kind": list("abc") * 30, "paid": ["no", "yes"] * 45}
    path = tmp_path_factory.mktemp("own") / "mine.npz"
    made = datasets.from_frame(columns, target="paid", name="another")
    datasets.save_npz(path, made)
    return path, soundness.fingerprint(made)


def call(name, path, folder, *arguments):
    experiment = importlib.import_module(f"experiments.{name}.experiment")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    further = ONE_MODEL if name == "train" else ()
    cli.call(
        experiment, "--preset=smoke", "--noprogress", f"--datasets={path}", *folders,
        *further, *arguments,
    )  # fmt: skip


@pytest.mark.parametrize("name", MEASURING)
def test_it_is_what_is_measured(name, table, tmp_path, monkeypatch):
    path, fingerprint = table

    def reached(folder, config, *, experiment, data):
        assert config["datasets"] in (["mine"], ("mine",))
        assert experiment == name and data == {"mine": fingerprint}
        raise Reached

    monkeypatch.setattr(output, "prepare_output_dir", reached)
    with pytest.raises(Reached):
        call(name, path, tmp_path)


def test_a_claim_is_looked_at_on_it(table, tmp_path, monkeypatch):
    path, fingerprint = table

    def measure(options):
        (name,) = options.datasets
        loaded = datasets.load(name, data_dir=options.data_dir)
        assert (name, soundness.fingerprint(loaded)) == ("mine", fingerprint)
        raise Reached

    statement = evidence.STATEMENTS["saturation"]._replace(measure=measure)
    monkeypatch.setitem(evidence.STATEMENTS, "saturation", statement)
    with pytest.raises(Reached):
        call("evidence", path, tmp_path, "--claim=saturation")


def test_reproduce_plans_its_parts(table, tmp_path):
    call("reproduce", table[0], tmp_path, "--norun")
    text = (tmp_path / "report" / "RESULTS.md").read_text(encoding="utf-8")
    assert "mine" in text
