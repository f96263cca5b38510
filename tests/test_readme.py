"""The README's examples run as they stand, in order."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags as absl_flags

from experiments.console import cli
from r2et_jax import datasets

README = Path(__file__).resolve().parents[1] / "README.md"
# Whatever README's table has named since the first release.
EXPERIMENTS = (
    "attack", "case_study", "certify", "constrained_attack", "convergence",
    "correlation", "cost", "evidence", "explainers", "faithfulness",
    "gradient_profile", "motivation", "reproduce", "robustness", "sensitivity",
    "thickness", "tradeoff", "train",
)  # fmt: skip
# Commands on experiments that README has named since, by itself or in its text.
COMMANDS = (
    "attack --model=results/train/models/adult-r2et-seed0-tolerance0.01",
    "case_study --datasets=mnist,planted",
    "certify --datasets=adult",
    "constrained_attack --datasets=adult,bank",
    "convergence --datasets=adult,bank,compas",
    "cost --datasets=adult",
    "evidence --list",
    "evidence --claim=saturation",
    "evidence --claim=curvature_estimators --datasets=mnist",
    "evidence --claim=curvature_estimators --datasets=hiv,planted,adhd",
    "reproduce --datasets=adult,bank,compas",
    "reproduce --preset=smoke",
    "robustness --datasets=adult,bank,compas",
    "robustness --datasets=cifar10",
    "robustness --datasets=hiv,planted --methods=vanilla,r2et_nh,r2et,hutchinson_h,ssr",
    "robustness --datasets=mnist,planted,hiv,adhd",
    "train --datasets=adult --methods=r2et --seeds=0",
)


@pytest.mark.standard_promotion
def test_the_examples_run(capsys):
    texts = [README, README.parent / "docs" / "train.md"]
    text = "\n".join(file.read_text("utf-8") for file in texts)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 9
    lengths = [len(block.splitlines()) for block in blocks[1:7]]
    assert lengths == [2, 2, 2, 2, 2, 6]  # the shortest programs, a subject first
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    report, state = names["report"], names["state"]
    assert capsys.readouterr().out.startswith("P@8 ")
    assert report.precision.shape == (20,)
    # What is kept of the top set, feature by feature, is what P@k counts.
    np.testing.assert_allclose(report.kept.mean(axis=1), report.precision, atol=1e-6)
    assert int(state.epoch) == 5
    expected = names["model"].apply(state.params, names["data"].test.x[0])
    np.testing.assert_array_equal(names["logits"], expected)
    # The shortest programs, each against what it is short for.
    shapes = names["maps"].shape, names["precision"].shape
    assert shapes == (names["x"].shape, (20,))
    np.testing.assert_allclose(names["maps"].sum(axis=1), 1, rtol=1e-5)
    assert (names["precision"] >= report.precision - 1e-6).all()
    assert 0 <= names["least"] <= names["mean"] <= 1 and 0 < names["certified"] <= 1
    jax.tree.map(np.testing.assert_array_equal, names["robust"], state.params)


def test_the_modules_in_the_map_exist():
    root = README.parent
    text = README.read_text("utf-8")
    for name in re.findall(r"`r2et_jax\.(\w+)`", text):
        path = root / "r2et_jax" / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
    for name in re.findall(r"python -m (data_prep\.\w+)", text):
        assert (root / f"{name.replace('.', '/')}.py").is_file(), name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_answers_to_its_old_name(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    shown = capsys.readouterr().out
    assert left.value.code == 0 and "--output_dir" in shown
    flags = importlib.import_module(f"experiments.{name}.experiment").FLAGS
    values = flags.define()
    assert values([name, "--preset=smoke"]) == [name]
    assert flags.experiment == name and values["preset"].value == "smoke"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_old_command_takes_its_flags_or_says_where_it_went(command, capsys):
    name, *arguments = command.split()
    experiment = importlib.import_module(f"experiments.{name}.experiment")
    values = experiment.FLAGS.define()
    assert values([name, *arguments]) == [name]
    if command.startswith("evidence --claim=curvature"):
        with pytest.raises(SystemExit) as stopped:
            cli.call(experiment, *arguments)
        assert stopped.value.code == 1
        assert capsys.readouterr().err == (
            "error: the claim 'curvature_estimators' is judged by `python -m pytest "
            "-m slow tests/experiments/test_curvature_of_pairs.py`, no longer by "
            "evidence\n"
        )


@pytest.mark.parametrize(
    "command",
    [
        "tabular --datasets=adult,bank,compas",
        "images --datasets=mnist,cifar10",
        "brain_graphs --raw_dir=FOLDER",
        "brain_graphs --datasets= --npz=own.npz",
    ],
)
def test_every_old_command_for_data_takes_its_flags(command):
    name, *arguments = command.split()
    module = importlib.import_module(f"data_prep.{name}")
    assert callable(module.main)
    for argument in arguments:
        flag, value = argument.removeprefix("--").split("=")
        taken = absl_flags.FLAGS[flag].parser.parse(value)
        if flag == "datasets":
            kinds = ("tabular", "pairs", "images")
            assert set(taken) <= {n for kind in kinds for n in datasets.names(kind)}


@pytest.mark.parametrize(
    "file",
    sorted([*README.parent.glob("*.md"), *README.parent.glob("docs/*.md")]),
    ids=lambda file: file.name,
)
def test_the_commands_that_are_named_take_their_flags(file):
    text = file.read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(r"python -m experiments\.(?!NAME)(\w+)([^\n`#]*)", text)
    assert commands or file.stem not in ("README", "RESULTS", "experiments")
    for name, arguments in commands:
        experiment = importlib.import_module(f"experiments.{name}.experiment")
        flags = [word for word in arguments.split() if word.startswith("--")]
        values = experiment.FLAGS.define()
        assert values([name, *(f for f in flags if f != "--help")]) == [name]
