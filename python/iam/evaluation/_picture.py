"""Pictures as SVG text, without a plotting library."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from iam.evaluation._result import DensityHistogram

__all__ = ["density_svg"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 360, 70, 20, 40, 60


def density_svg(histogram: DensityHistogram, *, title: str, dense_threshold: float = 0.1) -> str:
    """Bars of the histogram over ``log10`` density, features that were never active apart on the left.

    Args:
        histogram: What to draw.
        title: Above the bars.
        dense_threshold: Bars from this density on have another colour.
    """
    import math

    edges, counts = histogram.edges, histogram.counts
    highest = max(1, int(counts.max(initial=0)), histogram.never)
    step = _tick(highest)
    top = math.ceil(highest / step) * step
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    slot = plot_width / (len(counts) + 2)  # two slots for "never" and a gap
    base = _HEIGHT - _BOTTOM

    def y(value: float) -> float:
        return base - plot_height * value / top

    def bar(left: float, value: int, colour: str, tip: str) -> str:
        return (
            f'<rect x="{left:.1f}" y="{y(value):.1f}" width="{slot * 0.9:.1f}" height="{base - y(value):.1f}" fill="{colour}">'
            f"<title>{escape(tip)}</title></rect>"
        )

    def text(x: float, at: float, words: str, anchor: str = "middle", extra: str = "") -> str:
        return f'<text x="{x:.1f}" y="{at:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        text(_WIDTH / 2, 22, title, extra=' font-size="14"'),
    ]
    for value in range(0, top + 1, step):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
        )
        parts.append(text(_LEFT - 6, y(value) + 4, f"{value:,}", "end"))
    parts.append(bar(_LEFT, histogram.never, "#999", f"never active: {histogram.never:,} features"))
    parts.append(text(_LEFT + slot / 2, base + 16, "never"))
    start = _LEFT + 2 * slot
    for i, count in enumerate(counts):
        dense = edges[i] >= math.log10(dense_threshold) - 1e-9
        tip = f"10^{edges[i]:.2f} to 10^{edges[i + 1]:.2f}: {int(count):,} features"
        parts.append(bar(start + i * slot, int(count), "#d1495b" if dense else "#30638e", tip))
    for i, edge in enumerate(edges):
        if abs(edge - round(edge)) < 1e-9:
            parts.append(text(start + i * slot, base + 16, f"{10.0**edge:g}"))
    middle = start + len(counts) * slot / 2
    parts.append(text(middle, _HEIGHT - 14, "share of positions at which a feature is active (log scale)"))
    parts.append(
        text(18, _TOP + plot_height / 2, "features", extra=f' transform="rotate(-90 18 {_TOP + plot_height / 2})"')
    )
    parts.append("</svg>\n")
    return "\n".join(parts)


def _tick(highest: int) -> int:
    """A round step that gives at most six lines."""
    step = 1
    while highest / step > 5:
        for factor in (2, 2.5, 2):
            step = int(step * factor) if step * factor == int(step * factor) else step * 2
            if highest / step <= 5:
                break
    return step
