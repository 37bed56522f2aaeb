"""An executor with its loops, started inside a test, and task types that exist only there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from server.database import Database
from server.executor import Executor
from server.lease import Timing
from server.maintenance import Maintenance
from server.options import Options
from server.scheduler import Scheduler
from server.supervisor import Supervisor
from services import task_history, task_types, tasks
from services.task_context import TaskContext
from services.task_types import Retry, TaskType
from services.tasks import NewTask, Task

QUICK = Options(
    slots=20,
    poll_min=timedelta(seconds=0.01),
    poll_max=timedelta(seconds=0.05),
    grace=timedelta(seconds=0.3),
    drain=timedelta(seconds=0.2),
    # The lease outlasts any pause of a busy machine; who wants it lost ends it in the database, or has one of their own.
    timing=Timing(lease=timedelta(seconds=15), heartbeat=timedelta(seconds=0.3)),
)


class AnyPayload(BaseModel):
    """Takes whatever a test sends."""

    model_config = ConfigDict(extra="allow")


@contextmanager
def task_type(
    name: str, run: Callable[[TaskContext, Any], Awaitable[Any]], **more: Any
) -> Iterator[TaskType]:
    """Make *run* a task type for as long as the block lasts. Retries come at once unless the test says otherwise."""
    more.setdefault("retry", Retry(base=timedelta(milliseconds=10), cap=timedelta(milliseconds=20)))
    made = TaskType(name=name, payload=AnyPayload, run=run, **more)
    known = task_types.load_all()
    before = known.get(name)
    known[name] = made
    try:
        yield made
    finally:
        del known[name]
        if before is not None:
            known[name] = before


@asynccontextmanager
async def running_executor(
    database: Database, options: Options = QUICK, *, drain: bool = True, **more: Any
) -> AsyncIterator[Executor]:
    """Run an executor, a scheduler and maintenance until the block ends."""
    supervisor = Supervisor()
    executor = Executor(database, options=options, on_scheduled=lambda: scheduler.poke(), **more)  # noqa: PLW0108 - it is made below
    scheduler = Scheduler(database, on_work=executor.wake)
    executor.start(supervisor)
    maintenance = Maintenance(database, rescue_seconds=0.2, on_work=executor.wake)
    supervisor.start("scheduler", scheduler.keep, interval=1)
    supervisor.start("rescuer", maintenance.keep_rescuing, interval=1)
    try:
        yield executor
    finally:
        if drain:
            await executor.drain()
        await supervisor.stop()


async def enqueue(
    database: Database, tenant: UUID, name: str, payload: dict[str, Any] | None = None, **more: Any
) -> Task:
    """Create a task in a transaction of its own."""
    async with database.tenant(tenant, "user:ada") as db:
        return await tasks.enqueue(
            db, tenant, NewTask(type=name, payload=payload or {}, **more), actor="user:ada"
        )


async def get(database: Database, tenant: UUID, task_id: UUID) -> Task:
    """Read a task in a transaction of its own."""
    async with database.tenant(tenant, "user:ada") as db:
        return await tasks.get(db, tenant, task_id)


async def until(database: Database, task: Task, *states: str, seconds: float = 20) -> Task:
    """Wait until the task is in one of *states* and return it. Raises: TimeoutError that names its last state."""
    latest = task
    try:
        async with asyncio.timeout(seconds):
            while (latest := await get(database, task.tenant_id, task.id)).state not in states:
                await asyncio.sleep(0.02)
    except TimeoutError as exc:
        raise TimeoutError(f"{task.type} is {latest.state}, not {states}: {latest.error}") from exc
    return latest


async def ended(database: Database, task: Task, *, seconds: float = 20) -> Task:
    """Wait until the task has ended for good and return it."""
    return await until(database, task, "succeeded", "failed", "timed_out", "cancelled", seconds=seconds)


async def signal(database: Database, task: Task, name: str, data: dict[str, Any] | None = None) -> None:
    """Send the task a signal in a transaction of its own."""
    async with database.tenant(task.tenant_id, "user:bob") as db:
        await tasks.send_signal(db, task.tenant_id, task.id, name=name, data=data or {}, actor="user:bob")


async def cancel(database: Database, task: Task) -> list[tasks.Cancelled]:
    """Cancel the task in a transaction of its own; returns the runs to stop."""
    async with database.tenant(task.tenant_id, "user:bob") as db:
        return (await tasks.cancel(db, task.tenant_id, task.id, actor="user:bob", reason="a test"))[1]


async def history(database: Database, task: Task) -> list[str]:
    """Return the names of the task's events, oldest first."""
    async with database.tenant(task.tenant_id, "user:ada") as db:
        return [event.event for event in await task_history.list_events(db, task.tenant_id, task.id)]
