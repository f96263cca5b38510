"""The exhibits of all experiments, and the page that shows them."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.console import cli
from experiments.report import exhibit
from experiments.report.exhibit import Case, Claim, Verdict
from experiments.reproduce import experiment as reproduce
from experiments.reproduce import page as report_page
from r2et_jax import datasets
from r2et_jax.datasets.soundness import fingerprint


def claimed(said, verdict):
    return Claim(said, "by eye", (Case("adult", None, verdict),), "Chance.")


@pytest.fixture
def run_folder(tmp_path):
    """A folder with a figure, a table and an exhibit, as an experiment leaves it."""
    folder = tmp_path / "robustness" / "adult"
    folder.mkdir(parents=True)
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    figure.savefig(folder / "lines.png")
    (folder / "table.md").write_text(
        "## Top-8\n\n| method | P@8 |\n| --- | ---: |\n| r2et_mm_nh | 0.9 ± 0.1 |\n"
        "\n* <b> is no tag.\n"
    )
    claims = [
        claimed("R2ET is above vanilla.", Verdict(True, "0.9 against 0.3, 5 seeds")),
        claimed(
            "R2ET is above all.",
            Verdict(False, "0.9 against 0.95", "<i> & nonlinear."),
        ),
        claimed("R2ET is cheap.", Verdict(None, "not timed"))._replace(ours=True),
    ]
    exhibit.write(
        folder,
        title="P@k under attack",
        claims=claims,
        figures={folder / "lines.png": 'Lines: R2ET on top of "vanilla".'},
        tables=[folder / "table.md"],
        typed=("--k=8", "--noprogress", "--seeds=0"),
        settings="adult: seeds 0, 1.",
    )
    return folder


def test_an_exhibit_comes_back_as_written(run_folder):
    shown = exhibit.read(run_folder)
    assert shown.title == "P@k under attack"
    assert [claim.held for claim in shown.claims] == [True, False, None]
    assert [claim.cause for claim in shown.claims] == [
        "", "<i> & nonlinear.", exhibit.UNCLEAR
    ]  # fmt: skip
    assert shown.claims[1].told() == "adult: 0.9 against 0.95. Rule: by eye."
    assert shown.figures == {"lines.png": 'Lines: R2ET on top of "vanilla".'}
    assert shown.tables == ("table.md",)
    # How a run is shown makes no other command of it.
    assert shown.given == ("--k=8", "--seeds=0")


@pytest.mark.parametrize("text", ["", "  "])
def test_a_figure_needs_a_text_alternative(run_folder, text):
    with pytest.raises(ValueError, match="lines.png"):
        exhibit.write(
            run_folder,
            title="t",
            claims=[],
            figures={run_folder / "lines.png": text},
            tables=[],
            typed=(),
        )


def test_an_exhibit_names_no_missing_file(run_folder):
    with pytest.raises(FileNotFoundError, match="gone.md"):
        exhibit.write(
            run_folder,
            title="t",
            claims=[],
            figures={},
            tables=[run_folder / "gone.md"],
            typed=(),
        )


class Page(HTMLParser):
    """Images, addresses, identifiers, and whether every tag is closed."""

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.images, self.links, self.ids, self.open, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.images.append(attributes)
        self.links += [
            attributes[name] for name in ("href", "src") if name in attributes
        ]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


TOLD = {
    "preset": "smoke",
    "device": "cpu",
    "versions": {"jax": "1.2", "r2et_jax": None},
    "git_revision": "0123456789abcdef",
}


def test_the_page_needs_nothing_beside_it(run_folder, tmp_path):
    section = report_page.Section(
        "robustness",
        "P@k of every method.",
        "python -m experiments.robustness --datasets=adult,bank",
        {
            "adult": (run_folder, exhibit.read(run_folder)),
            "bank": (tmp_path / "none", None),
        },
    )
    page, summary = report_page.write(
        tmp_path / "report", [section], told=TOLD, failed={"robustness bank": 1}
    )
    shown = Page(page.read_text(encoding="utf-8"))
    words = " ".join(shown.words)
    assert all(link.startswith(("#", "data:")) for link in shown.links)
    assert {link[1:] for link in shown.links if link[0] == "#"} <= set(shown.ids)
    (image,) = shown.images
    assert image["alt"] == 'Lines: R2ET on top of "vanilla".'
    data = base64.b64decode(image["src"].partition("base64,")[2])
    with Image.open(io.BytesIO(data)) as drawn:
        size = drawn.size
    with Image.open(run_folder / "lines.png") as drawn:
        assert size == drawn.size
    for text in (
        "0.9 against 0.3, 5 seeds. Rule: by eye.",
        "Likely cause: <i> & nonlinear.",
        "r2et_mm_nh",
        "<b> is no tag.",
        "python -m experiments.robustness --datasets=adult,bank",
        "bank: not measured yet.",
        "robustness bank did not end well.",
        "Of 2 claims of the papers, each on one data set, 1 held, 1 did not, and 0",
        "Of 1 claims of ours, each on one data set, 0 held, 0 did not, and 1",
        "(our claim)",
        "seeds 0, 1",
    ):
        assert text in words
    assert [words.count(v) for v in ("did not hold", "cannot be told")] == [2, 4]
    text = summary.read_text(encoding="utf-8")
    assert "* adult: **did not hold**. 0.9 against 0.95. Rule: by eye. Likely" in text
    assert "\n**R2ET is cheap.** (our claim)\n" in text
    assert "\nadult: seeds 0, 1.\n" in text
    assert re.search(r"(?m)^## P@k under attack$", text)


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """Runs the binary with jobs that only write an exhibit."""
    started = []

    def run_jobs(planned, *, workers, show, ended):
        for job in planned:
            started.append(job.name)
            folder = job.log.parent
            folder.mkdir(parents=True, exist_ok=True)
            status = int(job.name in failing)
            if not status:
                exhibit.write(
                    folder, title="t", claims=[], figures={}, tables=[], typed=()
                )
            ended(job, status)

    failing = set()
    monkeypatch.setattr(reproduce.jobs, "run_jobs", run_jobs)
    told = {name: TOLD[name] for name in ("versions", "device", "git_revision")}
    monkeypatch.setattr(reproduce.output, "environment", lambda: told)

    def run(*arguments, fail=()):
        started.clear()
        failing.clear()
        failing.update(fail)
        values = reproduce.FLAGS.define()
        folder = f"--output_dir={tmp_path / 'out'}"
        values(["x", "--preset=smoke", folder, *arguments])
        reproduce.main(values)
        return list(started)

    return run


def made(kind, num_inputs=1, k=8, largest_k=1000):
    return reproduce.Data(kind, num_inputs, k, largest_k, "")


def test_models_are_trained_first_and_times_measured_last(planned, tmp_path):
    started = planned("--datasets=breast_cancer,digits")
    assert started[:2] == ["robustness breast_cancer", "robustness digits"]
    assert started[-1] == "cost breast_cancer"
    marker = tmp_path / "out" / "tradeoff" / "digits" / "done.json"
    command = json.loads(marker.read_text())["command"]
    assert f"--records={tmp_path / 'out' / 'robustness' / 'digits'}" in command
    # What is for tables alone leaves images out.
    assert "certify digits" not in started and "thickness digits" in started
    assert {name.split()[0] for name in started} == set(reproduce.PARTS)


def test_the_time_that_is_expected_follows_preset_and_kind(monkeypatch, tmp_path):
    expected = {}

    def run_jobs(asked, **options):
        expected.update({job.name: job.minutes for job in asked})

    monkeypatch.setattr(reproduce.jobs, "run_jobs", run_jobs)
    monkeypatch.setattr(reproduce, "write_page", lambda *_: [])
    for preset in ("smoke", "standard"):
        folders = f"--output_dir={tmp_path / preset}", "--parts=robustness,cost"
        cli.call(
            reproduce, f"--preset={preset}", "--datasets=breast_cancer,digits", *folders
        )
        if preset == "smoke":
            short = dict(expected)
    assert expected == {
        "robustness breast_cancer": 30, "robustness digits": 120,
        "cost breast_cancer": 8,
    }  # fmt: skip
    assert short == {name: pytest.approx(v / 10) for name, v in expected.items()}


def test_single_images_are_left_out_where_they_have_no_attack():
    data = {"cifar10": made("single"), "mnist": made("image")}
    names = ["constrained_attack", "motivation", "cost"]
    assert reproduce._cells(names, data, few=True) == [
        ("constrained_attack", "mnist"),
        ("motivation", "cifar10"), ("motivation", "mnist"),
        ("cost", "cifar10"), ("cost", "mnist"),
    ]  # fmt: skip


def test_hyperparameters_are_varied_on_the_smallest_table():
    data = {
        "adult": made("tabular", 4), "compas": made("tabular", 3),
        "hiv": made("graph", 2),
    }  # fmt: skip
    only = [("sensitivity", "compas")]
    assert reproduce._cells(["sensitivity"], data, few=True) == only
    graphs = {"hiv": made("graph")}
    assert reproduce._cells(["sensitivity"], graphs, few=True) == [
        ("sensitivity", "hiv")
    ]


def test_other_sizes_of_the_top_set_leave_a_feature_outside(planned, tmp_path):
    data = {"few": made("tabular", largest_k=1), "some": made("tabular")}
    assert reproduce._cells(["other_k"], data, few=True) == [("other_k", "some")]
    with pytest.raises(ValueError, match="too few features"):
        reproduce._cells(["other_k"], {"few": data["few"]}, few=True)
    part, planted = reproduce.PARTS["other_k"], made("graph", k=10, largest_k=434)
    assert reproduce._sizes(part, planted) == [30, 100]  # not its own once more
    results = tmp_path / "out" / "report" / "RESULTS.md"
    assert planned("--datasets=digits", "--parts=other_k", "--norun") == []
    page = results.read_text()
    # Another run of an experiment needs its flags, and a folder of its own.
    assert (
        "python -m experiments.robustness --datasets=digits --preset=smoke --k=10,30 "
        "--methods=vanilla,wd,sp,r2et_nh,r2et --reference_methods= "
        "--output_dir=results/other_k\n"
    ) in page
    assert "digits: not measured yet." in page
    assert planned("--datasets=digits", "--parts=other_k") == ["other_k digits"]
    marker = tmp_path / "out" / "other_k" / "digits" / "done.json"
    command = json.loads(marker.read_text())["command"]
    # Of 64 pixels.
    assert "experiments.robustness" in command and "--k=10,30" in command
    assert "## How much of smaller and larger top sets survives" in results.read_text()


def test_costs_are_measured_on_one_table_and_on_the_images_that_have_them():
    data = {
        "adult": made("tabular", 4), "compas": made("tabular", 3),
        "mnist": made("image", 1), "hiv": made("graph", 2),
    }  # fmt: skip
    cells = reproduce._cells(["cost", "certify"], data, few=True)
    assert cells == [
        ("certify", "adult"), ("certify", "compas"),
        ("cost", "compas"), ("cost", "mnist"),
    ]  # fmt: skip


def test_the_page_tells_the_flags_that_a_part_was_run_with(planned, tmp_path):
    arguments = "--datasets=breast_cancer,digits", "--parts=robustness"
    planned(*arguments)
    kept = tmp_path / "out" / "robustness" / "digits" / "exhibit.json"
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "given": ["--methods=vanilla,wd"]}))
    other = tmp_path / "out" / "robustness" / "breast_cancer" / "exhibit.json"
    other.write_text(json.dumps({**content, "given": []}))
    planned(*arguments, "--norun")
    text = (tmp_path / "out" / "report" / "RESULTS.md").read_text()
    assert (
        "python -m experiments.robustness --datasets=breast_cancer --preset=smoke\n"
        "python -m experiments.robustness --datasets=digits --preset=smoke "
        "--methods=vanilla,wd\n"
    ) in text


def test_what_is_done_is_not_done_again(planned, tmp_path):
    arguments = "--datasets=breast_cancer", "--parts=certify,convergence"
    with pytest.raises(SystemExit):
        planned(*arguments, fail={"certify breast_cancer"})
    assert planned(*arguments) == ["certify breast_cancer"]
    assert planned(*arguments) == []
    # Another seed is another command.
    both = ["certify breast_cancer", "convergence breast_cancer"]
    assert planned(*arguments, "--seeds=3") == both
    assert planned(*arguments, "--norun") == []
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "experiments.certify" in page and "experiments.thickness" not in page
    marker = tmp_path / "out" / "certify" / "breast_cancer" / "done.json"
    told = json.loads(marker.read_text())
    assert "--seeds=3" in told["command"]
    assert told["data_sha256"] == fingerprint(datasets.load("breast_cancer"))
    # So is other data, and what no longer can be read.
    for text in (json.dumps(told | {"data_sha256": "0" * 64}), "[]", "{", ""):
        marker.write_text(text)
        assert planned(*arguments, "--seeds=3") == ["certify breast_cancer"]
    assert planned(*arguments, "--seeds=3") == []
    exhibit = marker.with_name("exhibit.json")
    for text in ("[]", '{"title": 3}', "{", "[" * 100_000):
        exhibit.write_text(text)
        with pytest.raises(ValueError, match="exhibit.json is not an exhibit"):
            planned(*arguments, "--seeds=3", "--norun")


def test_one_run_at_a_time(planned, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr(reproduce.locks, "hold", held.append)
    planned("--datasets=breast_cancer", "--parts=certify")
    assert held == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--parts=robustnes", "robustnes"),
        ("--workers=0", "workers"),
        ("--workers=1000000000", "workers must be an integer of at most 1024"),
        ("--methods=wd", "--methods"),
        ("--datasets=digits", "certify"),
    ],
)
def test_mistakes_are_told_before_any_work(planned, argument, message):
    with pytest.raises(ValueError, match=message):
        planned("--parts=certify", argument)


def test_every_part_is_an_experiment_that_says_what_it_is():
    for part in reproduce.PARTS:
        assert len(reproduce._about(reproduce._module(part))) > 40


def test_what_few_data_sets_have_is_shown_where_it_was_measured(planned, tmp_path):
    arguments = "--datasets=breast_cancer,digits", "--parts=sensitivity", "--norun"
    results = tmp_path / "out" / "report" / "RESULTS.md"
    planned(*arguments)
    text = results.read_text()
    assert "breast_cancer: not measured yet." in text and "digits" not in text
    folder = tmp_path / "out" / "sensitivity" / "digits"
    folder.mkdir(parents=True)
    exhibit.write(folder, title="t", claims=[], figures={}, tables=[], typed=())
    planned(*arguments)
    text = results.read_text()
    assert "--datasets=digits" in text and "breast_cancer" not in text
