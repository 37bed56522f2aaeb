"""Break things on purpose, at length.

    python -m tests.chaos                    every experiment, long
    python -m tests.chaos drip --seed 7      one of them, with the dice of an earlier run
    python -m tests.chaos --short            every experiment as the suite runs it

Each runs on an embedded PostgreSQL of its own in a temporary folder, which is kept when something was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
from aiohttp import ClientError

from tests.chaos import (
    backlog,
    boundaries,
    cancels,
    clocks,
    drafts,
    drip,
    faults,
    links,
    machine,
    restarts,
    rolling,
    signals,
    stopping,
    streams,
    twins,
    two_servers,
    zombies,
)
from tests.chaos.history import Report
from tests.chaos.processes import Nursery, Pace, own_place

EXPERIMENTS = {
    "backlog": (backlog.run, backlog.PACE),
    "restarts": (restarts.run, restarts.PACE),
    "twins": (twins.run, Pace()),
    "links": (links.run, links.PACE),
    "faults": (faults.run, faults.PACE),
    "boundaries": (boundaries.run, Pace()),
    "rolling": (rolling.run, rolling.PACE),
    "clocks": (clocks.run, clocks.PACE),
    "machine": (machine.run, Pace()),
    "two_servers": (two_servers.run, Pace()),
    "drip": (drip.run, drip.PACE),
    "zombies": (zombies.run, zombies.PACE),
    "cancels": (cancels.run, Pace()),
    "signals": (signals.run, Pace()),
    "streams": (streams.run, streams.PACE),
    "drafts": (drafts.run, Pace()),
    "stopping": (stopping.run, Pace()),
}


async def experiment(name: str, folder: Path, nursery: Nursery, *, seed: int, long: bool) -> Report:
    """Run one on a database of its own. What goes wrong with the experiment itself counts as a violation too."""
    run, pace = EXPERIMENTS[name]
    try:
        async with own_place(nursery=nursery, folder=folder, pace=pace) as made:
            return await run(made, seed=seed, long=long)
    except ExceptionGroup as group:
        return Report(violations=[f"{type(exc).__name__}: {exc}" for exc in group.exceptions])
    except (AssertionError, TimeoutError, OSError, ClientError, asyncpg.PostgresError) as exc:
        return Report(violations=[f"{type(exc).__name__}: {exc}"])


def main() -> int:
    """Run what was asked for; returns 1 when a promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--short", dest="long", action="store_false", help="as in the test suite")
    parser.add_argument("--long", dest="long", action="store_true", help="at length (the default)")
    parser.set_defaults(long=True)
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(EXPERIMENTS):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}")
    nursery = Nursery()
    broken = 0
    try:
        for name in chosen.names or EXPERIMENTS:
            folder = Path(tempfile.mkdtemp(prefix=f"galley-chaos-{name}-"))
            print(f"{name}, seed {chosen.seed} …", flush=True)
            began = time.monotonic()
            report = asyncio.run(experiment(name, folder, nursery, seed=chosen.seed, long=chosen.long))
            for what, figure in report.figures.items():
                print(f"    {what}: {figure}")
            for violation in report.violations:
                print(f"    BROKEN: {violation}")
            kept = f"; its files: {folder}" if report.violations else ""
            print(
                f"    {'broken' if report.violations else 'held'} in {time.monotonic() - began:.0f} s{kept}",
                flush=True,
            )
            broken += bool(report.violations)
            if not report.violations:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        nursery.close()
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
