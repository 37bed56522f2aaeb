"""A contender's process as the one who measures sees it: orders, answers, processor time, memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 600
PAGE = os.sysconf("SC_PAGE_SIZE")


class Fault(Exception):
    """The process ended or said what it should not; with the last lines of its log."""


class Process:
    """Started by `start`, ended by `end`; one order at a time."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid

    @classmethod
    async def start(
        cls, command: Iterable[str], *, cwd: Path, variables: Mapping[str, str], log: Path
    ) -> Process:
        """Start *command*; what it prints on standard error goes to *log*."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                env=dict(variables),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=1 << 22,
                start_new_session=True,
            )
        return cls(process, log)

    async def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Give an order and wait for its answer. Raises: Fault."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace")[-2000:]
            raise Fault(f"{do}: the process ended\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def end(self) -> None:
        """Close its input and wait; kill it when it does not end by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    @property
    def rss(self) -> float:
        """Its resident memory in MB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE / 1e6


def processor_seconds(pids: Iterable[int]) -> dict[int, float]:
    """Return what each of the processes has used so far, all of its threads together."""
    used = {}
    for pid in pids:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
            times = [int((thread / "schedstat").read_text().split()[0]) for thread in threads]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended in between
        used[pid] = sum(times) / 1e9
    return used


def used_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return the seconds used between two looks; a process that is new began at nought."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
