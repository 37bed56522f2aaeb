"""What a run was measured on: machine, versions, sizes, settings of the contenders."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.contenders import CONTENDERS
from tests.bench.environments import WORKERS


async def describe(bench: Bench) -> None:
    """Write it into the figures."""
    async with bench.admin() as admin:
        server = await admin.fetchval("SHOW server_version")
        shown = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")
        settings = {name: await admin.fetchval(f"SHOW {name}") for name in shown}
    bench.figures.about.update(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpus=os.cpu_count(),
        processor=_processor(),
        load_before=os.getloadavg()[0],
        python=platform.python_version(),
        postgresql={"version": server, **settings},
        versions=_versions(),
        settings={one.name: one.settings for one in CONTENDERS},
        keeps={one.name: one.keeps for one in CONTENDERS},
        shares={one.name: one.share for one in CONTENDERS if one.share != 1},
        sizes=asdict(bench.sizes),
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _versions() -> dict[str, str]:
    """Return the version of each peer, as it is pinned."""
    pinned = json.loads((WORKERS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    lines = (WORKERS / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if match := re.match(r"([a-z0-9]+)(?:\[.*\])?==(.+)$", line):
            pinned[match[1]] = match[2]
    return {**pinned, "aiohttp": importlib.metadata.version("aiohttp")}
