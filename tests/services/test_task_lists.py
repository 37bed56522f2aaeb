"""Lists of tasks by filters: each finds exactly what fits, newest first, over live and ended tasks; and reads little for what is rare."""

from __future__ import annotations

import json
import random
from typing import Any
from uuid import UUID

import pytest

from server.database import Database
from services import tasks
from services.task_states import FINAL
from sql import SQL

TYPES = ("noop", "noop_twice", "ingest")
QUEUES = ("default", "content")
LIVE = ("queued", "scheduled")
MOST_BUFFERS = 600
INSERT_ENDED = """
    INSERT INTO task_history (id, tenant_id, queue, type, type_version, state, priority, attempt, max_attempts, crashes, snoozes, fence, run_at,
      created_at, created_by, timeout_seconds, payload, finished_at, concurrency_key, concurrency_limit)
    SELECT app.uuid7(), $1, $2, $3, 1, $4, 2, 1, 5, 0, 0, 1, app.now(), app.now(), 'test', 300, '{}', app.now(), $5::text, CASE WHEN $5 IS NOT NULL THEN 1 END
    FROM generate_series(1, $6)
    RETURNING id"""
INSERT_LIVE = """
    INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload, concurrency_key, concurrency_limit)
    VALUES ($1, $2, $3, $4, 'test', '{}', $5::text, CASE WHEN $5 IS NOT NULL THEN 1 END)
    RETURNING id"""


Row = tuple[str, str, str, str | None]  # queue, type, state, concurrency key


async def insert(admin: Any, tenant: UUID, row: Row, *, times: int = 1) -> UUID:
    """Insert a task, or *times* ended ones, as if they had been made now; return the id of the last."""
    if row[2] in LIVE:
        live: UUID = await admin.fetchval(INSERT_LIVE, tenant, *row)
        return live
    last: UUID = (await admin.fetch(INSERT_ENDED, tenant, *row, times))[-1]["id"]
    return last


async def walk(database: Database, tenant: UUID, limit: int, **filters: Any) -> list[UUID]:
    """Read a list to its end, page by page."""
    found: list[UUID] = []
    async with database.tenant(tenant, "test") as db:
        while True:
            before = found[-1] if found else None
            page = await tasks.list_tasks(db, tenant, before=before, limit=limit, **filters)
            found += [task.id for task in page]
            if len(page) < limit:
                return found


async def test_every_filter_finds_exactly_what_fits_newest_first(
    database: Database, admin: Any, tenant: UUID, other_tenant: UUID
) -> None:
    dice = random.Random(7)
    made = []
    for _ in range(120):
        row: Row = (
            dice.choice(QUEUES),
            dice.choice(TYPES),
            dice.choice((*LIVE, *FINAL)),
            dice.choice((None, None, "noop", "customer")),
        )
        made.append((await insert(admin, tenant, row), *row))
        await insert(admin, other_tenant, row)
    made.sort(reverse=True)

    for _ in range(60):
        wanted = {
            "queue": dice.choice((None, *QUEUES, "documents")),
            "type": dice.choice((None, None, *TYPES, "never")),
            "state": dice.choice((None, None, *LIVE, *FINAL)),
            "q": dice.choice((None, None, "no", "noop", "noop_", "customer", "cust", "zzz")),
        }
        fits = [
            task_id
            for task_id, queue, kind, state, key in made
            if wanted["queue"] in {None, queue}
            and wanted["type"] in {None, kind}
            and wanted["state"] in {None, state}
            and (wanted["q"] is None or kind.startswith(wanted["q"]) or key == wanted["q"])
        ]
        assert (
            await walk(database, tenant, dice.choice((1, 3, 50)) if len(fits) < 9 else 11, **wanted) == fits
        )


async def test_filters_hold_beside_the_beginning_of_an_id(
    database: Database, admin: Any, tenant: UUID
) -> None:
    ended = await insert(admin, tenant, ("default", "noop", "failed", None))
    await insert(admin, tenant, ("default", "noop", "succeeded", None))

    assert await walk(database, tenant, 50, q=str(ended), state="failed") == [ended]
    assert await walk(database, tenant, 50, q=str(ended), state="succeeded") == []
    assert await walk(database, tenant, 50, q=str(ended)[:8], type="noop", state="failed") == [ended]


@pytest.mark.parametrize("analyzed", [True, False], ids=["analyzed", "never analyzed"])
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
async def test_what_is_rare_and_old_is_found_without_reading_what_is_newer(
    database: Database, admin: Any, tenant: UUID, analyzed: bool, plan: str
) -> None:
    await admin.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    given_up = await insert(admin, tenant, ("default", "given_up", "succeeded", None), times=300)
    imported = await insert(admin, tenant, ("content", "noop", "succeeded", None))
    await insert(admin, tenant, ("default", "given_up", "failed", "customer"), times=2)
    await insert(admin, tenant, ("default", "noop", "succeeded", None), times=60_000)
    await insert(admin, tenant, ("default", "noop", "failed", None), times=20_000)
    if analyzed:
        await admin.execute("ANALYZE task_history")

    cases: tuple[tuple[dict[str, str], int], ...] = (
        ({"type": "given_up"}, 51),
        ({"type": "given_up", "state": "succeeded"}, 51),
        ({"type": "given_up", "state": "failed"}, 2),
        ({"type": "given_up", "state": "cancelled"}, 0),
        ({"queue": "content"}, 1),
        ({"queue": "content", "state": "failed"}, 0),
        ({"text": "given"}, 51),
        ({"text": "customer"}, 2),
        ({"text": "no such thing"}, 0),
    )
    for filters, rows in cases:
        for before in (None, given_up if rows == 51 else imported):
            cost, found = await _cost(database, tenant, plan, before, filters)
            assert cost <= MOST_BUFFERS, (filters, before, cost)
            assert before is not None or found == rows, filters


async def _cost(
    database: Database, tenant: UUID, plan: str, before: UUID | None, filters: dict[str, str]
) -> tuple[int, int]:
    """Return how many buffers the list touches with a kind of plan, and its rows."""
    chosen = [tenant, before, 51, *(filters.get(name) for name in ("state", "type", "queue", "text"))]
    arguments = ", ".join("NULL" if one is None else f"'{one}'" for one in chosen)
    async with database.tenant(tenant, "test") as db:
        await db.execute(
            f"SET LOCAL plan_cache_mode = {plan}; PREPARE listing AS {SQL['tasks.list_filtered']}"
        )
        explained = await db.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) EXECUTE listing ({arguments})"
        )
        await db.execute("DEALLOCATE listing")
    found = (explained if isinstance(explained, list) else json.loads(explained))[0]["Plan"]
    return found["Shared Hit Blocks"] + found["Shared Read Blocks"], found["Actual Rows"]
