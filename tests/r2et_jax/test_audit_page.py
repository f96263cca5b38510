"""The page and the files of an audit: the numbers are the audit's, nothing else."""

import csv
import dataclasses
import html
import json
import re
import types
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2et_jax import models, threat
from r2et_jax.audit import asked, audit, drawing, images, words, writing
from r2et_jax.audit.page import page
from r2et_jax.audit.results import results

# Optax's schedules mix dtypes.
pytestmark = pytest.mark.standard_promotion

NAMES = ("age", "<script>alert(1)</script>", "hours & more", '"gain"', "$x_1$", "f")
EPSILONS = (0.1, 0.3)


@pytest.fixture(scope="module")
def examined():
    model = models.MLP(hidden=(6,))
    x = np.asarray(jax.random.normal(jax.random.key(0), (12, 6)))
    return model, model.init(jax.random.key(1), x[0]), x


def ask(examined, **options):
    budget = threat.threat_model("l2", 0.6)
    model, params, x = examined
    options = {"k": 3, "threat": budget, "evaluations": 1000, "names": NAMES, **options}
    return audit(model, params, x, epsilons=EPSILONS, **options)


@pytest.fixture(scope="module")
def report(examined):
    return ask(examined, classes=("<b>no</b>", "yes"))


class _Page(HTMLParser):
    """Tables as lists of rows, and the addresses and scripts that a page has."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.tags, self.text = [], [], [], ""
        self.cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for name, v in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.cell.replace("\xa0", " "))
            self.cell = None

    def handle_data(self, data):
        self.text += data
        if self.cell is not None:
            self.cell += data


def test_the_numbers_of_the_page_are_those_of_the_audit(report):
    parsed = _Page(page(report))
    curve, features, guards = parsed.tables
    assert len(curve) == 4
    for line, values, same, proved in zip(
        curve[1:],
        report.curve,
        report.curve_same_class,
        report.certified.precision,
        strict=True,
    ):
        assert line[1] == f"{values.mean():.3f}"
        assert line[2] == f"{values.std(ddof=1) / np.sqrt(12):.3f}"
        assert line[3] == f"{same.mean():.3f}"
        assert line[4] == words.percent((values < 1).mean())
        assert line[5] == f"{proved.mean():.3f}"
    assert [float(line[0]) for line in curve[1:]] == pytest.approx([0.1, 0.3, 0.6])
    counts = {
        name: np.sum(report.top_k == i) / 12
        for i, name in enumerate(NAMES)
        if (report.top_k == i).any()
    }
    told = {line[0]: line[1] for line in features[1:]}
    assert told == {name: words.percent(share) for name, share in counts.items()}
    i = int(report.top_k[0, 0])
    (line,) = [line for line in features if line[0] == NAMES[i]]
    lost = 1 - report.kept[report.top_k == i].mean()
    assert line[2] == words.percent(lost)
    values = {line[0]: line[1] for line in guards[1:]}
    assert values["overlap of different inputs"] == f"{report.same:.3f}"
    assert values["P@3⁺"] == f"{float(report.corrected.mean):.3f}"
    quality = report.quality
    assert values["thickness"] == f"{quality.thickness.mean():.3f}"
    for name, field in (
        ("COMP, comprehensiveness", "comprehensiveness"),
        ("SUFF, sufficiency", "sufficiency"),
        ("DFFOT, decision flip", "dffot"),
    ):
        ours, random = (
            getattr(values, field).mean()
            for values in (quality.faithfulness, quality.random)
        )
        assert values[name] == f"{ours:.3f} (random {random:.3f})"
    low = np.flatnonzero(report.precision == report.precision.min())
    worst = low[np.argmin(report.radius[low])]
    least = f"P@3 = {report.precision[worst]:.3f}"
    heads = re.findall(r"<h3>([^<]*)</h3>", page(report))
    assert heads[0].startswith(f"Input {worst}, ") and heads[0].endswith(least)
    assert f"{100 * report.precision.mean():.1f} %" in words.verdict(report)[0]


def test_what_the_user_names_is_text_and_nothing_is_fetched(report):
    text = page(report, title="</title><script>1</script>")
    parsed = _Page(text)
    assert "script" not in parsed.tags and "b" not in parsed.tags
    assert "<script>alert(1)</script>" in parsed.text  # as text
    assert parsed.addresses == []
    assert "http" not in text and "url(" not in text and "@import" not in text
    outside = report._repr_html_()
    assert outside.startswith("<iframe") and "<script" not in outside
    order = [
        "What was asked", "The verdict", "How much stays", "The features",
        "The inputs", "Guards", "Assumptions and limits", "How to repeat",
    ]  # fmt: skip
    heads = re.findall(r"<h2>([^<]*)", text)
    assert all(head.startswith(part) for head, part in zip(heads, order, strict=True))


def test_a_folder_holds_the_same_bytes_twice(report, examined, tmp_path):
    again = ask(examined, classes=("<b>no</b>", "yes"))
    folders = [tmp_path / "a", tmp_path / "b"]
    files = [
        audited.save(at) for audited, at in zip((report, again), folders, strict=True)
    ]
    names = [[path.name for path in written] for written in files]
    assert names[0] == names[1] and len(names[0]) == 5
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    other = ask(examined, classes=("<b>no</b>", "yes"), key=jax.random.key(7))
    assert page(other) != page(report)


def test_json_and_csv_hold_the_audit(report, tmp_path):
    report.save(tmp_path, figures=False)
    told = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert told == results(report)
    assert [row["precision"] for row in told["curve"]] == pytest.approx(
        report.curve.mean(axis=1).tolist()
    )
    with (tmp_path / "features.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 6
    assert [row["feature"] for row in rows[:6]] == list(NAMES)

    def column(name):
        return np.array([float(row[name] or "nan") for row in rows]).reshape(12, 6)

    np.testing.assert_allclose(column("value"), report.x, rtol=1e-6)
    np.testing.assert_allclose(column("before"), report.maps, rtol=1e-6)
    np.testing.assert_allclose(column("after"), report.perturbed_maps, rtol=1e-6)
    assert (column("in_top").sum(axis=1) == 3).all()
    np.testing.assert_allclose(column("stays").sum(axis=1) / 3, report.precision)
    least = np.nanmin(np.where(column("leaves_at") > 0, column("leaves_at"), np.inf), 1)
    np.testing.assert_allclose(least, report.radius, rtol=1e-6)


def test_no_name_is_a_formula_of_a_spreadsheet(report, tmp_path):
    names = ("=1+1", "@x", "+a", "-b", "a=b", NAMES[-1])
    asked = report.asked._replace(names=names)
    dataclasses.replace(report, asked=asked).save(tmp_path, figures=False)
    with (tmp_path / "features.csv").open(encoding="utf-8", newline="") as file:
        features = [row["feature"] for row in csv.DictReader(file)][:6]
    assert features == ["'=1+1", "'@x", "'+a", "'-b", "a=b", NAMES[-1]]


def test_pictures_that_are_not_drawn_are_said(report, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "can_draw", lambda: False)
    with pytest.warns(UserWarning, match="no PNGs are drawn: Matplotlib"):
        assert len(report.save(tmp_path)) == 3
    with pytest.raises(ValueError, match="figures=True needs Matplotlib"):
        report.save(tmp_path, figures=True)


@pytest.mark.parametrize(
    "key", [jax.random.key(5), jax.random.key(5, impl="rbg"),
            jax.random.fold_in(jax.random.key(5), 1)],
    ids=["usual", "rbg", "folded"],
)  # fmt: skip
def test_the_key_that_is_told_is_the_key(report, key):
    told = {"key": asked.key_words(key), "key_impl": str(jax.random.key_impl(key))}
    again = dataclasses.replace(report, asked=report.asked._replace(**told))
    (code,) = re.findall(r"key=(jax\..*),", html.unescape(page(again)))
    made = eval(code, {"jax": jax})
    assert made == key and made.dtype == key.dtype


def test_200_inputs_of_30_features_are_less_than_a_megabyte():
    def apply(w, x):
        return (w @ x**2)[None]

    x = np.asarray(jax.random.normal(jax.random.key(0), (200, 30)))
    budget = threat.threat_model("l2", 0.3)
    report = audit(apply, jnp.ones(30), x, k=8, threat=budget, evaluations=1000)
    assert len(page(report).encode("utf-8")) < 2**20


def test_an_image_is_overlaid(tmp_path):
    def apply(w, x):
        return (jnp.sum(w * x**2))[None]

    x = np.asarray(jax.random.normal(jax.random.key(0), (3, 8, 8, 3)))
    weights = jnp.linspace(0.5, 1.5, 192).reshape(8, 8, 3)
    report = audit(apply, weights, x, k=5, evaluations=1000)
    parsed = _Page(page(report))
    assert len(parsed.addresses) == 4 * 3
    assert all(
        address.startswith("data:image/png;base64,") for address in parsed.addresses
    )
    assert [path.name for path in report.save(tmp_path)][3:] == [
        "curve.png",
        "worst.png",
    ]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [False, True])
def test_an_image_of_any_channels_can_be_drawn(channels, first):
    """Grey but for three of them, whichever axis they are on."""
    image = np.random.default_rng(0).uniform(size=(7, 9, channels))
    shape, row = image.shape, image.ravel()
    if first:
        shape, row = (channels, 7, 9), np.moveaxis(image, 2, 0).ravel()
    shapes = types.SimpleNamespace(shape=shape, explained_shape=(7, 9))
    drawn = images.image_of(types.SimpleNamespace(asked=shapes), row)
    expected = image if channels == 3 else image.mean(axis=2)
    np.testing.assert_allclose(drawn, expected)


def test_marked_pixels_have_their_colour():
    image = np.arange(16.0).reshape(4, 4)
    mask = image == 5
    drawn = drawing.overlaid(image, [(mask, "#0072b2")])
    assert drawn.shape == (192, 192, 3)
    marked, plain = drawn[48 + 24, 48 + 24], drawn[24, 24]
    assert marked[2] > marked[1] > marked[0] and len(set(plain.tolist())) == 1


def test_a_picture_is_a_png_of_its_pixels(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    import base64

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(base64.b64decode(drawing.png(pixels).partition(",")[2]))
    read = matplotlib.imread(path)
    np.testing.assert_array_equal(np.rint(read[..., :3] * 255), pixels)


def test_a_model_without_any_ranking_has_a_page(tmp_path):
    x = np.ones((2, 4), np.float32)
    report = audit(lambda w, x: 0 * w[:1], jnp.ones(4), x, k=2, evaluations=1000)
    report.save(tmp_path, figures=False)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "nothing can be said" in text and not report.check(0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.check(1.5), r"min_precision must lie in \[0, 1\], got 1.5"),
        (lambda r, p: r.check("high"), "got 'high'"),
        (lambda r, p: r.check(at=0.2), "measured at ε = 0.1, 0.3, 0.6, got 0.2"),
        (lambda r, p: r.check(prediction="none"), "prediction rule 'none'"),
        (lambda r, p: r.save(p / "file"), "folder must be a folder"),
        (lambda r, p: r.save(p, title=3), "title must be a text, got 3"),
    ],
)
def test_what_it_does_not_take_is_named(report, tmp_path, call, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=message):
        call(report, tmp_path)


@pytest.mark.parametrize("epsilons", [[0.5], [0.1, 0.5]])
def test_a_line_joins_what_was_attacked_and_dots_what_was_passed(epsilons):
    nan = [np.nan] * len(epsilons)
    way = [(0.25, 0.8), (0.5, 0.5)]
    drawn = drawing.curve(
        epsilons, [0.5] * len(epsilons), nan, nan, way=way, label="P@4"
    )
    assert drawn.count("<polyline") == 1 and drawn.count("<circle") == len(epsilons)
    points = re.search('polyline points="([^"]*)"', drawn)[1].split()
    assert len(points) == (4 if len(epsilons) == 1 else 3)
    assert ("dasharray" in drawn) == (len(epsilons) == 1)
