"""Bulk operations do exactly what was shown and confirmed: once, whatever breaks in between, and no longer than anybody wants it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.bulk import BulkOperations
from server.database import CONNECTION_ERRORS, Database
from server.lease import Timing
from services import bulk_batches, bulk_operations, dead_letters, tasks
from services.bulk_operations import BulkOperation, Preview
from services.errors import Conflict, Invalid, Malformed, NotFound, Unavailable
from tests import dead, engine
from tests.patience import patiently

Admin = asyncpg.Connection
SECRET = b"a secret of at least thirty-two bytes"
ACTOR = "user:ops"
LOCK = "SELECT FROM tasks WHERE id = ANY ($1) FOR UPDATE"


async def preview(
    database: Database, tenant: UUID, action: str, target: str = "tasks", **wanted: Any
) -> Preview:
    async with database.tenant(tenant, ACTOR) as db:
        return await bulk_operations.preview(db, tenant, action=action, target=target, wanted=wanted)


async def start(database: Database, tenant: UUID, shown: Preview, **more: Any) -> BulkOperation:
    async with database.tenant(tenant, ACTOR) as db:
        more = {"reason": "clearing up"} | more
        return (await bulk_operations.start(db, tenant, shown.plan, actor=ACTOR, **more))[0]


async def look(database: Database, operation: BulkOperation, tenant: UUID) -> BulkOperation:
    async with database.tenant(tenant, ACTOR) as db:
        return await bulk_operations.get(db, tenant, operation.id)


class Carrier(BulkOperations):
    """The loop of one process, and what it told the rest of it."""

    def __init__(self, database: Database) -> None:
        self.woken: list[str] = []
        self.cancelled: list[tasks.Cancelled] = []
        super().__init__(
            database, on_work=self.woken.append, on_cancelled=self.cancelled.extend, retry_seconds=0.01
        )

    async def finish(self) -> None:
        """Carry out until there is nothing to do."""
        while await self.carry_out(lambda: None):
            pass


@asynccontextmanager
async def carrying(carrier: BulkOperations) -> AsyncIterator[None]:
    """Keep a loop going for as long as the block lasts, and start it again when it breaks, as the supervisor does."""

    async def keep() -> None:
        while True:
            try:
                await carrier.keep(lambda: None)
            except (*CONNECTION_ERRORS, Unavailable):
                await asyncio.sleep(0.01)

    loop = asyncio.create_task(keep())
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def over(
    database: Database, operation: BulkOperation, tenant: UUID, seconds: float = 60
) -> BulkOperation:
    """Wait until it is over."""
    async with asyncio.timeout(seconds):
        while (found := await look(database, operation, tenant)).state == "running":
            await asyncio.sleep(0.02)
    return found


async def count(admin: Admin, where: str, *values: object) -> int:
    found: int = await admin.fetchval(f"SELECT count(*) FROM all_tasks WHERE {where}", *values)
    return found


async def test_a_preview_counts_and_changes_nothing(database: Database, tenant: UUID, admin: Admin) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    await dead.make(database, tenant, 7)
    scheduled = await dead.make(database, tenant, 2, run_at=later, queue="content")
    await dead.letters(database, admin, tenant, 3)

    everything = await preview(database, tenant, "cancel")
    some = await preview(database, tenant, "cancel", state="scheduled", queue="content")

    assert (everything.plan.total, everything.by_state, everything.by_type) == (
        9,
        {"queued": 7, "scheduled": 2},
        {"noop": 9},
    )
    assert len(everything.sample) == 5
    assert [task.id for task in some.sample] == [task.id for task in scheduled]
    assert await count(admin, "finished_at IS NULL") == 9
    assert await admin.fetchval("SELECT count(*) FROM bulk_operations") == 0


@pytest.mark.parametrize(
    ("asked", "wanted", "pointers"),
    [
        ("discard tasks", {}, ["/target"]), ("cancel dead_letters", {}, ["/target"]), ("cancel tasks", {"state": "failed"}, ["/filter/state"]),
        ("requeue tasks", {"state": "queued"}, ["/filter/state"]), ("requeue dead_letters", {"state": "cancelled"}, ["/filter/state"]),
        ("cancel tasks", {"error_class": "x", "failed_before": "x"}, ["/filter/error_class", "/filter/failed_before"]),
        ("cancel tasks", {"ids": []}, ["/filter/ids"]), ("cancel tasks", {"ids": ["x"] * 1001}, ["/filter/ids"]),
    ],
)  # fmt: skip
async def test_what_does_not_fit_together_is_refused(
    database: Database, tenant: UUID, asked: str, wanted: dict[str, Any], pointers: list[str]
) -> None:
    action, target = asked.split()
    with pytest.raises(Invalid) as caught:
        await preview(database, tenant, action, target, **wanted)

    assert [fault.pointer for fault in caught.value.faults] == pointers


async def test_ten_thousand_tasks_are_cancelled_with_actor_and_reason_and_nothing_else_is(
    database: Database, tenant: UUID, other_tenant: UUID, admin: Admin
) -> None:
    await dead.make(database, tenant, 10_000)
    theirs = await dead.make(database, other_tenant, 3)
    kept = await dead.make(database, tenant, 2, queue="content")
    shown = await preview(database, tenant, "cancel", queue="default")
    later = await dead.make(database, tenant, 3)

    operation = await start(database, tenant, shown)
    async with carrying(Carrier(database)):
        ended = await over(database, operation, tenant)

    assert (ended.state, ended.total, ended.done, ended.skipped, ended.failed, ended.changed) == (
        "done",
        10_000,
        10_000,
        0,
        0,
        0,
    )
    assert (
        await count(admin, "state = 'cancelled' AND ended_by = $1 AND reason = 'clearing up'", ACTOR)
        == 10_000
    )
    left = await admin.fetch("SELECT id FROM tasks ORDER BY id")
    assert [row["id"] for row in left] == [task.id for task in (*theirs, *kept, *later)]


async def test_dead_letters_that_come_after_the_preview_are_left_alone_however_old_their_task(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    slow = await dead.make(database, tenant, 2)
    await dead.letters(database, admin, tenant, 3)
    shown = await preview(database, tenant, "discard", "dead_letters")
    as_tasks = await preview(database, tenant, "requeue", state="failed")
    await dead.fail(admin, [task.id for task in slow])

    first = await start(database, tenant, shown)
    await Carrier(database).finish()
    second = await start(database, tenant, as_tasks)
    await Carrier(database).finish()

    assert (await look(database, first, tenant)).done == 3
    assert (await look(database, second, tenant)).done == 0  # handled by the first
    handled = await admin.fetch("SELECT task_id FROM dead_letters WHERE handled_at IS NULL ORDER BY task_id")
    assert [row["task_id"] for row in handled] == [task.id for task in slow]


async def test_a_confirmation_works_unchanged_for_whoever_asked_in_their_tenant(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await dead.make(database, tenant, 2)
    plan = (await preview(database, tenant, "cancel", queue="content")).plan
    text = bulk_operations.confirm(SECRET, tenant, ACTOR, plan)
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
    swapped = base64.urlsafe_b64encode(raw.replace(b'"content"', b'"default"')).decode()
    widened = base64.urlsafe_b64encode(raw.replace(b'{"queue":"content"}', b"{}")).decode()
    assert raw.count(b'{"queue":"content"}') == 1

    assert bulk_operations.read_confirmation(SECRET, tenant, ACTOR, text) == plan
    for secret, whose, actor, given in (
        (SECRET, tenant, ACTOR, swapped), (SECRET, tenant, ACTOR, widened), (SECRET, tenant, ACTOR, text[:-4]), (SECRET, tenant, ACTOR, "ä"),
        (SECRET, tenant, ACTOR, ""), (SECRET, tenant, "user:eve", text), (SECRET, other_tenant, ACTOR, text), (b"x" * 32, tenant, ACTOR, text),
    ):  # fmt: skip
        with pytest.raises(Malformed, match="not given out to you"):
            bulk_operations.read_confirmation(secret, whose, actor, given)


async def test_an_old_preview_an_empty_one_and_a_discard_without_reason_begin_nothing(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    nothing = await preview(database, tenant, "cancel")
    await dead.letters(database, admin, tenant, 1)
    shown = await preview(database, tenant, "discard", "dead_letters")
    old = replace(shown, plan=replace(shown.plan, seen_at=shown.plan.seen_at - timedelta(minutes=15)))

    with pytest.raises(Conflict, match="too old"):
        await start(database, tenant, old)
    with pytest.raises(Invalid, match="nothing matches"):
        await start(database, tenant, nothing)
    with pytest.raises(Invalid, match="needs its reason"):
        await start(database, tenant, shown, reason=None)
    with pytest.raises(Invalid, match="needs its reason"):
        await start(database, tenant, shown, reason=" ")
    with pytest.raises(Invalid, match="only a requeue"):
        await start(database, tenant, shown, changes={"priority": 1})
    assert await admin.fetchval("SELECT count(*) FROM bulk_operations") == 0


async def test_a_confirmation_sent_again_begins_nothing_new(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.letters(database, admin, tenant, 2)
    shown = await preview(database, tenant, "requeue", "dead_letters")

    begun = await asyncio.gather(*(start(database, tenant, shown) for _ in range(5)))

    assert len({operation.id for operation in begun}) == 1
    assert await admin.fetchval("SELECT count(*) FROM bulk_operations") == 1


async def test_chosen_tasks_only_are_met(database: Database, tenant: UUID, admin: Admin) -> None:
    made = await dead.make(database, tenant, 5)
    chosen = [str(made[1].id), str(made[3].id), str(uuid4())]

    shown = await preview(database, tenant, "cancel", ids=chosen)
    await start(database, tenant, shown)
    await Carrier(database).finish()

    assert shown.plan.total == 2
    left = await admin.fetch("SELECT id FROM tasks ORDER BY id")
    assert [row["id"] for row in left] == [made[0].id, made[2].id, made[4].id]


async def test_searches_mean_in_bulk_what_they_mean_in_the_list(database: Database, tenant: UUID) -> None:
    made = await dead.make(database, tenant, 3)
    await dead.make(database, tenant, 2, concurrency_key="customer:7", concurrency_limit=1)

    for text, found in ((str(made[1].id), 1), ("noo", 5), ("customer:7", 2), ("customer", 0), ("%", 0)):
        assert (await preview(database, tenant, "cancel", q=text)).plan.total == found, text
        async with database.tenant(tenant, ACTOR) as db:
            assert len(await tasks.list_tasks(db, tenant, q=text)) == found, text


async def test_running_tasks_are_cancelled_and_their_runs_stopped(database: Database, tenant: UUID) -> None:
    # No heartbeat comes in time to tell the executor what it has lost.
    slow = replace(engine.QUICK, timing=Timing(lease=timedelta(minutes=2), heartbeat=timedelta(minutes=1)))
    async with engine.running_executor(database, slow) as executor:
        made = [await engine.enqueue(database, tenant, "noop", {"seconds": 60}) for _ in range(5)]
        for task in made:
            await engine.until(database, task, "running")
        carrier = BulkOperations(database, on_work=executor.wake, on_cancelled=executor.stop_cancelled)
        operation = await start(database, tenant, await preview(database, tenant, "cancel", state="running"))
        async with carrying(carrier):
            assert (await over(database, operation, tenant)).done == 5
        async with asyncio.timeout(15):
            while executor.busy:
                await asyncio.sleep(0.01)

        assert executor.leaked == 0


async def test_only_what_is_still_in_the_state_that_was_asked_for_is_cancelled(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    made = await dead.make(database, tenant, 3)
    operation = await start(database, tenant, await preview(database, tenant, "cancel", state="queued"))
    await admin.execute(
        "UPDATE tasks SET state = 'waiting', waiting_for = 'go', waiting_since = now() WHERE id = $1",
        made[1].id,
    )

    await Carrier(database).finish()

    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.changed) == ("done", 2, 1)
    assert await admin.fetchval("SELECT id FROM tasks") == made[1].id


async def test_what_is_locked_is_tried_again_and_what_stays_locked_is_reported(
    database: Database, tenant: UUID, admin: Admin, cluster: Any, database_name: str
) -> None:
    made = await dead.make(database, tenant, 4)
    operation = await start(database, tenant, await preview(database, tenant, "cancel"))
    writer = await asyncpg.connect(cluster.admin(database_name))
    try:
        await writer.execute("BEGIN")
        await writer.execute(LOCK, [task.id for task in made[:2]])
        carrier = Carrier(database)
        await carrier.finish()
        waiting = await look(database, operation, tenant)
        assert (waiting.state, waiting.done, len(waiting.busy)) == ("running", 2, 2)

        await writer.execute("COMMIT; BEGIN")
        await writer.execute(LOCK, [made[0].id])
        for _ in range(bulk_batches.PASSES - 1):
            await admin.execute("UPDATE bulk_operations SET resume_at = now()")
            await carrier.finish()
    finally:
        await writer.close()

    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.skipped, ended.changed) == ("done", 3, 1, 0)
    assert await admin.fetchval("SELECT id FROM tasks") == made[0].id


async def test_a_batch_that_breaks_off_leaves_nothing_behind_and_is_done_again(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.letters(database, admin, tenant, 600)
    operation = await start(database, tenant, await preview(database, tenant, "requeue", "dead_letters"))

    async def batch(*, breaks: bool) -> None:
        async with database.tenant(tenant, ACTOR) as db:
            done = await bulk_batches.run_batch(db, tenant, operation.id)
            assert done is not None
            assert done.done == bulk_batches.BATCH
            if breaks:
                await admin.execute("SELECT pg_terminate_backend($1)", db.get_server_pid())

    await batch(breaks=False)
    with pytest.raises(CONNECTION_ERRORS):
        await batch(breaks=True)

    half = await look(database, operation, tenant)
    assert (half.state, half.done) == ("running", bulk_batches.BATCH)
    assert await count(admin, "retry_of IS NOT NULL") == bulk_batches.BATCH
    await Carrier(database).finish()
    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done) == ("done", 600)
    assert await _successors(admin) == {1: 600}


async def _successors(admin: Admin) -> dict[int, int]:
    """Return how many tasks have been requeued how often."""
    rows = await admin.fetch(
        "SELECT n, count(*) AS tasks FROM (SELECT count(*) AS n FROM all_tasks WHERE retry_of IS NOT NULL GROUP BY retry_of) x GROUP BY n"
    )
    return {row["n"]: row["tasks"] for row in rows}


MOST_KILLS = 20


async def test_three_processes_that_lose_their_connections_requeue_each_dead_letter_once(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.letters(database, admin, tenant, 3000)
    shown = await preview(database, tenant, "requeue", "dead_letters")
    operation = await start(database, tenant, shown, changes={"at_once": True})
    carriers = [Carrier(database) for _ in range(3)]
    killed = 0

    async with carrying(carriers[0]), carrying(carriers[1]), carrying(carriers[2]):
        async with asyncio.timeout(60):
            while (await admin.fetchval("SELECT state FROM bulk_operations")) == "running":
                killed += await admin.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND xact_start IS NOT NULL AND application_name = 'galley web' AND random() < $1",
                    (0.3 if killed else 1)
                    if killed < MOST_KILLS
                    else 0,  # a slow machine would never get through a batch
                )
                await asyncio.sleep(0.02)

    assert killed > 0
    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.failed, ended.skipped) == ("done", 3000, 0, 0)
    assert await _successors(admin) == {1: 3000}
    assert {queue for carrier in carriers for queue in carrier.woken} == {"default"}


async def test_people_and_a_bulk_operation_at_once_requeue_each_dead_letter_once(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    made = await dead.letters(database, admin, tenant, 400)
    operation = await start(database, tenant, await preview(database, tenant, "requeue", "dead_letters"))

    async def requeue(task: tasks.Task) -> int:
        async with database.tenant(tenant, "user:ada") as db:
            try:
                await dead_letters.requeue(db, tenant, task.id, actor="user:ada")
            except Conflict:
                return 0
        return 1

    async with carrying(Carrier(database)):
        by_hand = sum(
            await asyncio.gather(*(patiently(lambda task=task: requeue(task)) for task in made[::4]))
        )
        ended = await over(database, operation, tenant)

    assert await _successors(admin) == {1: 400}
    assert (ended.done, ended.changed, ended.skipped) == (400 - by_hand, by_hand, 0)
    assert await admin.fetchval("SELECT count(*) FROM dead_letters WHERE handled_by = 'user:ada'") == by_hand


async def test_what_a_person_is_requeueing_right_now_is_left_to_them(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    made = await dead.letters(database, admin, tenant, 3)
    operation = await start(database, tenant, await preview(database, tenant, "requeue", "dead_letters"))
    carrier = Carrier(database)

    async with database.tenant(tenant, "user:ada") as db:
        await dead_letters.requeue(db, tenant, made[1].id, actor="user:ada")
        batch = asyncio.create_task(carrier.carry_out(lambda: None))
        await asyncio.wait({batch}, timeout=0.5)
    await batch
    await admin.execute("UPDATE bulk_operations SET resume_at = now()")
    await carrier.finish()

    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.changed) == ("done", 2, 1)
    assert await _successors(admin) == {1: 3}


@pytest.mark.parametrize("action", ["requeue", "discard"])
async def test_what_a_person_is_discarding_right_now_keeps_no_batch_waiting(
    database: Database, tenant: UUID, admin: Admin, action: str
) -> None:
    made = await dead.letters(database, admin, tenant, 3)
    operation = await start(database, tenant, await preview(database, tenant, action, "dead_letters"))
    carrier = Carrier(database)

    async with database.tenant(tenant, "user:ada") as db:
        await dead_letters.discard(db, tenant, made[1].id, actor="user:ada", reason="known")
        async with asyncio.timeout(5):
            await carrier.carry_out(lambda: None)
        meanwhile = await look(database, operation, tenant)
    await admin.execute("UPDATE bulk_operations SET resume_at = now()")
    await carrier.finish()

    assert (meanwhile.state, meanwhile.done) == ("running", 2)
    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.changed) == ("done", 2, 1)
    async with database.tenant(tenant, ACTOR) as db:
        letter = await dead_letters.get(db, tenant, made[1].id)
    assert (letter.handled_as, letter.handled_by) == ("discarded", "user:ada")


async def test_a_stop_takes_effect_between_batches_and_the_counts_are_true(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.make(database, tenant, 5000)
    operation = await start(database, tenant, await preview(database, tenant, "cancel"))

    async with carrying(Carrier(database)):
        while not (await look(database, operation, tenant)).done:
            await asyncio.sleep(0.005)
        async with database.tenant(tenant, "user:eve") as db:
            stopped = await bulk_operations.stop(db, tenant, operation.id, actor="user:eve")
        await asyncio.sleep(0.2)  # for what would be done after it

    async with database.tenant(tenant, "user:bob") as db:
        again = await bulk_operations.stop(db, tenant, operation.id, actor="user:bob")
    assert again == stopped
    assert (stopped.state, stopped.stopped_by) == ("stopped", "user:eve")
    assert 0 < stopped.done < 5000
    assert await count(admin, "state = 'cancelled'") == stopped.done


async def test_it_works_while_queues_are_paused_and_nothing_runs_tasks(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await admin.execute("UPDATE queues SET paused_at = now(), paused_by = 'test'")
    await dead.make(database, tenant, 3)
    operation = await start(database, tenant, await preview(database, tenant, "cancel"))

    await Carrier(database).finish()

    assert (await look(database, operation, tenant)).done == 3


async def test_requeueing_by_filter_waits_as_one_by_one_unless_asked_to_run_at_once(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (again,) = await dead.letters(database, admin, tenant)
    async with database.tenant(tenant, ACTOR) as db:
        second = await dead_letters.requeue(db, tenant, again.id, actor=ACTOR)
    await dead.fail(admin, [second.id])
    (fresh,) = await dead.letters(database, admin, tenant)
    carrier = Carrier(database)
    await start(
        database, tenant, await preview(database, tenant, "requeue", "dead_letters"), changes={"priority": 7}
    )
    await carrier.finish()

    rows = await admin.fetch("SELECT retry_of, state, priority, run_at - created_at AS wait FROM tasks")
    assert {row["retry_of"]: (row["state"], row["priority"], round(row["wait"].total_seconds())) for row in rows} == {
        second.id: ("scheduled", 7, 120), fresh.id: ("scheduled", 7, 60),
    }  # fmt: skip
    assert carrier.woken == []

    await dead.letters(database, admin, tenant)
    shown = await preview(database, tenant, "requeue", "dead_letters")
    await start(database, tenant, shown, changes={"at_once": True})
    await carrier.finish()
    assert carrier.woken == ["default"]


async def test_requeueing_tasks_by_filter_takes_what_went_wrong_and_has_no_successor(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    fine, cancelled, requeued, discarded, failed, live = await dead.make(database, tenant, 6)
    await admin.execute("SELECT app.end_tasks($1, 'succeeded', 'succeeded', NULL, 'test', NULL)", [fine.id])
    await dead.fail(admin, [requeued.id, discarded.id, failed.id])
    async with database.tenant(tenant, ACTOR) as db:
        await tasks.cancel(db, tenant, cancelled.id, actor=ACTOR)
        await tasks.requeue(db, tenant, requeued.id, actor=ACTOR)
        await dead_letters.discard(db, tenant, discarded.id, actor=ACTOR, reason="known")

    shown = await preview(database, tenant, "requeue")
    again = await preview(database, tenant, "requeue", state="succeeded")
    chosen = await preview(database, tenant, "requeue", ids=[str(task.id) for task in (fine, failed, live)])

    assert [task.id for task in shown.sample] == [cancelled.id, failed.id]
    assert [task.id for task in again.sample] == [fine.id]
    assert [task.id for task in chosen.sample] == [fine.id, failed.id]
    await start(database, tenant, shown)
    await Carrier(database).finish()
    made = await admin.fetch(
        "SELECT retry_of, state FROM tasks WHERE retry_of = ANY ($1)", [cancelled.id, failed.id]
    )
    assert {row["retry_of"]: row["state"] for row in made} == {cancelled.id: "queued", failed.id: "scheduled"}


async def test_what_can_no_longer_be_done_is_counted_and_explained_and_the_rest_goes_on(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    with engine.task_type("gone", _never):
        (gone,) = await dead.make(database, tenant, type="gone")
        await dead.fail(admin, [gone.id])
    await dead.letters(database, admin, tenant, 3)
    operation = await start(database, tenant, await preview(database, tenant, "requeue", "dead_letters"))

    await Carrier(database).finish()

    ended = await look(database, operation, tenant)
    assert (ended.state, ended.done, ended.failed) == ("done", 3, 1)
    assert [(failure.task_id, "gone" in failure.message) for failure in ended.failures] == [(gone.id, True)]
    assert await _successors(admin) == {1: 3}
    left = await admin.fetch("SELECT task_id FROM dead_letters WHERE handled_at IS NULL")
    assert [row["task_id"] for row in left] == [gone.id]


async def _never(_task: object, _payload: object) -> None:
    raise AssertionError("nothing runs it")


async def test_an_operation_whose_batches_keep_failing_is_given_up_and_holds_up_no_other(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.letters(database, admin, tenant, 2)
    broken = await start(database, tenant, await preview(database, tenant, "requeue", "dead_letters"))
    await admin.execute("UPDATE bulk_operations SET changes = '{\"priority\": 99}'")
    await dead.make(database, tenant, 2)
    other = await start(database, tenant, await preview(database, tenant, "cancel"))

    async with carrying(Carrier(database)):
        ended = await over(database, broken, tenant)

    assert (ended.state, ended.done) == ("failed", 0)
    assert "priority" in str(ended.error)
    assert (await look(database, other, tenant)).done == 2
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(Conflict, match="failed already"):
            await bulk_operations.stop(db, tenant, broken.id, actor=ACTOR)


async def test_another_tenant_can_neither_see_nor_stop_nor_widen_it(
    database: Database, tenant: UUID, other_tenant: UUID, admin: Admin
) -> None:
    await dead.make(database, tenant, 2)
    theirs = await dead.make(database, other_tenant, 2)
    shown = await preview(database, tenant, "cancel", ids=[str(task.id) for task in theirs])
    assert shown.plan.total == 0
    operation = await start(database, tenant, await preview(database, tenant, "cancel"))

    async with database.tenant(other_tenant, "user:eve") as db:
        assert await bulk_operations.list_operations(db, other_tenant) == []
        for wrong in (tenant, other_tenant):
            with pytest.raises(NotFound):
                await bulk_operations.get(db, wrong, operation.id)
            with pytest.raises(NotFound):
                await bulk_operations.stop(db, wrong, operation.id, actor="user:eve")
    await Carrier(database).finish()
    assert [row["id"] for row in await admin.fetch("SELECT id FROM tasks ORDER BY id")] == [
        task.id for task in theirs
    ]
