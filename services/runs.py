"""Writes of one run of a task. Each is fenced: its transaction begins by locking the task's row under the run's number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import asyncpg

from services.errors import StaleAttempt
from sql import SQL, Connection

if TYPE_CHECKING:
    from services.task_context import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a finished step left behind."""

    name: str
    kind: Literal["step", "write", "wait"]
    input_hash: bytes | None
    output: Any


async def lock(db: Connection, task_id: UUID, fence: int) -> asyncpg.Record:
    """Lock the task's row for this transaction and return it. Raises: StaleAttempt when run *fence* no longer owns it."""
    row = await db.fetchrow(SQL["runs.lock"], task_id, fence)
    if row is None:
        raise StaleAttempt(f"run {fence} of task {task_id} no longer owns it")
    return row


async def list_checkpoints(db: Connection, tenant_id: UUID, task_id: UUID) -> dict[str, Checkpoint]:
    """Return the task's finished steps by name."""
    rows = await db.fetch(SQL["runs.list_checkpoints"], tenant_id, task_id)
    return {
        row["name"]: Checkpoint(
            name=row["name"], kind=row["kind"], input_hash=row["input_hash"], output=row["output"]
        )
        for row in rows
    }


async def save_checkpoint(db: Connection, run: Run, checkpoint: Checkpoint, *, seconds: float) -> None:
    """Keep a finished step; the caller holds the fence. *seconds* is how long the step took."""
    await db.execute(
        SQL["runs.save_checkpoint"],
        run.tenant_id,
        run.id,
        checkpoint.name,
        checkpoint.kind,
        run.fence,
        checkpoint.input_hash,
        checkpoint.output,
        seconds,
    )


async def wait(db: Connection, run: Run, name: str, *, timeout: timedelta | None) -> dict[str, Any] | None:
    """Look for signal *name* under the fence; return its outcome, or put the task to waiting and return None.

    The outcome, `{"data", "actor", "expired"}`, is kept as a checkpoint. Raises: StaleAttempt.
    """
    held = await lock(db, run.id, run.fence)
    signal = await db.fetchrow(SQL["runs.find_signal"], run.tenant_id, run.id, name)
    outcome: dict[str, Any] | None = None
    if signal is not None:
        outcome = {"data": signal["data"], "actor": signal["actor"], "expired": False}
    elif held["waiting_for"] == name and held["wait_is_over"]:
        outcome = {"data": {}, "actor": None, "expired": True}
    if outcome is not None:
        await save_checkpoint(
            db, run, Checkpoint(name=f"wait:{name}", kind="wait", input_hash=None, output=outcome), seconds=0
        )
        return outcome
    parked = await db.fetchrow(
        SQL["runs.wait"],
        run.tenant_id,
        run.id,
        run.fence,
        name,
        None if timeout is None else timeout.total_seconds(),
    )
    if parked is not None and parked["concurrency_key"] is not None:
        await db.execute(SQL["runs.release_key"], run.tenant_id, parked["queue"], parked["concurrency_key"])
    return None
