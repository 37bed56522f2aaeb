"""What functions that see all tenants refuse to the transaction of one."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from server.database import Database


@pytest.mark.parametrize(
    "call",
    [
        "app.fold_statistics(0)",
        "app.sweep_schedule_ticks(0, 1000)",
        "app.drop_month('task_history', '2020-01-01Z', 1)",
        "app.forget_dead_letters('2020-01-01Z')",
        "app.rescue(1000, -1000000)",
        "app.give_back_unknown(app.uuid7(), '{}', 0)",
        "app.deregister_executor(app.uuid7())",
    ],
)
async def test_what_clears_away_for_all_tenants_is_no_door_for_one(
    database: Database, tenant: UUID, call: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not for the transaction of a tenant"):
        async with database.tenant(tenant, "user:ada") as db:
            await db.fetch(f"SELECT {call}")
    async with database.engine() as db:
        await db.fetch(f"SELECT {call}")
