"""The numbers of the overview: what they count and what they leave out."""

from __future__ import annotations

from uuid import UUID

from server.database import Database
from services import overview
from tests import engine


async def _fail(_task: object, _payload: object) -> None:
    raise ValueError("as asked")


async def _done(_task: object, _payload: object) -> dict[str, int]:
    return {}


async def test_the_last_day_is_counted_by_hour_state_and_type(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    with engine.task_type("good", _done), engine.task_type("bad", _fail, max_attempts=1):
        async with engine.running_executor(database):
            for name, owner in (("good", tenant), ("good", tenant), ("bad", tenant), ("good", other_tenant)):
                await engine.ended(database, await engine.enqueue(database, owner, name))
        waiting = await engine.enqueue(database, tenant, "good")
        cancelled = await engine.enqueue(database, tenant, "good")
        await engine.cancel(database, cancelled)

    async with database.tenant(tenant, "test") as db:
        numbers = await overview.get(db, tenant)

    assert (numbers.succeeded, numbers.failed) == (2, 1)
    assert numbers.failed_by_type == (("bad", 1),)
    assert numbers.live == {waiting.state: 1}
    assert len(numbers.hours) == overview.HOURS + 1
    assert sum(hour.total for hour in numbers.hours[-2:]) == 3
    assert (numbers.calls, numbers.tokens, numbers.cost_usd) == (0, 0, None)
