"""Tasks for programs: create, look at, cancel, requeue, signal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import AfterValidator, Field

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
from services import holds, task_states, task_types, tasks
from services.errors import Invalid
from services.task_context import Connection
from services.tasks import Task

routes = web.RouteTableDef()

BULK_MOST = 1000
BULK_BYTES = 16 * 1024 * 1024


def _known_state(state: str) -> str:
    if state not in task_states.STATES:
        raise ValueError(f"must be one of {', '.join(task_states.STATES)}")
    return state


def _list_types(schema: JSONObject) -> None:
    schema["enum"] = sorted(task_types.load_all())


State = Annotated[
    str, AfterValidator(_known_state), Field(json_schema_extra={"enum": list(task_states.STATES)})
]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z][a-z0-9_-]*$")]
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Seconds = Annotated[Int, Field(ge=1, le=604_800)]
Priority = Annotated[Int, Field(ge=0, le=9, description="0 runs first.")]
Attempts = Annotated[Int, Field(ge=1, le=100)]


class NewTask(Body):
    """What is to be done, and how."""

    type: Name = Field(description="What kind of work.", json_schema_extra=_list_types)
    payload: JSONObject = Field(
        default_factory=dict, description="Checked against the type before it is taken; at most 1 MiB."
    )
    queue: Name | None = None
    priority: Priority = 2
    run_at: Instant | None = Field(default=None, description="Not before this time.")
    timeout_seconds: Seconds | None = Field(default=None, description="For each run.")
    total_timeout_seconds: Seconds | None = Field(
        default=None, description="From creation on, waiting excluded; left out, what the type says."
    )
    start_before: Instant | None = Field(
        default=None, description="Not started by then, it has timed out; after run_at."
    )
    max_attempts: Attempts | None = None
    concurrency_key: Key | None = Field(
        default=None, description="Tasks of one key run at most `concurrency_limit` at a time."
    )
    concurrency_limit: Annotated[Int, Field(ge=1, le=1000)] | None = None


class NewTasks(Body):
    """Many at once: all are created or none is."""

    tasks: list[NewTask] = Field(min_length=1, max_length=BULK_MOST)


class Cancel(Body):
    """Why it is cancelled."""

    reason: Text | None = Field(default=None, max_length=1000)


class Requeue(Body):
    """What the new task does otherwise than the old one."""

    payload: JSONObject | None = None
    queue: Name | None = None
    priority: Priority | None = None
    run_at: Instant | None = None
    timeout_seconds: Seconds | None = None
    max_attempts: Attempts | None = None
    reuse_steps: bool = Field(
        default=True, description="Keep what finished steps returned, when the payload is the same."
    )


class Signal(Body):
    """What a waiting task is told."""

    name: str = Field(
        min_length=1, max_length=100, pattern=r"^[a-z0-9_-]+$", description="The first signal of a name wins."
    )
    data: JSONObject = Field(default_factory=dict)


class TaskFilter(PageQuery):
    """Which tasks."""

    state: State | None = None
    type: Text | None = Field(default=None, max_length=100)
    queue: Text | None = Field(default=None, max_length=100)
    q: Text | None = Field(
        default=None, max_length=200, description="Beginning of an id or of a type, or a concurrency key."
    )


class TaskSummary(View):
    """A task without what went in and came out."""

    id: UUID
    type: str
    state: str = Field(json_schema_extra={"enum": list(task_states.STATES)})
    queue: str
    priority: int
    attempt: int = Field(
        description="Runs that count against max_attempts: failed, crashed, timed out, or under way."
    )
    max_attempts: int
    fence: int = Field(description="The number of the latest run.")
    progress: JSONObject | None
    error: JSONObject | None = Field(description="Of the latest run that failed.")
    created_at: datetime
    created_by: str
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    timeout_seconds: int
    start_before: datetime | None
    concurrency_key: str | None
    concurrency_limit: int | None
    waiting_for: str | None
    wait_until: datetime | None
    retry_of: UUID | None
    ended_by: str | None
    reason: str | None
    request_id: str | None


class TaskView(TaskSummary):
    """A task."""

    payload: JSONObject
    result: Any = Field(
        description="What its code returned, at most 1 MiB of JSON. A larger one fails the task with the error class `result`."
    )


class CreatedTasks(View):
    """The ids of the new tasks, in the order they were sent in."""

    ids: list[UUID]


async def create_each(db: Connection, asked: Sequence[tuple[Call, NewTask]]) -> list[Answer | Invalid]:
    """Create what one caller asks for in several calls at the same time; what is wrong with one is its own answer."""
    for call, _ in asked:
        call.rolled_back()  # what a broken deadlock left from the try before
    caller = asked[0][0]
    new = [(_new(body), keys.request_id(call.request)) for call, body in asked]
    made = await tasks.enqueue_each(db, caller.tenant_id, new, actor=caller.actor)
    answers: list[Answer | Invalid] = []
    for (call, _), task in zip(asked, made, strict=True):
        if isinstance(task, Invalid):
            answers.append(task)
        else:
            call.wake(task.queue)
            answers.append(_created(call, task))
    return answers


@operation(
    routes,
    "POST",
    "/api/v1/tasks",
    name="tasks.create",
    summary="Create a task",
    role="author",
    answer=TaskView,
    status=201,
    idempotent=True,
    together=create_each,
)
async def create(call: Call, db: Connection, body: NewTask) -> Answer:
    answer = (await create_each(db, [(call, body)]))[0]
    if isinstance(answer, Invalid):
        raise answer
    return answer


@operation(
    routes,
    "POST",
    "/api/v1/tasks/bulk",
    name="tasks.create_many",
    summary="Create up to 1,000 tasks, all or none",
    role="author",
    answer=CreatedTasks,
    status=201,
    idempotent=True,
    max_bytes=BULK_BYTES,
)
async def create_many(call: Call, db: Connection, body: NewTasks) -> JSONObject:
    ids, queues = await tasks.enqueue_bulk(
        db,
        call.tenant_id,
        [_new(one) for one in body.tasks],
        actor=call.actor,
        request_id=keys.request_id(call.request),
    )
    for queue in queues:
        call.wake(queue)
    return {"ids": ids}


@operation(
    routes,
    "GET",
    "/api/v1/tasks",
    name="tasks.list",
    summary="List tasks, newest first",
    role="viewer",
    answer=Page[TaskSummary],
)
async def list_tasks(call: Call, db: Connection, query: TaskFilter) -> JSONObject:
    after = call.after(query)
    rows = await tasks.list_tasks(
        db,
        call.tenant_id,
        before=UUID(str(after[0])) if after else None,
        limit=query.limit + 1,
        state=query.state,
        type=query.type,
        queue=query.queue,
        q=query.q,
    )
    return call.page(rows, query, lambda task: (task.id,))


@operation(
    routes,
    "GET",
    "/api/v1/tasks/{task_id}",
    name="tasks.get",
    summary="Look at a task",
    role="viewer",
    answer=TaskView,
)
async def get(call: Call, db: Connection, task_id: UUID) -> Task:
    return await tasks.get(db, call.tenant_id, task_id)


@operation(
    routes,
    "POST",
    "/api/v1/tasks/{task_id}/cancel",
    name="tasks.cancel",
    summary="Cancel a task, finally and at once",
    description="Your own tasks as an author, any as an operator. Cancelling twice is fine.",
    role="author",
    answer=TaskView,
    errors=(409,),
)
async def cancel(call: Call, db: Connection, task_id: UUID, body: Cancel | None) -> Task:
    await _require_own(call, db, task_id)
    task, stopped = await tasks.cancel(
        db, call.tenant_id, task_id, actor=call.actor, reason=body.reason if body else None
    )
    stop = call.request.app[keys.CANCELLED]
    call.after_commit(lambda: stop(stopped))
    return task


@operation(
    routes,
    "POST",
    "/api/v1/tasks/{task_id}/run",
    name="tasks.run",
    summary="Run a scheduled task now",
    description="One for later, or one that waits for its next try. Your own tasks as an author, any as an operator.",
    role="author",
    answer=TaskView,
    errors=(409,),
)
async def run(call: Call, db: Connection, task_id: UUID) -> Task:
    await _require_own(call, db, task_id)
    task = await tasks.run_now(db, call.tenant_id, task_id, actor=call.actor)
    call.wake(task.queue)
    return task


@operation(
    routes,
    "POST",
    "/api/v1/tasks/{task_id}/requeue",
    name="tasks.requeue",
    summary="Create a new task from one that has ended",
    description="Your own tasks as an author, any as an operator. The new task names the old one in `retry_of`.",
    role="author",
    answer=TaskView,
    status=201,
    idempotent=True,
    errors=(409,),
)
async def requeue(call: Call, db: Connection, task_id: UUID, body: Requeue | None) -> Answer:
    await _require_own(call, db, task_id)
    changes = body.model_dump(exclude_unset=True, exclude={"reuse_steps"}) if body else {}
    task = await tasks.requeue(
        db,
        call.tenant_id,
        task_id,
        actor=call.actor,
        request_id=keys.request_id(call.request),
        changes={name: value for name, value in changes.items() if value is not None},
        reuse_steps=body.reuse_steps if body else True,
    )
    call.wake(task.queue)
    return _created(call, task)


@operation(
    routes,
    "POST",
    "/api/v1/tasks/{task_id}/signal",
    name="tasks.signal",
    summary="Tell a live task what it waits for, or will wait for",
    description="Your own tasks as an author, any as an operator. A task that is held after a crash waits for `operator`, which only "
    "operators may send: it then runs again from its last finished step.",
    role="author",
    status=202,
    errors=(409,),
)
async def signal(call: Call, db: Connection, task_id: UUID, body: Signal) -> None:
    if body.name == holds.SIGNAL:
        call.principal.require("operator")
    await _require_own(call, db, task_id)
    queue = await tasks.send_signal(
        db, call.tenant_id, task_id, name=body.name, data=body.data, actor=call.actor
    )
    if queue is not None:
        call.wake(queue)


async def _require_own(call: Call, db: Connection, task_id: UUID) -> None:
    task = await tasks.get(db, call.tenant_id, task_id)
    call.principal.require_own(task.created_by, "operator")


def _new(body: NewTask) -> tasks.NewTask:
    return tasks.NewTask(
        type=body.type,
        payload=body.payload,
        queue=body.queue,
        priority=body.priority,
        run_at=body.run_at,
        timeout_seconds=body.timeout_seconds,
        total_timeout_seconds=body.total_timeout_seconds,
        start_before=body.start_before,
        max_attempts=body.max_attempts,
        concurrency_key=body.concurrency_key,
        concurrency_limit=body.concurrency_limit,
    )


def _created(call: Call, task: Task) -> Answer:
    return Answer(task, location=call.url("tasks.get", task_id=task.id))
