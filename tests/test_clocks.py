"""Only the database's clock decides (P21). Here the source is read; tests/chaos/clocks.py runs servers whose clocks are wrong."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = ("server", "services", "routes")
WALL = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}
# What may read this machine's clock, and why that decides nothing.
ALLOWED = {
    "server/command_line/queues.py": "how old the oldest is, in a list",
    "server/command_line/tasks.py": "how long a run has taken so far, in a list",
    "server/templating.py": "what pages show as the present moment",
    "services/providers.py": "a provider's Retry-After that is a date; the wait has a bound",
    "routes/pages/dead_letters.py": "the age in a filter; what it finds is shown before anything is done with it",
}
SQL_CLOCK = re.compile(
    r"(?<![.\w])(?:now\(\)|(?:clock|statement|transaction)_timestamp\(\)|current_(?:timestamp|date|time)\b|localtime(?:stamp)?\b)",
    re.IGNORECASE,
)
DEFINED_WITH_IT = {
    "0001_roles_tenants_tasks.up.sql": 2,
    "ids.sql": 1,
    "schema.sql": 1,
}  # app.now() itself, the ids' own time, and when a migration was applied


def wall_clocks(text: str) -> list[str]:
    return [
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in WALL
    ]


def statements(text: str) -> str:
    return "\n".join(line.partition("--")[0] for line in text.splitlines())


def test_no_code_that_decides_reads_the_clock_of_its_machine() -> None:
    paths = [path for column in COLUMNS for path in sorted((ROOT / column).rglob("*.py"))]
    found = {
        str(path.relative_to(ROOT)): clocks
        for path in paths
        if (clocks := wall_clocks(path.read_text(encoding="utf-8")))
    }

    assert len(paths) > 50
    assert {path: clocks for path, clocks in found.items() if path not in ALLOWED} == {}


def test_no_statement_reads_a_clock_but_that_of_app_now() -> None:
    paths = sorted((ROOT / "sql").rglob("*.sql"))
    found = {
        path.name: len(clocks)
        for path in paths
        if (clocks := SQL_CLOCK.findall(statements(path.read_text(encoding="utf-8"))))
    }

    assert len(paths) > 20
    assert found == DEFINED_WITH_IT


def test_the_searches_find_what_they_look_for() -> None:
    assert wall_clocks("due = datetime.now(UTC)\nage = time.time() - 5\nleft = time.monotonic()") == [
        "datetime.now",
        "time.time",
    ]
    assert SQL_CLOCK.findall("SELECT now(), app.now(), clock_timestamp(), CURRENT_TIMESTAMP") == [
        "now()",
        "clock_timestamp()",
        "CURRENT_TIMESTAMP",
    ]
