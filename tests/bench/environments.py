"""What the peers need, installed once into .bench/ beside the project: a Python environment, Node and its packages.

What cannot be had (no npm, no registry) becomes a sentence that the table shows in the peer's place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".bench"
WORKERS = Path(__file__).parent / "workers"
INSTALL_SECONDS = 600


@dataclass(slots=True)
class Environments:
    """The interpreters of the contenders by kind, and why one is missing."""

    interpreters: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """What a contender's process gets as its environment."""
        return {**os.environ, "BENCH_MODULES": str(HOME / "node"), "NODE_ENV": "production"}


def prepare(kinds: set[str]) -> Environments:
    """Install what the contenders of *kinds* (own, python, node) need, unless it is there already."""
    found = Environments({"own": [sys.executable, "-m"]})
    for kind, install in (("python", _python), ("node", _node)):
        if kind in kinds:
            try:
                found.interpreters[kind] = install()
            except (OSError, subprocess.SubprocessError) as error:
                found.missing[kind] = _why(error)
    return found


def _python() -> list[str]:
    home, wanted = HOME / "python", WORKERS / "requirements.txt"
    python = home / "bin" / "python"
    if not _installed(home, wanted):
        print(f"installing the Python peers into {home.relative_to(ROOT)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted)])
        _mark(home, wanted)
    return [str(python), "-m"]


def _node() -> list[str]:
    home, wanted = HOME / "node", WORKERS / "package.json"
    node = home / "node_modules" / "node" / "bin" / "node"
    if not _installed(home, wanted):
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm is not installed here")
        print(f"installing the Node peers into {home.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(wanted, home)
        _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=home)
        _run([str(node), "--version"])
        _mark(home, wanted)
    return [str(node)]


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, timeout=INSTALL_SECONDS, stdout=subprocess.DEVNULL)


def _stamp(wanted: Path) -> str:
    return hashlib.sha256(wanted.read_bytes()).hexdigest()


def _installed(home: Path, wanted: Path) -> bool:
    mark = home / ".installed"
    return mark.exists() and mark.read_text(encoding="ascii") == _stamp(wanted)


def _mark(home: Path, wanted: Path) -> None:
    (home / ".installed").write_text(_stamp(wanted), encoding="ascii")


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(error.cmd[0]).name} {error.cmd[1]} ended with {error.returncode}"
    return str(error)
