"""Schedules for programs: make, look at, preview, change, pause, resume, run now, delete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes import keys
from routes.api.kernel import (
    Answer,
    Body,
    Call,
    Instant,
    Int,
    JSONObject,
    Page,
    PageQuery,
    Text,
    View,
    operation,
)
from routes.api.tasks import Attempts, Key, Name, Priority, Seconds, TaskView
from services import schedules, tasks, ticks
from services.schedules import NewSchedule, Schedule
from services.task_context import Connection

routes = web.RouteTableDef()

Title = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*\S[^\x00]*$")]
Cron = Annotated[str, Field(min_length=1, max_length=200, examples=["30 6 * * MON-FRI"])]
Zone = Annotated[str, Field(min_length=1, max_length=100, examples=["Europe/Berlin"])]
Interval = Annotated[Int, Field(ge=1, le=31_536_000)]
Limit = Annotated[Int, Field(ge=1, le=1000)]
Missed = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip"]

_CRON = "Five fields: minute, hour, day of month, month, day of week; also names, `L`, `LW`, `5L` and `1#1`. Either this or `interval_seconds`."
_MISSED = (
    "What becomes of ticks that nobody was there for: none is made up for (`skip`), the latest is (`once`), "
    f"or each is, {ticks.CATCH_UP} at most (`all`)."
)
_OVERLAP = "`skip`: a tick enqueues nothing while the task of the tick before is still live."


def _unset(schema: JSONObject) -> None:
    del schema["default"]  # what is left out stays as it is


class NewScheduleBody(Body):
    """What is to be done, and when."""

    name: Title = Field(description="Unique among the tenant's schedules.")
    type: Name = Field(description="The type of the tasks it makes.")
    payload: JSONObject = Field(
        default_factory=dict, description="Checked against the type now, and again at each tick."
    )
    cron: Cron | None = Field(default=None, description=_CRON)
    time_zone: Zone = Field(default="UTC", description="Of `cron`: a name of the IANA database.")
    interval_seconds: Interval | None = Field(
        default=None, description="Counted from when the schedule is made."
    )
    missed: Missed = Field(default="once", description=_MISSED)
    overlap: Overlap = Field(default="allow", description=_OVERLAP)
    queue: Name | None = None
    priority: Priority = 2
    timeout_seconds: Seconds | None = None
    total_timeout_seconds: Seconds | None = None
    max_attempts: Attempts | None = None
    concurrency_key: Key | None = None
    concurrency_limit: Limit | None = None


class ScheduleChanges(Body):
    """What the schedule says otherwise from now on; what is left out stays. `cron` and `interval_seconds` take each other's place."""

    name: Title = Field(default="", json_schema_extra=_unset)
    type: Name = Field(default="", json_schema_extra=_unset)
    payload: JSONObject = Field(default_factory=dict)
    cron: Cron | None = Field(default=None, description=_CRON, json_schema_extra=_unset)
    time_zone: Zone = Field(default="", json_schema_extra=_unset)
    interval_seconds: Interval | None = Field(default=None, json_schema_extra=_unset)
    missed: Missed = Field(default="once", description=_MISSED, json_schema_extra=_unset)
    overlap: Overlap = Field(default="allow", description=_OVERLAP, json_schema_extra=_unset)
    queue: Name | None = Field(default=None, json_schema_extra=_unset)
    priority: Priority = Field(default=2, json_schema_extra=_unset)
    timeout_seconds: Seconds | None = Field(default=None, json_schema_extra=_unset)
    total_timeout_seconds: Seconds | None = Field(default=None, json_schema_extra=_unset)
    max_attempts: Attempts | None = Field(default=None, json_schema_extra=_unset)
    concurrency_key: Key | None = Field(default=None, json_schema_extra=_unset)
    concurrency_limit: Limit | None = Field(default=None, json_schema_extra=_unset)


class WhenBody(Body):
    """When a schedule would tick."""

    cron: Cron | None = None
    time_zone: Zone = "UTC"
    interval_seconds: Interval | None = None


class Pause(Body):
    """Until when it does not tick."""

    resume_at: Instant | None = Field(default=None, description="Left out: until it is resumed.")


class ScheduleFilter(PageQuery):
    """Which schedules."""

    type: Text | None = Field(default=None, max_length=100)


class TickView(View):
    """What became of a tick, or of all of them until `until_at`."""

    tick_at: datetime
    until_at: datetime | None = Field(description="The last one of several in a row that went alike.")
    manual: bool = Field(description="Somebody ran the schedule by hand.")
    outcome: Literal["enqueued", "missed", "overlapped", "failed"]
    task_id: UUID | None
    task_state: str | None = Field(description="Null once the task's history has been dropped.")
    reason: str | None = Field(description="Why no task could be made.")
    actor: str
    decided_at: datetime


class ScheduleView(View):
    """A schedule."""

    id: UUID
    name: str
    type: str
    payload: JSONObject
    cron: str | None
    time_zone: str
    interval_seconds: int | None
    explanation: str = Field(description="When it ticks, in words.")
    missed: Missed
    overlap: Overlap
    queue: str | None
    priority: int
    timeout_seconds: int | None
    total_timeout_seconds: int | None
    max_attempts: int | None
    concurrency_key: str | None
    concurrency_limit: int | None
    next_tick_at: datetime | None = Field(
        description="Null while it is paused without an end, and when it will never tick again."
    )
    last_tick: TickView | None
    paused: bool
    paused_at: datetime | None
    paused_by: str | None
    resume_at: datetime | None
    version: int = Field(description="Of what it says; the ETag.")
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    deleted_at: datetime | None
    deleted_by: str | None


class Preview(View):
    """When a schedule would tick if it were made now."""

    explanation: str
    next_ticks: list[datetime] = Field(description="In the time zone that was asked for.")


@operation(
    routes,
    "POST",
    "/api/v1/schedules",
    name="schedules.create",
    summary="Create a schedule",
    role="operator",
    answer=ScheduleView,
    status=201,
    idempotent=True,
    errors=(409,),
)
async def create(call: Call, db: Connection, body: NewScheduleBody) -> Answer:
    made = await schedules.create(db, call.tenant_id, NewSchedule(**body.model_dump()), actor=call.actor)
    return _answer(made, location=call.url("schedules.get", schedule_id=made.id))


@operation(
    routes,
    "GET",
    "/api/v1/schedules",
    name="schedules.list",
    summary="List schedules by name",
    role="viewer",
    answer=Page[ScheduleView],
)
async def list_schedules(call: Call, db: Connection, query: ScheduleFilter) -> JSONObject:
    after = call.after(query)
    rows = await schedules.list_schedules(
        db, call.tenant_id, after=str(after[0]) if after else None, limit=query.limit + 1, type=query.type
    )
    return call.page(rows, query, lambda schedule: (schedule.name,))


@operation(
    routes,
    "POST",
    "/api/v1/schedules/preview",
    name="schedules.preview",
    summary="Show when a schedule would tick, without making it",
    role="viewer",
    answer=Preview,
)
async def preview(call: Call, db: Connection, body: WhenBody) -> JSONObject:
    timing, found = await schedules.preview(
        db, cron=body.cron, time_zone=body.time_zone, interval_seconds=body.interval_seconds
    )
    return {
        "explanation": timing.explain(),
        "next_ticks": [tick.astimezone(timing.zone) for tick in found],
    }


@operation(
    routes,
    "GET",
    "/api/v1/schedules/{schedule_id}",
    name="schedules.get",
    summary="Look at a schedule, a deleted one too",
    role="viewer",
    answer=ScheduleView,
)
async def get(call: Call, db: Connection, schedule_id: UUID) -> Answer:
    return _answer(await schedules.get(db, call.tenant_id, schedule_id))


@operation(
    routes,
    "GET",
    "/api/v1/schedules/{schedule_id}/ticks",
    name="schedules.list_ticks",
    summary="Read what became of a schedule's ticks, newest first",
    role="viewer",
    answer=Page[TickView],
)
async def list_ticks(call: Call, db: Connection, schedule_id: UUID, query: PageQuery) -> JSONObject:
    await schedules.get(db, call.tenant_id, schedule_id)
    after = call.after(query)
    before = (datetime.fromisoformat(str(after[0])), bool(after[1])) if after else None
    rows = await ticks.list_ticks(db, call.tenant_id, schedule_id, before=before, limit=query.limit + 1)
    return call.page(rows, query, lambda tick: (tick.tick_at, tick.manual))


@operation(
    routes,
    "PATCH",
    "/api/v1/schedules/{schedule_id}",
    name="schedules.change",
    summary="Change what a schedule says",
    description="Another `cron`, `time_zone` or `interval_seconds` counts from now on; otherwise the next tick stays.",
    role="operator",
    answer=ScheduleView,
    if_match=True,
    errors=(409,),
)
async def change(call: Call, db: Connection, schedule_id: UUID, body: ScheduleChanges) -> Answer:
    seen = await schedules.get(db, call.tenant_id, schedule_id)
    call.require_match(str(seen.version))
    changes = body.model_dump(exclude_unset=True)
    return _answer(
        await schedules.change(
            db, call.tenant_id, schedule_id, changes, version=seen.version, actor=call.actor
        )
    )


@operation(
    routes,
    "POST",
    "/api/v1/schedules/{schedule_id}/pause",
    name="schedules.pause",
    summary="Let a schedule tick no more for now",
    description="Ticks that fall into the pause are not made up for. A second pause takes the place of the first.",
    role="operator",
    answer=ScheduleView,
    errors=(409,),
)
async def pause(call: Call, db: Connection, schedule_id: UUID, body: Pause | None) -> Answer:
    resume_at = body.resume_at if body else None
    return _answer(
        await schedules.pause(db, call.tenant_id, schedule_id, actor=call.actor, resume_at=resume_at)
    )


@operation(
    routes,
    "POST",
    "/api/v1/schedules/{schedule_id}/resume",
    name="schedules.resume",
    summary="Let a paused schedule tick again, from now on",
    role="operator",
    answer=ScheduleView,
    errors=(409,),
)
async def resume(call: Call, db: Connection, schedule_id: UUID) -> Answer:
    return _answer(await schedules.resume(db, call.tenant_id, schedule_id))


@operation(
    routes,
    "POST",
    "/api/v1/schedules/{schedule_id}/run",
    name="schedules.run",
    summary="Create a schedule's task now; its ticks stay as they are",
    role="operator",
    answer=TaskView,
    status=201,
    idempotent=True,
    errors=(409, 422),
)
async def run(call: Call, db: Connection, schedule_id: UUID) -> Answer:
    task: tasks.Task = await schedules.run_now(
        db, call.tenant_id, schedule_id, actor=call.actor, request_id=keys.request_id(call.request)
    )
    call.wake(task.queue)
    return Answer(task, location=call.url("tasks.get", task_id=task.id))


@operation(
    routes,
    "DELETE",
    "/api/v1/schedules/{schedule_id}",
    name="schedules.delete",
    summary="Delete a schedule",
    description="Tasks it has made go on. What became of its ticks stays readable as long as their tasks. Deleting twice is fine.",
    role="operator",
    status=204,
)
async def delete(call: Call, db: Connection, schedule_id: UUID) -> None:
    await schedules.delete(db, call.tenant_id, schedule_id, actor=call.actor)


def _answer(schedule: Schedule, **head: Any) -> Answer:
    # The tag is that of what the schedule says. It ticks without a new one, so there must be no "304 not modified" for it.
    return Answer(schedule, headers={"ETag": f'"{schedule.version}"'}, **head)
