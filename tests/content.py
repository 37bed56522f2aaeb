"""Content to test with: people in each role, an item with versions, and a task that waits for its review."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from services import content, reviews, tasks
from services.access import Principal
from services.content import ContentVersion, NewCitation
from services.tasks import NewTask
from sql import Connection

BODY = """# Compost

Compost is what is left when microbes eat a heap.

## Air

Turn the heap every week so that 30 percent of it stays loose. [1]

## Water

A heap should be as wet as a wrung sponge. [2]

## Warmth

Microbes heat a good heap to 60 degrees within days. [3]
"""


def person(tenant: UUID, role: str = "reviewer", name: str = "rita@example.org") -> Principal:
    """Somebody who is signed in."""
    return Principal(id=uuid4(), tenant_id=tenant, kind="user", name=name, role=role)


def citation(marker: int, quote: str = "Turn the heap every week.", **more: Any) -> NewCitation:
    """A citation of a document that need not exist."""
    values: dict[str, Any] = {
        "chunk_id": uuid4(),
        "document_id": uuid4(),
        "document_title": "Compost at home",
    }
    return NewCitation(marker=marker, quote=quote, **(values | more))


async def write(db: Connection, tenant: UUID, content_id: UUID | None = None, **more: Any) -> ContentVersion:
    """Append a version by a program; makes the item where none is given."""
    values: dict[str, Any] = {
        "kind": "draft",
        "title": "How to compost",
        "summary": "Air, water and warmth.",
        "body_md": BODY,
        "tags": ["garden", "Soil Life"],
        "language": "en",
        "actor": "user:ada@example.org",
        "citations": [citation(1), citation(2), citation(3)],
    } | more
    if content_id is None:
        item = await content.create_item(
            db,
            tenant_id=tenant,
            task_id=values.get("task_id"),
            title=values["title"],
            language=values["language"],
            actor=values["actor"],
        )
        content_id = item.id
    return await content.add_version(db, tenant_id=tenant, content_id=content_id, **values)


async def ask(db: Connection, tenant: UUID, version: ContentVersion) -> reviews.Review:
    """Open a review without a task."""
    return await reviews.open_review(db, tenant_id=tenant, task_id=None, version_id=version.id)


async def decide(
    db: Connection, review: reviews.Review, by: Principal, decision: Any = "approve", **more: Any
) -> reviews.Review:
    """Decide about the text under review."""
    values = {"reason": "reads well", "content_hash": review.content_hash, "address": "127.0.0.1"} | more
    return await reviews.decide(db, principal=by, review_id=review.id, decision=decision, **values)


async def waiting_task(db: Connection, tenant: UUID) -> tuple[UUID, reviews.Review]:
    """A task that wrote a version, opened its review and now waits for it, as the pipeline does."""
    task = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={}), actor="user:ada@example.org")
    version = await write(db, tenant, task_id=task.id, actor=f"task:{task.id}")
    review = await reviews.open_review(db, tenant_id=tenant, task_id=task.id, version_id=version.id)
    assert review.signal is not None
    await db.execute(
        "UPDATE tasks SET state = 'waiting', waiting_for = $2, waiting_since = app.now(), wait_until = app.now() + $3 WHERE id = $1",
        task.id, review.signal, timedelta(days=7),
    )  # fmt: skip
    return task.id, review


async def signals(db: Connection, tenant: UUID, task_id: UUID) -> dict[str, Any]:
    """Return the signals a task was sent, by name."""
    rows = await db.fetch(
        "SELECT name, data FROM task_signals WHERE tenant_id = $1 AND task_id = $2", tenant, task_id
    )
    return {row["name"]: row["data"] for row in rows}
