"""The faithfulness experiment: its numbers by loops, its verdict by hand, a run."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.console import cli
from experiments.faithfulness import experiment, measure, report
from experiments.problems import protocols
from experiments.problems.registry import problem
from experiments.report import exhibit
from experiments.store.records import BOOKKEEPING, REQUIRED, RecordStore
from r2et_jax import datasets, models
from r2et_jax.metrics.statistics import Estimate
from tests.experiments import small_runs

METHODS = ("vanilla", "r2et_nh")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(protocols.PRESETS, "smoke", small_runs.TINY)
    monkeypatch.delenv("R2ET_DEBUG", raising=False)


def call(folder, *arguments):
    options = ("--preset=smoke", "--noprogress", f"--methods={','.join(METHODS)}")
    folders = f"--output_dir={folder}", f"--models_dir={folder / 'models'}"
    cli.call(experiment, *options, *folders, *arguments)


def by_loops(logit, saliency, x, replacement, sizes):
    """DFFOT, COMP and SUFF of one input of a model with one logit."""
    clean = logit(x)

    def probability(z):
        return 1 / (1 + np.exp(-z if clean > 0 else z))

    order = np.argsort(-saliency, kind="stable")
    comp, suff, first = [], [], len(x)
    for j in range(len(x), 0, -1):
        without, alone = x.copy(), x.copy()
        without[order[:j]] = replacement[order[:j]]
        alone[order[j:]] = replacement[order[j:]]
        if (logit(without) > 0) != (clean > 0):
            first = j
        if j in sizes:
            comp.append(abs(probability(clean) - probability(logit(without))))
            suff.append(abs(probability(clean) - probability(logit(alone))))
    return first / len(x), np.mean(comp), np.mean(suff)


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_measures_the_model_it_is_given(tiny, name):
    data = problem(datasets.load(name))
    model = data.model("vanilla")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        # Logits of a model as it is initialised hardly move.
        lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(leaf.dtype),
        model.init(jax.random.key(0), data.sample),
    )
    measurer = measure.Measurer(data, model, num_inputs=6)
    recorded = {r["metric"]: r for r in measurer.records(params, "mean", "saliency")}

    apply = models.pair_apply(model) if data.view.paired else model.apply
    x, partner, _ = data.inputs("test", 6)
    n = data.num_features
    sizes = range(1, n + 1) if name == "breast_cancer" else (1, 3, 6, 13, 32)
    mean = np.asarray(data.train_inputs()).mean(axis=0)
    run = jax.jit(jax.value_and_grad(lambda x, p: apply(p, x)[0]))
    expected = []
    for i in range(6):
        parameters = (params, partner[i]) if data.view.paired else params
        saliency = np.abs(run(x[i], parameters)[1])
        x_i = np.array(x[i])
        expected.append(
            by_loops(
                lambda x, p=parameters: float(run(x, p)[0]), saliency, x_i, mean, sizes
            )
        )
    for metric, values in zip(report.METRICS, np.transpose(expected), strict=True):
        np.testing.assert_allclose(recorded[metric]["value"], values.mean(), atol=2e-5)
        assert recorded[metric]["n"] == 6
    assert recorded["comprehensiveness"]["value"] > 1e-3


def test_sizes_are_all_of_few_features_and_steps_of_many():
    few = list(range(1, 29))
    assert measure.removal_sizes(28, every=True) == (few, few)
    sizes, flips = measure.removal_sizes(784, every=False)
    assert sizes == [8, 39, 78, 157, 392]
    assert set(sizes) < set(flips) and flips[-1] == 784
    assert len(flips) <= 55 and np.diff([0, *flips]).max() <= 16


def synthetic(path, leads, floor=0.5):
    """Records of the leads {(method, metric): [value of each seed]}."""
    store = RecordStore(path)
    for (method, metric), values in leads.items():
        sign = 1 if report.METRICS[metric][1] else -1
        for seed, value in enumerate(values):
            for ranking in ("saliency", "random"):
                shown = floor + (sign * value if ranking == "saliency" else 0)
                record = dict.fromkeys(REQUIRED)
                record |= {"method": method, "metric": metric, "seed": seed, "n": 9}
                record |= {"experiment": "faithfulness", "dataset": "d", "fold": 0}
                record |= {"k": 8, "ranking": ranking, "baseline": "zero"}
                store.append({**record, "value": shown})
    return store


def test_the_share_of_the_lead_is_paired_and_in_units_of_the_reference(tmp_path):
    uneven, base = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.21, 0.22])
    store = synthetic(
        tmp_path / "records.jsonl",
        {
            ("vanilla", "dffot"): base,
            ("vanilla", "comprehensiveness"): base,
            ("vanilla", "sufficiency"): uneven - 0.2,  # no better than chance
            ("other", "dffot"): base - 0.05,
            ("other", "comprehensiveness"): base * 1.1,
            ("other", "sufficiency"): [0.5, 0.5, 0.5],
        },
    )
    where = {"dataset": "d", "k": 8}
    lead = report.lead(store, "dffot", "zero", **where, method="vanilla")
    np.testing.assert_allclose(list(lead.values()), base / 0.5)
    where |= {"method": "other", "reference": "vanilla"}
    by_metric = [report.shares(store, m, "zero", **where) for m in report.METRICS]
    np.testing.assert_allclose(list(by_metric[0].values()), 1 - 0.05 / 0.21)
    np.testing.assert_allclose(list(by_metric[1].values()), 1 + 0.1 * base / 0.21)
    assert by_metric[2] is None
    share = report.total(store, ["zero"], **where)
    leading = (base - 0.05 + 1.1 * base + 0.5) / 3
    level = (2 * base + uneven - 0.2) / 3
    assert share.mean == pytest.approx(1 + (leading - level).mean() / level.mean())
    assert share.runs == 3 and share.low < share.mean < share.high
    # Of the raw numbers, DFFOT is worse, COMP and SUFF are better.
    assert report.raw(store, ["zero"], **where) == (3, 1, 2)


def test_a_steeper_model_has_no_larger_share(tmp_path):
    """Probabilities that move twice as far, by saliency as in random order."""
    leads = {
        (method, metric): np.array([0.1, 0.11, 0.12])
        for method in ("vanilla", "steeper")
        for metric in report.METRICS
    }
    store = RecordStore(tmp_path / "records.jsonl")
    for baseline, floor in (("zero", 0.5), ("mean", 0.3)):
        for method, factor in (("vanilla", 1), ("steeper", 2)):
            steeper = {key: factor * v for key, v in leads.items() if key[0] == method}
            part = synthetic(tmp_path / f"{baseline}{method}", steeper, floor * factor)
            for record in part.select():
                plain = {n: v for n, v in record.items() if n not in BOOKKEEPING}
                store.append({**plain, "baseline": baseline})
    where = {"dataset": "d", "k": 8, "method": "steeper", "reference": "vanilla"}
    share = report.total(store, ["zero", "mean"], **where)
    np.testing.assert_allclose([share.low, share.high], 1, rtol=1e-12)


def test_the_verdict():
    def judge(low, high):
        stderr = (high - low) / 2 / stats.t.ppf(0.975, 4)
        estimate = Estimate((low + high) / 2, stderr, "seeds", 5, 5, 0)
        return report.verdict(estimate)

    assert judge(0.95, 1.2) is True
    assert judge(0.95, 0.99) is False  # less faithful beyond its error, if little
    assert judge(0.85, 1.05) is None
    assert report.verdict(None) is None


def test_a_run_records_and_judges(drawn, again):
    folder = again("faithfulness")
    store = RecordStore(folder / "records.jsonl")
    cells = store.select(metric="dffot")
    assert len(cells) == len(METHODS) * 2 * 3 * 2  # seeds, baselines, rankings
    assert all(record["n"] == 12 and 0 < record["value"] <= 1 for record in cells)
    assert {record["value"] for record in store.select(metric="tied")} == {0.0}
    table = (folder / "table.md").read_text()
    assert table.count("| breast_cancer |") == 3 * len(METHODS)
    told = exhibit.read(folder)
    (claim,) = told.claims
    assert "r2et_nh" in claim.said and "breast_cancer" in claim.told()
    assert "2 runs" in claim.told()
    assert set(told.figures) == {"faithfulness_breast_cancer.png"}
    shown = drawn.texts("faithfulness_breast_cancer.png")
    assert {"DFFOT", "COMP", "SUFF", "zero", "mean", "conditional", *METHODS} <= shown
    flags = json.loads((folder / "config.json").read_text())["flags"]
    assert flags["baselines"] == ["zero", "mean", "conditional"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--baselines=median", "median"),
        ("--attacks=er", "--attacks has no use here"),
        ("--epsilon=1", "--epsilon has no use here"),
        ("--k=3,4", "--k takes one entry"),
    ],
)
def test_a_wrong_flag_gives_one_line(tiny, flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(tmp_path / "out", flag)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
