"""Tasks that have failed, made without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from server.database import Database
from services import tasks
from services.tasks import NewTask, Task

Admin = asyncpg.Connection


async def make(database: Database, tenant: UUID, count: int = 1, **more: object) -> list[Task]:
    """Enqueue *count* tasks of the type noop."""
    new = NewTask(**{"type": "noop", "payload": {}} | more)  # type: ignore[arg-type]
    made: list[Task] = []
    async with database.tenant(tenant, "user:ada") as db:
        while len(made) < count:
            wanted = [new] * min(1000, count - len(made))
            made += await tasks.enqueue_many(db, tenant, wanted, actor="user:ada")
    return made


async def fail(
    admin: Admin,
    ids: Sequence[UUID],
    *,
    error: str = "ValueError",
    message: str = "no luck",
    state: str = "failed",
) -> None:
    """End live tasks as the engine does when they failed for good."""
    await admin.execute(
        "SELECT app.end_tasks($1, $2, $2, jsonb_build_object('class', $3::text, 'message', $4::text), 'test', NULL)",
        *(list(ids), state, error, message),
    )


async def letters(database: Database, admin: Admin, tenant: UUID, count: int = 1, **more: str) -> list[Task]:
    """Make *count* tasks that have failed."""
    made = await make(database, tenant, count)
    await fail(admin, [task.id for task in made], **more)
    return made
