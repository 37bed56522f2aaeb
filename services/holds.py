"""Tasks that are held after a crash until an operator has looked: `on_crash="hold"` of their type."""

from __future__ import annotations

from uuid import UUID

from services import tasks
from services.errors import Conflict
from sql import SQL, Connection

SIGNAL = "operator"  # what they wait for


async def release(db: Connection, tenant_id: UUID, task_id: UUID, *, actor: str) -> str:
    """Let a held task run again; returns its queue. Raises: NotFound, Conflict when it is not held."""
    row = await db.fetchrow(SQL["tasks.lock"], tenant_id, task_id)
    if row is None or (row["state"], row["waiting_for"]) != ("waiting", SIGNAL):
        task = await tasks.get(db, tenant_id, task_id)
        raise Conflict(f"task {task_id} is {task.state} and not held for an operator")
    queue = await tasks.send_signal(db, tenant_id, task_id, name=SIGNAL, data={}, actor=actor)
    assert queue is not None, "its row is locked and waits for this name"
    return queue
