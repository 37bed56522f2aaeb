"""The ways in which tasks, content and money change hands in the database, each arranged and then done once (for E5).

`arrange` makes what there is before and returns it as JSON, so that another process can do the act; `act` is the product's own code.
`again`: whether doing it twice leaves what doing it once does.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from server.database import Database
from server.finisher import Finisher
from server.outcomes import outcome_of
from services import idempotency, reviews, tasks
from services.access import Principal
from services.idempotency import Kept, Slot
from services.task_context import Connection, Run, Suspended, TaskContext
from services.task_types import Retryable
from services.tasks import NewTask
from sql import SQL
from tests.chaos.types import MARK
from tests.content import decide, waiting_task

ACTOR = "user:ada"
LEASE_SECONDS = 3600.0
PERSON = UUID("00000000-0000-7000-8000-000000000001")

Made = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One of them."""

    arrange: Callable[[Database, UUID], Awaitable[Made]]
    act: Callable[[Database, UUID, Made], Awaitable[Any]]
    again: bool = True


async def _claimed(database: Database, tenant: UUID) -> Made:
    """A run under way, with a step behind it and another task blocked by its key."""
    new = NewTask(type="noop", payload={}, queue="content", concurrency_key="one", concurrency_limit=1)
    async with database.tenant(tenant, ACTOR) as db:
        made = await tasks.enqueue_many(db, tenant, [new, new], actor=ACTOR)
    executor = uuid4()
    async with database.statement() as db:
        await db.execute(SQL["executors.register"], executor, "here", 1, "0", 10, LEASE_SECONDS)
        rows = await db.fetch("SELECT * FROM app.claim($1, 'content', 10)", executor)
    (row,) = [row for row in rows if row["id"] in {task.id for task in made}]
    return {"task": str(row["id"]), "fence": row["fence"], "executor": str(executor)}


def _run(tenant: UUID, made: Made) -> Run:
    return Run(
        id=UUID(made["task"]),
        tenant_id=tenant,
        type="noop",
        type_version=1,
        fence=made["fence"],
        attempt=1,
        max_attempts=5,
        seconds_left=60,
        created_by=ACTOR,
        request_id=None,
        payload={},
    )


async def _hand_over(database: Database, run: Run, ended: Any) -> None:
    outcome = outcome_of(run, ended, stop_reason="", dice=random.Random(0))
    assert outcome is not None
    finisher = Finisher(database, on_written=lambda *_: None)
    finisher.put(outcome)
    await finisher._write_batch()


async def _succeed(database: Database, tenant: UUID, made: Made) -> None:
    await _hand_over(database, _run(tenant, made), {"answer": 42})


async def _fail(database: Database, tenant: UUID, made: Made) -> None:
    await _hand_over(database, _run(tenant, made), tasks.NotFound("what it needs is gone"))


async def _retry(database: Database, tenant: UUID, made: Made) -> None:
    await _hand_over(database, _run(tenant, made), Retryable("later, perhaps"))


async def _give_back(database: Database, tenant: UUID, made: Made) -> None:
    async with database.statement() as db:
        await db.fetchval(
            SQL["executors.give_back"], UUID(made["executor"]), [UUID(made["task"])], [made["fence"]]
        )


async def _wait(database: Database, tenant: UUID, made: Made) -> None:
    try:
        await TaskContext(_run(tenant, made), database=database).wait_for("go")
    except Suspended:
        return


async def _write(database: Database, tenant: UUID, made: Made) -> None:
    run = _run(tenant, made)

    async def insert(db: Connection) -> int:
        await db.execute(MARK, run.id, run.fence, 1, "first half")
        await db.execute(MARK, run.id, run.fence, 1, "second half")
        return run.fence

    await TaskContext(run, database=database).write("version", insert)


async def _step(database: Database, tenant: UUID, made: Made) -> None:
    async def work() -> str:
        return "paid for"

    await TaskContext(_run(tenant, made), database=database).step("draft", work)


async def _cancel(database: Database, tenant: UUID, made: Made) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await tasks.cancel(db, tenant, UUID(made["task"]), actor=ACTOR, reason="a path")


async def _waiting(database: Database, tenant: UUID) -> Made:
    made = await _claimed(database, tenant)
    await _wait(database, tenant, made)
    return made


async def _signal(database: Database, tenant: UUID, made: Made) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await tasks.send_signal(db, tenant, UUID(made["task"]), name="go", data={"n": 1}, actor=ACTOR)


async def _dead(database: Database, tenant: UUID) -> Made:
    made = await _claimed(database, tenant)
    await _step(database, tenant, made)
    await _fail(database, tenant, made)
    return made


async def _requeue(database: Database, tenant: UUID, made: Made) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await tasks.requeue(db, tenant, UUID(made["task"]), actor=ACTOR)


async def _nothing(database: Database, tenant: UUID) -> Made:
    return {"key": uuid4().hex}


async def _accept(database: Database, tenant: UUID, made: Made) -> None:
    """As an API call with an Idempotency-Key: the key, the tasks and the answer are one transaction."""
    slot = Slot(
        tenant_id=tenant, principal_id=PERSON, route="tasks.create", key=made["key"], request_hash=b"the same"
    )
    async with database.tenant(tenant, ACTOR) as db:
        if await idempotency.take(db, slot) is None:
            new = [NewTask(type="noop", payload={}, run_at=None)] * 3
            await tasks.enqueue_many(db, tenant, new, actor=ACTOR)
            await idempotency.keep(db, slot, Kept(status=201, headers={}, body=b"made"))


async def _under_review(database: Database, tenant: UUID) -> Made:
    async with database.tenant(tenant, ACTOR) as db:
        _, review = await waiting_task(db, tenant)
    return {"review": str(review.id)}


async def _decide(database: Database, tenant: UUID, made: Made) -> None:
    """An approval: decision, state of the item, publication and signal are one transaction."""
    rita = Principal(id=PERSON, tenant_id=tenant, kind="user", name="rita@example.org", role="reviewer")
    async with database.tenant(tenant, rita.actor) as db:
        review = await reviews.get(db, tenant, UUID(made["review"]))
        await decide(db, review, rita)


PATHS = {
    "accept": Path(arrange=_nothing, act=_accept),
    "succeed": Path(arrange=_claimed, act=_succeed),
    "fail": Path(arrange=_claimed, act=_fail),
    "retry": Path(arrange=_claimed, act=_retry),
    "give back": Path(arrange=_claimed, act=_give_back),
    "wait": Path(arrange=_claimed, act=_wait),
    "write": Path(arrange=_claimed, act=_write),
    "step": Path(arrange=_claimed, act=_step),
    "cancel": Path(arrange=_claimed, act=_cancel),
    "signal": Path(arrange=_waiting, act=_signal),
    "requeue": Path(arrange=_dead, act=_requeue, again=False),
    "decide": Path(arrange=_under_review, act=_decide),
}
