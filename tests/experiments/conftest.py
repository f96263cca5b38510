"""What the experiments' tests share: a look at what was drawn, and a second run."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments.store import output, records


class Drawn(dict):
    """File name -> the figure that was written there."""

    def texts(self, name: str) -> set[str]:
        """Titles, labels, ticks and legends of a figure."""
        figure = self[name]
        found = [*figure.texts, *(t for one in figure.legends for t in one.texts)]
        for axes in figure.axes:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            found += [*axes.get_xticklabels(), *axes.get_yticklabels()]
            if legend := axes.get_legend():
                found += legend.texts
        return {text.get_text() for text in found}

    def lines(self, name: str) -> list:
        """The heights of all curves of a figure that have more than one point."""
        curves = [line for axes in self[name].axes for line in axes.lines]
        return [line.get_ydata() for line in curves if len(line.get_ydata()) > 1]


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


@pytest.fixture
def resumes(monkeypatch):
    """`resumes(folder, run, (module, name), ...)`: run again, it measures nothing.

    What measures is taken away by its names; the records so far must be complete ones.
    """

    def check(folder, run, *measuring):
        path = folder / output.RECORDS
        before = path.read_bytes()
        found = [json.loads(line) for line in before.splitlines()]
        assert all(set(records.REQUIRED) <= set(record) for record in found)
        for module, name in measuring:
            monkeypatch.setattr(module, name, None)
        run()
        assert path.read_bytes() == before

    return check
