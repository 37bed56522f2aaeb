"""What is done about tasks that failed for good: each is handled once, and everybody can see by whom and why."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from services import dead_letters, tasks
from services.dead_letters import Filter
from services.errors import Conflict, Invalid, NotFound
from tests import dead, engine

Admin = asyncpg.Connection


async def requeue(
    database: Database, tenant: UUID, task_id: UUID, actor: str = "user:bob", **more: object
) -> tasks.Task:
    async with database.tenant(tenant, actor) as db:
        return await dead_letters.requeue(db, tenant, task_id, actor=actor, **more)  # type: ignore[arg-type]


async def discard(
    database: Database, tenant: UUID, task_id: UUID, actor: str = "user:bob"
) -> dead_letters.DeadLetter:
    async with database.tenant(tenant, actor) as db:
        return await dead_letters.discard(db, tenant, task_id, actor=actor, reason="known")


async def look(database: Database, tenant: UUID, task_id: UUID) -> dead_letters.DeadLetter:
    async with database.tenant(tenant, "test") as db:
        return await dead_letters.get(db, tenant, task_id)


async def listed(database: Database, tenant: UUID, *, handled: bool = False, **filters: object) -> list[UUID]:
    async with database.tenant(tenant, "test") as db:
        found = await dead_letters.list_letters(db, tenant, Filter(**filters), handled=handled)  # type: ignore[arg-type]
    return [letter.task_id for letter in found]


async def test_a_task_that_fails_for_good_is_a_dead_letter_and_one_that_succeeds_is_none(
    database: Database, tenant: UUID
) -> None:
    async with engine.running_executor(database):
        failed = await engine.ended(database, await engine.enqueue(database, tenant, "noop", {"fail": True}))
        fine = await engine.ended(database, await engine.enqueue(database, tenant, "noop"))

    letter = await look(database, tenant, failed.id)
    assert (letter.type, letter.queue, letter.state, letter.error_class, letter.requeues, letter.handled_at) == (
        "noop", "default", "failed", "permanent", 0, None,
    )  # fmt: skip
    assert letter.error == failed.error
    with pytest.raises(NotFound):
        await look(database, tenant, fine.id)


async def test_a_requeue_waits_longer_each_time_the_chain_ends_as_a_dead_letter(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (task,) = await dead.letters(database, admin, tenant)
    waits = []
    for _ in range(5):
        task = await requeue(database, tenant, task.id)
        assert task.state == "scheduled"
        waits.append(round((task.run_at - task.created_at).total_seconds()))
        await dead.fail(admin, [task.id])

    assert waits == [60, 120, 240, 3600, 3600]


async def test_a_requeue_runs_at_once_or_at_a_time_when_asked_to(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    one, other = await dead.letters(database, admin, tenant, 2)

    at_once = await requeue(database, tenant, one.id, at_once=True)
    later = await requeue(
        database, tenant, other.id, changes={"run_at": other.created_at + timedelta(days=1)}
    )

    assert at_once.state == "queued"
    assert later.run_at == other.created_at + timedelta(days=1)


async def test_a_requeue_marks_who_did_it_and_links_both(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (task,) = await dead.letters(database, admin, tenant)

    new = await requeue(database, tenant, task.id, changes={"priority": 9}, reason="the server is back")

    letter = await look(database, tenant, task.id)
    assert (letter.handled_as, letter.handled_by, letter.handled_reason, letter.successor_id) == (
        "requeued", "user:bob", "the server is back", new.id,
    )  # fmt: skip
    assert (new.retry_of, new.priority, new.created_by) == (task.id, 9, "user:bob")
    assert await listed(database, tenant) == []
    assert await listed(database, tenant, handled=True) == [task.id]


async def test_a_requeue_through_the_task_handles_its_dead_letter_the_first_time_only(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (task,) = await dead.letters(database, admin, tenant)
    async with database.tenant(tenant, "user:ada") as db:
        first = await tasks.requeue(db, tenant, task.id, actor="user:ada")
        second = await tasks.requeue(db, tenant, task.id, actor="user:eve")

    letter = await look(database, tenant, task.id)
    assert (letter.handled_by, letter.successor_id) == ("user:ada", first.id)
    assert second.retry_of == task.id


async def test_what_is_refused_marks_nothing(database: Database, tenant: UUID, admin: Admin) -> None:
    (task,) = await dead.letters(database, admin, tenant)

    with pytest.raises(Invalid):
        await requeue(database, tenant, task.id, changes={"payload": {"seconds": "long"}})

    assert (await look(database, tenant, task.id)).handled_at is None


async def test_the_second_to_handle_one_is_told_who_was_first(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    one, other = await dead.letters(database, admin, tenant, 2)
    new = await requeue(database, tenant, one.id, actor="user:bob")
    await discard(database, tenant, other.id, actor="user:eve")

    with pytest.raises(Conflict, match=f"it was requeued as {new.id} by user:bob"):
        await requeue(database, tenant, one.id)
    with pytest.raises(Conflict, match=f"it was requeued as {new.id}"):
        await discard(database, tenant, one.id)
    with pytest.raises(Conflict, match="it was discarded by user:eve at"):
        await requeue(database, tenant, other.id)


async def test_of_many_who_act_at_once_exactly_one_wins(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    made = await dead.letters(database, admin, tenant, 10)

    for task in made:
        acts = [
            (requeue if number % 2 else discard)(database, tenant, task.id, actor=f"user:{number}")
            for number in range(6)
        ]
        ends = await asyncio.gather(*acts, return_exceptions=True)

        letter = await look(database, tenant, task.id)
        refused = [end for end in ends if isinstance(end, Conflict)]
        assert len(refused) == 5
        assert all(str(letter.handled_by) in str(end) for end in refused)
        successors = await admin.fetchval("SELECT count(*) FROM tasks WHERE retry_of = $1", task.id)
        assert successors == (1 if letter.handled_as == "requeued" else 0)


async def test_finished_steps_are_kept_unless_they_are_not_wanted(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    one, other = await dead.letters(database, admin, tenant, 2)
    for task in (one, other):
        await admin.execute(
            "INSERT INTO task_steps (tenant_id, task_id, name, kind, fence, output, started_at) VALUES ($1, $2, 'outline', 'step', 1, '1', now())",
            *(tenant, task.id),
        )

    kept = await requeue(database, tenant, one.id)
    fresh = await requeue(database, tenant, other.id, reuse_steps=False)

    rows = await admin.fetch("SELECT task_id FROM task_steps WHERE task_id = ANY ($1)", [kept.id, fresh.id])
    assert [row["task_id"] for row in rows] == [kept.id]


async def test_a_note_says_who_wrote_it_and_stays_when_it_is_handled(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (task,) = await dead.letters(database, admin, tenant)
    async with database.tenant(tenant, "user:ada") as db:
        await dead_letters.note(db, tenant, task.id, actor="user:ada", text="asked the provider")
    await discard(database, tenant, task.id)
    async with database.tenant(tenant, "user:eve") as db:
        noted = await dead_letters.note(db, tenant, task.id, actor="user:eve", text="they say no")

    assert (noted.note, noted.noted_by, noted.handled_as, noted.handled_reason) == (
        "they say no", "user:eve", "discarded", "known",
    )  # fmt: skip


async def test_filters_find_exactly_what_they_say(database: Database, tenant: UUID, admin: Admin) -> None:
    (slow,) = await dead.letters(
        database, admin, tenant, error="timeout", message="took 300 s", state="timed_out"
    )
    (odd,) = await dead.make(database, tenant, queue="content")
    await dead.fail(admin, [odd.id], error="KeyError", message="the 100% <b>topic</b>")
    moment = (await look(database, tenant, odd.id)).failed_at
    async with database.tenant(tenant, "user:ada") as db:
        await dead_letters.note(db, tenant, slow.id, actor="user:ada", text="Provider was DOWN")

    assert await listed(database, tenant) == [odd.id, slow.id]
    assert await listed(database, tenant, state="timed_out") == [slow.id]
    assert await listed(database, tenant, queue="content") == [odd.id]
    assert await listed(database, tenant, type="noop", error_class="KeyError") == [odd.id]
    assert await listed(database, tenant, type="ingest_document") == []
    assert await listed(database, tenant, failed_before=moment) == [slow.id]
    assert await listed(database, tenant, failed_after=moment - timedelta(microseconds=1)) == [odd.id]
    for text, found in (
        ("300 S", [slow.id]), ("provider was down", [slow.id]), ("100% <b>", [odd.id]), ("keyerr", [odd.id]), ("%", [odd.id]), ("_", []),
        (str(slow.id), [slow.id]), (str(odd.id)[-8:], [odd.id]), (odd.id.hex[:20], [odd.id]), ("' OR 1=1--", []), ("----", []), (f"-{odd.id.hex[-1]}--", []),
    ):  # fmt: skip
        assert await listed(database, tenant, q=text) == found, text


async def test_pages_go_on_where_the_last_one_ended(database: Database, tenant: UUID, admin: Admin) -> None:
    made = [task.id for task in await dead.letters(database, admin, tenant, 7)]
    async with database.tenant(tenant, "test") as db:
        first = await dead_letters.list_letters(db, tenant, Filter(), limit=4)
        rest = await dead_letters.list_letters(db, tenant, Filter(), limit=4, before=first[-1].id)

    assert [letter.id for letter in first + rest] == made[::-1]


async def test_counts_name_the_largest_group_first_and_leave_out_what_is_handled(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    await dead.letters(database, admin, tenant, 3, error="timeout")
    several = await dead.letters(database, admin, tenant, 5, error="KeyError")
    await discard(database, tenant, several[0].id)

    async with database.tenant(tenant, "test") as db:
        groups, counted = await dead_letters.count_groups(db, tenant, Filter())

    assert [(group.type, group.error_class, group.count) for group in groups] == [
        ("noop", "KeyError", 4),
        ("noop", "timeout", 3),
    ]
    assert counted == 7
    assert groups[0].oldest_at <= groups[0].newest_at


async def test_the_chain_shows_what_came_before_and_after(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    (first,) = await dead.letters(database, admin, tenant)
    second = await requeue(database, tenant, first.id)
    await dead.fail(admin, [second.id], message="again")
    third = await requeue(database, tenant, second.id, at_once=True)

    for task in (first, second, third):
        async with database.tenant(tenant, "test") as db:
            chain = await dead_letters.list_chain(db, tenant, task.id)
        assert [(link.task_id, link.state, link.message) for link in chain] == [
            (first.id, "failed", "no luck"), (second.id, "failed", "again"), (third.id, "queued", None),
        ]  # fmt: skip


async def test_another_tenant_sees_none_and_handles_none(
    database: Database, tenant: UUID, other_tenant: UUID, admin: Admin
) -> None:
    (task,) = await dead.letters(database, admin, tenant)

    assert await listed(database, other_tenant) == []
    for wrong in (other_tenant, tenant):
        async with database.tenant(other_tenant, "user:eve") as db:
            with pytest.raises(NotFound):
                await dead_letters.get(db, wrong, task.id)
            with pytest.raises(NotFound):
                await dead_letters.requeue(db, wrong, task.id, actor="user:eve")
            with pytest.raises(NotFound):
                await dead_letters.discard(db, wrong, task.id, actor="user:eve", reason="mine")
            with pytest.raises(NotFound):
                await dead_letters.note(db, wrong, task.id, actor="user:eve", text="mine")
    with pytest.raises(NotFound):
        await requeue(database, tenant, uuid4())
    assert (await look(database, tenant, task.id)).note is None
