"""The numbers of the overview: what they count, what they leave out, and that none of them counts history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from server.database import Database
from services import overview
from services.queues import Count
from sql import SQL
from tests import engine


async def _fail(_task: object, _payload: object) -> None:
    raise ValueError("as asked")


async def _done(_task: object, _payload: object) -> dict[str, int]:
    return {}


async def numbers_of(database: Database, tenant: UUID) -> overview.Numbers:
    async with database.tenant(tenant, "test") as db:
        return await overview.get(db, tenant)


async def test_the_last_day_is_counted_by_hour_state_and_type(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    with engine.task_type("good", _done), engine.task_type("bad", _fail, max_attempts=2):
        async with engine.running_executor(database):
            for name, owner in (("good", tenant), ("good", tenant), ("bad", tenant), ("good", other_tenant)):
                await engine.ended(database, await engine.enqueue(database, owner, name))
        await engine.enqueue(database, tenant, "good")
        cancelled = await engine.enqueue(database, tenant, "good")
        await engine.cancel(database, cancelled)

    numbers = await numbers_of(database, tenant)

    assert (numbers.succeeded, numbers.failed, numbers.day.cancelled, numbers.day.retried) == (2, 1, 1, 1)
    assert numbers.failed_by_type == (("bad", 1),)
    assert {state: count for state, count in numbers.live.items() if count.tasks} == {
        "queued": Count(tasks=1)
    }
    assert len(numbers.hours) == overview.HOURS + 1
    assert sum(hour.total for hour in numbers.hours[-2:]) == 3
    assert numbers.day.mean_run is not None
    assert timedelta(0) < numbers.day.mean_run <= numbers.day.longest_run
    assert (numbers.calls, numbers.tokens, numbers.cost_usd) == (0, 0, None)


async def test_what_ended_before_the_hours_shown_is_left_out(
    database: Database, admin: Any, tenant: UUID
) -> None:
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for back in (0, overview.HOURS, overview.HOURS + 1):
        await admin.execute(
            "INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)"
            " VALUES ($1, $2, 'default', 'noop', 'succeeded', 1, 0, 0, 0, 0)",
            tenant, this_hour - timedelta(hours=back),
        )  # fmt: skip

    numbers = await numbers_of(database, tenant)

    assert numbers.succeeded == sum(hour.total for hour in numbers.hours) >= 1
    assert numbers.succeeded <= 2


def _filled(name: str, tenant: UUID) -> str:
    return SQL[name].replace("$1", f"'{tenant}'").replace("$2", "24")


async def test_no_number_of_the_overview_is_read_from_history(
    database: Database, admin: Any, tenant: UUID
) -> None:
    plans = [
        (await admin.fetchval(f"EXPLAIN (FORMAT JSON) {_filled(name, tenant)}"))
        for name in SQL
        if name.startswith("overview.")
    ]
    assert plans
    assert not [plan for plan in plans if "task_history" in plan]

    # Plans do not show what functions read: so take history away altogether.
    await admin.execute("REVOKE ALL ON task_history, all_tasks FROM galley_web, galley_engine")
    assert (await numbers_of(database, tenant)).succeeded == 0
