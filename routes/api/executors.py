"""Executors for programs: who runs tasks, how they do, and letting one run empty."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Call, JSONObject, Page, View, operation
from routes.api.tasks import TaskSummary
from services import executors, installation
from services.task_context import Connection

routes = web.RouteTableDef()

OPERATES = "For operators of a tenant that operates the installation."


class ExecutorView(View):
    """A process that runs tasks, as it last reported. What concerns other tenants is null for those who may not see it."""

    id: UUID
    state: Literal["serving", "draining", "drained", "lost"]
    host: str | None
    pid: int | None
    release: str | None
    slots: int | None
    busy: int | None = Field(description="Slots taken, leaked ones included.")
    leaked: int | None = Field(description="Slots held by code that does not end although it was stopped.")
    lag_ms: float | None = Field(description="How late its event loop was at worst in the last heartbeat.")
    started_at: datetime
    seen_at: datetime
    seconds_left: float = Field(description="Of its lease; 0: lost, its runs are taken from it.")
    draining_at: datetime | None
    draining_by: str | None
    running: int = Field(description="Tasks that it runs; for those who may not see more, their own.")


class ExecutorTasks(ExecutorView):
    """An executor, and what it runs."""

    tasks: list[TaskSummary] = Field(description="The caller's tenant's own, longest first.")


@operation(
    routes, "GET", "/api/v1/executors", name="executors.list", summary="List executors", role="viewer",
    answer=Page[ExecutorView],
    description="Hosts, slots and loads are shown to operators of a tenant that operates the installation.",
)  # fmt: skip
async def list_executors(call: Call, db: Connection) -> JSONObject:
    found = await executors.list_executors(db, installation=await _sees_all(call, db))
    return {"items": found, "next_cursor": None}


@operation(
    routes, "GET", "/api/v1/executors/{executor_id}", name="executors.get", summary="Look at an executor and what it runs",
    role="viewer", answer=ExecutorTasks,
)  # fmt: skip
async def get(call: Call, db: Connection, executor_id: UUID) -> JSONObject:
    executor = await executors.get(db, executor_id, installation=await _sees_all(call, db))
    running = await executors.list_running(db, call.tenant_id)
    about = {name: getattr(executor, name) for name in ExecutorView.model_fields}
    return about | {"tasks": running.get(executor_id, [])}


@operation(
    routes, "POST", "/api/v1/executors/{executor_id}/drain", name="executors.drain",
    summary="Let an executor end what it runs and claim nothing more", role="operator", answer=ExecutorView, description=OPERATES,
)  # fmt: skip
async def drain(call: Call, db: Connection, executor_id: UUID) -> executors.Executor:
    return await executors.drain(db, executor_id, actor=call.actor)


@operation(
    routes, "POST", "/api/v1/executors/{executor_id}/undrain", name="executors.undrain", summary="Let an executor claim again",
    role="operator", answer=ExecutorView, description=f"It begins within one heartbeat. {OPERATES}",
)  # fmt: skip
async def undrain(call: Call, db: Connection, executor_id: UUID) -> executors.Executor:
    executor = await executors.undrain(db, executor_id, actor=call.actor)
    call.wake("")
    return executor


async def _sees_all(call: Call, db: Connection) -> bool:
    return call.principal.may("operator") and await installation.operates(db)
