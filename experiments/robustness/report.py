"""Tables, comparisons and figures of the robustness experiment from records."""

from __future__ import annotations

from pathlib import Path

from experiments.problems import presets
from experiments.report import tables
from experiments.robustness import comparisons
from experiments.robustness import tables as robustness_tables
from experiments.robustness.figures import write_figures
from experiments.robustness.results import Results
from experiments.store.output import write_text_atomic
from experiments.store.records import RecordStore


def write_report(
    folder: Path, store: RecordStore, options, *, part: str = ""
) -> list[Path]:
    """Write all that a reader sees, for every k; returns the paths.

    The attack that leads is strongest, else er_surrogate, else the last one named.

    Args:
      folder: where to.
      store: the records.
      options: the flags of the run, or of the part of it that is reported.
      part: name of that part, which the files' names then have.
    """
    written = []
    for k in options.k:
        suffix = (f"_{part}" if part else "") + (f"_k{k}" if len(options.k) > 1 else "")
        results = Results(store, options, k=k)
        compared = comparisons.compare_all(results, presets.TOLERANCES)
        texts = {
            f"table{suffix}.md": robustness_tables.markdown(results, compared),
            **_csv_tables(results, suffix),
            f"comparisons{suffix}.md": comparisons.to_markdown(compared, k),
            f"comparisons{suffix}.csv": comparisons.to_csv(compared),
        }
        for name, text in texts.items():
            write_text_atomic(folder / name, text)
            written.append(folder / name)
        written += write_figures(folder, results, suffix)
    return written


def summary(store: RecordStore, options, k: int) -> str:
    """The main columns at the main tolerance, for a terminal."""
    return robustness_tables.summary(Results(store, options, k=k))


def _csv_tables(results: Results, suffix: str) -> dict[str, str]:
    """File name -> CSV of all data sets at one tolerance."""
    texts = {}
    for tolerance in presets.TOLERANCES:
        name = f"table{suffix}"
        if tolerance != presets.MAIN_TOLERANCE:
            name += f"_tolerance_{tolerance}"
        table = robustness_tables.table(
            results, results.options.datasets, tolerance, selection=True
        )
        texts[f"{name}.csv"] = tables.to_csv(table)
    return texts
