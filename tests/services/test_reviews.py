from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from services import content, publications, reviews, tasks
from services.access import Principal
from services.content_text import Changes
from services.errors import Conflict, Forbidden, GalleyError, Invalid, NotFound, PreconditionFailed
from services.reviews import Review
from tests.content import BODY, ask, decide, person, signals, waiting_task, write
from tests.patience import patiently

ACTOR = "user:ada@example.org"
MIGRATION = Path("sql/migrations/0002_content.up.sql").read_text(encoding="utf-8")


async def asked(database: Database, tenant: UUID) -> Review:
    async with database.tenant(tenant, ACTOR) as db:
        return await ask(db, tenant, await write(db, tenant))


async def asked_by_task(database: Database, tenant: UUID) -> tuple[UUID, Review]:
    async with database.tenant(tenant, ACTOR) as db:
        return await waiting_task(db, tenant)


async def decided(
    database: Database, review: Review, by: Principal, decision: str = "approve", **more: Any
) -> Review:
    async with database.tenant(by.tenant_id, by.actor) as db:
        return await decide(db, review, by, decision, **more)


async def state_of(database: Database, tenant: UUID, review: Review) -> tuple[str, str]:
    async with database.tenant(tenant, ACTOR) as db:
        item = await content.get(db, tenant, review.content_id)
        return item.state, (await reviews.get(db, tenant, review.id)).state


async def rows(admin: asyncpg.Connection[asyncpg.Record], table: str) -> int:
    count: int = await admin.fetchval(f"SELECT count(*) FROM {table}")
    return count


async def edited(database: Database, tenant: UUID, review: Review, body: str) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        await content.edit(
            db,
            person(tenant, "author", "ed@example.org"),
            review.content_id,
            base_version=review.version,
            changes=Changes(body_md=body),
        )


async def test_an_approval_records_who_when_and_why_publishes_and_tells_the_task(
    database: Database, tenant: UUID
) -> None:
    task_id, review = await asked_by_task(database, tenant)
    rita = person(tenant)

    answered = await decided(database, review, rita, reason=" reads well ", address="192.0.2.7", via="page")

    assert (answered.state, answered.queue, answered.ended_at is not None) == ("approved", "default", True)
    async with database.tenant(tenant, ACTOR) as db:
        decision = await reviews.find_decision(db, tenant, review.id)
        assert decision is not None
        assert (decision.actor, decision.role, decision.reason, decision.address, decision.via) == (
            "user:rita@example.org", "reviewer", "reads well", "192.0.2.7", "page",
        )  # fmt: skip
        assert (decision.version, decision.content_hash) == (1, review.content_hash)
        assert await reviews.list_decisions(db, tenant, review.content_id) == [decision]
        assert (await content.get(db, tenant, review.content_id)).state == "published"
        assert (await publications.get_post(db, tenant, "how-to-compost")).version_id == review.version_id
        assert (await tasks.get(db, tenant, task_id)).state == "queued"
        assert await signals(db, tenant, task_id) == {
            f"review:{review.version_id}": {
                "decision": "approve",
                "review_id": str(review.id),
                "content_id": str(review.content_id),
                "version_id": str(review.version_id),
                "version": 1,
                "content_hash": review.content_hash,
                "reason": "reads well",
                "feedback": [],
                "published_url": "/posts/how-to-compost",
            }
        }


async def test_requested_changes_become_points_for_the_next_version(database: Database, tenant: UUID) -> None:
    task_id, review = await asked_by_task(database, tenant)

    await decided(
        database,
        review,
        person(tenant),
        "request_changes",
        feedback=["say more about worms", "  ", "shorter"],
    )

    assert await state_of(database, tenant, review) == ("changes_requested", "changes_requested")
    async with database.tenant(tenant, ACTOR) as db:
        points = await reviews.list_open_feedback(db, tenant, review.content_id)
        assert [(point.text, point.state, point.version) for point in points] == [
            ("say more about worms", "open", 1),
            ("shorter", "open", 1),
        ]
        sent = (await signals(db, tenant, task_id))[f"review:{review.version_id}"]
        assert (sent["decision"], sent["feedback"], sent["published_url"]) == (
            "request_changes",
            ["say more about worms", "shorter"],
            None,
        )

        second = await write(
            db, tenant, review.content_id, kind="refine", body_md=BODY + "\nWorms.", task_id=task_id
        )
        marked = await reviews.mark_addressed(
            db, tenant_id=tenant, content_id=review.content_id, feedback_ids=[points[0].id, uuid4()], version=second.number, actor="task:x"
        )  # fmt: skip
        again = await reviews.open_review(db, tenant_id=tenant, task_id=task_id, version_id=second.id)
        left = await reviews.list_feedback(db, tenant, review.content_id)
    assert marked == [points[0].id]
    assert [(point.state, point.addressed_in_version) for point in left] == [("addressed", 2), ("open", None)]
    assert (again.round, again.signal) == (2, f"review:{second.id}")


async def test_without_points_the_reason_is_the_point(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)

    await decided(database, review, person(tenant), "request_changes", reason="too long")

    async with database.tenant(tenant, ACTOR) as db:
        assert [point.text for point in await reviews.list_open_feedback(db, tenant, review.content_id)] == [
            "too long"
        ]


async def test_a_rejection_ends_it_and_publishes_nothing(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)

    await decided(database, review, person(tenant), "reject", reason="off topic")

    assert await state_of(database, tenant, review) == ("rejected", "rejected")
    async with database.tenant(tenant, ACTOR) as db:
        assert await publications.find(db, tenant, review.content_id) is None


async def test_of_fifty_decisions_at_once_exactly_one_counts(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    task_id, review = await asked_by_task(database, tenant)
    verdicts = ["approve", "reject", "request_changes"]

    results = await asyncio.gather(
        *(
            patiently(
                lambda n=n: decided(
                    database, review, person(tenant, name=f"r{n}@example.org"), verdicts[n % 3]
                )
            )
            for n in range(50)
        ),
        return_exceptions=True,
    )

    won = [result for result in results if isinstance(result, Review)]
    assert (len(won), sum(isinstance(result, Conflict) for result in results)) == (1, 49)
    assert await rows(admin, "review_decisions") == 1
    assert await rows(admin, "publications") == (won[0].state == "approved")
    async with database.tenant(tenant, ACTOR) as db:
        assert len(await signals(db, tenant, task_id)) == 1


async def test_a_decision_about_another_text_is_refused(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)

    for wrong in ("0" * 64, "", review.content_hash.upper(), review.content_hash[:12]):
        with pytest.raises(PreconditionFailed):
            await decided(database, review, person(tenant), content_hash=wrong)
    assert await state_of(database, tenant, review) == ("in_review", "pending")


async def test_a_second_decision_is_refused_whatever_it_says(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)
    await decided(database, review, person(tenant))

    for decision in ("approve", "reject", "request_changes"):
        with pytest.raises(Conflict, match="approved already"):
            await decided(database, review, person(tenant), decision)


async def test_nobody_decides_about_their_own_work_where_the_tenant_says_so(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Whoever created the task answers for what it wrote; whoever edited it, for the edited text."""
    _, review = await asked_by_task(database, tenant)
    ada, rita = person(tenant, "admin", "ada@example.org"), person(tenant)
    await admin.execute("UPDATE tenants SET settings = '{\"four_eyes\": true}' WHERE id = $1", tenant)

    with pytest.raises(Forbidden, match="your own work"):
        await decided(database, review, ada)
    async with database.tenant(tenant, ACTOR) as db:
        await content.edit(db, rita, review.content_id, base_version=1, changes=Changes(title="Better"))
        moved = await reviews.find_pending(db, tenant, review.content_id)
    assert moved is not None
    with pytest.raises(Forbidden, match="your own work"):
        await decided(database, moved, rita)
    assert (await decided(database, moved, ada)).state == "approved"


async def test_own_work_may_be_decided_about_where_the_tenant_says_nothing(
    database: Database, tenant: UUID
) -> None:
    _, review = await asked_by_task(database, tenant)

    assert (await decided(database, review, person(tenant, "admin", "ada@example.org"))).state == "approved"


async def test_an_author_may_not_decide_and_a_stranger_finds_nothing(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    review = await asked(database, tenant)

    for role in ("viewer", "author"):
        with pytest.raises(Forbidden):
            await decided(database, review, person(tenant, role))
    for stranger in (person(other_tenant), person(tenant)):
        async with database.tenant(other_tenant, ACTOR) as db:
            with pytest.raises(NotFound):
                await decide(db, review, stranger)


@pytest.mark.parametrize(
    ("decision", "more", "pointer"),
    [
        ("approve", {"reason": "  "}, "/reason"),
        ("approve", {"reason": "x" * 5001}, "/reason"),
        ("request_changes", {"feedback": ["x"] * 51}, "/feedback"),
        ("publish", {}, "/decision"),
    ],
)
async def test_a_decision_that_breaks_a_rule_is_refused(
    database: Database, tenant: UUID, decision: str, more: dict[str, Any], pointer: str
) -> None:
    review = await asked(database, tenant)

    with pytest.raises(Invalid) as caught:
        await decided(database, review, person(tenant), decision, **more)

    assert [fault.pointer for fault in caught.value.faults] == [pointer]
    assert await state_of(database, tenant, review) == ("in_review", "pending")


async def test_an_edit_moves_the_open_review_on_and_the_task_hears_of_the_new_version(
    database: Database, tenant: UUID
) -> None:
    task_id, review = await asked_by_task(database, tenant)

    await edited(database, tenant, review, BODY + "\nEdited.")

    with pytest.raises(Conflict, match="closed already"):
        await decided(database, review, person(tenant))
    async with database.tenant(tenant, ACTOR) as db:
        moved = await reviews.find_pending(db, tenant, review.content_id)
        assert (await reviews.get(db, tenant, review.id)).closed_reason == "replaced by version 2"
    assert moved is not None
    assert (moved.version, moved.task_id, moved.signal, moved.round) == (2, task_id, review.signal, 1)
    with pytest.raises(PreconditionFailed):
        await decided(database, moved, person(tenant), content_hash=review.content_hash)

    await decided(database, moved, person(tenant))

    async with database.tenant(tenant, ACTOR) as db:
        sent = (await signals(db, tenant, task_id))[f"review:{review.version_id}"]
        assert (sent["version"], sent["decision"]) == (2, "approve")
        assert (await publications.get_post(db, tenant, "how-to-compost")).version_id == moved.version_id


async def test_edits_and_decisions_at_once_never_publish_what_was_not_shown(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Either the decision comes first and the edit waits for its own, or the edit comes first and the decision is refused."""
    for number in range(10):
        _, review = await asked_by_task(database, tenant)

        answers = await asyncio.gather(
            decided(database, review, person(tenant)),
            edited(database, tenant, review, f"{BODY}\nEdit {number}."),
            return_exceptions=True,
        )

        assert all(isinstance(answer, GalleyError) for answer in answers if isinstance(answer, Exception))
        live = await admin.fetchval(
            "SELECT version_id FROM publications WHERE content_id = $1", review.content_id
        )
        assert live in {None, review.version_id}
    assert await rows(admin, "reviews WHERE state = 'pending'") + await rows(admin, "publications") == 10


@pytest.mark.parametrize("ending", ["cancel", "fail"])
async def test_a_task_that_ends_otherwise_than_well_closes_its_review_in_the_same_transaction(
    database: Database, tenant: UUID, ending: str
) -> None:
    task_id, review = await asked_by_task(database, tenant)

    if ending == "cancel":
        async with database.tenant(tenant, ACTOR) as db:
            await tasks.cancel(db, tenant, task_id, actor=ACTOR, reason="not needed")
    else:
        async with database.engine() as db:
            await db.execute("SELECT app.finish($1, '{0}', '{failed}', '{NULL}', '{NULL}')", [task_id])

    assert await state_of(database, tenant, review) == ("draft", "closed")
    with pytest.raises(Conflict, match="closed already"):
        await decided(database, review, person(tenant))


async def test_a_decision_locks_the_task_before_the_item(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """While somebody holds the task, the waiting decision holds nothing that the holder may want next."""
    task_id, review = await asked_by_task(database, tenant)
    async with admin.transaction():
        await admin.execute("SELECT FROM tasks WHERE id = $1 FOR NO KEY UPDATE", task_id)
        decision = asyncio.create_task(decided(database, review, person(tenant)))
        async with asyncio.timeout(15):
            while not await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await admin.execute(
                    "SELECT pg_stat_clear_snapshot()"
                )  # inside a transaction it looks only once
                await asyncio.sleep(0.01)

        for table, row_id in (("content_items", review.content_id), ("reviews", review.id)):
            await admin.execute(f"SELECT FROM {table} WHERE id = $1 FOR NO KEY UPDATE NOWAIT", row_id)

    assert (await decision).state == "approved"


async def test_decisions_and_cancels_at_once_agree_on_one_outcome(database: Database, tenant: UUID) -> None:
    """And nobody deadlocks: both lock the task before the item before the review."""
    for _ in range(10):
        task_id, review = await asked_by_task(database, tenant)

        async def cancel(task_id: UUID = task_id) -> None:
            async with database.tenant(tenant, ACTOR) as db:
                await tasks.cancel(db, tenant, task_id, actor=ACTOR)

        answers = await asyncio.gather(
            *(decided(database, review, person(tenant)) for _ in range(3)),
            cancel(),
            cancel(),
            return_exceptions=True,
        )

        assert not [
            answer
            for answer in answers
            if isinstance(answer, Exception) and not isinstance(answer, GalleyError)
        ]
        assert await state_of(database, tenant, review) in {("published", "approved"), ("draft", "closed")}


async def test_a_review_whose_task_has_succeeded_can_still_be_decided(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    task_id, review = await asked_by_task(database, tenant)
    await admin.execute("DELETE FROM tasks WHERE id = $1", task_id)

    assert (await decided(database, review, person(tenant))).queue is None


async def test_a_review_is_opened_for_the_latest_draft_only(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)

    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(Conflict, match="is in_review"):
            await reviews.open_review(db, tenant_id=tenant, task_id=None, version_id=review.version_id)
        await write(db, tenant, review.content_id, body_md="Another text.")
        with pytest.raises(Conflict, match="not the latest"):
            await reviews.open_review(db, tenant_id=tenant, task_id=None, version_id=review.version_id)
        with pytest.raises(NotFound):
            await reviews.open_review(db, tenant_id=tenant, task_id=None, version_id=uuid4())


async def test_an_author_submits_an_edit_for_a_decision(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        version = await write(db, tenant)
        with pytest.raises(Forbidden):
            await reviews.submit(db, person(tenant, "viewer"), version.content_id, version=1)

        review = await reviews.submit(db, person(tenant, "author"), version.content_id, version=1)

        assert (review.task_id, review.signal, review.opened_by, review.round) == (
            None,
            None,
            "user:rita@example.org",
            1,
        )


async def test_a_review_that_nobody_answers_can_be_closed_once(database: Database, tenant: UUID) -> None:
    review = await asked(database, tenant)

    async with database.tenant(tenant, ACTOR) as db:
        closed = await reviews.close(
            db, tenant_id=tenant, review_id=review.id, reason="nobody answered in time"
        )
        assert await reviews.close(db, tenant_id=tenant, review_id=review.id, reason="again") == closed
    assert await state_of(database, tenant, review) == ("draft", "closed")


async def test_a_review_that_has_ended_cannot_be_changed_by_hand(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    review = await asked(database, tenant)
    await decided(database, review, person(tenant), "reject")

    with pytest.raises(asyncpg.RestrictViolationError):
        await admin.execute("UPDATE reviews SET state = 'pending', ended_at = NULL")


async def test_the_inbox_lists_what_is_pending_page_by_page(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    opened = [await asked(database, tenant) for _ in range(3)]
    await decided(database, opened[0], person(tenant))
    await asked(database, other_tenant)

    async with database.tenant(tenant, ACTOR) as db:
        assert await reviews.list_reviews(db, tenant, state="pending") == [opened[2], opened[1]]
        assert await reviews.list_reviews(db, tenant, before=opened[2].id, limit=1) == [opened[1]]
        assert await reviews.list_reviews(db, tenant, content_id=opened[1].content_id) == [opened[1]]
        assert await reviews.count_pending(db, tenant) == 2
        assert await reviews.list_reviews(db, other_tenant) == []


def test_the_database_knows_the_same_states() -> None:
    listed = re.search(r"CONSTRAINT reviews_state\s+CHECK \(state IN \(([^)]*)\)\)", MIGRATION)

    assert listed is not None
    assert {state.strip(" '") for state in listed[1].split(",")} == set(get_args(reviews.State))
