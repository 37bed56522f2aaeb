"""The last run as a table: on the terminal, and in the README between its two marks, with the plot beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench import plot
from tests.bench.contenders import CONTENDERS, GALLEY
from tests.bench.environments import ROOT
from tests.bench.figures import BY_NAME, Summary, readable

BEGIN, END = "<!-- bench: made by python -m tests.bench --readme -->", "<!-- /bench -->"
PLOT = ROOT / "docs" / "bench.svg"
RATIOS = ("drain", "drain_history", "http_create", "http_bulk")
TITLES = {"galley": "Galley", "bare": "bare loop"}


def read(path: Path) -> tuple[Summary, dict[str, Any]]:
    """Return the figures of a run and what they were measured on."""
    if not path.exists():
        sys.exit("nothing has been measured yet: run `make bench` first")
    found = json.loads(path.read_text(encoding="utf-8"))
    return found, found.pop("_about")


def names(summary: Summary) -> list[str]:
    """Return the contenders that have figures, in their order."""
    return [one.name for one in CONTENDERS if any(one.name in found for found in summary.values())]


def ratios(summary: Summary) -> dict[str, dict[str, float]]:
    """Return Galley's median over each other's, where more is better."""
    return {
        metric: {
            name: summary[metric]["galley"]["median"] / figure["median"]
            for name, figure in summary[metric].items()
            if name != "galley"
        }
        for metric in RATIOS
        if GALLEY.name in summary.get(metric, {})
    }


def plain(path: Path) -> str:
    """Return the table for a terminal."""
    summary, about = read(path)
    columns = names(summary)
    lines = [f"{'':58}" + "".join(f"{TITLES.get(name, name):>25}" for name in columns)]
    for metric, found in summary.items():
        title = f"{BY_NAME[metric].title}, {BY_NAME[metric].unit}"
        lines.append(f"{title:58}" + "".join(f"{_spread(found.get(name)):>25}" for name in columns))
        if metric in (compared := ratios(summary)):
            cells = (
                f"× {compared[metric][name]:.2f}" if name in compared[metric] else "" for name in columns
            )
            lines.append(f"{'    Galley against it':58}" + "".join(f"{cell:>25}" for cell in cells))
    lines += ["", _notes(about)]
    return "\n".join(lines)


def _spread(figure: dict[str, float] | None) -> str:
    if figure is None:
        return "–"
    return f"{readable(figure['median'])} ({readable(figure['min'])}–{readable(figure['max'])})"


def markdown(path: Path) -> str:
    """Return the table for the README."""
    summary, about = read(path)
    columns = names(summary)
    lines = [
        "![No-op tasks a second, processor time a task and pick-up of Galley and its peers](docs/bench.svg)",
        "",
        "| median (least–most) | "
        + " | ".join(f"**{TITLES[n]}**" if n == "galley" else TITLES.get(n, n) for n in columns)
        + " |",
        "|---|" + "---|" * len(columns),
    ]
    for metric, found in summary.items():
        cells = [_cell(found.get(name)) for name in columns]
        lines.append(f"| {BY_NAME[metric].title}, {BY_NAME[metric].unit} | {' | '.join(cells)} |")
        if metric in (compared := ratios(summary)):
            cells = [f"× {compared[metric][n]:.2f}" if n in compared[metric] else "" for n in columns]
            lines.append(f"| … Galley against it | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _notes(about)])


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{readable(figure['median'])}<br><sub>{readable(figure['min'])}–{readable(figure['max'])}</sub>"


def _notes(about: dict[str, Any]) -> str:
    sizes, postgresql = about["sizes"], about["postgresql"]
    measured = (
        f"{sizes['rounds']} interleaved rounds on {about['cpus']} cores ({about['processor']}), PostgreSQL {postgresql['version']} with"
        f" fsync {postgresql['fsync']} and synchronous_commit {postgresql['synchronous_commit']}, {about['measured_at'][:10]};"
        f" a drain is {sizes['tasks']:,} tasks, the history {sizes['history']:,}."
    )
    sentences = [
        measured,
        "Settings: " + "; ".join(f"{name}: {text}" for name, text in about["settings"].items()) + ".",
        "What stays of a finished task: "
        + "; ".join(f"{name}: {text}" for name, text in about["keeps"].items())
        + ".",
    ]
    sentences += [
        f"{name} gets {share:.0%} of the tasks, as it would take minutes for the same rate."
        for name, share in about.get("shares", {}).items()
    ]
    sentences += [f"{name} is missing: {why}." for name, why in about.get("missing", {}).items()]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join(f"- {sentence}" for sentence in [*sentences, f"Versions: {versions}."])


def write_readme(path: Path) -> None:
    """Put table and plot of a run into the README."""
    summary, _ = read(path)
    PLOT.write_text(plot.draw(summary, names(summary), TITLES), encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md has no place for it: {BEGIN} … {END}")
    readme.write_text(f"{before}{BEGIN}\n{markdown(path)}\n{END}{after}", encoding="utf-8")
    print(f"wrote README.md and {PLOT.relative_to(ROOT)}")
