"""How commands answer: a table or facts for people, JSON for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import orjson

LONGEST_CELL = 60


def machine(value: object) -> None:
    """Print JSON; times are RFC 3339, lengths of time are seconds."""
    click.echo(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode())


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, nothing: str) -> None:
    """Print rows under their columns, numbers to the right; *nothing* when there are none."""
    if not rows:
        click.echo(nothing)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(columns)]
    right = [
        all(isinstance(row[at], int | float) or row[at] is None for row in rows) for at in range(len(columns))
    ]
    for line in [[name.upper() for name in columns], *cells]:
        text = "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        click.echo(text.rstrip())


def facts(values: Mapping[str, object]) -> None:
    """Print names and values, one a line; what there is none of is left out."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if value is not None and value != "":
            click.echo(f"{name.ljust(width)}  {_text(value)}")


def lines(title: str, values: Sequence[object]) -> None:
    """Print values under their title, one a line; nothing when there are none."""
    if values:
        click.echo(f"{title}:")
    for value in values:
        click.echo(f"  {_text(value)}")


def length(span: timedelta | None) -> str | None:
    """Return a length of time in words: 4.2 s, 3 min 04 s, 2 h 05 min."""
    if span is None:
        return None
    seconds = span.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _cell(value: object) -> str:
    text = " ".join(_text(value).split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
    if isinstance(value, dict | list):
        return orjson.dumps(value, default=_plain).decode()
    # What a task's owner wrote may hold what a terminal would obey.
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
