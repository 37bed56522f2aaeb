"""Queues for programs: what is in them and how fast they move; limit, pause, resume, create, delete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import Field

from routes.api.kernel import Answer, Body, Call, Instant, Int, JSONObject, Page, Text, View, operation
from services import installation, queues
from services.queues import Report
from services.task_context import Connection

routes = web.RouteTableDef()

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Most = Annotated[Int, Field(ge=1, le=queues.MOST)]
Rate = Annotated[float, Field(ge=queues.LEAST_RATE, le=queues.MOST, allow_inf_nan=False)]
OPERATES = "For operators of a tenant that operates the installation."


class Limits(Body):
    """What a queue allows; null takes a limit away, what is left out stays as it is."""

    max_running: Most | None = Field(default=None, description="Tasks running at once, over all executors.")
    max_running_per_tenant: Most | None = Field(default=None, description="The same for each tenant.")
    rate_per_second: Rate | None = Field(default=None, description="Tasks started per second.")
    burst: Most | None = Field(
        default=None, description="Tasks started at once after a rest; left out: one second's worth."
    )
    fair: bool = Field(default=False, description="Tenants take turns instead of first come, first served.")


class NewQueue(Limits):
    """A queue to be made."""

    name: Name


class Pause(Body):
    """Why, and until when."""

    reason: Text | None = Field(default=None, min_length=1, max_length=500)
    until: Instant | None = Field(default=None, description="Left out: until it is resumed.")


class TenantLimit(Body):
    """Another number for one tenant than max_running_per_tenant."""

    max_running: Most


class CountView(View):
    """A number of tasks."""

    tasks: int
    more: bool = Field(description="There are more than that.")


class DepthView(View):
    """Live tasks by state."""

    scheduled: CountView
    queued: CountView
    blocked: CountView
    running: CountView
    waiting: CountView


class MinuteView(View):
    """What ended in one minute."""

    at: datetime
    succeeded: int
    failed: int


class RecentView(View):
    """The last 60 minutes. Tasks, except `retried` and `snoozed`, which are runs."""

    succeeded: int
    failed: int
    cancelled: int
    retried: int
    snoozed: int
    mean_wait_seconds: float | None
    longest_wait_seconds: float | None
    mean_run_seconds: float | None
    longest_run_seconds: float | None
    minutes: list[MinuteView] = Field(description="Oldest first; the last one is under way.")


class QueueView(View):
    """A queue."""

    name: str
    created_at: datetime
    paused_at: datetime | None
    paused_by: str | None
    pause_reason: str | None
    resume_at: datetime | None
    max_running: int | None
    max_running_per_tenant: int | None
    rate_per_second: float | None
    burst: int | None
    fair: bool
    updated_at: datetime | None
    updated_by: str | None
    own_limit: int | None = Field(
        description="Instead of max_running_per_tenant, for the tenant of the caller."
    )
    installation: bool = Field(
        description="The numbers are those of all tenants; else they are the caller's own."
    )
    depth: DepthView
    oldest_ready_at: datetime | None
    recent: RecentView


@operation(
    routes, "GET", "/api/v1/queues", name="queues.list", summary="List queues", role="viewer",
    answer=Page[QueueView],
    description="Operators of a tenant that operates the installation see the numbers of all tenants, everybody else their own.",
)  # fmt: skip
async def list_queues(call: Call, db: Connection) -> JSONObject:
    sees_all, operates = await _sight(call, db)
    found = await queues.report(db, call.tenant_id, installation=sees_all)
    return {"items": [_view(one, sees_all, operates) for one in found], "next_cursor": None}


@operation(
    routes, "POST", "/api/v1/queues", name="queues.create", summary="Create a queue", role="operator",
    answer=QueueView, status=201, idempotent=True, errors=(409,), description=OPERATES,
)  # fmt: skip
async def create(call: Call, db: Connection, body: NewQueue) -> Answer:
    limits = body.model_dump(exclude_unset=True, exclude={"name"})
    await queues.create(db, body.name, limits, actor=call.actor)
    return Answer(await _read(call, db, body.name), location=call.url("queues.get", queue=body.name))


@operation(
    routes, "GET", "/api/v1/queues/{queue}", name="queues.get", summary="Look at a queue", role="viewer",
    answer=QueueView,
)  # fmt: skip
async def get(call: Call, db: Connection, queue: str) -> JSONObject:
    return await _read(call, db, queue)


@operation(
    routes, "PATCH", "/api/v1/queues/{queue}", name="queues.change", summary="Set the limits of a queue",
    role="operator", answer=QueueView, description=f"In force at once, over all executors. {OPERATES}",
)  # fmt: skip
async def change(call: Call, db: Connection, queue: str, body: Limits) -> JSONObject:
    await queues.change(db, queue, body.model_dump(exclude_unset=True), actor=call.actor)
    call.wake(queue)
    return await _read(call, db, queue)


@operation(
    routes, "DELETE", "/api/v1/queues/{queue}", name="queues.delete", summary="Delete an empty queue",
    role="operator", status=204, errors=(409,), description=OPERATES,
)  # fmt: skip
async def delete(call: Call, db: Connection, queue: str) -> None:
    await queues.delete(db, queue)


@operation(
    routes, "POST", "/api/v1/queues/{queue}/pause", name="queues.pause", summary="Let nothing more of a queue start",
    role="operator", answer=QueueView, description=f"What runs goes on. {OPERATES}",
)  # fmt: skip
async def pause(call: Call, db: Connection, queue: str, body: Pause | None) -> JSONObject:
    given = body or Pause()
    await queues.pause(db, queue, actor=call.actor, reason=given.reason, until=given.until)
    return await _read(call, db, queue)


@operation(
    routes, "POST", "/api/v1/queues/{queue}/resume", name="queues.resume", summary="Let a queue's tasks start again",
    role="operator", answer=QueueView, description=f"Resuming twice is fine. {OPERATES}",
)  # fmt: skip
async def resume(call: Call, db: Connection, queue: str) -> JSONObject:
    await queues.resume(db, queue)
    call.wake(queue)
    return await _read(call, db, queue)


@operation(
    routes, "PUT", "/api/v1/queues/{queue}/tenants/{tenant}", name="queues.limit_tenant",
    summary="Let one tenant run another number of a queue's tasks", role="operator", status=204, description=OPERATES,
)  # fmt: skip
async def limit_tenant(call: Call, db: Connection, queue: str, tenant: str, body: TenantLimit) -> None:
    await queues.limit_tenant(db, queue, tenant, body.max_running, actor=call.actor)
    call.wake(queue)


@operation(
    routes, "DELETE", "/api/v1/queues/{queue}/tenants/{tenant}", name="queues.unlimit_tenant",
    summary="Let one tenant run as many of a queue's tasks as all others", role="operator", status=204, description=OPERATES,
)  # fmt: skip
async def unlimit_tenant(call: Call, db: Connection, queue: str, tenant: str) -> None:
    await queues.limit_tenant(db, queue, tenant, None, actor=call.actor)
    call.wake(queue)


async def _sight(call: Call, db: Connection) -> tuple[bool, bool]:
    """Return whether the caller sees all tenants' numbers, and whether the tenant operates the installation."""
    operates = await installation.operates(db)
    return operates and call.principal.may("operator"), operates


async def _read(call: Call, db: Connection, queue: str) -> JSONObject:
    sees_all, operates = await _sight(call, db)
    found = await queues.report(db, call.tenant_id, installation=sees_all, name=queue)
    return _view(found[0], sees_all, operates)


def _view(report: Report, sees_all: bool, operates: bool) -> JSONObject:
    queue, recent = report.queue, report.recent
    seconds = {
        f"{name}_seconds": None if span is None else span.total_seconds()
        for name, span in (
            ("mean_wait", recent.mean_wait),
            ("longest_wait", recent.longest_wait),
            ("mean_run", recent.mean_run),
            ("longest_run", recent.longest_run),
        )
    }
    counts = {
        name: getattr(recent, name) for name in ("succeeded", "failed", "cancelled", "retried", "snoozed")
    }
    about = {name: getattr(queue, name) for name in QueueView.model_fields if hasattr(queue, name)}
    if not operates:  # people of other tenants stay unnamed
        about |= {"paused_by": queue.paused_by and "operator", "updated_by": queue.updated_by and "operator"}
    return about | {
        "own_limit": report.own_limit,
        "installation": sees_all,
        "depth": report.depth,
        "oldest_ready_at": report.oldest_ready_at,
        "recent": counts | seconds | {"minutes": list(report.minutes)},
    }
