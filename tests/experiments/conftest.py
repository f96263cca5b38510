"""What the experiments' tests share: a look at what was drawn, and small runs."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.store import output
from tests.experiments import small_runs


class Drawn(dict):
    """File name -> the figure that was written there."""

    def texts(self, name: str) -> set[str]:
        """Titles, labels, ticks and legends of a figure."""
        figure = self[name]
        written = [*figure.texts, *(t for box in figure.legends for t in box.texts)]
        for axes in figure.axes:
            written += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            written += [*axes.get_xticklabels(), *axes.get_yticklabels()]
            if legend := axes.get_legend():
                written += legend.texts
        return {text.get_text() for text in written}

    def lines(self, name: str) -> list:
        """The heights of all curves of a figure that have more than one point."""
        curves = [line for axes in self[name].axes for line in axes.lines]
        return [line.get_ydata() for line in curves if len(line.get_ydata()) > 1]

    def points(self, name: str) -> np.ndarray:
        """Where the markers of a figure stand [points, 2]."""
        lines = [line for axes in self[name].axes for line in axes.lines]
        marked = [line for line in lines if line.get_marker() not in ("", "None")]
        return np.concatenate([line.get_xydata() for line in marked])


@pytest.fixture
def drawn(monkeypatch):
    figures, saved = Drawn(), output._replace

    def replace(path, write):
        savefig = Figure.savefig

        def keep(figure, *arguments, **options):
            figures[Path(path).name] = figure
            return savefig(figure, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", keep)
            saved(path, write)

    monkeypatch.setattr(output, "_replace", replace)
    return figures


@pytest.fixture(scope="session")
def small_base(tmp_path_factory) -> Path:
    """The folder of the small runs, the same in all processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    base = base / "small_runs"
    base.mkdir(exist_ok=True)
    return base


@pytest.fixture(scope="session")
def small_models(small_base) -> Path:
    """The folder of the models of all small runs."""
    return small_base / "models"


@pytest.fixture(scope="session")
def small_folder(small_base):
    """`small_folder(name) -> folder` of a finished run, which no test may change."""
    return lambda name: small_runs.finished(name, small_base)


@pytest.fixture
def again(small_folder, small_models, tmp_path):
    """`again(name) -> folder`: a copy of a finished run, which has run once more.

    What measures is taken away meanwhile; all files must be the same afterwards.
    """

    def run(name: str) -> Path:
        small, whole = small_runs.RUNS[name], small_folder(name)
        folder = shutil.copytree(whole, tmp_path / name)
        with pytest.MonkeyPatch.context() as patch:
            small.change(patch)
            for owner, attribute in small.measuring:
                patch.setattr(owner, attribute, None)
            small.call(folder, small_models)
        for path in whole.iterdir():
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
        return folder

    return run
