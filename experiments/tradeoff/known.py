"""What another run has measured of the same models, to the last bit the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.console.flags import LISTS, Options
from experiments.loop import setup
from experiments.problems.registry import Problem
from experiments.store import output
from experiments.store.records import BOOKKEEPING, RecordStore

# Flags of robustness by which its cells are told apart, or that change none of them.
_CELLS = {
    *LISTS,
    "folds",
    "by_dataset",
    "reference_methods",
    "data_dir",
    *output.PRESENTATION,
}


class Known:
    """The records of a run of robustness, which is only read.

    Args:
      folder: of the run; None for none.
      options: the flags of the run that asks.
      problems: its data.

    Raises:
      ValueError: if the folder is of no such run, or of one with other settings or on
        other data.
    """

    def __init__(
        self, folder: str | None, options: Options, problems: Iterable[Problem]
    ):
        self.store = None
        if folder is None:
            return
        file = Path(folder) / output.CONFIG
        if not folder or not file.is_file():
            raise ValueError(
                f"--records must name the folder of a run of robustness, {folder!r} "
                f"has no {output.CONFIG}"
            )
        content = output.read_config(file)
        if content["experiment"] != "robustness":
            raise ValueError(
                f"--records={folder} is a run of {content['experiment']}, expected "
                "robustness"
            )
        theirs = content["flags"]
        for name in sorted({*theirs, *options.config} - _CELLS):
            if theirs.get(name) != options.config.get(name):
                raise ValueError(
                    f"--records={folder} was run with --{name}={theirs.get(name)}, "
                    f"this is --{name}={options.config.get(name)}"
                )
        # What is not measured yet is measured here.
        path = Path(folder) / output.RECORDS
        data = setup.data_sha256(problems)
        self.store = RecordStore(path, data=data, repair=False)

    def of(
        self, cell: dict[str, Any], metrics: Sequence[str]
    ) -> list[dict[str, Any]] | None:
        """The records of some metrics and the clean AUC, None where one is missing."""
        if self.store is None:
            return None
        same = {name: cell[name] for name in cell if name != "experiment"}
        recorded = self.store.select(**same, metric=tuple(metrics))
        clean = {**same, "attack": "none", "epsilon": 0.0}
        recorded += self.store.select(**clean, metric="auc")
        if {record["metric"] for record in recorded} != {*metrics, "auc"}:
            return None
        rest = ({n: v for n, v in r.items() if n not in BOOKKEEPING} for r in recorded)
        return [{**record, **cell} for record in rest]
