"""Reviews: a request for one decision about one version, bound to its hash, and everything that the decision brings about.

A decision is one transaction: who, when, why and from where; the item's state; the publication; what the next draft has to
address; and the signal that lets the waiting task go on. Locks are taken in the order task, item, review.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

import asyncpg

from services import content, publications, tasks
from services.access import Principal
from services.errors import Conflict, Fault, Forbidden, Invalid, NotFound, PreconditionFailed
from sql import SQL, Connection

log = logging.getLogger(__name__)

State = Literal["pending", "approved", "changes_requested", "rejected", "closed"]
Verdict = Literal["approve", "request_changes", "reject"]

MAX_REASON, MAX_FEEDBACK = 5_000, 50  # characters; points
_ENDS: dict[Verdict, State] = {
    "approve": "approved",
    "request_changes": "changes_requested",
    "reject": "rejected",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A question about one version. `version` is its number, `title` what it was called. `signal` is what its task waits for.

    `queue` is set by `decide` alone: where the task goes on now, for whoever wakes it after the commit.
    """

    id: UUID
    task_id: UUID | None
    content_id: UUID
    version_id: UUID
    version: int
    content_hash: str
    title: str
    state: State
    round: int
    due_at: datetime | None
    signal: str | None
    opened_by: str
    created_at: datetime
    ended_at: datetime | None
    closed_reason: str | None
    queue: str | None = None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name != "queue"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided about which version, by whom, in which role, from where, when and why. Never changes."""

    id: UUID
    review_id: UUID
    version_id: UUID
    version: int
    content_hash: str
    decision: Verdict
    reason: str
    actor: str
    role: str
    address: str
    via: str
    at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """A point that a reviewer made about version number `version`; addressed in a later one, or open."""

    id: UUID
    review_id: UUID
    version: int
    text: str
    state: Literal["open", "addressed"]
    addressed_in_version: int | None
    addressed_by: str | None
    created_by: str
    created_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Self:
        return cls(**{field.name: row[field.name] for field in fields(cls)})


async def open_review(
    db: Connection,
    *,
    tenant_id: UUID,
    task_id: UUID | None,
    version_id: UUID,
    due_at: datetime | None = None,
    due_in: timedelta | None = None,
    actor: str | None = None,
) -> Review:
    """Ask for a decision about the latest version of an item. The outcome reaches *task_id* as signal `review:<version id>`,
    also when the text is edited in between: its `version` then says which version was decided about.

    Raises: NotFound, Conflict when the version is not the latest or the item is not a draft.
    """
    version = await content.get_version_by_id(db, tenant_id, version_id)
    item = await content.lock(db, tenant_id, version.content_id)
    if version.number != item.latest_number:
        raise Conflict(f"version {version.number} is not the latest: that is version {item.latest_number}")
    await content.move(db, tenant_id, item.id, "submit")
    signal = None if task_id is None else f"review:{version_id}"
    opened_by = actor or (f"task:{task_id}" if task_id else version.created_by)
    review_id = await db.fetchval(
        SQL["reviews.insert"], tenant_id, item.id, version_id, task_id, signal, due_at, opened_by, due_in
    )
    return await get(db, tenant_id, review_id)


async def submit(
    db: Connection, principal: Principal, content_id: UUID, *, version: int, due_at: datetime | None = None
) -> Review:
    """Ask for a decision about version number *version*, the latest, on a person's behalf. Raises: as `open_review`, Forbidden."""
    principal.require("author")
    found = await content.get_version(db, principal.tenant_id, content_id, version)
    return await open_review(
        db,
        tenant_id=principal.tenant_id,
        task_id=None,
        version_id=found.id,
        due_at=due_at,
        actor=principal.actor,
    )


async def decide(
    db: Connection,
    *,
    principal: Principal,
    review_id: UUID,
    decision: Verdict,
    reason: str,
    content_hash: str,
    address: str,
    feedback: Sequence[str] = (),
    via: Literal["api", "page"] = "api",
) -> Review:
    """Decide about exactly the text that has *content_hash*. Asking for changes without points makes the reason the point.

    Raises: Forbidden (role, own work), NotFound, Conflict (decided or closed), PreconditionFailed (another text), Invalid.
    """
    principal.require("reviewer")
    reason, points = _read(decision, reason, feedback)
    review = await _lock(db, principal, review_id, content_hash)
    url = await _record(
        db, principal, review, decision=decision, reason=reason, points=points, address=address, via=via
    )
    outcome = {
        "decision": decision, "review_id": str(review_id), "content_id": str(review.content_id),
        "version_id": str(review.version_id), "version": review.version, "content_hash": review.content_hash,
        "reason": reason, "feedback": points, "published_url": url,
    }  # fmt: skip
    queue = await _tell_task(db, principal, review, outcome)
    facts = {
        "review_id": str(review_id),
        "decision": decision,
        "version": review.version,
        "actor": principal.actor,
    }
    log.info("review was decided", extra=facts)
    return replace(await get(db, principal.tenant_id, review_id), queue=queue)


async def _record(
    db: Connection,
    principal: Principal,
    review: Review,
    *,
    decision: Verdict,
    reason: str,
    points: Sequence[str],
    address: str,
    via: str,
) -> str | None:
    """Write the decision, what it means for the item, its points, and for an approval the publication; returns its address."""
    tenant_id = principal.tenant_id
    decision_id = await db.fetchval(
        SQL["reviews.decide"], tenant_id, review.id, _ENDS[decision], decision, reason, principal.actor, principal.id,
        principal.role, address, via,
    )  # fmt: skip
    await content.move(db, tenant_id, review.content_id, decision)
    await db.execute(
        SQL["reviews.insert_feedback"], tenant_id, review.content_id, review.id, points, principal.actor
    )
    if decision != "approve":
        return None
    return await publications.publish_approved(
        db, tenant_id=tenant_id, version_id=review.version_id, decision_id=decision_id, actor=principal.actor
    )


async def close(db: Connection, *, tenant_id: UUID, review_id: UUID, reason: str) -> Review:
    """End a review without a decision: nobody answered in time, or it is taken back. The item is a draft again.

    A review that has ended stays as it ended. The task is not told. Raises: NotFound.
    """
    review = await get(db, tenant_id, review_id)
    await content.lock(db, tenant_id, review.content_id)
    if await db.fetchval(SQL["reviews.close"], tenant_id, review_id, reason):
        await content.move(db, tenant_id, review.content_id, "close")
    return await get(db, tenant_id, review_id)


async def get(db: Connection, tenant_id: UUID, review_id: UUID) -> Review:
    """Return a review. Raises: NotFound."""
    row = await db.fetchrow(SQL["reviews.get"], tenant_id, review_id)
    if row is None:
        raise NotFound(f"there is no review {review_id}")
    return Review.from_row(row)


async def list_reviews(
    db: Connection,
    tenant_id: UUID,
    *,
    state: State | None = None,
    content_id: UUID | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[Review]:
    """Return reviews, newest first, those opened before review *before*."""
    rows = await db.fetch(SQL["reviews.list"], tenant_id, state, content_id, before, limit)
    return [Review.from_row(row) for row in rows]


async def find_pending(db: Connection, tenant_id: UUID, content_id: UUID) -> Review | None:
    """Return the open review of an item; there is at most one."""
    found = await list_reviews(db, tenant_id, state="pending", content_id=content_id, limit=1)
    return found[0] if found else None


async def count_pending(db: Connection, tenant_id: UUID) -> int:
    """Return how many reviews wait for a decision."""
    count: int = await db.fetchval(SQL["reviews.count_pending"], tenant_id)
    return count


async def list_decisions(db: Connection, tenant_id: UUID, content_id: UUID) -> list[Decision]:
    """Return every decision about an item, newest first."""
    return [
        Decision.from_row(row) for row in await db.fetch(SQL["reviews.list_decisions"], tenant_id, content_id)
    ]


async def find_decision(db: Connection, tenant_id: UUID, review_id: UUID) -> Decision | None:
    """Return the decision that ended a review."""
    row = await db.fetchrow(SQL["reviews.find_decision"], tenant_id, review_id)
    return Decision.from_row(row) if row else None


async def list_feedback(db: Connection, tenant_id: UUID, content_id: UUID) -> list[Feedback]:
    """Return every point made about an item, oldest first."""
    return [
        Feedback.from_row(row)
        for row in await db.fetch(SQL["reviews.list_feedback"], tenant_id, content_id, None)
    ]


async def list_open_feedback(db: Connection, tenant_id: UUID, content_id: UUID) -> list[Feedback]:
    """Return the points that no version has addressed yet, oldest first."""
    return [
        Feedback.from_row(row)
        for row in await db.fetch(SQL["reviews.list_feedback"], tenant_id, content_id, "open")
    ]


async def mark_addressed(
    db: Connection,
    *,
    tenant_id: UUID,
    content_id: UUID,
    feedback_ids: Sequence[UUID],
    version: int,
    actor: str,
) -> list[UUID]:
    """Record that version number *version* addresses these points. Returns those that were open."""
    rows = await db.fetch(
        SQL["reviews.address_feedback"], tenant_id, content_id, list(feedback_ids), version, actor
    )
    return [row["id"] for row in rows]


def _read(decision: Verdict, reason: str, feedback: Sequence[str]) -> tuple[str, list[str]]:
    reason, points = reason.strip(), [point.strip() for point in feedback if point.strip()]
    faults = []
    if decision not in _ENDS:
        faults.append(Fault("/decision", f"must be one of {', '.join(_ENDS)}"))
    if not 0 < len(reason) <= MAX_REASON:
        faults.append(Fault("/reason", f"is needed, in at most {MAX_REASON} characters"))
    if len(points) > MAX_FEEDBACK or any(len(point) > MAX_REASON for point in points):
        faults.append(Fault("/feedback", f"takes at most {MAX_FEEDBACK} points of {MAX_REASON} characters"))
    if faults:
        raise Invalid(
            "; ".join(f"{fault.pointer[1:]} {fault.message}" for fault in faults), faults=tuple(faults)
        )
    return reason, points or [reason] * (decision == "request_changes")


async def _lock(db: Connection, principal: Principal, review_id: UUID, content_hash: str) -> Review:
    """Lock task, item and review in this order, then see that this caller may decide about this text now."""
    review = await get(db, principal.tenant_id, review_id)
    if review.task_id is not None:
        await db.fetchrow(SQL["tasks.lock"], principal.tenant_id, review.task_id)
    await content.lock(db, principal.tenant_id, review.content_id)
    held = await db.fetchrow(SQL["reviews.lock"], principal.tenant_id, review_id)
    assert held is not None
    if held["state"] != "pending":
        raise Conflict(
            f"review {review_id} is {held['state'].replace('_', ' ')} already", slug="review-ended"
        )
    if content_hash != review.content_hash:
        raise PreconditionFailed("this is not the text under review: read it again before you decide")
    if held["four_eyes"] and held["author"] == principal.actor:
        raise Forbidden("somebody else has to decide about your own work", slug="own-work")
    return review


async def _tell_task(
    db: Connection, principal: Principal, review: Review, outcome: dict[str, Any]
) -> str | None:
    """Let the waiting task go on; one that has ended by itself needs no word. Returns its queue if it goes on now."""
    if review.task_id is None or review.signal is None:
        return None
    if await db.fetchrow(SQL["tasks.lock"], principal.tenant_id, review.task_id) is None:
        return None
    return await tasks.send_signal(
        db, principal.tenant_id, review.task_id, name=review.signal, data=outcome, actor=principal.actor
    )
