"""What an experiment did and was told, one JSON object a line: all that the checker may know besides the database."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class History:
    """Appends entries to a file as they happen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def add(self, kind: str, **facts: Any) -> None:
        """Write one entry; times are this machine's clock and serve for reading only."""
        self._file.write(json.dumps({"at": round(time.time(), 3), "kind": kind, **facts}, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def read(self, kind: str) -> list[dict[str, Any]]:
        """Return the entries of one kind, oldest first."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


@dataclass(kw_only=True)
class Report:
    """What came of an experiment: what it found wrong, and its figures."""

    violations: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def expect(self, holds: bool, violation: str) -> None:
        """Note *violation* unless *holds*."""
        if not holds:
            self.violations.append(violation)
