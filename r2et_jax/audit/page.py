"""An audit as one page of HTML that needs nothing else, and explains itself."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from r2et_jax.audit import drawing, graphs, images, words
from r2et_jax.audit.results import after_top, before_top, results
from r2et_jax.audit.style import STYLE

if TYPE_CHECKING:
    from r2et_jax.audit.asked import Asked
    from r2et_jax.audit.result import Audit

# Inputs that are drawn, features in their table, and bars of one input.
_WORST, _FEATURES, _BARS = 10, 40, 24
# Pixels have no names, and are seen in their places.
_PIXELS = 10
# The generator of random numbers of a key that names none.
_GENERATOR = "threefry2x32"


def page(audit: Audit, *, title: str = "Audit of explanations") -> str:
    """The page, the same bytes for the same audit.

    Args:
      audit: what is told.
      title: headline.

    Returns:
      A document of HTML without any address outside of itself.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n<h1>{_text(title)}</h1>\n{body(audit)}\n</main></body></html>\n"
    )


def notebook(audit: Audit) -> str:
    """The page inside of a notebook: its style reaches nothing else there."""
    return (
        f'<iframe srcdoc="{_text(page(audit))}" sandbox="" '
        'style="width:100%;height:640px;border:1px solid #ddd"></iframe>'
    )


def body(audit: Audit) -> str:
    """The parts of the page in their order."""
    told = results(audit)
    return "\n".join(
        [
            _section("What was asked", _asked(audit)),
            _section("The verdict", _verdict(told)),
            _section(
                "How much stays on top, against the size of a change",
                _curve(audit, told),
            ),
            _section("The features", _features(audit, told)),
            _section("The inputs, the worst first", _inputs(audit, told)),
            _section("Guards", _guards(told)),
            _section("Assumptions and limits", _list(told["limits"])),
            _section("How to repeat this", _repeat(audit)),
        ]
    )


def _text(value: Any) -> str:
    return (
        html.escape(str(value))
        .replace(" %", "\u00a0%")
        .replace("ε = ", "ε\u00a0=\u00a0")
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n{content}\n</section>"


def _paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{_text(text)}</p>"


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in items)}</ul>"


def _table(heads: list[str], rows: Iterable[tuple[str, list[str]]], texts=()) -> str:
    """A table; `texts` are the columns of running text, which a phone has below."""

    def cells(tag, values):
        return "".join(
            f"<{tag}{' class=text' if i in texts else ''}>{value}</{tag}>"
            for i, value in enumerate(values)
        )

    lines = "".join(
        f"<tr{f' class={kind}' if kind else ''}>{cells('td', values)}</tr>"
        for kind, values in rows
    )
    return (
        f'<div class="scroll"><table{" class=told" * bool(texts)}><thead><tr>'
        f"{cells('th', heads)}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _asked(audit: Audit) -> str:
    k = audit.asked.k
    return _paragraph(words.question(audit)) + _paragraph(
        f"The answer is P@{k} (“precision at {k}”): the share of an input's top {k} "
        f"features that are still among its top {k} after the worst change that was "
        "found. 1 means that all of them stay, whatever the adversary does; 0 means "
        "that none is left, although the input looks nearly the same and often gets "
        "the same prediction.",
        "note",
    )


def _verdict(told: dict[str, Any]) -> str:
    sentences = "".join(_paragraph(sentence) for sentence in told["verdict"])
    return f'<div class="verdict">{sentences}</div>'


def _number(value: float | None) -> str:
    return words.number(np.nan if value is None else value)


def _percent(value: float | None) -> str:
    return words.percent(np.nan if value is None else value)


def _short(value: float | None, nothing: str = "–") -> str:
    return nothing if value is None else f"{value:.3g}"


def _curve(audit: Audit, told: dict[str, Any]) -> str:
    k, rows = audit.asked.k, told["curve"]

    def column(name):
        return [np.nan if row[name] is None else row[name] for row in rows]

    drawn = drawing.curve(
        column("epsilon"),
        column("precision"),
        column("stderr"),
        column("certified"),
        way=[tuple(point.values()) for point in told["on_the_way"]],
        label=f"P@{k}",
    )
    proved = not told["not_certified"]
    by_class = audit.asked.output != "regression"
    heads = ["ε", f"P@{k} under attack", "± standard error"]
    heads += ["with the class kept"] * by_class + ["inputs that lose a top feature"]
    heads += ["provably stays"] * proved
    lines = []
    for row in rows:
        line = [f"{row['epsilon']:g}", _number(row["precision"])]
        line.append(_number(row["stderr"]))
        line += [_number(row["same_class"])] * by_class + [
            _text(_percent(row["reordered"]))
        ]
        line += [_number(row["certified"])] * proved
        lines.append(("", line))
    grey = (
        "Blue is what the attack left, green (dashed) what no attack can go below; the "
        "truth lies in the grey band between."
        if proved
        else "Blue is what the attack left: an upper bound. No lower bound is given, "
        "see the limits below."
    )
    if len(rows) == 1:
        few = ", ".join(f"{share * audit.asked.epsilon:g}" for share in (0.25, 0.5))
        grey += (
            " The attack was asked at one budget, the dot. The dotted line is what was "
            "seen of smaller changes on the way there: at most so much stays. "
            f"epsilons=({few}) attacks at these too, each as long as this one."
        )
    return drawn + _paragraph(grey, "note") + _table(heads, lines)


def _features(audit: Audit, told: dict[str, Any]) -> str:
    k = audit.asked.k
    pixels = graphs.graph_of(audit) is None and images.image_shape(audit) is not None
    most = _PIXELS if pixels else _FEATURES
    shown = [feature for feature in told["features"] if feature["in_top"]][:most]
    if not shown:
        return _paragraph("No feature is in a top set.")
    lines = [
        (
            "",
            [
                _name(feature["name"]),
                _text(_percent(feature["in_top"])),
                _text(_percent(feature["leaves"])),
                _short(feature["distance"], "not found"),
                _text(_percent(feature["saliency"])),
            ],
        )
        for feature in shown
    ]
    more = sum(bool(feature["in_top"]) for feature in told["features"]) - len(shown)
    note = (
        f"Of the inputs in which a feature is among the top {k}: in how many the "
        f"attack took it out at ε = {audit.asked.epsilon:g}, and the change that was "
        "enough in the middle one of them (“not found”: in most of them none was)."
    )
    if more > 0:
        note += f" {more} more feature{'s are' if more > 1 else ' is'} in features.csv."
    heads = [
        "feature",
        f"in the top {k} of",
        "taken out in",
        "by a change of",
        "mean weight",
    ]
    return _table(heads, lines) + _paragraph(note, "note")


def _inputs(audit: Audit, told: dict[str, Any]) -> str:
    order = words.worst_first(audit)[:_WORST]
    if not len(order):
        return _paragraph("No input has a ranking.")
    k, counted = audit.asked.k, int(audit.counted.sum())
    graph = graphs.graph_of(audit)
    as_images = graph is None and images.image_shape(audit) is not None
    key = (
        f"The {len(order)} of {counted} inputs that keep the least of their top {k}. "
        "Input 0 is the first one. "
    )
    key += (
        "Marked pixels are the top ones: blue stays, orange leaves, green enters."
        if as_images
        else "Top edges are coloured, the thicker the more weight: blue stays, orange "
        "(dashed) leaves, green (dash-dotted) enters; grey are the others. Filled bars "
        "are the edges' weights before the change, hollow bars after it."
        if graph is not None
        else "Filled bars are the features' weights before the change, hollow bars "
        "after it: blue stays on top, orange leaves, green enters. Below a name: the "
        "smallest change found at which it is no longer on top"
        + (
            ", and the one up to which it provably is."
            if audit.certified.radii is not None
            else "."
        )
    )
    cards = "".join(_card(audit, told["inputs"][i], as_images, graph) for i in order)
    return _paragraph(key, "note") + f'<div class="inputs">{cards}</div>'


def _card(
    audit: Audit, shown: dict[str, Any], as_images: bool, graph: graphs.Graph | None
) -> str:
    k, i = audit.asked.k, shown["input"]
    first = _short(shown["radius"], "none found")
    proved, stays = shown["certified"], shown["certified_radius"]
    head = f"Input {i}, {shown['predicted']}: P@{k} = {_number(shown['precision'])}"
    note = f"first change of the top {k} at a distance of {first}"
    if stays is not None:
        note += f", provably none up to {words.floored(stays)}"
    if proved is not None:
        note += f"; {_percent(proved)} of it provably stays at "
        note += f"ε = {audit.asked.epsilon:g}"
    drawn = _images(audit, i) if as_images else _bars(shown)
    if graph is not None:
        drawn = graphs.pair(audit, graph, i) + drawn
    return (
        f'<div class="card"><h3>{_text(head)}</h3>{_paragraph(note, "note")}'
        f"{drawn}</div>"
    )


def _bars(shown: dict[str, Any]) -> str:
    lines = [
        ("stays" if top["stays"] else "leaves", top)
        for top in shown["top"]
        if top["before"]
    ]
    lines += [("enters", entered) for entered in shown["entered"]]
    # What moves is shown first where there is no room for all.
    if len(lines) > _BARS:
        order = sorted(range(len(lines)), key=lambda i: (lines[i][0] == "stays", i))
        shown = sorted(order[:_BARS])
        more = f"{len(lines) - _BARS} more are in features.csv."
        lines = [lines[i] for i in shown]
    else:
        more = ""
    values = [v or 0.0 for _, line in lines for v in (line["before"], line["after"])]
    most = max([*values, np.finfo(float).tiny])
    signs = {"stays": "", "leaves": "−\u00a0", "enters": "+\u00a0"}

    def bar(kind, line):
        before, after = (100 * (line[when] or 0) / most for when in ("before", "after"))
        return (
            f'<div class="bar {kind}"><span>{signs[kind]}{_name(line["name"])}'
            f"{_reach(line)}</span>"
            f'<div><i style="width:{before:.1f}%"></i><i style="width:{after:.1f}%">'
            "</i></div></div>"
        )

    bars = "".join(bar(kind, line) for kind, line in lines)
    return bars + (_paragraph(more, "note") if more else "")


def _reach(line: dict[str, Any]) -> str:
    """Where a top feature leaves, and up to where it provably stays."""
    said = []
    if line.get("leaves_at") is not None:
        said.append(f"leaves at {_short(line['leaves_at'])}")
    if line.get("proved_up_to"):
        said.append(f"stays up to {words.floored(line['proved_up_to'])}")
    lines = (_text(text).replace(" ", "\u00a0") for text in said)
    return f"<small>{'; '.join(lines)}</small>" if said else ""


def _name(name: str) -> str:
    """A feature's name, which may be broken after its underscores."""
    return _text(name).replace("_", "_<wbr>")


def _images(audit: Audit, i: int) -> str:
    explained = audit.asked.explained_shape
    before, after = (
        top(audit, i).reshape(explained) for top in (before_top, after_top)
    )
    pictures = []
    for row, top, moved, colour, name in (
        (audit.x[i], before, before & ~after, drawing.ORANGE, "before"),
        (audit.perturbed[i], after, after & ~before, drawing.GREEN, "after"),
    ):
        image = images.image_of(audit, row)
        marks = [(top & ~moved, drawing.BLUE), (moved, colour)]
        for overlay, what in ((marks, f"{name} the change"), ([], f"{name}, unmarked")):
            address = drawing.png(drawing.overlaid(image, overlay))
            pictures.append(
                f'<figure><img src="{address}" alt="{what}">'
                f"<figcaption>{what}</figcaption></figure>"
            )
    return f'<div class="images">{"".join(pictures)}</div>'


def _guards(told: dict[str, Any]) -> str:
    lines = [
        (
            "warns" if guard["warns"] else "",
            [
                _text(guard["name"]),
                _text(guard["value"]),
                ("⚠ " if guard["warns"] else "") + _text(guard["meaning"]),
            ],
        )
        for guard in told["guards"]
    ]
    note = "What shows that a ranking was had too cheaply, or is none; ⚠ is a warning."
    return _paragraph(note, "note") + _table(["", "value", "meaning"], lines, {2})


def _repeat(audit: Audit) -> str:
    asked = audit.asked
    epsilons = ", ".join(repr(float(epsilon)) for epsilon in audit.epsilons)
    more = "" if asked.certify == "auto" else f" certify={asked.certify},"
    if isinstance(asked.shape, tuple) and len(asked.shape) > 1:
        more += f" channel_axis={asked.channel_axis},"
    rules = "  # and its other rules, see above" if asked.rules else ""
    code = "\n".join(
        [
            "import jax, r2et_jax as r2",
            f"threat = r2.threat_model({asked.norm!r}, {asked.epsilon!r}){rules}",
            "report = r2.audit(",
            f"    subject, x, k={asked.k}, threat=threat, epsilons=({epsilons},),",
            f"    evaluations={asked.evaluations}, key={_key(asked)},{more}",
            ")",
            'report.save("audit")',
        ]
    )
    note = (
        "With the same subject (model and parameters), inputs, versions and kind of "
        "processor it gives the same bytes. results.json holds every number of this "
        "page, features.csv one line for each input and feature."
    )
    return f"<pre>{_text(code)}</pre>{_paragraph(note, 'note')}"


def _key(asked: Asked) -> str:
    usual = asked.key_impl == _GENERATOR
    if usual and not asked.key[0]:
        return f"jax.random.key({asked.key[1]})"
    impl = "" if usual else f", impl={asked.key_impl!r}"
    return (
        f"jax.random.wrap_key_data(jax.numpy.array({list(asked.key)}, "
        f"dtype=jax.numpy.uint32){impl})"
    )
