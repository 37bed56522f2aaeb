"""The whole server with its own PostgreSQL and model: killed, started again, stopped with Ctrl-C. Nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from server import cluster
from tests.chaos.history import Report
from tests.chaos.processes import Child, Place

STOP_SECONDS = cluster.STOP_SECONDS + 30.0  # PostgreSQL writes a checkpoint first
LAST_SECONDS = 10.0
EMBEDDED = {
    "DATABASE_URL": "",
    "MIGRATE_DATABASE_URL": "",
    "OPENAI_BASE_URL": "",
    "OPENAI_API_KEY": "",
    "OPENAI_MODEL": "",
}


async def run(place: Place, *, seed: int = 0, long: bool = False) -> Report:
    """Start, kill -9, start again on what was left, Ctrl-C. *long* does it with the demo tenant and its article under way."""
    report = Report()
    data = place.folder / "home"
    env = {**EMBEDDED, "DATA_DIR": str(data)}
    arguments = ["serve", "--demo"] if long else ["serve"]
    began = time.monotonic()
    first = await _start(place, "first", arguments, env)
    report.figures["first start s"] = round(time.monotonic() - began, 1)
    report.expect(len(processes_of(data)) >= 3, "no processes were found: this proves nothing")
    first.send(signal.SIGKILL)
    await first.ended()
    began = time.monotonic()
    second = await _start(place, "second", arguments, env)
    report.figures["start after kill -9 s"] = round(time.monotonic() - began, 1)
    began = time.monotonic()
    place.history.add("fault", process="second", pid=second.pid, signal="SIGINT to its group")
    os.killpg(second.pid, signal.SIGINT)
    await second.ended(STOP_SECONDS)
    report.figures["Ctrl-C to the end s"] = round(time.monotonic() - began, 1)
    left = await _left(data)
    report.expect(not left, f"left behind: {left}")
    report.expect(
        "Traceback" not in second.read_log(), f"it ended with a traceback:\n{second.read_log()[-2000:]}"
    )
    return report


async def _start(place: Place, name: str, arguments: list[str], env: dict[str, str]) -> Child:
    child = await place.spawn(name, "program", arguments, env=env)
    await child.says("Galley serves at " if "--demo" not in arguments else "http://")
    return child


async def _left(data: Path) -> list[str]:
    """Return the processes that still exist some seconds after the end: the model ends by itself within that."""
    deadline = time.monotonic() + LAST_SECONDS
    while (left := processes_of(data)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return left


def processes_of(data: Path) -> list[str]:
    """Return the command lines of the processes that were started with this data folder in words or surroundings."""
    mark = os.fsencode(data)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words, surroundings = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:  # it has just ended, or is somebody else's
            continue
        if mark in words or mark in surroundings:
            found.append(f"{entry.name}: {words.replace(bytes(1), b' ').decode(errors='replace').strip()}")
    return found
