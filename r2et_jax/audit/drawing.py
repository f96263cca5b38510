"""Pictures inside of a page: lines as SVG, images as PNG, the same bytes each time."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence

import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
# Of the plane that lines are drawn on, in pixels of the page.
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 24, 14, 50
# Pixels that an image is at least drawn with, by repeating its own.
_LEAST = 192


def curve(
    epsilons: Sequence[float],
    attacked: Sequence[float],
    stderr: Sequence[float],
    proved: Sequence[float],
    *,
    way: Sequence[tuple[float, float]],
    label: str,
) -> str:
    """P@k against ε as SVG: what attacks left, what is proved, the unknown between.

    Args:
      epsilons: rising budgets.
      attacked: mean P@k under attack.
      stderr: its standard errors; NaN where unknown.
      proved: mean certified P@k; NaN where nothing is.
      way: pairs of a budget and the mean P@k seen there on the ways to what the attacks
        found, drawn where one budget alone was attacked.
      label: of the axis of P@k.

    Returns:
      The element `<svg>`, whose width is that of its container.
    """
    reach = max(float(np.max(epsilons)), np.finfo(float).tiny)

    def x(value):
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / reach

    def y(value):
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)

    def path(xs, ys):
        pairs = zip(xs, ys, strict=True)
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in pairs)

    parts = []
    for share in np.linspace(0, 1, 6):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(share):.1f}" '
            f'y2="{y(share):.1f}" stroke="#ddd"/><text x="{_LEFT - 8}" '
            f'y="{y(share) + 4:.1f}" text-anchor="end">{share:.1f}</text>'
        )
    # At ε = 0 nothing has changed.
    xs, ys = [0.0, *map(float, epsilons)], [1.0, *map(float, attacked)]
    for place in xs:
        parts.append(
            f'<text x="{x(place):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{place:g}</text>'
        )
    known = np.isfinite(proved)
    if known.all() and np.isfinite(attacked).all():
        below = [1.0, *map(float, proved)]
        outline = path([*xs, *xs[::-1]], [*ys, *below[::-1]])
        parts.append(f'<polygon points="{outline}" fill="#e8e8e8"/>')
        parts.append(
            f'<polyline points="{path(xs, below)}" fill="none" stroke="{GREEN}" '
            'stroke-width="2" stroke-dasharray="6 4"/>'
        )
    if np.isfinite(attacked).all():
        # At what an attack was not asked at, the ways that it took are known.
        if len(xs) > 2:
            points, kind = path(xs, ys), 'stroke-width="2.5"'
        else:
            seen = [(0.0, 1.0), *way, (xs[-1], ys[-1])]
            points = path(*zip(*seen, strict=True))
            kind = 'stroke-width="2" stroke-dasharray="1 5" stroke-linecap="round"'
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{BLUE}" {kind}/>'
        )
        for a, b, error in zip(xs[1:], ys[1:], stderr, strict=True):
            error = error if np.isfinite(error) else 0.0
            top, low = min(b + error, 1.0), max(b - error, 0.0)
            parts.append(
                f'<line x1="{x(a):.1f}" x2="{x(a):.1f}" y1="{y(top):.1f}" '
                f'y2="{y(low):.1f}" stroke="{BLUE}" stroke-width="1.5"/>'
                f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" fill="{BLUE}"/>'
            )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 6}" '
        'text-anchor="middle">budget ε of the change</text>'
        f'<text transform="translate(16 {(_HEIGHT - _BOTTOM + _TOP) / 2:.0f}) '
        f'rotate(-90)" text-anchor="middle">{html.escape(label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(label)} against the budget">{"".join(parts)}</svg>'
    )


def png(pixels: np.ndarray) -> str:
    """An image [H, W, 3] of bytes as the address of a PNG that holds itself."""
    pixels = np.ascontiguousarray(pixels, np.uint8)
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
    return f"data:image/png;base64,{base64.b64encode(whole).decode('ascii')}"


def overlaid(image: np.ndarray, marks: Sequence[tuple[np.ndarray, str]]) -> np.ndarray:
    """An image with marked pixels, large enough to be looked at.

    Args:
      image: [H, W] or [H, W, C], of any range.
      marks: masks [H, W], each with its colour "#rrggbb".

    Returns:
      Bytes [H′, W′, 3].
    """
    image = np.asarray(image, np.float64)
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] != 3:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    low, high = image.min(), image.max()
    pixels = (image - low) / (high - low if high > low else 1.0) * 255
    for mask, colour in marks:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        pixels[mask] = 0.15 * pixels[mask] + 0.85 * np.array(rgb)
    times = max(1, -(-_LEAST // max(pixels.shape[:2])))
    pixels = np.rint(pixels).astype(np.uint8)
    return np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)
