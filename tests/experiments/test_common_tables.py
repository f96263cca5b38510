import csv
import io
import math

import numpy as np
import pytest

from experiments.report.tables import (
    ColumnSpec,
    pivot,
    to_csv,
    to_markdown,
    write_table,
)


def record(method, seed, value, *, dataset="adult", metric="p@k", fold=None, **fields):
    return {
        "experiment": "x", "dataset": dataset, "model": "mlp", "method": method,
        "schedule": "scratch", "seed": seed, "fold": fold, "attack": "er",
        "epsilon": 1.0, "k": 8, "metric": metric, "value": value, "stderr": 0.25,
        "n": 40, "cell_left": 0, **fields,
    }  # fmt: skip


P_AT_K = ColumnSpec("P@8", {"metric": "p@k"}, ".3f", best="max")


def only(records):
    return pivot(records, columns=[P_AT_K]).cells[0][0]


def test_mean_and_standard_error_over_seeds():
    values = [0.5, 0.625, 0.875]
    cell = only([record("r2et", s, v) for s, v in enumerate(values)])
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.stderr == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert cell[2:] == ("seeds", 3, 3, 0)


def test_folds_are_averaged_within_seeds():
    values = np.array([[0.5, 0.75], [0.625, 1.0], [0.25, 0.375]])
    records = [
        record("r2et", s, float(values[s, f]), fold=f)
        for s in range(3)
        for f in range(2)
    ]
    cell = only(records)
    seeds = values.mean(axis=1)
    assert cell.mean == pytest.approx(seeds.mean())
    assert cell.stderr == pytest.approx(seeds.std(ddof=1) / np.sqrt(3))
    assert (cell.over, cell.n, cell.runs) == ("seeds", 3, 3)
    cell = only(records[:2])
    assert cell.stderr == pytest.approx(values[0].std(ddof=1) / np.sqrt(2))
    assert (cell.over, cell.n) == ("folds", 2)


def test_a_single_run_keeps_its_error_over_inputs():
    table = pivot([record("r2et", 0, 0.5)], columns=[P_AT_K])
    assert table.cells[0][0] == (0.5, 0.25, "inputs", 40, 1, 0)
    text = to_markdown(table)
    assert "0.500 ± 0.250" in text
    assert "standard error over inputs (n = 40) where there is a single run" in text
    assert (
        "±"
        not in to_markdown(
            pivot([record("r2et", 0, 0.5, stderr=None)], columns=[P_AT_K])
        ).splitlines()[2]
    )


def test_markdown_as_a_whole():
    records = [
        record(method, seed, value + seed / 8, dataset=dataset, metric=metric)
        for dataset in ("bank", "adult")
        for method, value in (("vanilla", 0.25), ("r2et", 0.5))
        for seed in range(2)
        for metric in ("p@k", "mse")
        if (dataset, metric) != ("adult", "mse")
    ]
    columns = [
        ColumnSpec("P|8", {"metric": "p@k"}, ".1%", best="max"),
        ColumnSpec("MSE", {"metric": "mse"}, ".2f", best="min"),
    ]
    text = to_markdown(pivot(records, columns=columns), notes=["Our note."])
    assert text == (
        "| dataset | method | P\\|8 | MSE |\n"
        "| --- | --- | ---: | ---: |\n"
        "| bank | vanilla | 31.2% ± 6.2% | **0.31** ± 0.06 |\n"
        "| bank | r2et | **56.2%** ± 6.2% | 0.56 ± 0.06 |\n"
        "| adult | vanilla | 31.2% ± 6.2% | – |\n"
        "| adult | r2et | **56.2%** ± 6.2% | – |\n"
        "\n"
        "- ± is the standard error over seeds (n = 2).\n"
        "- –: not measured.\n"
        "- Bold: the best mean for each dataset.\n"
        "- Our note.\n"
    )


def test_what_is_not_finite_is_shown_and_never_best():
    records = [record("a", s, None if s in (1, 3) else 0.99) for s in range(5)]
    records += [record("b", s, 0.25) for s in range(5)]
    records += [record("c", s, 0.125) for s in range(5)]
    table = pivot(records, columns=[P_AT_K])
    text = to_markdown(table)
    assert "| adult | a | – (2/5) |" in text
    assert "**0.250** ± 0.000" in text
    assert "– (a/b): a of b runs have no finite value" in text
    assert math.isnan(table.cells[0][0].mean)
    assert to_csv(table).splitlines()[1] == "adult,a,nan,nan,5,seeds,5,2"


def test_ties_as_printed_are_all_bold():
    records = [record(m, 0, v) for m, v in (("a", 0.5), ("b", 0.50001), ("c", 0.4))]
    assert to_markdown(pivot(records, columns=[P_AT_K])).count("**0.500**") == 2


def test_unequal_numbers_of_seeds_are_told():
    records = [record("a", s, 0.5) for s in range(2)]
    records += [record("b", s, 0.5) for s in range(5)]
    text = to_markdown(pivot(records, columns=[P_AT_K]))
    assert "standard error over seeds (n = 2–5, see the CSV file)" in text


def test_csv_has_full_precision(tmp_path):
    values = [0.1, 0.2, 0.4]
    records = [record("r2et", s, v) for s, v in enumerate(values)]
    write_table(tmp_path, pivot(records, rows=("method",), columns=[P_AT_K]))
    row = next(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert float(row["P@8 mean"]) == math.fsum(values) / 3
    expected = np.std(values, ddof=1) / np.sqrt(3)
    assert float(row["P@8 stderr"]) == pytest.approx(expected, rel=1e-14)
    assert row["P@8 n"] == "3" and row["method"] == "r2et"
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("| method |")


def test_mixing_budgets_by_accident_is_refused():
    records = [record("a", 0, 0.5, epsilon=e, note=str(e)) for e in (0.1, 1.0)]
    with pytest.raises(
        ValueError, match=r"seed 0, fold None, which differ in epsilon;"
    ):
        pivot(records, columns=[P_AT_K])
    table = pivot(records, rows=("method", "epsilon"), columns=[P_AT_K])
    assert table.rows == [("a", 0.1), ("a", 1.0)]
    with pytest.raises(ValueError, match="best must be max, min or None"):
        pivot(records, columns=[ColumnSpec("x", {}, best="highest")])


def test_no_records_give_an_empty_table():
    text = to_markdown(pivot([], columns=[P_AT_K]))
    assert text == "| dataset | method | P@8 |\n| --- | --- | ---: |\n"


def test_marks_stand_behind_their_cells():
    records = [record(m, s, 0.5) for m in ("a", "b") for s in range(2)]
    table = pivot(records, columns=[P_AT_K._replace(best=None)])
    text = to_markdown(
        table, marks={(("adult", "b"), "P@8"): "▲", (("x",), "P@8"): "?"}
    )
    assert text.splitlines()[2:4] == [
        "| adult | a | 0.500 ± 0.000 |",
        "| adult | b | 0.500 ± 0.000 ▲ |",
    ]


def test_signed_means_have_errors_without_a_sign():
    records = [record("a", s, v) for s, v in enumerate((0.25, 0.75))]
    text = to_markdown(pivot(records, columns=[ColumnSpec("d", {}, "+.2f")]))
    assert "| +0.50 ± 0.25 |" in text
