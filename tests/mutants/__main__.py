"""Apply each deliberate bug of this folder to a copy of the project and require that a named test turns red.

    python -m tests.mutants                  all
    python -m tests.mutants runs_ reviews_   those whose names begin so
    python -m tests.mutants --trust-green    without trying the tests unpatched first: for CI, which runs the whole suite anyway
    python -m tests.mutants --part 2/3       every third, beginning with the second

A patch names its tests in its first lines, `# test: tests/…::test_…`, with spaces or lines between them. First all named tests must be green without any
patch; a patch that no longer applies, or that its tests do not notice, is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from server import embedded, migrations

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
NOT_COPIED = {".git", ".venv", ".bench", "data"}  # at the top; and caches anywhere
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")
TEST_SECONDS = 300
HANGS_SECONDS = 120  # sooner than in the suite: a test that hangs is as red as one that fails
GREEN_SECONDS = 1800  # every named test once
TRIES = 3  # a race that a test provokes may go well by chance
TEMPLATE = "galley_unpatched"
SAW_NO_TEST = (4, 5)  # pytest: usage error, nothing collected
_TESTS = re.compile(r"^# test: (?P<tests>.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch and the tests that must notice it."""

    path: Path
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """The patch's file name without its ending."""
        return self.path.stem

    @property
    def changes_schema(self) -> bool:
        """Whether its tests need a database migrated from the patched files."""
        return "+++ b/sql/" in self.path.read_text(encoding="utf-8")


def read(prefixes: list[str]) -> list[Mutant]:
    """Return the mutants whose names begin with one of *prefixes*, or all. Exits when one names no test."""
    found = []
    for path in sorted(FOLDER.glob("*.patch")):
        if prefixes and not path.stem.startswith(tuple(prefixes)):
            continue
        tests = tuple(" ".join(_TESTS.findall(path.read_text(encoding="utf-8"))).split())
        if not tests:
            sys.exit(f"{path.name} names no test: its first line must be `# test: <node id>`")
        found.append(Mutant(path, tests))
    return found


@contextmanager
def copied() -> Iterator[Path]:
    """Yield a copy of the project without what git ignores."""
    folder = Path(tempfile.mkdtemp(prefix="galley-mutant-"))
    try:
        copy = folder / "galley"
        shutil.copytree(
            ROOT,
            copy,
            ignore=lambda at, names: CACHES(at, names) | (NOT_COPIED if Path(at) == ROOT else set()),
        )
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(
    folder: Path, tests: list[str], dsn: str, *, seconds: float = TEST_SECONDS, template: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *tests* in *folder* with this interpreter, against the PostgreSQL that all runs share."""
    return subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={HANGS_SECONDS}"),
            f"--basetemp={folder.parent / 'pytest'}",
            *tests,
        ],
        cwd=folder,
        env={
            **os.environ,
            "TEST_DATABASE_URL": dsn,
            "TEST_TEMPLATE": template,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def apply(mutant: Mutant, folder: Path, *, only_try: bool = False) -> str:
    """Apply the patch; returns what git says against it, '' when it fits."""
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", *(["--check"] if only_try else []), str(mutant.path)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
    )
    return done.stderr.strip() if done.returncode else ""


def judge(mutant: Mutant, dsn: str) -> str:
    """Return what is wrong with the mutant, '' when its tests caught it."""
    with copied() as folder:
        if refusal := apply(mutant, folder):
            return f"does not apply: {refusal}"
        for _ in range(TRIES):
            try:
                template = "" if mutant.changes_schema else TEMPLATE
                done = run_tests(folder, list(mutant.tests), dsn, template=template)
            except subprocess.TimeoutExpired:
                return ""  # tests that hang are red too
            if done.returncode in SAW_NO_TEST:
                return f"its tests were not found:\n{done.stdout[-1500:]}"
            if done.returncode:
                return ""
    return "was not noticed"


def all_green(mutants: list[Mutant], dsn: str) -> bool:
    """Whether every named test passes without a patch."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with copied() as folder:
        done = run_tests(folder, tests, dsn, seconds=GREEN_SECONDS)
    if done.returncode:
        print(f"red without any patch:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def judge_all(mutants: list[Mutant], dsn: str) -> dict[str, str]:
    """Judge as many at once as there are processors; return those that survived, each with what is wrong with it."""
    survivors = {}

    def timed(mutant: Mutant) -> tuple[str, float]:
        began = time.monotonic()
        return judge(mutant, dsn), time.monotonic() - began

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        judged = {pool.submit(timed, mutant): mutant for mutant in mutants}
        for done in as_completed(judged):
            wrong, seconds = done.result()
            print(f"{'SURVIVED' if wrong else 'caught  '} {judged[done].name} in {seconds:.0f} s", flush=True)
            if wrong:
                survivors[judged[done].name] = wrong
    return survivors


async def make_template(dsn: str) -> None:
    """Migrate the database that the tests of patches outside sql/ clone."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
    finally:
        await connection.close()
    await migrations.migrate(urlunsplit(urlsplit(dsn)._replace(path=f"/{TEMPLATE}")))


def main() -> int:
    """Judge the mutants; returns 1 when one survives."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prefixes", nargs="*", metavar="prefix", help="names of mutants, or how they begin")
    parser.add_argument("--trust-green", action="store_true", help="do not try the tests unpatched first")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth, beginning with the Kth")
    chosen = parser.parse_args()
    first, step = map(int, chosen.part.split("/"))
    mutants = read(chosen.prefixes)[first - 1 :: step]
    home = Path(tempfile.mkdtemp(prefix="galley-mutants-"))
    running = embedded.start_postgres(home, durable=False)
    try:
        asyncio.run(make_template(running.admin_dsn))
        if not chosen.trust_green and not all_green(mutants, running.admin_dsn):
            return 1
        survivors = judge_all(mutants, running.admin_dsn)
    finally:
        embedded.stop_postgres(running)
        shutil.rmtree(home, ignore_errors=True)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants were caught")
    for name, wrong in survivors.items():  # last, where who looks at the end of a long output sees them
        print(f"SURVIVED {name}: {wrong}")
    return min(len(survivors), 1)


if __name__ == "__main__":
    sys.exit(main())
