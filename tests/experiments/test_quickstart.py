"""The quickstart: what is printed and on the pages is what came out."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.console import cli
from experiments.quickstart import experiment, measure, report
from r2et_jax import datasets
from r2et_jax.audit.hardened import Quality
from r2et_jax.metrics import accuracy
from r2et_jax.models import MLP

# A logit of few terms: what is compiled for it is small.
MODEL = MLP(hidden=(6,), activation="softplus")
REQUEST = measure.Request(
    methods=("logit_h",), k=1, num_test=16, evaluations=1000, tolerance=0.2,
    search=(("num_epochs", 24), ("eval_every", 12), ("learning_rate", 0.1),
            ("batch_size", 16),
            ("weights", {"logit_curvature": (30.0,)})),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(120, 3))
    y = (x[:, 0] ** 2 + x[:, 1] > 0.6).astype(int)
    return datasets.from_arrays(x, y, name="small", columns=["age", "hours", "gain"])


@pytest.fixture(scope="module")
def outcome(data, tmp_path_factory):
    params = measure.train(MODEL, data, num_epochs=4000)
    folder = tmp_path_factory.mktemp("search")
    return measure.measure(
        MODEL, params, data, REQUEST, folder=folder, progress=lambda what: None
    )


def test_the_lines_say_what_the_audits_found(outcome, data):
    # Marks by which before and after are told apart.
    before, after = Quality(0.123, 0.5), Quality(0.456, 0.5)
    hardened = dataclasses.replace(
        outcome.hardened["logit_h"], test_before=before, test_after=after
    )
    lines = report.lines(outcome._replace(hardened={"logit_h": hardened}))
    assert len(lines) <= 10 and "1 features" in lines[0] and "(16 test" in lines[0]
    for name, audit in outcome.audits.items():
        (line,) = (
            hardened
            for hardened in lines
            if hardened.startswith(f"{name} ") and "±" in hardened
        )
        numbers = [float(hardened) for hardened in re.findall(r"-?\d\.\d+", line)]
        mean, _, proved, same, plus, share, _ = numbers
        assert mean == pytest.approx(audit.precision.mean(), abs=6e-4)
        assert proved == pytest.approx(audit.certified.precision.mean(), abs=6e-4)
        assert plus == pytest.approx(float(audit.corrected), abs=6e-4)
        assert proved <= mean and same == pytest.approx(audit.same, abs=6e-4)
        assert share == (before if name == "vanilla" else after).accuracy
    assert any(line.startswith("vanilla less logit_h") for line in lines)


def test_quality_is_that_of_the_test_part(outcome, data):
    hardened = outcome.hardened["logit_h"]
    for params, quality in (
        (hardened.start, hardened.test_before),
        (hardened.params, hardened.test_after),
    ):
        share = accuracy(data.test.y, MODEL.apply(params, data.test.x))
        assert quality.accuracy == pytest.approx(float(share), abs=1e-6)


def test_the_pages_hold_the_same(outcome, tmp_path):
    pages = report.save(outcome, tmp_path)
    assert [page.parent.name for page in pages] == ["vanilla", "logit_h"]
    for page, audit in zip(pages, outcome.audits.values(), strict=True):
        assert f"{audit.precision.mean():.3f}" in page.read_text("utf-8")
        content = json.loads((page.parent / "results.json").read_text("utf-8"))
        told = [row["precision"] for row in content["inputs"]]
        np.testing.assert_allclose(told, audit.precision, rtol=1e-6)


def test_one_ranking_is_told(outcome, monkeypatch):
    hardened = type(outcome.hardened["logit_h"])
    monkeypatch.setattr(hardened, "one_ranking", True)
    assert "logit_h win by one ranking" in report.lines(outcome)[-1]


def test_make_runs_it(monkeypatch):
    makefile = (Path(__file__).parents[2] / "Makefile").read_text("utf-8")
    assert "python -m experiments.quickstart" in makefile
    given = []
    monkeypatch.setattr(experiment, "main", given.append)
    cli.call(experiment, "--noprogress")
    assert given[0]["output_dir"].value == "results/quickstart"
    assert not given[0]["progress"].value
