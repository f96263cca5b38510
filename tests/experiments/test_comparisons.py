"""Methods against the best baseline: one rule over runs, in every report alike."""

import numpy as np
import pytest
from scipy import stats

from experiments.robustness import claims as robustness_claims
from experiments.robustness import comparisons
from experiments.robustness import figures as robustness_figures
from experiments.robustness.report import write_report
from experiments.robustness.results import Results
from tests.experiments.made_robustness import (
    Store,
    compare,
    made_records,
    row,
    settings,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(comparisons, "NUM_SAMPLES", 999)


def test_the_best_baseline_is_chosen_on_validation_inputs():
    compared = compare(made_records())
    assert compared.baselines == {("adult", 0.01): "wd", ("adult_ref", 0.01): "wd"}
    assert {r.baseline for r in compared.rows} == {"wd"} and not compared.unjudged
    results = Results(made_records(), settings(), k=8)
    assert results.best("adult", "R2ET", tolerance=0.01) == "r2et"
    assert results.best("adult", "linear", tolerance=0.01) == "logistic"
    assert results.best("elsewhere", "R2ET", tolerance=0.01) is None


def test_differences_p_values_and_their_correction():
    compared = compare(made_records())
    better, equal = row(compared, "r2et"), row(compared, "wd+r2et_nh")
    assert (better.difference, better.lower, better.upper) == pytest.approx([0.25] * 3)
    assert (better.stderr, better.p, better.better) == (0, 0, True)
    assert (better.bootstrap_lower, better.bootstrap_upper) == (0.25, 0.25)
    assert (equal.difference, equal.p, equal.p_holm, equal.better) == (0, 1, 1, None)
    assert row(compared, "vanilla").better is False
    assert row(compared, "vanilla").difference == pytest.approx(-0.25)
    assert (better.runs, better.inputs, better.left_out) == (3, 39, 0)
    methods = [
        r.method
        for r in compared.rows
        if (r.dataset, r.attack) == ("adult", "strongest")
    ]
    assert methods == ["vanilla", "sp", "r2et", "wd+r2et_nh", "rat"]
    assert row(compared, "r2et", dataset="adult_ref").difference == pytest.approx(0)


def shifted(store, method, values, dataset="adult"):
    """The store with other P@8 under the strongest attack, run by run."""
    for record in store.select(
        dataset=dataset, method=method, metric="p@k", attack="strongest", epsilon=1.0
    ):
        record["value"] = values[record["seed"]]
    return store


def test_better_is_students_t_over_runs_corrected_by_holm():
    store = shifted(made_records(), "r2et", {0: 0.70, 1: 0.75, 2: 0.74})
    compared = compare(store)
    more = row(compared, "r2et")
    test = stats.ttest_1samp([0.2, 0.25, 0.24], 0)
    interval = test.confidence_interval(0.95)
    expected = [0.23, stats.sem([0.2, 0.25, 0.24]), *interval, test.pvalue]
    assert more[5:10] == pytest.approx(expected)
    # Of five methods three have a difference free of error, wd+r2et_nh none.
    assert more.p_holm == pytest.approx(2 * test.pvalue) and more.better is True
    fewer = row(compare(store, methods=("wd", "r2et")), "r2et")
    assert fewer[:10] == more[:10] and fewer.p_holm == pytest.approx(test.pvalue)
    # Alone it would be clear, among others it is not.
    store = shifted(made_records(), "r2et", {0: 0.62, 1: 0.75, 2: 0.70})
    more, fewer = (
        row(compare(store, **only), "r2et")
        for only in ({}, {"methods": ("wd", "r2et")})
    )
    assert 0.025 < fewer.p < 0.05 < more.p_holm
    assert (fewer.better, more.better) == (True, None)


def test_one_seed_of_folds_has_one_error_everywhere(tmp_path):
    """In tables, figures, comparisons and claims alike."""
    values = {"vanilla": [0.2, 0.3, 0.25], "r2et": [0.7, 0.9, 0.6]}
    store = Store(
        {**r, "fold": r["seed"], "seed": 0} for r in made_records()
        if r["dataset"] == "adult" and r["method"] in values
    )  # fmt: skip
    for method, of in values.items():
        for record in store.select(
            method=method, metric="p@k", attack="strongest", epsilon=1.0
        ):
            record["value"] = of[record["fold"]]
    options = settings(tmp_path, datasets=("adult",), methods=tuple(values), seeds=(0,))
    write_report(tmp_path, store, options)
    level, error = np.mean(values["r2et"]), stats.sem(values["r2et"])
    gain = np.subtract(values["r2et"], values["vanilla"])
    text = f"{gain.mean():+.3f} ± {stats.sem(gain):.3f}"
    assert text == "+0.483 ± 0.073"
    assert f"{level:.3f}** ± {error:.3f}" in (tmp_path / "table.md").read_text("utf-8")
    assert text in (tmp_path / "comparisons.md").read_text("utf-8")
    results = Results(store, options, k=8)
    (asked,) = (
        q for q in robustness_claims.questions(store, [options])
        if q.said.startswith("Under the strongest attack R2ET keeps more of the top k t"
                             "han every")
    )  # fmt: skip
    assert (
        f"r2et {text} against vanilla" in asked.judge(store, "adult", options).numbers
    )
    axes = robustness_figures._dots(results, "adult", "strongest").axes[0]
    bars = [s for c in axes.collections for s in getattr(c, "get_segments", list)()]
    ends = {tuple(np.round(np.sort(bar[:, 0]), 4)) for bar in bars}
    assert tuple(np.round([level - error, level + error], 4)) in ends
    series = robustness_figures._series(
        results, "adult", {"r2et": "r2et"}, "strongest", "p@k", "epsilon"
    )
    np.testing.assert_allclose(series["r2et"][2][-1], error)


def test_values_that_are_not_finite_are_left_out_and_counted():
    store = made_records()
    for record in store.select(metric="p@k_inputs", method="r2et", seed=1):
        record["values"] = [None, *record["values"][1:]]
    compared = row(compare(store), "r2et")
    assert compared.difference == pytest.approx(0.25) and compared.left_out == 1
    # A run without a value is no run that went badly or well: nothing can be told.
    broken = row(compare(shifted(store, "r2et", {0: 0.7, 1: None, 2: 0.7})), "r2et")
    assert np.isnan(broken.difference) and broken.better is None
    text = comparisons.to_markdown(compare(store), 8)
    assert "4 pairs with a value that is not finite are left out of the" in text


def test_seeds_are_paired_and_what_cannot_be_paired_is_told():
    store = made_records()
    kept = Store(
        r for r in store if (r["metric"], r["method"], r["seed"]) != ("p@k", "r2et", 1)
    )
    assert row(compare(kept), "r2et").runs == 2
    for record in kept.select(metric="p@k_inputs", method="rat"):
        record["values"] = record["values"][:-1]
    unpaired = row(compare(kept), "rat")
    assert unpaired.runs == 3 and unpaired.inputs == 0
    assert np.isnan(unpaired.bootstrap_lower)
    attacked = ("wd", "p@k")
    compared = compare(
        Store(r for r in made_records() if (r["method"], r["metric"]) != attacked)
    )
    assert not compared.rows
    assert ("adult at 0.01 under strongest", "the best baseline was not attacked") in (
        compared.unjudged
    )
