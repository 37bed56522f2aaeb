"""Dead letters for programs: list, count, look at, requeue, discard, note."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
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
    Query,
    Text,
    View,
    operation,
)
from routes.api.tasks import Attempts, Name, Priority, Seconds, TaskView
from services import dead_letters, tasks
from services.dead_letters import LONGEST_TEXT, DeadLetter
from services.task_context import Connection

routes = web.RouteTableDef()

Words = Annotated[Text, Field(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]*\S[^\x00]*$")]
State = Literal["failed", "timed_out"]


class Which(Query):
    """Which dead letters."""

    queue: Text | None = Field(default=None, max_length=100)
    type: Text | None = Field(default=None, max_length=100)
    state: State | None = None
    error_class: Text | None = Field(default=None, max_length=200)
    failed_after: Instant | None = None
    failed_before: Instant | None = None
    q: Text | None = Field(
        default=None,
        max_length=200,
        description="Part of an id, or of the type, error class, message, note or reason.",
    )

    def read(self) -> dead_letters.Filter:
        """Return it as the service takes it."""
        return dead_letters.Filter(
            queue=self.queue,
            type=self.type,
            state=self.state,
            error_class=self.error_class,
            failed_after=self.failed_after,
            failed_before=self.failed_before,
            q=self.q,
        )


class DeadLetterFilter(Which, PageQuery):
    """Which dead letters, page by page."""

    handled: Literal["true", "false"] = Field(
        default="false", description="Those that somebody has requeued or discarded."
    )


class RequeueDeadLetter(Body):
    """What the new task does otherwise than the old one, and when."""

    at_once: bool = Field(
        default=False, description="Without the back-off of 60, 120, 240, then 3,600 seconds."
    )
    payload: JSONObject | None = None
    queue: Name | None = None
    priority: Priority | None = None
    run_at: Instant | None = Field(default=None, description="In the place of the back-off.")
    timeout_seconds: Seconds | None = None
    max_attempts: Attempts | None = None
    reuse_steps: bool = Field(
        default=True, description="Keep what finished steps returned, when the payload is the same."
    )
    reason: Words | None = None


class Discard(Body):
    """Why nothing more is done about it."""

    reason: Words


class Note(Body):
    """What others should know about it."""

    text: Words


class DeadLetterView(View):
    """A task that failed or timed out for good, and what was done about it."""

    task_id: UUID
    queue: str
    type: str
    state: State
    error_class: str
    error: JSONObject | None
    requeues: Int = Field(description="How often its chain was a dead letter before.")
    failed_at: datetime
    note: str | None
    noted_at: datetime | None
    noted_by: str | None
    handled_at: datetime | None
    handled_as: Literal["requeued", "discarded"] | None
    handled_by: str | None
    handled_reason: str | None
    successor_id: UUID | None = Field(description="The task it was requeued as.")


class LinkView(View):
    """A task of a requeue chain."""

    task_id: UUID
    state: str
    created_at: datetime
    created_by: str
    run_at: datetime
    finished_at: datetime | None
    message: str | None = Field(description="Of its error.")


class WholeDeadLetter(DeadLetterView):
    """A dead letter with its task and its requeue chain."""

    backoff_seconds: float = Field(description="How long its successor would wait.")
    task: TaskView
    chain: list[LinkView] = Field(
        description="What it was made from and what was made from it, oldest first."
    )


class GroupView(View):
    """Open dead letters of one type and error class."""

    type: str
    error_class: str
    count: int
    oldest_at: datetime
    newest_at: datetime


class Groups(View):
    """Open dead letters by type and error class, the largest group first."""

    groups: list[GroupView]
    counted: int
    complete: bool = Field(description="False when only the newest 10,000 were counted.")


@operation(
    routes,
    "GET",
    "/api/v1/dead-letters",
    name="dead_letters.list",
    summary="List dead letters, those of the newest tasks first",
    role="viewer",
    answer=Page[DeadLetterView],
)
async def list_(call: Call, db: Connection, query: DeadLetterFilter) -> JSONObject:
    after = call.after(query)
    rows = await dead_letters.list_letters(
        db,
        call.tenant_id,
        query.read(),
        handled=query.handled == "true",
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
    )
    return call.page(rows, query, lambda letter: (letter.task_id,))


@operation(
    routes,
    "GET",
    "/api/v1/dead-letters/groups",
    name="dead_letters.count",
    summary="Count open dead letters by type and error class",
    role="viewer",
    answer=Groups,
)
async def count(call: Call, db: Connection, query: Which) -> JSONObject:
    groups, counted = await dead_letters.count_groups(db, call.tenant_id, query.read())
    return {"groups": groups, "counted": counted, "complete": counted < dead_letters.COUNTED_MOST}


@operation(
    routes,
    "GET",
    "/api/v1/dead-letters/{task_id}",
    name="dead_letters.get",
    summary="Look at a dead letter, its task and its requeue chain",
    role="viewer",
    answer=WholeDeadLetter,
)
async def get(call: Call, db: Connection, task_id: UUID) -> JSONObject:
    letter = await dead_letters.get(db, call.tenant_id, task_id)
    return DeadLetterView.model_validate(letter).model_dump() | {
        "backoff_seconds": letter.backoff.total_seconds(),
        "task": await tasks.get(db, call.tenant_id, task_id),
        "chain": await dead_letters.list_chain(db, call.tenant_id, task_id),
    }


@operation(
    routes,
    "POST",
    "/api/v1/dead-letters/{task_id}/requeue",
    name="dead_letters.requeue",
    summary="Create a new task from a dead letter",
    description="It waits 60, 120, 240, then 3,600 seconds, by how often it was a dead letter before, unless `at_once`."
    " Once for each dead letter: the second caller gets 409 and is told who was first and what the new task is.",
    role="operator",
    answer=TaskView,
    status=201,
    idempotent=True,
    errors=(409,),
)
async def requeue(call: Call, db: Connection, task_id: UUID, body: RequeueDeadLetter | None) -> Answer:
    given = body or RequeueDeadLetter()
    changes = given.model_dump(exclude_none=True, exclude={"reuse_steps", "at_once", "reason"})
    task = await dead_letters.requeue(
        db,
        call.tenant_id,
        task_id,
        actor=call.actor,
        request_id=keys.request_id(call.request),
        changes=changes,
        reuse_steps=given.reuse_steps,
        at_once=given.at_once,
        reason=given.reason,
    )
    call.wake(task.queue)
    return Answer(task, location=call.url("tasks.get", task_id=task.id))


@operation(
    routes,
    "POST",
    "/api/v1/dead-letters/{task_id}/discard",
    name="dead_letters.discard",
    summary="Decide that nothing more is done about a dead letter",
    description="Its task stays in history. Once for each dead letter, as requeue.",
    role="operator",
    answer=DeadLetterView,
    idempotent=True,
    errors=(409,),
)
async def discard(call: Call, db: Connection, task_id: UUID, body: Discard) -> DeadLetter:
    return await dead_letters.discard(db, call.tenant_id, task_id, actor=call.actor, reason=body.reason)


@operation(
    routes,
    "PUT",
    "/api/v1/dead-letters/{task_id}/note",
    name="dead_letters.note",
    summary="Keep a note with a dead letter",
    description="In the place of the one before. Handled ones can have notes as well.",
    role="operator",
    answer=DeadLetterView,
)
async def note(call: Call, db: Connection, task_id: UUID, body: Note) -> DeadLetter:
    return await dead_letters.note(db, call.tenant_id, task_id, actor=call.actor, text=body.text)
