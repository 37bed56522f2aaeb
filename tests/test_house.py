"""Standing guards on the house itself: sizes, names, and that every exception from a rule says why."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from tests.mutants import __main__ as mutants

ROOT = Path(__file__).parents[1]
COLUMNS = ("server", "services", "routes", "sql", "tests")
LONGEST_FUNCTION = 45  # lines without the docstring
LONGEST_FILE = 400
BANNED_NAMES = {"utils", "common", "helpers", "models", "base", "misc", "core"}
_SILENCED = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z-]+\])(?P<why>.*)$")


def sources(*columns: str) -> Iterator[tuple[Path, str]]:
    for column in columns:
        for path in sorted((ROOT / column).rglob("*.py")):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
    if "server" in columns:
        yield Path("main.py"), (ROOT / "main.py").read_text(encoding="utf-8")


def test_no_function_is_longer_than_a_reader_keeps_in_mind() -> None:
    long = []
    for path, text in sources(*COLUMNS):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if ast.get_docstring(node) is not None:
                    lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                if lines > LONGEST_FUNCTION:
                    long.append(f"{path}: {node.name} has {lines} lines")

    assert long == []


def test_no_source_file_is_a_dump() -> None:
    counted = {str(path): text.count("\n") for path, text in sources("server", "services", "routes", "sql")}
    for folder in ("functions", "queries"):
        for path in (ROOT / "sql" / folder).glob("*.sql"):
            counted[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8").count("\n")

    assert {path: lines for path, lines in counted.items() if lines > LONGEST_FILE} == {}


def test_modules_are_named_after_what_is_in_them() -> None:
    names = {path: path.stem for path, _ in sources(*COLUMNS)}

    assert [path for path, name in names.items() if name in BANNED_NAMES] == []


def test_every_silenced_check_says_why() -> None:
    silent = []
    for path, text in sources("server", "services", "routes", "sql"):
        for number, line in enumerate(text.splitlines(), 1):
            found = _SILENCED.search(line)
            if found and "noqa" in found[0] and len(found["why"].strip(" -–")) < 10:
                silent.append(f"{path}:{number}: {line.strip()}")

    assert silent == []


def test_every_migration_can_be_undone() -> None:
    folder = ROOT / "sql" / "migrations"
    ups = {path.name.removesuffix(".up.sql") for path in folder.glob("*.up.sql")}
    downs = {path.name.removesuffix(".down.sql") for path in folder.glob("*.down.sql")}

    assert ups == downs


def test_a_migration_that_is_out_stays_as_it_is() -> None:
    """A database remembers what it was made with, comments included, and refuses to start when that was edited.

    A new migration is added to the list: cd sql/migrations && sha256sum *.up.sql > ../../tests/sql/migrations.sha256
    """
    known = {
        name: checksum
        for checksum, name in map(str.split, (ROOT / "tests/sql/migrations.sha256").read_text().splitlines())
    }
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / "sql" / "migrations").glob("*.up.sql")
    }

    assert there == known


def test_every_deliberate_bug_fits_the_code_and_names_tests_that_exist() -> None:
    """Without this a bug that lost its test by a rename would be found by the one CI run in eight that judges it."""
    known = {
        f"{path}::{node.name}"
        for path, text in sources("tests")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    wrong = {}
    for mutant in mutants.read([]):
        lost = [test for test in mutant.tests if "::" in test and test.split("[")[0] not in known]
        lost += [test for test in mutant.tests if not (ROOT / test.split("::")[0]).exists()]
        if refusal := mutants.apply(mutant, ROOT, only_try=True) or lost:
            wrong[mutant.name] = refusal

    assert wrong == {}
