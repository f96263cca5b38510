"""The page of a whole reproduction, and its summary in Markdown."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report.exhibit import Claim, Exhibit
from experiments.store.output import write_text_atomic

_VERDICTS = {True: "held", False: "did not hold", None: "cannot be told"}
# Behind claims that are not the papers'.
_OURS = "(our claim)"
_CLASSES = {True: "held", False: "failed", None: "open"}
# Colours of an embedded figure: enough for lines and text, a third of the size.
_COLORS = 32
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #fff;
  max-width: 68rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; } h2 { margin-top: 3rem;
  border-top: 1px solid #ccd3dd; padding-top: 1.2rem; }
h3 { margin-bottom: .4rem; }
a { color: #0b57a4; }
code, pre { font: .88em ui-monospace, monospace; background: #f2f4f8; }
pre { padding: .6rem; white-space: pre-wrap; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #48566a; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #dde2ea; text-align: left;
  vertical-align: top; }
.numbers td, .numbers th { white-space: nowrap; overflow-wrap: normal;
  text-align: right; }
.numbers .text { text-align: left; }
.verdict { display: inline-block; padding: 0 .5rem; border-radius: .6rem;
  white-space: nowrap; font-size: .85rem; font-weight: 600; }
.held { background: #d7f0dc; color: #14532d; }
.failed { background: #fbdcd9; color: #7f1d1d; }
.open { background: #e8eaee; color: #374151; }
.claim { border-left: .25rem solid #ccd3dd; padding-left: .8rem; margin: 1rem 0; }
.claim p { margin: .2rem 0; }
summary { cursor: pointer; color: #0b57a4; }
.verdicts th { padding-top: .8rem; }
@media (max-width: 40rem) {
  .verdicts thead { display: none; }
  .verdicts td { display: block; border: 0; }
}
"""


class Section(NamedTuple):
    """What one experiment shows.

    Attributes:
      name: of the part.
      about: a sentence or two on what it measures.
      command: that makes it alone.
      exhibits: data set -> the folder of its run and what it shows, None if nothing.
      heading: by its content; "" for that of the first exhibit.
    """

    name: str
    about: str
    command: str
    exhibits: Mapping[str, tuple[Path, Exhibit | None]]
    heading: str = ""

    @property
    def title(self) -> str:
        """By its content, as the first exhibit has it if it is not given."""
        if self.heading:
            return self.heading
        titles = [shown for _, shown in self.exhibits.values() if shown is not None]
        return titles[0].title if titles else self.name.replace("_", " ")

    @property
    def claims(self) -> Iterator[tuple[str, Claim]]:
        """Every claim with its data set."""
        for name, (_, shown) in self.exhibits.items():
            for claim in shown.claims if shown is not None else ():
                yield name, claim


def write(
    folder: Path,
    sections: Sequence[Section],
    *,
    told: Mapping[str, Any],
    failed: Mapping[str, int],
) -> list[Path]:
    """Write index.html, which needs no other file, and RESULTS.md.

    Args:
      folder: where to, made if it is not there.
      sections: in order.
      told: of the run: preset, versions, device, git_revision.
      failed: jobs that did not end well, by name, and their exit statuses.

    Returns:
      Both paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, summary = folder / "index.html", folder / "RESULTS.md"
    write_text_atomic(page, "\n".join(_page(sections, told, failed)) + "\n")
    write_text_atomic(summary, "\n".join(_summary(sections, told)) + "\n")
    return [page, summary]


def _page(sections, told, failed) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<link rel="icon" href="data:,"><title>r2et_jax: the papers, again</title>'
    yield f"<style>{_STYLE}</style></head><body><main>"
    yield "<h1>Can I trust the top features that this model shows me?</h1>"
    yield (
        "<p>Every experiment on robust top-<i>k</i> explanations by R2ET, run again: "
        "what the papers claim in our words, what was measured here, and whether the "
        f"claim held. {html.escape(_of_run(told))}</p>"
    )
    yield f"<p>{html.escape(_count(sections))}</p>"
    for name in failed:
        yield f"<p><strong>{html.escape(name)} did not end well.</strong></p>"
    yield '<table class="verdicts"><thead><tr><th>claim</th><th>verdicts</th></tr>'
    yield "</thead><tbody>"
    for section in sections:
        if section.exhibits:
            title = html.escape(section.title)
            yield f'<tr><th colspan="2"><a href="#{section.name}">{title}</a></th></tr>'
        for said, verdicts in _by_claim(section).items():
            badges = " ".join(_badge(claim, name) for name, claim in verdicts)
            whose = f" {_OURS}" if verdicts[0][1].ours else ""
            yield (
                f'<tr><td><a href="#{section.name}">{html.escape(said)}</a>{whose}</td>'
                f"<td>{badges}</td></tr>"
            )
    yield "</tbody></table>"
    for section in sections:
        yield from _section(section)
    yield "</main></body></html>"


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2>'
    yield f"<p>{html.escape(section.about)}</p>"
    yield f"<pre>{html.escape(section.command)}</pre>"
    for said, verdicts in _by_claim(section).items():
        whose = f" {_OURS}" if verdicts[0][1].ours else ""
        yield f'<div class="claim"><p><strong>{html.escape(said)}</strong>{whose}</p>'
        for name, claim in verdicts:
            text = _told(name, claim)
            yield f"<p>{_badge(claim)} <em>{html.escape(name)}</em>: "
            yield f"{html.escape(text)}</p>"
        yield "</div>"
    for name, (folder, shown) in section.exhibits.items():
        if shown is None:
            yield f"<p>{html.escape(name)}: not measured yet.</p>"
            continue
        yield f"<h3>{html.escape(name)}</h3>"
        if shown.settings:
            yield f"<p>{html.escape(shown.settings)}</p>"
        for file, text in shown.figures.items():
            yield from _figure(folder / file, text)
        for number, file in enumerate(shown.tables):
            source = (folder / file).read_text(encoding="utf-8")
            label = "Table" if number == 0 else f"Table: {Path(file).stem}"
            yield f"<details><summary>{html.escape(label)}</summary>"
            yield f'<div class="wide numbers">{_rendered(source)}</div></details>'
    yield "</section>"


def _figure(path: Path, text: str) -> Iterator[str]:
    # Imported where they are needed: matplotlib brings Pillow along.
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        width, height = image.size
        small = image.convert("RGB").quantize(_COLORS)
        small.save(buffer, format="png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(text)
    yield (
        f'<figure><img alt="{text}" width="{width}" height="{height}" '
        f'loading="lazy" src="data:image/png;base64,{data}">'
    )
    yield f"<figcaption>{text}</figcaption></figure>"


def _rendered(source: str) -> str:
    """A Markdown table of ours as HTML; its text is shown as it is."""
    import markdown

    page = markdown.markdown(html.escape(source, quote=False), extensions=["tables"])
    # Most cells are numbers: they go without an attribute, and texts are named.
    aligned = ' style="text-align: right;"'
    return re.sub(
        f"<(t[dh])({aligned})?>",
        lambda cell: f"<{cell[1]}>" if cell[2] else f'<{cell[1]} class="text">',
        page,
    )


def _badge(claim: Claim, name: str = "") -> str:
    text = f"{name}: {_VERDICTS[claim.held]}" if name else _VERDICTS[claim.held]
    style = _CLASSES[claim.held]
    return f'<span class="verdict {style}">{html.escape(text)}</span>'


def _by_claim(section: Section) -> dict[str, list[tuple[str, Claim]]]:
    by_claim: dict[str, list[tuple[str, Claim]]] = {}
    for name, claim in section.claims:
        by_claim.setdefault(claim.said, []).append((name, claim))
    return by_claim


def _told(name: str, claim: Claim) -> str:
    """What was measured and the likely cause; the data set stands before it already."""
    cause = f" Likely cause: {claim.cause}" if claim.cause else ""
    return f"{claim.told(name)}{cause}"


def _count(sections: Iterable[Section]) -> str:
    claims = [claim for section in sections for _, claim in section.claims]
    texts = []
    for name, ours in (("claims of the papers", False), ("claims of ours", True)):
        held = [claim.held for claim in claims if claim.ours is ours]
        counts = {verdict: held.count(verdict) for verdict in _VERDICTS}
        texts.append(
            f"Of {len(held)} {name}, each on one data set, {counts[True]} held, "
            f"{counts[False]} did not, and {counts[None]} cannot be told from this run."
        )
    return " ".join(texts)


def _of_run(told: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in told["versions"].items() if version
    )
    revision = told.get("git_revision") or "unknown"
    return (
        f"Preset {told['preset']}, device {told['device']}, {versions}, "
        f"page written by revision {revision[:12]}."
    )


def _summary(sections, told) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield (
        "The claims of the papers, and ours, on each data set, beside what was "
        "measured. " + _of_run(told)
    )
    yield ""
    yield _count(sections)
    for section in sections:
        yield ""
        yield f"## {section.title}"
        yield ""
        yield section.about
        yield ""
        yield f"```\n{section.command}\n```"
        for said, verdicts in _by_claim(section).items():
            yield ""
            yield f"**{said}**" + (f" {_OURS}" if verdicts[0][1].ours else "")
            yield ""
            for name, claim in verdicts:
                text = _told(name, claim)
                yield f"* {name}: **{_VERDICTS[claim.held]}**. {text}"
        for name, (_, shown) in section.exhibits.items():
            if shown is None or shown.settings:
                yield ""
                yield f"{name}: not measured yet." if shown is None else shown.settings
