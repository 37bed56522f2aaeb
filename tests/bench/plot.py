"""The plot in the README: bars with their spread, as an SVG that is readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tests.bench.figures import Summary, readable

WIDTH, LABELS, VALUES = 880, 140, 110
BAR, GAP, TOP, HEAD = 16, 8, 18, 34
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
.head { font-weight: 600; } .note { fill: #57606a; } .own { font-weight: 600; }
.bar { fill: #9aa7b4; } .bar.second { fill: #c9d1d9; } .own.bar { fill: #1a7f64; } .own.bar.second { fill: #7cc7b0; }
.spread { stroke: #24292f; stroke-width: 1.2; } .axis { stroke: #d0d7de; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .note { fill: #9198a1; }
  .bar { fill: #57616c; } .bar.second { fill: #3a424b; } .own.bar { fill: #3fb68f; } .own.bar.second { fill: #1f6b54; }
  .spread { stroke: #e6edf3; } .axis { stroke: #3d444d; }
}
"""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One block of bars: a metric for each contender, or two stacked on one another."""

    title: str
    note: str
    metrics: tuple[str, ...]


PANELS = (
    _Panel("No-op tasks a second", "more is better; the lines show the least and the most of the rounds", ("drain",)),
    _Panel("The same beside finished tasks", "more is better", ("drain_history",)),
    _Panel("Processor time, µs a task", "less is better; the worker's, then PostgreSQL's", ("drain_cpu_worker", "drain_cpu_postgres")),
    _Panel("Commit → start in another process, median, ms", "less is better", ("pickup_p50",)),
)  # fmt: skip


def draw(summary: Summary, names: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return the SVG."""
    parts, top = [], TOP
    for panel in PANELS:
        shown = [name for name in names if all(name in summary.get(metric, {}) for metric in panel.metrics)]
        if shown:
            parts += _panel(panel, summary, shown, titles, top)
            top += HEAD + len(shown) * (BAR + GAP) + TOP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img">',
            "<title>Galley and its peers, measured in one run on one machine</title>",
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _panel(
    panel: _Panel, summary: Summary, shown: Sequence[str], titles: Mapping[str, str], top: int
) -> Iterable[str]:
    room = WIDTH - LABELS - VALUES
    longest = max(
        sum(summary[metric][name]["max"] for metric in panel.metrics)
        if len(panel.metrics) == 1
        else sum(summary[metric][name]["median"] for metric in panel.metrics)
        for name in shown
    )
    # A contender far from all others would make the rest unreadable: its bar is cut, its number is not.
    usual = sorted(sum(summary[metric][name]["median"] for metric in panel.metrics) for name in shown)
    far = len(usual) > 2 and longest > usual[-2] * 4
    most = usual[-2] * 1.3 if far else longest
    yield f'<text class="head" x="0" y="{top + 4}">{escape(panel.title)}</text>'
    yield f'<text class="note" x="{WIDTH}" y="{top + 4}" text-anchor="end">{escape(panel.note)}</text>'
    for row, name in enumerate(shown):
        y = top + HEAD - 18 + row * (BAR + GAP)
        yield from _bar(panel, summary, name, titles.get(name, name), y=y, scale=room / most)
    bottom = top + HEAD - 18 + len(shown) * (BAR + GAP)
    yield f'<line class="axis" x1="{LABELS}" x2="{LABELS}" y1="{top + HEAD - 20}" y2="{bottom - GAP + 2}"/>'


def _bar(panel: _Panel, summary: Summary, name: str, title: str, *, y: int, scale: float) -> Iterable[str]:
    own = "own " if name == "galley" else ""
    room = WIDTH - LABELS - VALUES
    yield f'<text class="{own}" x="{LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(title)}</text>'
    x, total = float(LABELS), 0.0
    for place, metric in enumerate(panel.metrics):
        figure = summary[metric][name]
        width = max(min(figure["median"] * scale, room - (x - LABELS)), 0.5)
        second = " second" if place else ""
        yield f'<rect class="{own}bar{second}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        x, total = x + width, total + figure["median"]
    if len(panel.metrics) == 1:
        low, high = (LABELS + min(figure[end] * scale, room) for end in ("min", "max"))
        yield f'<path class="spread" fill="none" d="M{low:.1f} {y + BAR / 2}H{high:.1f}M{low:.1f} {y + 4}v8M{high:.1f} {y + 4}v8"/>'
        x = max(x, high)
    cut = " →" if total * scale > room else ""
    shown = readable(total)
    yield f'<text class="{own}" x="{x + 8:.1f}" y="{y + 12}">{shown}{cut}</text>'
