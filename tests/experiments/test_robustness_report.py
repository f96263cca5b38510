"""Tables, comparisons and figures from hand-made records with known answers."""

import csv
import io
import re

import pytest

from experiments.robustness import comparisons
from experiments.robustness import figures as robustness_figures
from experiments.robustness.report import summary, write_report
from experiments.robustness.results import Results
from experiments.robustness.tables import cheats, markdown
from tests.experiments.made_robustness import (
    DATASETS,
    METHODS,
    Store,
    compare,
    made_records,
    row,
    settings,
)


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
    assert "999 samples" in text and "Holm's method" in text and "Student's t" in text
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
    options = settings(tmp_path)
    text = markdown(Results(store, options, k=8), compare(store))
    assert text.count("copies: of adult 16982 of 48842 rows equal another row") == 1
    assert "copies: of adult_ref" not in text


def test_runs_without_single_inputs_have_the_same_marks(tmp_path, report):
    write_report(tmp_path, made_records(inputs=False), settings(tmp_path))
    text = (tmp_path / "table.md").read_text("utf-8")
    assert text == (report[0] / "table.md").read_text("utf-8")


def test_comparisons_in_full_precision_and_for_reading(report):
    text = (report[0] / "comparisons.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 2 * 2 * 2 * 5  # data sets, tolerances, attacks, methods
    (match,) = [
        r for r in rows
        if (r["dataset"], r["tolerance"], r["attack"], r["method"])
        == ("adult", "0.003", "er_surrogate", "r2et")
    ]  # fmt: skip
    assert float(match["difference"]) == pytest.approx(0.25, rel=1e-12)
    assert float(match["p"]) == 0 and match["better"] == "True"
    shown = (report[0] / "comparisons.md").read_text("utf-8")
    line = "| adult | strongest | r2et | wd | +0.250 ± 0.000 | [+0.250, +0.250] | "
    assert f"{line}0.0000 | 0.0000 | ▲ |\n" in shown
    assert "Runs × different test inputs of a comparison: 3 × 39." in shown


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


def test_every_method_and_attack_of_the_run_is_described(report):
    text = (report[0] / "table.md").read_text("utf-8")
    methods, attacks = text.split("\n## Methods\n")[1].split("\n## Attacks\n")
    told = re.findall(r"^- `(.+?)`: (.+) \((.+?)\)$", methods, re.MULTILINE)
    assert tuple(name for name, _, _ in told) == METHODS
    assert (
        "logistic",
        "logistic regression, whose ranking cannot change",
        "linear",
    ) in (told)
    names = re.findall(r"^- `(.+?)`: ", attacks, re.MULTILINE)
    assert names == ["er_surrogate", "strongest"]


def test_what_was_not_measured_on_a_data_set_leaves_no_trace():
    store = Store(
        r for r in made_records() if (r["dataset"], r["method"]) != ("adult_ref", "sp")
    )
    compared = compare(store)
    assert not compared.unjudged and row(compared, "sp")
    assert all(r.method != "sp" for r in compared.rows if r.dataset == "adult_ref")
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
        "comparisons.csv",
        *(
            f"p_at_k_by_{kind}_{dataset}.png"
            for kind in ("method", "epsilon", "evaluations", "iteration_er_surrogate")
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
    options = settings(
        tmp_path, k=(8, 4), datasets=("adult",), methods=("vanilla", "wd")
    )
    names = {path.name for path in write_report(tmp_path, store, options)}
    assert {"table_k8.md", "table_k4.md", "comparisons_k8.csv"} <= names
    assert "▼" in (tmp_path / "table_k8.md").read_text("utf-8")
    assert "▼" in (tmp_path / "table_k4.md").read_text("utf-8")


def test_a_run_of_one_method_and_another_attack_is_reported(tmp_path):
    store = Store({**r, "attack": r["attack"].replace("strongest", "mse")}
                  for r in made_records())  # fmt: skip
    options = settings(
        tmp_path, attacks=("mse",), datasets=("adult",), methods=("logistic",)
    )
    write_report(tmp_path, store, options)
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "compared under strongest and er_surrogate alone" in text
    assert "logistic" in summary(store, options, 8)
