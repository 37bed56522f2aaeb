"""What a large history costs: `make scale`, or `python -m tests.bench scale --finished 10000000`. Prints JSON.

Makes a PostgreSQL of its own in a temporary folder (7.6 GB and some ten minutes for ten million finished tasks; half as many where the
disk or --minutes does not allow it), fills it with a hundred days of history of several tenants, and measures: the buffers that one claim
of ten touches in each bad state that is known; how long pages and calls take over HTTP, by a real server, for the tenant with most of it,
alone and beside half a million live tasks. `cpu` is what server and PostgreSQL worked for one answer: on a busy machine it says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from server import embedded, migrations
from tests.bench.bench import Bench, Sizes, say
from tests.bench.client import Request, load
from tests.bench.contenders import GALLEY
from tests.bench.environments import Environments
from tests.bench.figures import Figures, percentile
from tests.bench.process import processor_seconds, used_between
from tests.bench.web import galley, sign_up
from tests.sql import test_plans as plans

Admin = asyncpg.Connection
BYTES_EACH = 900  # of disk for one finished task, with its indexes, the log of writing it and room to spare
DAYS = 100
CHUNK = 250_000
PAGE_SECONDS = 1.0
MOST_BUFFERS, MOST_MS = 250, 50.0  # DESIGN §11
# Tenants by their share of the history. The last one has little, and lives beside the others.
TENANTS = (("bench", 0.7), ("second", 0.2), ("third", 0.0999), ("small", 0.0001))
# One in a thousand was cancelled, four failed, one timed out; one type is rare and one has been given up: only the oldest tenth has it.
INSERT = """
    INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence,
      executor_id, run_at, created_at, created_by, started_at, timeout_seconds, concurrency_key, concurrency_limit, payload, finished_at, error, result)
    SELECT uuidv7(-m.ago), $1, m.queue, m.type, 1, m.state, 2, 1, 5, 0, 0, 1, NULL, app.now() - m.ago, app.now() - m.ago, 'key:nightly import',
      app.now() - m.ago + m.waited, 3600, m.key, CASE WHEN m.key IS NOT NULL THEN 4 END,
      jsonb_build_object('seconds', 0, 'order', m.n, 'customer', 'customer ' || m.n % 5000), app.now() - m.ago + m.waited + m.ran,
      CASE WHEN m.state IN ('failed', 'timed_out') THEN '{"class": "Timeout", "message": "the other side did not answer", "attempt": 1}'::jsonb END,
      CASE WHEN m.state = 'succeeded' THEN '{"slept": 0.0}'::jsonb END
    FROM (
      SELECT n, $2::interval - ($2::interval - $3::interval) * ((n - $4::int)::float8 / ($5::int - $4::int + 1)) AS ago,
        CASE WHEN n % 50000 = 7 THEN 'generate_content' WHEN n < $6::int / 10 AND n % 40 = 0 THEN 'send_fax' WHEN n % 3 = 0 THEN 'ingest_document' ELSE 'noop' END AS type,
        CASE WHEN n % 100000 = 9 THEN 'backfill' WHEN n % 5 = 0 THEN 'imports' ELSE 'default' END AS queue,
        CASE n % 1000 WHEN 0 THEN 'cancelled' WHEN 1 THEN 'timed_out' WHEN 2 THEN 'failed' WHEN 3 THEN 'failed' WHEN 4 THEN 'failed' WHEN 5 THEN 'failed'
          ELSE 'succeeded' END AS state,
        CASE WHEN n % 20 = 0 THEN 'customer-' || n % 20000 END AS key,
        make_interval(secs => 0.002 + (n * 7919 % 1000) / 500.0) AS waited, make_interval(secs => 0.001 * power(1.012, n * 104729 % 1000)) AS ran
      FROM generate_series($4::int::bigint, $5::int::bigint) n) m"""
COUNT = """
    INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread)
    SELECT t.tenant_id, t.minute, t.queue, t.type, t.state, sum(t.runs), sum(t.waited), max(t.waited_max), sum(t.ran), max(t.ran_max),
      array_agg(app.spread_entry(t.w, t.runs)), array_agg(app.spread_entry(t.r, t.runs))
    FROM (
      SELECT h.tenant_id, date_trunc('minute', h.finished_at) AS minute, h.queue, h.type, h.state, app.length_range(l.waited) AS w, app.length_range(l.ran) AS r,
        count(*) AS runs, sum(l.waited) AS waited, max(l.waited) AS waited_max, sum(l.ran) AS ran, max(l.ran) AS ran_max
      FROM task_history h CROSS JOIN LATERAL (
        SELECT date_part('epoch', h.started_at - h.run_at) * 1000 AS waited, date_part('epoch', h.finished_at - h.started_at) * 1000 AS ran) l
      WHERE h.id >= app.uuid7_floor(app.now() - interval '31 days') AND h.finished_at > app.now() - interval '30 days'
      GROUP BY 1, 2, 3, 4, 5, 6, 7) t
    GROUP BY 1, 2, 3, 4, 5"""
BURY = """
    INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)
    SELECT h.id, h.tenant_id, h.queue, h.type, h.state, 'Timeout', h.finished_at FROM task_history h WHERE h.state IN ('failed', 'timed_out')"""


async def _few_ready(admin: Admin, engine: plans.Claims, tenant: UUID) -> None:
    await plans.insert(admin, tenant, 100)


STATES = {
    "history alone": _few_ready,
    "300,000 ready": plans.deep_backlog,
    "200,000 scheduled": plans.many_scheduled,
    "20,000 blocked": plans.hot_key,
}
# What is asked of the server: lists by every filter, and what people leave open all day. MIDDLE and TASK are ids of tasks.
LISTS = (
    "", "state=failed", "state=succeeded", "state=cancelled", "type=noop", "type=generate_content", "type=generate_content&state=failed", "type=send_fax",
    "queue=imports", "queue=backfill", "queue=backfill&state=failed", "q=generate", "q=customer-40", "q=nothing-like-it",
)  # fmt: skip
PAGES = (
    "/desk", "/desk/queues", "/desk/dead-letters", "/desk/statistics", "/desk/statistics?window=7d", "/api/v1/statistics?window=1h",
    "/desk/tasks/TASK", "/api/v1/tasks/TASK", "/desk/tasks?q=TASK", "/api/v1/tasks?q=TASK",
)  # fmt: skip
MONTHS = """
    SELECT app.make_month('task_history', m)
    FROM generate_series(date_trunc('month', app.now() - interval '{days} days', 'UTC'), date_trunc('month', app.now(), 'UTC') - interval '1 day', interval '1 month', 'UTC') m"""


class Slow(Exception):
    """This machine is too slow for so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """The history that was made, and the id of a task in the middle of what the largest tenant has."""

    finished: int
    of_largest: int
    gigabytes: float
    minutes: float
    middle: str


async def fill(admin: Admin, wanted: int, *, minutes: float) -> None:
    """Make a history of *wanted* tasks, oldest first. Raises: Slow, as soon as it is clear that it takes longer than *minutes*."""
    began = time.monotonic()
    await admin.execute(
        "SET session_replication_role = replica; SET synchronous_commit = off; SET statement_timeout = 0"
    )
    await admin.execute(MONTHS.format(days=DAYS + 1))
    await admin.execute(
        "INSERT INTO tenants (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
        [name for name, _ in TENANTS],
    )
    ids = {row["name"]: row["id"] for row in await admin.fetch("SELECT name, id FROM tenants")}
    chunks = max(wanted // CHUNK, 1)
    for chunk in range(chunks):
        # A share of the days for each chunk, so that the tasks of the tenants lie among each other.
        older, newer = (timedelta(days=DAYS * (chunks - place) / chunks) for place in (chunk, chunk + 1))
        for name, share in TENANTS:
            first, last = (int(wanted * share * place / chunks) for place in (chunk, chunk + 1))
            await admin.execute(INSERT, ids[name], older, newer, first, last - 1, int(wanted * share))
        say(f"{(chunk + 1) * 100 // chunks} % of the history after {time.monotonic() - began:.0f} s")
        if (time.monotonic() - began) * chunks / (chunk + 1) > minutes * 60:  # at this pace
            raise Slow(f"{wanted:,} finished tasks take more than {minutes:g} minutes here")
    for what, statement in (
        ("dead letters", BURY),
        ("numbers", COUNT),
        ("hours", "SELECT app.fold_statistics(30)"),
        ("vacuum", "VACUUM ANALYZE"),
    ):
        await admin.execute(statement)
        say(f"{what} after {time.monotonic() - began:.0f} s")
    await admin.execute("SET session_replication_role = origin")


async def look(admin: Admin, minutes: float) -> Filled:
    """Say what there is."""
    row = await admin.fetchrow(
        "SELECT count(*) AS finished, count(*) FILTER (WHERE tenant_id = t.id) AS largest, pg_database_size(current_database()) / 1e9 AS gigabytes,"
        " (SELECT id::text FROM task_history WHERE tenant_id = t.id AND id >= app.uuid7_floor(app.now() - make_interval(days => $2)) ORDER BY id LIMIT 1) AS middle"
        " FROM task_history, (SELECT id FROM tenants WHERE name = $1) t GROUP BY t.id",
        TENANTS[0][0], DAYS // 2,
    )  # fmt: skip
    assert row is not None
    return Filled(
        finished=row["finished"], of_largest=row["largest"], gigabytes=round(float(row["gigabytes"]), 1), minutes=minutes, middle=row["middle"]
    )  # fmt: skip


async def claims(bench: Bench) -> dict[str, int]:
    """Return the buffers that claiming ten tasks touches, by the state of the tables; beside the whole history each."""
    found = {}
    dsn = bench.dsn(GALLEY.database)
    admin = await asyncpg.connect(dsn)
    claimer = await asyncpg.connect(bench.dsn(GALLEY.database, role="web"), server_settings={"jit": "off"})
    await admin.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    tenant = await admin.fetchval("SELECT id FROM tenants WHERE name = $1", TENANTS[0][0])
    engine = plans.Claims(claimer)
    await engine.register()
    for name, state in STATES.items():
        await _clear(admin)
        await state(admin, engine, tenant)
        await admin.execute("ANALYZE tasks")
        found[name] = await engine.claim_cost()
        say(f"{name}: {found[name]} buffers")
    await _clear(admin)
    await plans.insert(admin, tenant, plans.DONE + 1000)
    reader = await asyncpg.connect(dsn)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetchval("SELECT count(*) FROM tasks")
        engine.floor = (None, None, None)
        for _ in range(plans.DONE // 500):
            await engine.end(await engine.claim(500))
        found["60,000 done under an open snapshot"] = await engine.claim_cost()
    for one in (reader, claimer, admin):
        await one.close()
    return found


async def _clear(admin: Admin) -> None:
    await admin.execute("TRUNCATE tasks")


async def backlog(bench: Bench) -> None:
    """Put all at once in front of the pages: what is ready, due later, blocked."""
    admin = await asyncpg.connect(bench.dsn(GALLEY.database))
    tenant = await admin.fetchval("SELECT id FROM tenants WHERE name = $1", TENANTS[0][0])
    await admin.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    await _clear(admin)
    await plans.insert(admin, tenant, plans.READY)
    await plans.insert(admin, tenant, plans.LATER, "scheduled")
    await plans.insert(admin, tenant, plans.BLOCKED, "blocked", key="hot")
    await admin.execute("ANALYZE tasks")
    await admin.close()


async def pages(bench: Bench, port: int, headers: dict[str, str], middle: str) -> dict[str, dict[str, float]]:
    """Ask for every address, one request at a time; return p50 and p95 of what answers take, and the processor's time for one, all in ms."""
    lists = [f"{path}?{query}" for path in ("/desk/tasks", "/api/v1/tasks") for query in LISTS]
    later = [
        f"/desk/tasks?before={middle}&{query}"
        for query in ("", "type=noop", "type=generate_content", "state=failed")
    ]
    found = {}
    for path in (*(one.replace("TASK", middle) for one in PAGES), *later, *lists):
        request = Request("GET", path, headers)
        await load(port, request, clients=1, seconds=0.2)
        pids = await _pids(bench)
        before = processor_seconds(pids)
        took = await load(port, request, clients=1, seconds=PAGE_SECONDS)
        used = used_between(before, processor_seconds(pids)) / len(took)
        milliseconds = {"p50": statistics.median(took), "p95": percentile(took, 95), "cpu": used}
        found[path.replace(middle, "MIDDLE").rstrip("?&")] = {
            name: round(1000 * value, 1) for name, value in milliseconds.items()
        }
    return found


async def _pids(bench: Bench) -> list[int]:
    """The server, which is this process's child, and its connections to PostgreSQL."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    async with bench.admin(GALLEY.database) as admin:
        rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE usename = 'galley_web'")
    return [*map(int, children), *(row["pid"] for row in rows)]


async def measure(bench: Bench, finished: int, minutes: float) -> dict[str, Any]:
    """Fill unless it is filled, and measure everything."""
    async with bench.admin() as admin:
        made = await admin.fetchval(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", GALLEY.database
        )
        if not made:
            await admin.execute(f"CREATE DATABASE {GALLEY.database}")
    await migrations.migrate(bench.dsn(GALLEY.database))
    began = time.monotonic()
    async with bench.admin(GALLEY.database) as admin:
        if not await admin.fetchval("SELECT EXISTS (SELECT FROM task_history)"):
            try:
                await fill(admin, finished, minutes=minutes)
            except Slow as error:
                say(f"{error}: half as many instead")
                await admin.execute("TRUNCATE task_history")
                await fill(admin, finished // 2, minutes=minutes)
        filled = await look(admin, round((time.monotonic() - began) / 60, 1))
    key, session = await sign_up(bench)
    headers = {"Authorization": f"Bearer {key}", "Cookie": f"sid={session}"}
    result: dict[str, Any] = {
        "history": asdict(filled),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "claim_buffers": await claims(bench),
    }
    async with galley(bench) as port:
        async with bench.admin(GALLEY.database) as admin:
            await _clear(admin)
        result["ms"] = await pages(bench, port, headers, filled.middle)
        await backlog(bench)
        result["ms_beside_520000_live"] = await pages(bench, port, headers, filled.middle)
    result["above"] = [
        *(name for name, buffers in result["claim_buffers"].items() if buffers > MOST_BUFFERS),
        *(
            f"{part} {path}"
            for part in ("ms", "ms_beside_520000_live")
            for path, found in result[part].items()
            if found["p95"] > MOST_MS
        ),
    ]
    return result


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--finished", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=12.0, help="half as many when filling takes longer")
    parser.add_argument("--folder", type=Path, help="keep the database here, or use the one that is here")
    chosen = parser.parse_args()
    with (
        nullcontext(chosen.folder)
        if chosen.folder
        else tempfile.TemporaryDirectory(prefix="galley-scale-") as given
    ):
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        finished = chosen.finished
        if (room := shutil.disk_usage(folder).free) < finished * BYTES_EACH:
            say(f"{folder} has room for {room // 1_000_000:,} MB: half as many instead")
            finished //= 2
        running = embedded.start_postgres(folder / "data", durable=True)
        try:
            bench = Bench(running, Environments(), Sizes(), Figures(), folder)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                print(json.dumps(runner.run(measure(bench, finished, chosen.minutes)), indent=2))
        except Slow as error:
            sys.exit(str(error))
        finally:
            embedded.stop_postgres(running)


if __name__ == "__main__":
    main()
