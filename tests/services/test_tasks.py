"""What callers can do with tasks, without an executor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from server.database import Database
from services import dead_letters, task_history, tasks
from services.errors import Conflict, Invalid, NotFound
from services.tasks import NewTask


def noop(**more: object) -> NewTask:
    return NewTask(type="noop", payload={}, **more)  # type: ignore[arg-type]


async def test_a_new_task_has_the_defaults_of_its_type_and_its_payload_completed(
    database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        task = await tasks.enqueue(db, tenant, noop(), actor="user:ada")

        same = await tasks.get(db, tenant, task.id)

    assert same == task
    assert (task.state, task.queue, task.priority, task.attempt, task.max_attempts) == (
        "queued",
        "default",
        2,
        0,
        5,
    )
    assert task.payload == {"seconds": 0.0, "fail": False, "ignore_cancel": False}
    assert task.created_by == "user:ada"


async def test_a_task_is_there_exactly_when_its_transaction_commits(database: Database, tenant: UUID) -> None:
    undone: list[tasks.Task] = []

    async def enqueue_and_fail() -> None:
        async with database.tenant(tenant, "user:ada") as db:
            undone.append(await tasks.enqueue(db, tenant, noop(), actor="user:ada"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await enqueue_and_fail()
    async with database.tenant(tenant, "user:ada") as db:
        done = await tasks.enqueue(db, tenant, noop(), actor="user:ada")
        async with database.tenant(tenant, "user:bob") as beside:
            with pytest.raises(NotFound):
                await tasks.get(beside, tenant, done.id)

    async with database.tenant(tenant, "user:ada") as db:
        assert (await tasks.get(db, tenant, done.id)).state == "queued"
        with pytest.raises(NotFound):
            await tasks.get(db, tenant, undone[0].id)


async def test_a_task_due_later_is_scheduled(database: Database, tenant: UUID) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async with database.tenant(tenant, "user:ada") as db:
        task = await tasks.enqueue(db, tenant, noop(run_at=later), actor="user:ada")

    assert (task.state, task.run_at) == ("scheduled", later)


async def test_a_bad_payload_names_the_place_and_stores_nothing(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        with pytest.raises(Invalid) as caught:
            await tasks.enqueue_many(
                db,
                tenant,
                [noop(), NewTask(type="noop", payload={"seconds": -1, "speed": 9})],
                actor="user:ada",
            )

        assert await tasks.list_tasks(db, tenant) == []

    assert {fault.pointer for fault in caught.value.faults} == {
        "/tasks/1/payload/seconds",
        "/tasks/1/payload/speed",
    }


async def test_an_unknown_queue_names_the_known_ones(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        with pytest.raises(Invalid, match="content, default, documents"):
            await tasks.enqueue(db, tenant, noop(queue="nowhere"), actor="user:ada")


async def test_an_unknown_type_names_the_known_ones(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        with pytest.raises(Invalid, match="noop"):
            await tasks.enqueue(db, tenant, NewTask(type="dance", payload={}), actor="user:ada")


async def test_bulk_tasks_come_back_in_the_order_given(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        made = await tasks.enqueue_many(
            db, tenant, [noop(priority=n % 10) for n in range(100)], actor="user:ada"
        )

    assert [task.priority for task in made] == [n % 10 for n in range(100)]
    assert [task.id for task in made] == sorted(task.id for task in made)


async def test_another_tenants_task_is_not_there(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        task = await tasks.enqueue(db, tenant, noop(), actor="user:ada")

    async with database.tenant(other_tenant, "user:eve") as db:
        with pytest.raises(NotFound):
            await tasks.get(db, other_tenant, task.id)
        with pytest.raises(NotFound):
            await tasks.get(db, tenant, task.id)
        with pytest.raises(NotFound):
            await tasks.cancel(db, other_tenant, task.id, actor="user:eve")


async def test_a_cancel_is_final_and_a_second_one_answers_the_same(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        task = await tasks.enqueue(db, tenant, noop(), actor="user:ada")
        cancelled, stopped = await tasks.cancel(db, tenant, task.id, actor="user:bob", reason="not needed")
        again, stopped_again = await tasks.cancel(db, tenant, task.id, actor="user:eve")
        events = await task_history.list_events(db, tenant, task.id)

    assert (cancelled.state, cancelled.ended_by, cancelled.reason) == ("cancelled", "user:bob", "not needed")
    assert again == cancelled
    assert [one.executor_id for one in stopped] == [None]
    assert stopped_again == []
    assert [(event.event, event.actor) for event in events] == [
        ("created", "user:ada"),
        ("cancelled", "user:bob"),
    ]


async def test_a_requeued_task_points_to_the_old_one_and_takes_changes(
    database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        old = await tasks.enqueue(db, tenant, noop(), actor="user:ada")
        with pytest.raises(Conflict, match="queued"):
            await tasks.requeue(db, tenant, old.id, actor="user:ada")
        await tasks.cancel(db, tenant, old.id, actor="user:ada")

        new = await tasks.requeue(
            db, tenant, old.id, actor="user:ada", changes={"priority": 0, "payload": {"seconds": 0.5}}
        )

        chain = await dead_letters.list_chain(db, tenant, old.id)
        assert [(link.task_id, link.state) for link in chain] == [(old.id, "cancelled"), (new.id, "queued")]
    assert (new.retry_of, new.priority, new.payload["seconds"]) == (old.id, 0, 0.5)


async def test_a_signal_to_an_ended_task_is_refused_and_to_none_not_found(
    database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        task = await tasks.enqueue(db, tenant, noop(), actor="user:ada")
        await tasks.cancel(db, tenant, task.id, actor="user:ada")

        with pytest.raises(Conflict, match="cancelled"):
            await tasks.send_signal(db, tenant, task.id, name="go", data={}, actor="user:ada")
        with pytest.raises(NotFound):
            await tasks.send_signal(db, tenant, uuid4(), name="go", data={}, actor="user:ada")


async def test_lists_are_newest_first_and_go_on_where_the_last_page_ended(
    database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        made = await tasks.enqueue_many(db, tenant, [noop() for _ in range(7)], actor="user:ada")
        await tasks.cancel(db, tenant, made[3].id, actor="user:ada")

        first = await tasks.list_tasks(db, tenant, limit=4)
        second = await tasks.list_tasks(db, tenant, limit=4, before=first[-1].id)

        assert [task.id for task in first + second] == [task.id for task in reversed(made)]
        assert [task.id for task in await tasks.list_tasks(db, tenant, state="cancelled")] == [made[3].id]
        assert [task.id for task in await tasks.list_tasks(db, tenant, q=str(made[5].id))] == [made[5].id]
        assert len(await tasks.list_tasks(db, tenant, q="noo")) == 7
        assert await tasks.list_tasks(db, tenant, q="100%") == []
