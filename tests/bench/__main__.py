"""Measure Galley beside a bare loop and its peers: `make bench`, or `python -m tests.bench --quick` for a first look.

The figures go to the file named by BENCH_JSON, else to .bench/last.json; `--readme` puts table and plot of them into the README.
Retrieval: `python -m tests.bench search --chunks 20000`. Ten million finished tasks: `python -m tests.bench scale`. What bounds the drain: `python -m tests.bench profile`. Quote ratios measured in one run on one machine, not bare seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from server import embedded
from tests.bench import about, cancel, environments, profile, scale, search, table, turns, web
from tests.bench.bench import Bench, Sizes, say
from tests.bench.contenders import CONTENDERS, GALLEY
from tests.bench.environments import HOME
from tests.bench.figures import Figures

RESULT = Path(os.environ.get("BENCH_JSON") or HOME / "last.json")
QUICK = Sizes(rounds=1, tasks=2000, singles=200, history=20_000, samples=10, idle_seconds=1.0, seconds=1.0)
PARTS = ("queues", "cancel", "web")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one small round: does it run, roughly how fast")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--tasks", type=int, help="in one drain; default 20,000")
    parser.add_argument(
        "--history", type=int, help="finished tasks; default 1,000,000; 0 leaves that part out"
    )
    parser.add_argument(
        "--only", default="", help="contenders, comma separated: " + ", ".join(c.name for c in CONTENDERS)
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="comma separated; default: %(default)s")
    parser.add_argument(
        "--readme", action="store_true", help="measure nothing: put the last run into the README"
    )
    return parser.parse_args()


def sizes(chosen: argparse.Namespace) -> Sizes:
    """Return how much to measure."""
    given = {name: getattr(chosen, name) for name in ("rounds", "tasks", "history")}
    return replace(
        QUICK if chosen.quick else Sizes(),
        **{name: value for name, value in given.items() if value is not None},
    )


async def measure(bench: Bench, only: set[str], parts: set[str]) -> None:
    """Run the parts one after the other."""
    ready = await bench.install(one for one in CONTENDERS if not only or one.name in only)
    if "queues" in parts:
        await turns.measure(bench, ready)
    if GALLEY in ready and "cancel" in parts:
        await cancel.measure(bench)
    if GALLEY in ready and "web" in parts:
        await web.measure(bench)


def main() -> None:
    """Measure, print the table, write the JSON."""
    alone = {"search": search.main, "profile": profile.main, "scale": scale.main}
    if (chosen_alone := alone.get(next(iter(sys.argv[1:]), ""))) is not None:
        del sys.argv[1]
        chosen_alone()
        return
    chosen = arguments()
    if chosen.readme:
        table.write_readme(RESULT)
        return
    only = {name for name in chosen.only.split(",") if name}
    if unknown := only - {one.name for one in CONTENDERS}:
        sys.exit(f"no contender {unknown.pop()!r}; there are {', '.join(one.name for one in CONTENDERS)}")
    ready = environments.prepare({one.kind for one in CONTENDERS if not only or one.name in only})
    figures, began = Figures(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        say(f"starting PostgreSQL; what contenders say goes to {folder}")
        running = embedded.start_postgres(Path(folder) / "data", durable=True)
        try:
            bench = Bench(running, ready, sizes(chosen), figures, Path(folder))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(about.describe(bench))
                runner.run(measure(bench, only, set(chosen.parts.split(","))))
        finally:
            embedded.stop_postgres(running)
    figures.about["minutes"] = round((time.monotonic() - began) / 60, 1)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    figures.write(RESULT)
    print(table.plain(RESULT))


if __name__ == "__main__":
    main()
