"""Apply each deliberate bug of this folder to a copy of the project and require that a named test turns red.

    python -m tests.mutants                  all
    python -m tests.mutants runs_ reviews_   those whose names begin so

A patch names its tests in its first lines, `# test: tests/…::test_…`, with spaces or lines between them. First all named tests must be green without any
patch; a patch that no longer applies, or that its tests do not notice, is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server import embedded

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
NOT_COPIED = {".git", ".venv", "data"}  # at the top; and caches anywhere
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")
TEST_SECONDS = 300
GREEN_SECONDS = 1800  # every named test once
TRIES = 3  # a race that a test provokes may go well by chance
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
    folder: Path, tests: list[str], dsn: str, *, seconds: float = TEST_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run *tests* in *folder* with this interpreter, against the PostgreSQL that all runs share."""
    return subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            f"--basetemp={folder.parent / 'pytest'}",
            *tests,
        ],
        cwd=folder,
        env={**os.environ, "TEST_DATABASE_URL": dsn, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def apply(mutant: Mutant, folder: Path) -> str:
    """Apply the patch; returns what git says against it, '' when it fits."""
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(mutant.path)],
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
                done = run_tests(folder, list(mutant.tests), dsn)
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


def main() -> int:
    """Judge the mutants; returns 1 when one survives."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prefixes", nargs="*", metavar="prefix", help="names of mutants, or how they begin")
    mutants = read(parser.parse_args().prefixes)
    survivors = 0
    home = Path(tempfile.mkdtemp(prefix="galley-mutants-"))
    running = embedded.start_postgres(home, durable=False)
    try:
        if not all_green(mutants, running.admin_dsn):
            return 1
        for mutant in mutants:
            began = time.monotonic()
            wrong = judge(mutant, running.admin_dsn)
            survivors += bool(wrong)
            print(
                f"{'SURVIVED' if wrong else 'caught  '} {mutant.name} in {time.monotonic() - began:.0f} s",
                flush=True,
            )
            if wrong:
                print(f"    {wrong}")
    finally:
        embedded.stop_postgres(running)
        shutil.rmtree(home, ignore_errors=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants were caught")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
