"""What became of a task so far, for programs: its events, and the steps that it has finished."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from aiohttp import web

from routes.api.kernel import Call, JSONObject, Page, View, operation
from services import task_history, tasks
from services.task_context import Connection

routes = web.RouteTableDef()


class EventView(View):
    """One entry of a task's history."""

    event: str
    at: datetime
    actor: str
    attempt: int
    fence: int
    executor_id: UUID | None
    detail: JSONObject


class StepView(View):
    """A finished step and what it returned."""

    name: str
    kind: Literal["step", "write", "wait"]
    fence: int
    started_at: datetime
    finished_at: datetime
    output: Any


@operation(
    routes,
    "GET",
    "/api/v1/tasks/{task_id}/events",
    name="tasks.list_events",
    summary="Read a task's history, oldest first",
    role="viewer",
    answer=Page[EventView],
)
async def list_events(call: Call, db: Connection, task_id: UUID) -> JSONObject:
    return {"items": await task_history.list_events(db, call.tenant_id, task_id), "next_cursor": None}


@operation(
    routes,
    "GET",
    "/api/v1/tasks/{task_id}/steps",
    name="tasks.list_steps",
    summary="Read what a task's finished steps returned",
    role="viewer",
    answer=Page[StepView],
)
async def list_steps(call: Call, db: Connection, task_id: UUID) -> JSONObject:
    await tasks.get(db, call.tenant_id, task_id)
    return {"items": await task_history.list_steps(db, call.tenant_id, task_id), "next_cursor": None}
