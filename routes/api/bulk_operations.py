"""Bulk operations for programs: preview, confirm, watch, stop."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import Field

from routes import keys
from routes.api.dead_letters import Words
from routes.api.kernel import Answer, Body, Call, Instant, JSONObject, Page, PageQuery, Text, View, operation
from routes.api.tasks import Attempts, Name, Priority, Seconds, State, TaskSummary
from services import bulk_operations
from services.bulk_operations import CHOSEN_MOST, BulkOperation
from services.task_context import Connection

routes = web.RouteTableDef()

BYTES = 256 * 1024  # a confirmation of a thousand ids
Action = Literal["cancel", "requeue", "discard"]
Target = Literal["tasks", "dead_letters"]


class Filter(Body):
    """Which of them; what is left out is any. The last three are for dead letters only."""

    ids: list[UUID] | None = Field(default=None, min_length=1, max_length=CHOSEN_MOST, strict=False)
    state: State | None = None
    type: Text | None = Field(default=None, min_length=1, max_length=100)
    queue: Text | None = Field(default=None, min_length=1, max_length=100)
    q: Text | None = Field(
        default=None, min_length=1, max_length=200, description="As in the list of tasks or of dead letters."
    )
    error_class: Text | None = Field(default=None, min_length=1, max_length=200)
    failed_after: Instant | None = None
    failed_before: Instant | None = None


class AskPreview(Body):
    """What is to be done with which tasks."""

    action: Action
    target: Target = Field(
        description="`cancel` is for tasks, `discard` for dead letters, `requeue` for either."
    )
    filter: Filter = Field(default_factory=Filter)


class PreviewView(View):
    """What would be met. Nothing has been done."""

    action: Action
    target: Target
    filter: JSONObject
    total: int
    total_is_exact: bool = Field(description="False: more than 100,000.")
    by_state: dict[str, int]
    by_type: dict[str, int]
    sample: list[TaskSummary] = Field(description="The first few of them.")
    confirmation: str | None = Field(description="Send it to begin; null when nothing matches.")
    expires_at: datetime


class Start(Body):
    """The confirmation of a preview: exactly what was shown, for whoever asked."""

    confirmation: Text = Field(min_length=1, max_length=100_000)
    reason: Words | None = Field(default=None, description="Needed to discard.")
    at_once: bool = Field(default=False, description="Requeue dead letters without their back-off.")
    reuse_steps: bool = Field(default=True, description="Requeued tasks keep what finished steps returned.")
    queue: Name | None = None
    priority: Priority | None = None
    timeout_seconds: Seconds | None = None
    max_attempts: Attempts | None = None


class FailureView(View):
    """Why one task could not be helped."""

    task_id: UUID
    message: str


class BulkOperationView(View):
    """How far a bulk operation is."""

    id: UUID
    action: Action
    target: Target
    filter: JSONObject
    changes: JSONObject
    reason: str | None
    state: str = Field(json_schema_extra={"enum": list(bulk_operations.STATES)})
    total: int = Field(description="What the preview counted.")
    total_is_exact: bool
    done: int
    skipped: int = Field(description="Stayed locked by others to the end.")
    failed: int
    changed: int = Field(description="Had ended, or were handled by somebody, before their turn.")
    failures: list[FailureView] = Field(description="The first few.")
    seen_at: datetime = Field(description="What was made or ended later is left alone.")
    created_at: datetime
    created_by: str
    finished_at: datetime | None
    stopped_by: str | None
    error: str | None
    request_id: str | None


class OperationFilter(PageQuery):
    """Which bulk operations."""

    state: Literal["running", "done", "stopped", "failed"] | None = None


@operation(
    routes,
    "POST",
    "/api/v1/bulk-operations/preview",
    name="bulk_operations.preview",
    summary="Count what a bulk operation would meet",
    description="Changes nothing. The confirmation holds for 15 minutes, for you, and for what was there when it was made.",
    role="operator",
    answer=PreviewView,
    max_bytes=BYTES,
)
async def preview(call: Call, db: Connection, body: AskPreview) -> JSONObject:
    wanted: dict[str, Any] = body.filter.model_dump(mode="json", exclude_none=True)
    found = await bulk_operations.preview(
        db, call.tenant_id, action=body.action, target=body.target, wanted=wanted
    )
    plan = found.plan
    secret = call.request.app[keys.SITE].secret_key
    return {
        "action": plan.action,
        "target": plan.target,
        "filter": plan.filter,
        "total": plan.total,
        "total_is_exact": plan.total_is_exact,
        "by_state": found.by_state,
        "by_type": found.by_type,
        "sample": found.sample,
        "confirmation": bulk_operations.confirm(secret, call.tenant_id, call.actor, plan)
        if plan.total
        else None,
        "expires_at": plan.seen_at + timedelta(seconds=bulk_operations.CONFIRMATION_SECONDS),
    }


@operation(
    routes,
    "POST",
    "/api/v1/bulk-operations",
    name="bulk_operations.start",
    summary="Begin what was previewed",
    description="A confirmation begins one operation: sent again it answers 200 with that one.",
    role="operator",
    answer=BulkOperationView,
    status=201,
    idempotent=True,
    errors=(409,),
    max_bytes=BYTES,
)
async def start(call: Call, db: Connection, body: Start) -> Answer:
    secret = call.request.app[keys.SITE].secret_key
    plan = bulk_operations.read_confirmation(secret, call.tenant_id, call.actor, body.confirmation)
    changes = body.model_dump(exclude_defaults=True, exclude={"confirmation", "reason"})
    operation_, is_new = await bulk_operations.start(
        db,
        call.tenant_id,
        plan,
        actor=call.actor,
        reason=body.reason,
        changes=changes,
        request_id=keys.request_id(call.request),
    )
    call.after_commit(call.request.app[keys.CARRY_OUT])
    location = call.url("bulk_operations.get", operation_id=operation_.id)
    return Answer(operation_, location=location, status=201 if is_new else 200)


@operation(
    routes,
    "GET",
    "/api/v1/bulk-operations",
    name="bulk_operations.list",
    summary="List bulk operations, newest first",
    role="viewer",
    answer=Page[BulkOperationView],
)
async def list_(call: Call, db: Connection, query: OperationFilter) -> JSONObject:
    after = call.after(query)
    rows = await bulk_operations.list_operations(
        db,
        call.tenant_id,
        state=query.state,
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
    )
    return call.page(rows, query, lambda one: (one.id,))


@operation(
    routes,
    "GET",
    "/api/v1/bulk-operations/{operation_id}",
    name="bulk_operations.get",
    summary="See how far a bulk operation is",
    role="viewer",
    answer=BulkOperationView,
)
async def get(call: Call, db: Connection, operation_id: UUID) -> BulkOperation:
    return await bulk_operations.get(db, call.tenant_id, operation_id)


@operation(
    routes,
    "POST",
    "/api/v1/bulk-operations/{operation_id}/stop",
    name="bulk_operations.stop",
    summary="Stop a bulk operation",
    description="Behind the batch that is under way; what is done stays done. Stopping twice is fine.",
    role="operator",
    answer=BulkOperationView,
    errors=(409,),
)
async def stop(call: Call, db: Connection, operation_id: UUID) -> BulkOperation:
    return await bulk_operations.stop(db, call.tenant_id, operation_id, actor=call.actor)
