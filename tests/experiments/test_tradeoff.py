"""The trade-off experiment: fronts against brute force, resampling, and a run."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.console import cli
from experiments.measures.evaluation import Evaluator
from experiments.problems import protocols
from experiments.report import exhibit
from experiments.store.records import BOOKKEEPING, REQUIRED, RecordStore
from experiments.tradeoff import experiment, report
from tests.experiments import small_runs

METHODS = ("vanilla", "r2et_nh")
POINT = st.tuples(*[st.integers(0, 4)] * 2)


@given(st.lists(POINT, min_size=1, max_size=12))
def test_the_front_is_what_no_point_dominates(points):
    expected = [
        not any(
            q[0] >= p[0] and q[1] >= p[1] and (q[0] > p[0] or q[1] > p[1])
            for q in points
        )
        for p in points
    ]
    front = report.on_front(np.array(points, float))
    assert front.tolist() == expected and any(expected)


def test_resampling_agrees_with_all_resamples():
    values = np.random.default_rng(2).normal(size=(5, 2, 3))
    front = report.resampled_fronts(values, num_resamples=4000).mean(axis=0)
    draws = list(itertools.product(range(3), repeat=3))
    exact = np.mean(
        [report.on_front(values[:, :, draw].mean(axis=2)) for draw in draws], axis=0
    )
    assert np.sum((exact > 0.1) & (exact < 0.9)) >= 3
    np.testing.assert_allclose(front, exact, atol=0.04)


def test_points_are_told_by_tolerance_and_only_r2et_counts_as_r2et():
    kinds = {
        "wd": "baseline",
        "r2et_mm_nh": "R2ET",
        "wd+r2et_nh": "direct forms, sums",
        "mc_thickness": "direct forms, sums",
        "rat": "ours",
        "r2et_nh+logit_h": "ours",
        "logistic": "linear",
    }
    assert {name: report.group_of(name) for name in kinds} == kinds


class Flags:
    """The flags that a report reads."""

    methods = ("vanilla", "wd", "r2et", "mc_thickness")
    k, epsilon = (8,), (1.0,)


def synthetic(path):
    """Two seeds; r2et is on the front of one of them alone, by its tolerance .003."""
    values = {
        ("vanilla", 0.01): ([0.9, 0.9], [0.5, 0.5]),
        ("vanilla", 0.003): ([0.9, 0.9], [0.5, 0.5]),
        ("wd", 0.01): ([0.8, 0.8], [0.7, 0.7]),
        ("wd", 0.003): ([0.8, 0.8], [0.6, 0.6]),
        ("r2et", 0.01): ([0.7, 0.7], [0.6, 0.6]),
        ("r2et", 0.003): ([0.8, 0.8], [0.9, 0.3]),
        ("mc_thickness", 0.01): ([0.95, 0.95], [0.95, 0.95]),
        ("mc_thickness", 0.003): ([0.95, 0.95], [0.95, 0.95]),
    }
    store = RecordStore(path)
    for (method, tolerance), pair in values.items():
        for metric, each in zip(("auc", "p@k"), pair, strict=True):
            for seed, value in enumerate(each):
                record = dict.fromkeys(REQUIRED) | {"method": method, "metric": metric}
                record |= {"tolerance": tolerance, "seed": seed, "value": value, "n": 9}
                record |= {"dataset": "d", "k": 8, "epsilon": 1.0, "fold": 0}
                store.append(record)
    return store


def test_fronts_by_hand(tmp_path):
    store = synthetic(tmp_path / "records.jsonl")
    points = report.points(store, Flags, "d", "auc")
    assert points.labels == [
        "vanilla", "wd at 0.01", "wd at 0.003", "r2et at 0.01", "r2et at 0.003",
        "mc_thickness",
    ]  # fmt: skip
    alone = report.front(points.of(*report.PUBLISHED))
    assert alone.labels == ["wd at 0.01", "vanilla"]
    # Of two resampled seeds, r2et's P@k beats wd's if both are the first one.
    assert alone.r2et == pytest.approx(0.25, abs=0.03)
    assert alone.shares == pytest.approx([0.75, 1.0], abs=0.03)
    assert str(alone).startswith("wd at 0.01 (7")
    assert report.front(points.of(*report.NETWORKS)).labels == ["mc_thickness"]
    one_run = points._replace(values=points.values[:, :, :1])
    assert report.front(one_run).r2et is None


@pytest.mark.parametrize(
    ("share", "held"), [(1.0, True), (0.95, True), (0.5, None), (0.05, False)]
)
def test_the_verdict(share, held):
    assert report.verdict(share) is held
    assert report.verdict(None) is None


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", f"--methods={','.join(METHODS)}")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def test_a_run_records_and_draws(drawn, again):
    folder = again("tradeoff")
    store = RecordStore(folder / "records.jsonl")
    assert {record["epsilon"] for record in store.select()} == {0.5}
    for metric in ("auc", "aauc", "p@k", "sensitivity"):
        # Methods, tolerances, seeds.
        assert len(store.select(metric=metric)) == len(METHODS) * 2 * 2
    assert all(0 < r["value"] <= 1 for r in store.select(metric="p@k"))
    assert all(r["n"] == 12 for r in store.select(metric="aauc"))
    assert min(r["n"] for r in store.select(metric="auc")) > 50  # the whole split
    told = exhibit.read(folder)
    assert [claim.said.split("and ")[1][:4] for claim in told.claims] == [
        "cAUC",
        "aAUC",
    ]
    assert all("breast_cancer: in " in claim.told() for claim in told.claims)
    figures = {f"front_{metric}_breast_cancer.png" for metric in ("auc", "aauc")}
    assert set(told.figures) == figures
    for metric, word in (("auc", "the test split (cAUC)"), ("aauc", "the attacked")):
        words = "\n".join(drawn.texts(f"front_{metric}_breast_cancer.png"))
        assert f"AUC of {word}" in words and "r2et_nh" in words
    table = (folder / "table.md").read_text()
    assert "breast_cancer, P@8 and cAUC: " in table
    assert json.loads((folder / "config.json").read_text())["flags"]["k"] == [8]


def test_what_a_run_of_robustness_has_measured_is_not_again(
    small_folder, small_models, tmp_path, monkeypatch
):
    """But for a cell that it lacks."""
    small, whole = small_runs.RUNS["tradeoff"], small_folder("tradeoff")
    text = (whole / "records.jsonl").read_text()
    recorded = [json.loads(line) for line in text.splitlines()]
    (tmp_path / "robustness").mkdir()
    told = json.loads((whole / "config.json").read_text())
    (tmp_path / "robustness" / "config.json").write_text(
        json.dumps(told | {"experiment": "robustness"})
    )
    robustness = RecordStore(tmp_path / "robustness" / "records.jsonl")
    for record in recorded[4:]:
        record = {n: v for n, v in record.items() if n not in BOOKKEEPING}
        where = {"attack": "none", "epsilon": 0.0} if record["metric"] == "auc" else {}
        robustness.append({**record, "experiment": "robustness", **where})
    measured = []
    small.change(monkeypatch)
    attacked = Evaluator.attacked
    monkeypatch.setattr(
        Evaluator,
        "attacked",
        lambda *args, **options: measured.append(args) or attacked(*args, **options),
    )
    records_of = f"--records={tmp_path / 'robustness'}"
    small.call(tmp_path / "again", small_models, records_of)
    assert len(measured) == 1
    text_again = (tmp_path / "again" / "records.jsonl").read_text()
    repeated = map(json.loads, text_again.splitlines())

    def plain(records):
        return sorted(
            json.dumps(
                {k: v for k, v in r.items() if k not in BOOKKEEPING}, sort_keys=True
            )
            for r in records
        )

    assert plain(repeated) == plain(map(json.loads, text.splitlines()))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--attacks=fgsm", "fgsm"),
        ("--epsilon=.5,1", "--epsilon takes one entry"),
        ("--records=nowhere", "--records must name the folder of a run of robustness"),
        ("--records=", "--records must name the folder of a run of robustness"),
    ],
)
def test_a_wrong_flag_gives_one_line(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(tmp_path / "out", flag)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
