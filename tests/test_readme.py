"""What the README claims: every feature that Galley has names a test, every test that it names is there, and every setting is named."""

from __future__ import annotations

import ast
import re
from itertools import zip_longest
from pathlib import Path

from server.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PEERS = ("River", "Oban", "Procrastinate", "PgQueuer", "Graphile Worker", "pg-boss", "Hatchet")
CELL = re.compile(r"(?:yes|part|no|paid|\?)[¹²³⁴⁵⁶⁷⁸⁹]?")
NAMED = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>test_\w+)`")
FEWEST_ROWS = 35


def tables(text: str) -> list[list[list[str]]]:
    """Return the feature tables: rows of cells, the heading first."""
    found: list[list[list[str]]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells[:2] == ["", "Galley"]:
            found.append([cells])
        elif cells and found and found[-1][-1]:
            found[-1].append(cells)
        elif found and found[-1][-1]:
            found[-1].append([])
    return [[row for row in table if row and set(row[0]) != {"-"}] for table in found]


def faults(text: str) -> list[str]:
    """Return what is wrong with the feature tables of *text*."""
    wrong = []
    for heading, *rows in tables(text):
        if tuple(heading[2:-1]) != PEERS:
            wrong.append(f"a table compares {heading}")
        for feature, galley, *others in rows:
            cells = [galley, *others[:-1]]
            if len(cells) != 1 + len(PEERS) or not all(CELL.fullmatch(cell) for cell in cells):
                wrong.append(f"{feature}: {cells}")
            if galley != "no" and not NAMED.search(others[-1]):
                wrong.append(f"{feature}: no test shows it")
    for path, name in NAMED.findall(text):
        if name not in functions(ROOT / path):
            wrong.append(f"{path} has no {name}")
    return wrong


def functions(path: Path) -> set[str]:
    """Return the names of the test functions in a file; none when there is no such file."""
    if not path.is_file():
        return set()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_feature_that_galley_has_names_the_test_that_shows_it() -> None:
    assert sum(len(table) - 1 for table in tables(README)) >= FEWEST_ROWS
    assert faults(README) == []


def test_a_claim_without_a_test_and_a_test_that_is_gone_are_found() -> None:
    heading = f"| | Galley | {' | '.join(PEERS)} | shown by |\n|{'---|' * 10}\n"
    shown = "`tests/test_readme.py::test_every_feature_that_galley_has_names_the_test_that_shows_it`"
    others = "yes | no | part | ? | paid | no | yes¹"

    assert faults(f"{heading}| told | yes | {others} | {shown} |\n") == []
    assert faults(f"{heading}| told | yes | {others} | |\n") == ["told: no test shows it"]
    assert faults(f"{heading}| told | maybe | {others} | {shown} |\n") == [
        f"told: {['maybe', *others.split(' | ')]}"
    ]
    gone = shown.replace("shows_it", "showed_it")
    assert len(faults(f"{heading}| told | yes | {others} | {gone} |\n")) == 1


def test_every_setting_is_named_with_its_default() -> None:
    section = README.partition("\n## Settings\n")[2].partition("\n## ")[0]
    told: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE):
        told |= zip_longest(re.findall(r"[A-Z_]+", names), defaults.split(", "), fillvalue="")

    plain = {
        name.upper(): str(field.default).lower() if field.default is True else str(field.default)
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, str | int | float) and field.default != ""
    }
    assert told.keys() == {name.upper() for name in Settings.model_fields}
    assert {name: told[name] for name in plain} == plain
