"""Tables, comparisons, notes and figures from hand-made records with known answers."""

import csv
import io
import re
from pathlib import Path

import pytest

from experiments.common import comparisons, robustness_figures, robustness_notes
from experiments.common import records as records_module
from experiments.common.flags import Common
from experiments.common.robustness_report import summary, write_report
from experiments.common.robustness_results import Results
from experiments.common.robustness_tables import cheats, markdown

SEEDS = (0, 1, 2)
METHODS = ("logistic", "vanilla", "wd", "sp", "r2et", "wd+r2et_nh", "rat")
DATASETS = ("adult", "adult_ref")
# P@8 of every test input, the validation value and clean numbers of each method; wd
# is the best baseline on validation inputs, sp would be on test inputs.
MADE = {
    #              P@8   valid  auc   same  null  R²
    "logistic": (1.0, 1.0, 0.75, 1.0, 0.25, 1.0),
    "vanilla": (0.25, 0.25, 0.90, 0.5, 0.25, 0.90),
    "wd": (0.5, 0.875, 0.85, 0.75, 0.25, 0.984375),
    "sp": (0.625, 0.75, 0.90, 0.5, 0.36, 0.90),
    "r2et": (0.75, 0.75, 0.80, 0.953125, 0.34375, 0.90),
    "wd+r2et_nh": (0.5, 0.625, 0.80, 0.75, 0.25, 0.979),
    "rat": (0.375, 0.5, 0.80, 0.75, 0.25, 0.90),
}


class Store(list):
    """What a report needs of a store."""

    def select(self, **filters):
        return records_module.select(self, **filters)


def settings(tmp_path=Path("."), **changes):
    common = Common(
        datasets=DATASETS, methods=METHODS, attacks=("er_surrogate", "strongest"),
        k=(8,), epsilon=(0.5, 1.0), seeds=SEEDS, data_dir=tmp_path,
        models_dir=tmp_path, output_dir=tmp_path, preset="smoke", progress=False,
        config={},
    )  # fmt: skip
    return common._replace(**changes)


def made_records(*, inputs=True):
    """The records of a run in which only the seed's share of 1/64 varies."""
    return Store(
        record
        for dataset in DATASETS
        for method in METHODS
        for seed in SEEDS
        for tolerance in (0.01, 0.003)
        for record in model_records(dataset, method, seed, tolerance, inputs)
    )


def model_records(dataset, method, seed, tolerance, inputs):
    level, valid, auc, same, null, linear = MADE[method]
    if dataset.endswith("_ref"):
        level -= {"r2et": 0.25}.get(method, 0.0) + (seed / 64 if method == "sp" else 0)
    fields = {
        "experiment": "robustness", "dataset": dataset, "model": "mlp",
        "method": method, "schedule": "pretrain", "seed": seed, "fold": 0, "k": 8,
        "tolerance": tolerance, "attack": "none", "epsilon": 0.0, "stderr": None,
        "n": 40,
    }  # fmt: skip
    shift = 0.0 if method == "logistic" else seed / 64
    found = {"auc": auc + shift, "same": same, "null": null, "linear_r2": linear}
    found |= {"valid_p@k": valid, "valid_auc": auc, "epoch": 6.0}
    found["fallback"] = float(method == "rat" and seed == 0)
    if "wd" in method:
        found["weight_l2"] = 0.0625
    result = [{**fields, "metric": name, "value": v} for name, v in found.items()]
    noise = {"attack": "noise", "epsilon": 1e-6, "metric": "p@k", "value": 1.0}
    result.append({**fields, **noise})
    for attack in ("er_surrogate", "strongest"):
        for epsilon in (0.5, 1.0):
            cell = {**fields, "attack": attack, "epsilon": epsilon}
            value = level + (1 - epsilon) * (1 - level)
            measured = {"p@k": value, "p@k+": value - 0.5, "p@k_same_class": value}
            measured |= {"aauc": auc, "sensitivity": 0.125}
            result += [{**cell, "metric": m, "value": v} for m, v in measured.items()]
            path = {"metric": "p@k_curve", "evaluations": 100, "value": value}
            trace = {"metric": "p@k_trace", "step_share": 1.0, "value": value}
            result.append({**cell, **(path if attack == "strongest" else trace)})
            if inputs and epsilon == 1.0:
                # A pattern that all methods share, so that differences are constant.
                values = [value + (i % 3 - 1) / 8 for i in range(39)]
                result.append(
                    {**cell, "metric": "p@k_inputs", "value": value, "values": values}
                )
    return result


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(comparisons, "NUM_SAMPLES", 999)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparisons, "NUM_SAMPLES", 999)
        written = write_report(folder, made_records(), settings(folder))
    return folder, written


def compare(store, **changes):
    results = Results(store, settings(**changes), k=8)
    return comparisons.compare_all(results, (0.01,))


def row(found, method, *, dataset="adult", attack="strongest"):
    (match,) = [
        r
        for r in found.rows
        if (r.dataset, r.attack, r.method) == (dataset, attack, method)
    ]
    return match


def test_the_best_baseline_is_chosen_on_validation_inputs():
    found = compare(made_records())
    assert found.baselines == {("adult", 0.01): "wd", ("adult_ref", 0.01): "wd"}
    assert {r.baseline for r in found.rows} == {"wd"} and not found.problems
    results = Results(made_records(), settings(), k=8)
    assert results.best("adult", "R2ET", tolerance=0.01) == "r2et"
    assert results.best("adult", "linear", tolerance=0.01) == "logistic"
    assert results.best("elsewhere", "R2ET", tolerance=0.01) is None


def test_differences_p_values_and_their_correction():
    found = compare(made_records())
    better, equal = row(found, "r2et"), row(found, "wd+r2et_nh")
    assert (better.difference, better.lower, better.upper) == pytest.approx([0.25] * 3)
    assert better.p == 2 / 1000  # no sample of 999 is at or below 0
    assert (equal.difference, equal.p, equal.p_holm) == (0, 1, 1)
    assert row(found, "vanilla").difference == pytest.approx(-0.25)
    # Five methods are compared, four of them at the smallest p-value.
    assert better.p_holm == pytest.approx(5 * better.p)
    assert (better.seeds, better.inputs, better.left_out) == (3, 39, 0)
    methods = [
        r.method for r in found.rows if (r.dataset, r.attack) == ("adult", "strongest")
    ]
    assert methods == ["vanilla", "sp", "r2et", "wd+r2et_nh", "rat"]
    assert row(found, "r2et", dataset="adult_ref").difference == pytest.approx(0)


def test_more_methods_leave_the_p_values_as_they_are():
    fewer = row(compare(made_records(), methods=("wd", "r2et")), "r2et")
    more = row(compare(made_records()), "r2et")
    assert fewer[:9] == more[:9] and fewer.p_holm < more.p_holm


def test_values_that_are_not_finite_are_left_out_and_counted():
    store = made_records()
    for record in store.select(metric="p@k_inputs", method="r2et", seed=1):
        record["values"] = [None, *record["values"][1:]]
    found = row(compare(store), "r2et")
    assert found.difference == pytest.approx(0.25) and found.left_out == 1
    text = comparisons.to_markdown(compare(store), 8)
    assert "4 pairs with a value that is not finite are left out." in text


def test_seeds_are_paired_and_what_cannot_be_paired_is_told():
    store = made_records()
    kept = Store(
        r
        for r in store
        if (r["metric"], r["method"], r["seed"]) != ("p@k_inputs", "r2et", 1)
    )
    assert row(compare(kept), "r2et").seeds == 2
    for record in kept.select(metric="p@k_inputs", method="rat"):
        record["values"] = record["values"][:-1]
    found = compare(kept)
    assert all(r.method != "rat" for r in found.rows)
    place, why = found.problems[0]
    assert place == "adult at 0.01 under strongest" and why.endswith("wd's for rat")


def test_marks_of_the_table(report):
    folder, _ = report
    first = (folder / "table.md").read_text("utf-8").split("\n## ")[0]
    main = {}
    for line in first.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| adult |"):
            main[cells[1]] = cells
        elif line.startswith("| dataset |"):
            heads = cells
    place = heads.index("P@8 strongest")
    assert main["r2et"][place] == "0.750 ± 0.000 ▲"
    assert main["wd"][place] == "0.500 ± 0.000 †"
    assert main["vanilla"][place] == "0.250 ± 0.000 ▼"
    assert main["wd+r2et_nh"][place] == "0.500 ± 0.000"
    assert main["logistic"][place] == "**1.000** ± 0.000"
    assert main["r2et"][heads.index("P@8 er_surrogate")].endswith("▲")
    assert main["rat"][heads.index("fallback")] == "0.33 ± 0.33"
    assert not any(head.startswith(("weight", "valid", "epoch")) for head in heads)


def test_the_table_says_what_its_marks_mean(report):
    text = (report[0] / "table.md").read_text("utf-8")
    assert "999 samples" in text and "Holm's method" in text and "about 16 %" in text
    assert "No marks" not in text


def test_reference_data_sets_stand_apart(report):
    text = (report[0] / "table.md").read_text("utf-8")
    main, reference = text.split(
        "### With one reference level of each category dropped"
    )[:2]
    assert "| adult |" in main and "| adult_ref |" not in main
    reference = reference.split("\n## ")[0]
    assert "| adult_ref |" in reference and "| adult |" not in reference


def test_copies_are_told_once(tmp_path):
    store = made_records(inputs=False)
    for method in METHODS:
        store.append(
            {"dataset": "adult", "method": method, "seed": 0, "tolerance": 0.01, "k": 8,
             "attack": "none", "epsilon": 0.0, "metric": "copies", "value": 16982,
             "stderr": None, "n": 48842}
        )  # fmt: skip
    common = settings(tmp_path)
    text = markdown(Results(store, common, k=8), compare(store))
    assert text.count("copies: of adult 16982 of 48842 rows equal another row") == 1
    assert "copies: of adult_ref" not in text


def test_runs_without_single_inputs_have_no_marks(tmp_path):
    write_report(tmp_path, made_records(inputs=False), settings(tmp_path))
    text = (tmp_path / "table.md").read_text("utf-8")
    assert not re.search("[▲▼†]", text)
    assert text.count("No marks: the records hold no P@k of single inputs") == 1
    assert "(adult at 0.01 under strongest; " in text
    rows = list(
        csv.reader(io.StringIO((tmp_path / "comparisons.csv").read_text("utf-8")))
    )
    assert rows == [list(comparisons.Row._fields)]


def test_comparisons_in_full_precision_and_for_reading(report):
    text = (report[0] / "comparisons.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 * 2 * 2 * 5  # data sets, tolerances, attacks, methods
    (found,) = [
        r for r in rows
        if (r["dataset"], r["tolerance"], r["attack"], r["method"])
        == ("adult", "0.003", "er_surrogate", "r2et")
    ]  # fmt: skip
    assert float(found["difference"]) == pytest.approx(0.25, rel=1e-12)
    assert float(found["p"]) == 0.002
    shown = (report[0] / "comparisons.md").read_text("utf-8")
    line = "| adult | strongest | r2et | wd | +0.250 | [+0.250, +0.250] | 0.0020 "
    assert f"{line}| 0.0100 | ▲ |\n" in shown
    assert "Seeds × test inputs of a comparison: 3 × 39." in shown


def test_what_was_selected_is_in_the_csv_alone(report):
    rows = list(
        csv.DictReader(io.StringIO((report[0] / "table.csv").read_text("utf-8")))
    )
    assert {(r["dataset"], r["method"]) for r in rows} == {
        (d, m) for d in DATASETS for m in METHODS
    }
    weights = {r["method"]: r["weight_l2 mean"] for r in rows}
    assert weights["wd"] == weights["wd+r2et_nh"] == "0.0625" and weights["r2et"] == ""
    assert "weight_l2" not in (report[0] / "table.md").read_text("utf-8")


def test_ways_to_cheat_are_read_from_the_numbers():
    text = cheats(Results(made_records(), settings(), k=8))
    adult, reference = text.split("- adult_ref")
    assert "R² lin ≥ 0.98: wd (0.984)\n" in adult  # not logistic, not wd+r2et_nh
    assert "same ≥ 0.95: r2et (0.953)\n" in adult
    assert "null ≥ vanilla's 0.250 + 0.1: sp (0.360)\n" in adult
    assert "| method | adult_ref − adult |" in reference
    assert "| r2et | -0.250 ± 0.000 |" in reference
    assert "| wd | 0.000 ± 0.000 |" in reference
    assert "| sp | -0.016 ± 0.009 |" in reference  # seeds change by 0, 1/64, 2/64
    alone = cheats(Results(made_records(), settings(datasets=("adult",)), k=8))
    assert "| method |" not in alone and "R² lin" in alone


def test_notes_tell_differences_from_vanilla(report):
    text = (report[0] / "notes.md").read_text("utf-8")
    notes = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert tuple(notes) == METHODS
    r2et = notes["r2et"]
    assert "AUC against vanilla: adult -0.100 ± 0.000 (to 0.816); clearly lower" in r2et
    assert (
        "P@8 under strongest against vanilla: adult +0.500 ± 0.000 (to 0.750)" in r2et
    )
    assert "P@8 under er_surrogate against vanilla: adult +0.500" in r2et
    assert "P@8⁺ under strongest: adult 0.250 ± 0.000." in r2et
    assert "Same: adult 0.953 ± 0.000. Null: adult 0.344 ± 0.000." in r2et
    assert "adult_ref 0" not in text and "Time" not in text
    assert "\n```\npython -m experiments.robustness --datasets=adult " in r2et
    assert "no clear difference" in notes["sp"].splitlines()[3]  # its AUC is vanilla's
    assert "against vanilla" not in notes["vanilla"]
    assert "AUC: adult 0.916 ± 0.009." in notes["vanilla"]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({("r2et", "train_seconds"): 0.5}, "Training, each epoch of one model: adult "
         "500 ms."),
        ({("r2et", "train_seconds"): 0.004, ("r2et", "settings_tried"): 12},
         "Training, each epoch of one model, 12 settings side by side: adult 4 ms."),
        ({("r2et", "settings_tried"): 12}, ""),
    ],
)  # fmt: skip
def test_notes_tell_the_cost_as_far_as_it_was_measured(measured, expected):
    store = made_records()
    (first,) = store.select(
        dataset="adult", method="r2et", seed=0, metric="auc", tolerance=0.01
    )
    for (method, metric), value in measured.items():
        store.append({**first, "method": method, "metric": metric, "value": value})
    text = robustness_notes.notes(Results(store, settings(), k=8))
    assert expected in text.split("## r2et\n")[1].split("```")[0]
    assert text.count("Training,") == bool(expected)


def test_the_command_repeats_the_flags_of_the_run():
    config = {"schedule": "scratch", "clip_norm": None, "prune": True, "workers": 2}
    store = Store(
        r for r in made_records() if (r["dataset"], r["method"]) != ("adult_ref", "sp")
    )
    results = Results(store, settings(config=config, datasets=DATASETS), k=8)
    assert robustness_notes.command(results, "r2et") == (
        "python -m experiments.robustness --datasets=adult --methods=vanilla,r2et "
        "--reference_methods=vanilla,r2et --attacks=er_surrogate,strongest --k=8 "
        "--epsilon=0.5,1 --seeds=0,1,2 --preset=smoke --schedule=scratch --prune=True "
        "--output_dir=results/robustness_r2et"
    )
    assert "--reference_methods= " in robustness_notes.command(results, "sp")
    lone = Results(store, settings(datasets=("adult_ref",)), k=8)
    assert "--datasets=adult_ref " in robustness_notes.command(lone, "wd")


def test_what_was_not_measured_on_a_data_set_leaves_no_trace():
    store = Store(
        r for r in made_records() if (r["dataset"], r["method"]) != ("adult_ref", "sp")
    )
    found = compare(store)
    assert not found.problems and row(found, "sp")
    assert all(r.method != "sp" for r in found.rows if r.dataset == "adult_ref")
    results = Results(store, settings(), k=8)
    axes = robustness_figures._dots(results, "adult_ref", "strongest").axes[0]
    assert len(axes.get_yticklabels()) == len(METHODS) - 1
    assert "| sp |" not in cheats(results)


def test_the_summary_has_one_narrow_block_for_each_data_set():
    text = summary(made_records(), settings(), 8)
    first, *blocks = text.strip().split("\n\n")
    assert "l2 ≤ 1" in first and len(blocks) == 2
    for block, dataset in zip(blocks, DATASETS, strict=True):
        lines = block.splitlines()
        assert lines[0].split()[0] == dataset
        assert max(map(len, lines)) <= 90
    order = [line.split()[0] for line in blocks[0].splitlines()[1:]]
    assert order == ["logistic", "r2et", "sp", "wd", "wd+r2et_nh", "rat", "vanilla"]


def test_the_files_of_a_report(report):
    folder, written = report
    names = {path.name for path in written}
    assert names == {path.name for path in folder.iterdir()}  # nothing temporary left
    assert names == {
        "table.md", "table.csv", "table_tolerance_0.003.csv", "comparisons.md",
        "comparisons.csv", "notes.md",
        *(
            f"p_at_k_by_{kind}_{dataset}.png"
            for kind in ("method", "epsilon", "budget", "iteration_er_surrogate")
            for dataset in DATASETS
        ),
    }  # fmt: skip


def test_curves_show_the_best_of_each_family():
    results = Results(made_records(), settings(), k=8)
    assert robustness_figures.representatives(results, "adult") == {
        "vanilla": "vanilla",
        "wd": "wd (best baseline)",
        "r2et": "r2et (best R2ET)",
        "rat": "rat (best of ours)",
    }
    few = Results(made_records(), settings(methods=("vanilla", "logistic")), k=8)
    assert robustness_figures.representatives(few, "adult") == {"vanilla": "vanilla"}
    lone = Results(made_records(), settings(methods=("logistic",)), k=8)
    assert robustness_figures.representatives(lone, "adult") == {"logistic": "logistic"}


def test_dots_are_sorted_by_p_at_k():
    results = Results(made_records(), settings(), k=8)
    axes = robustness_figures._dots(results, "adult", "strongest").axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[0] == "logistic" and labels[-1] == "vanilla"
    assert labels[1:3] == ["r2et", "sp"]


def test_several_k_have_files_of_their_own(tmp_path):
    store = made_records()
    store += [{**record, "k": 4} for record in made_records(inputs=False)]
    common = settings(
        tmp_path, k=(8, 4), datasets=("adult",), methods=("vanilla", "wd")
    )
    names = {path.name for path in write_report(tmp_path, store, common)}
    assert {"table_k8.md", "table_k4.md", "notes_k4.md", "comparisons_k8.csv"} <= names
    assert "▼" in (tmp_path / "table_k8.md").read_text("utf-8")
    assert "▼" not in (tmp_path / "table_k4.md").read_text("utf-8")


def test_a_run_of_one_method_and_another_attack_is_reported(tmp_path):
    store = Store({**r, "attack": r["attack"].replace("strongest", "mse")}
                  for r in made_records())  # fmt: skip
    common = settings(
        tmp_path, attacks=("mse",), datasets=("adult",), methods=("logistic",)
    )
    write_report(tmp_path, store, common)
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "compared under strongest and er_surrogate alone" in text
    assert "logistic" in summary(store, common, 8)
