"""What bounds Galley's drain: processor time by process, what PostgreSQL's connections wait for, where Python spends its time.

    python -m tests.bench profile --tasks 60000 [--history 1000000] [--contender pgqueuer]

The last part needs py-spy on the PATH. Sampling costs a few percent itself.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from server import embedded
from tests.bench import environments, turns
from tests.bench.bench import Bench, Sizes
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.figures import Figures
from tests.bench.process import Process, processor_seconds, used_between

SAMPLE_SECONDS = 0.01
RATE = 500  # samples a second of Python's stack
SHOWN = 25
WAITS = """
SELECT pid, application_name, coalesce(wait_event_type || ':' || wait_event, 'on the processor') AS waits
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'
"""
FUNCTIONS = "SELECT funcname AS name, calls, total_time AS all_ms, self_time AS own_ms FROM pg_stat_user_functions ORDER BY self_time DESC LIMIT 12"
TABLES = """
SELECT relname AS name, seq_scan AS whole, seq_tup_read AS whole_rows, coalesce(idx_scan, 0) AS by_index, n_tup_ins + n_tup_upd + n_tup_del AS written,
       n_tup_hot_upd AS hot, autovacuum_count AS vacuums
FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del + seq_tup_read > 0 ORDER BY written DESC LIMIT 8
"""
NAMES = "SELECT pid, coalesce(nullif(application_name, ''), backend_type) AS name FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


async def profile(bench: Bench, contender: Contender, tasks: int) -> None:
    """Drain *tasks* with everything watched, and print what was seen."""
    await bench.install([contender])
    async with bench.admin() as admin:
        await admin.execute(f"ALTER DATABASE {contender.database} SET track_functions = 'all'")
    if bench.sizes.history:
        await turns.seed(bench, [contender])
    async with (
        bench.admin(contender.database) as admin,
        bench.admin(contender.database) as watcher,
        bench.process(contender) as worker,
    ):
        await _prepare(admin, worker, tasks)
        spied = await _spy(worker.pid, bench.logs / "stacks")
        seen: Counter[tuple[str, str]] = Counter()
        watching = asyncio.create_task(_watch(watcher, seen))
        before, names = await _processor(admin, worker)
        wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        await worker.ask("start")
        first = (await worker.ask("ran"))["first"]
        while await admin.fetchval(contender.left):
            await asyncio.sleep(0.05)
        seconds = time.monotonic() - first
        watching.cancel()
        after, more_names = await _processor(admin, worker)
        written = await admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::text::pg_lsn", wal)
        if spied is not None:
            await spied.wait()
        await worker.ask("stop")
        functions, tables = await admin.fetch(FUNCTIONS), await admin.fetch(TABLES)
    rate, bytes_each = tasks / seconds, written / tasks
    print(f"{tasks:,} tasks in {seconds:.2f} s: {rate:,.0f} a second, {bytes_each:,.0f} bytes of WAL each")
    _tell_processor(before, after, names | more_names, tasks, seconds)
    _tell_waits(seen)
    _tell_functions(functions, tasks)
    _tell_tables(tables)
    if spied is not None:
        _tell_stacks(bench.logs / "stacks")


async def _prepare(admin: asyncpg.Connection[Any], worker: Process, tasks: int) -> None:
    """Warm the worker up, create the tasks, and let the counters begin at nought."""
    few = turns.CLIENTS * 10
    await worker.ask("enqueue", count=few, clients=turns.CLIENTS)
    await worker.ask("expect", count=few)
    await worker.ask("start")
    await worker.ask("ran")
    await worker.ask("stop")
    await worker.ask("bulk", count=tasks, size=turns.BULK)
    for statement in ("VACUUM ANALYZE", "CHECKPOINT", "SELECT pg_stat_reset()"):
        await admin.execute(statement)
    await worker.ask("expect", count=tasks)


async def _watch(watcher: asyncpg.Connection[Any], seen: Counter[tuple[str, str]]) -> None:
    while True:
        for row in await watcher.fetch(WAITS):
            seen[row["application_name"], row["waits"]] += 1
        seen["", "looks"] += 1
        await asyncio.sleep(SAMPLE_SECONDS)


async def _processor(
    admin: asyncpg.Connection[Any], worker: Process
) -> tuple[dict[int, float], dict[int, str]]:
    """Return the processor seconds and the names of the worker and of PostgreSQL's processes."""
    names = {row["pid"]: row["name"] for row in await admin.fetch(NAMES)} | {worker.pid: "the worker"}
    return processor_seconds(names), names


async def _spy(pid: int, target: Path) -> asyncio.subprocess.Process | None:
    program = shutil.which("py-spy")
    if program is None:
        return None
    return await asyncio.create_subprocess_exec(
        *(
            program,
            "record",
            "--pid",
            str(pid),
            "--rate",
            str(RATE),
            "--format",
            "raw",
            "--output",
            str(target),
        ),
        *("--duration", "4", "--nonblocking"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def _tell_processor(
    before: dict[int, float], after: dict[int, float], names: dict[int, str], tasks: int, seconds: float
) -> None:
    by_name: Counter[str] = Counter()
    for pid, used in after.items():
        by_name[names.get(pid, "?")] += used_between({pid: before.get(pid, 0.0)}, {pid: used})
    print("\nprocessor time")
    for name, used in by_name.most_common(8):
        print(f"  {used / tasks * 1e6:8.1f} µs a task  {used / seconds:6.0%} of a core  {name}")


def _tell_waits(seen: Counter[tuple[str, str]]) -> None:
    looks = seen.pop(("", "looks"))
    print(f"\nwhat the connections with a statement under way do, in {looks} looks")
    for (name, waits), count in seen.most_common(15):
        print(f"  {count / looks:6.0%}  {name or '-':24} {waits}")


def _tell_functions(functions: Sequence[Any], tasks: int) -> None:
    print("\nPostgreSQL's functions, by the clock")
    for row in functions:
        own, whole = (row[name] * 1000 / tasks for name in ("own_ms", "all_ms"))
        print(
            f"  {own:8.1f} µs a task itself  {whole:8.1f} with what it calls  {row['calls']:6,} calls  {row['name']}"
        )


def _tell_tables(tables: Sequence[Any]) -> None:
    print("\ntables: how they were read and written")
    for row in tables:
        print(
            f"  {row['name']:28} {row['whole']:6,} times as a whole ({row['whole_rows']:,} rows)  {row['by_index']:9,} by index"
            f"  {row['written']:8,} rows written, {row['hot']:,} of them HOT  {row['vacuums']} vacuums"
        )


def _tell_stacks(path: Path) -> None:
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for frames, count in _stacks(path):
        total += count
        own[frames[-1]] += count
        for frame in set(frames):
            within[frame] += count
    for title, counted in (("itself", own), ("with what it calls", within)):
        print(f"\nPython's time by function, {title}")
        for frame, count in counted.most_common(SHOWN):
            print(f"  {count / total:6.1%}  {frame}")


def _stacks(path: Path) -> Iterator[tuple[list[str], int]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        yield [frame.rsplit(":", 1)[0] for frame in stack.split(";")], int(count)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=60_000)
    parser.add_argument("--history", type=int, default=0, help="finished tasks beside them; default none")
    parser.add_argument("--contender", default="galley", choices=[one.name for one in CONTENDERS])
    chosen = parser.parse_args()
    contender = next(one for one in CONTENDERS if one.name == chosen.contender)
    with tempfile.TemporaryDirectory(prefix="galley-bench-") as folder:
        running = embedded.start_postgres(Path(folder) / "data", durable=True)
        try:
            ready = environments.prepare({contender.kind})
            bench = Bench(running, ready, Sizes(history=chosen.history), Figures(), Path(folder))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(profile(bench, contender, chosen.tasks))
        finally:
            embedded.stop_postgres(running)


if __name__ == "__main__":
    main()
