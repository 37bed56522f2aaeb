"""Bulk operations: cancel, requeue or discard everything that a filter finds.

preview (what would be met) → confirm (exactly that, signed) → start → run_batch, again and again, in any process → done or stopped.

A batch is one transaction: its work, the counts and the place it got to commit together, so a crash loses and repeats nothing. It needs
no task and no executor, so it works when queues are paused or clogged. What is made after the preview is left alone, and so is what ends after it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson

from services import task_search, tasks
from services.errors import Conflict, Fault, Invalid, Malformed, NotFound
from services.task_states import FINAL, LIVE
from services.tasks import Task
from sql import SQL, Connection

ACTIONS = ("cancel", "requeue", "discard")
TARGETS = ("tasks", "dead_letters")
STATES = ("running", "done", "stopped", "failed")
COUNTED_MOST = 100_000  # 100 ms of counting; beyond it a preview says "more than"
SAMPLE = 5
CHOSEN_MOST = 1000  # tasks named one by one
CONFIRMATION_SECONDS = 15 * 60  # long enough to ask somebody, too short to forget what was shown
_SIGNATURE_BYTES = 32
_FILTERS = {
    "tasks": {"state", "type", "queue", "q", "ids"},
    "dead_letters": {"state", "type", "queue", "q", "ids", "error_class", "failed_after", "failed_before"},
}
_STATES_OF = {
    ("cancel", "tasks"): LIVE,
    ("requeue", "tasks"): FINAL,
    ("requeue", "dead_letters"): ("failed", "timed_out"),
    ("discard", "dead_letters"): ("failed", "timed_out"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was previewed, and nothing else: the border is drawn at the moment of the preview."""

    id: UUID
    action: str
    target: str
    filter: dict[str, Any]
    newest_id: UUID
    seen_at: datetime
    total: int
    total_is_exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a plan would meet right now: how many of which state and type, and the first few of them."""

    plan: Plan
    by_state: dict[str, int]
    by_type: dict[str, int]
    sample: list[Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one task could not be helped."""

    task_id: UUID
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOperation:
    """A bulk operation: what was decided by whom and why, and how far it is.

    `skipped` stayed locked by others to the end. What of `total` is in none of the counts had changed before its turn came.
    """

    id: UUID
    action: str
    target: str
    filter: dict[str, Any]
    changes: dict[str, Any]
    reason: str | None
    newest_id: UUID = field(repr=False)
    seen_at: datetime
    state: str
    total: int
    total_is_exact: bool
    done: int
    skipped: int
    failed: int
    failures: list[Failure]
    cursor: UUID | None = field(repr=False)
    busy: list[UUID] = field(repr=False)
    passes: int = field(repr=False)
    created_at: datetime
    created_by: str
    request_id: str | None
    finished_at: datetime | None
    stopped_by: str | None
    error: str | None

    @property
    def changed(self) -> int:
        """How many of the previewed had ended, or were handled, before their turn; 0 until it is over."""
        missing = self.total - self.done - self.skipped - self.failed
        return max(0, missing) if self.state == "done" and self.total_is_exact else 0

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> BulkOperation:
        """Build an operation from its row."""
        return cls(
            id=row["id"],
            action=row["action"],
            target=row["target"],
            filter=row["filter"],
            changes=row["changes"],
            reason=row["reason"],
            newest_id=row["newest_id"],
            seen_at=row["seen_at"],
            state=row["state"],
            total=row["total"],
            total_is_exact=row["total_is_exact"],
            done=row["done"],
            skipped=row["skipped"],
            failed=row["failed"],
            failures=[
                Failure(task_id=UUID(one["task_id"]), message=one["message"]) for one in row["failures"]
            ],
            cursor=row["cursor"],
            busy=row["busy"],
            passes=row["passes"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            request_id=row["request_id"],
            finished_at=row["finished_at"],
            stopped_by=row["stopped_by"],
            error=row["error"],
        )


async def preview(
    db: Connection, tenant_id: UUID, *, action: str, target: str, wanted: dict[str, Any]
) -> Preview:
    """Count what *action* would meet, and change nothing. Raises: Invalid when the three do not fit together.

    *wanted*: state, type, queue, q, ids; of dead letters also error_class, failed_after, failed_before (texts of RFC 3339).
    """
    _check(action, target, wanted)
    now = await db.fetchrow(SQL["bulk_operations.moment"])
    assert now is not None
    rows = await db.fetch(
        SQL["bulk_operations.count_matches"],
        *(tenant_id, action, target, read_filter(target, wanted), now["newest_id"], now["seen_at"]),
        COUNTED_MOST + 1,
    )
    by_state: dict[str, int] = {}
    by_type: dict[str, int] = {}
    for row in rows:
        by_state[row["state"]] = by_state.get(row["state"], 0) + row["matches"]
        by_type[row["type"]] = by_type.get(row["type"], 0) + row["matches"]
    counted = sum(by_state.values())
    plan = Plan(
        id=uuid4(),
        action=action,
        target=target,
        filter=wanted,
        newest_id=now["newest_id"],
        seen_at=now["seen_at"],
        total=min(counted, COUNTED_MOST),
        total_is_exact=counted <= COUNTED_MOST,
    )
    first = await list_matches(db, tenant_id, plan, after=None, limit=SAMPLE)
    sample = await tasks.list_chosen(db, tenant_id, first)
    return Preview(plan=plan, by_state=by_state, by_type=by_type, sample=sample)


def confirm(secret: bytes, tenant_id: UUID, actor: str, plan: Plan) -> str:
    """Return *plan* as a signed text that starts it: for this actor of this tenant, and for CONFIRMATION_SECONDS."""
    payload = orjson.dumps(
        {
            "tenant": tenant_id,
            "actor": actor,
            "id": plan.id,
            "action": plan.action,
            "target": plan.target,
            "filter": plan.filter,
            "newest_id": plan.newest_id,
            "seen_at": plan.seen_at,
            "total": plan.total,
            "total_is_exact": plan.total_is_exact,
        },
        default=str,
    )
    return base64.urlsafe_b64encode(_sign(secret, payload) + payload).decode().rstrip("=")


def read_confirmation(secret: bytes, tenant_id: UUID, actor: str, text: str) -> Plan:
    """Return the plan that *text* confirms. Raises: Malformed when it was not made here, for this actor of this tenant."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _unknown_confirmation() from None
    signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(secret, payload)):
        raise _unknown_confirmation()
    values = orjson.loads(payload)
    if (values.pop("tenant"), values.pop("actor")) != (str(tenant_id), actor):
        raise _unknown_confirmation()
    values["seen_at"] = datetime.fromisoformat(values["seen_at"])
    return Plan(**values | {name: UUID(values[name]) for name in ("id", "newest_id")})


async def start(
    db: Connection,
    tenant_id: UUID,
    plan: Plan,
    *,
    actor: str,
    reason: str | None = None,
    changes: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> tuple[BulkOperation, bool]:
    """Begin what was previewed; returns the operation, and whether it is new: a plan begins once, however often it is sent.

    *changes*: at_once, reuse_steps, queue, priority, timeout_seconds, max_attempts; for a requeue only.
    Raises: Conflict when the preview is too old, Invalid when it met nothing or a discard gives no reason.
    """
    if plan.total == 0:
        raise Invalid(
            "nothing matches, so there is nothing to do", faults=(Fault("/confirmation", "met nothing"),)
        )
    if plan.action == "discard" and not (reason and reason.strip()):
        raise Invalid("a discard needs its reason", faults=(Fault("/reason", "is needed to discard"),))
    if changes and plan.action != "requeue":
        faults = tuple(Fault(f"/{name}", "is for a requeue only") for name in changes)
        raise Invalid("only a requeue takes changes", faults=faults)
    if (queue := (changes or {}).get("queue")) is not None and queue not in await tasks.list_queues(db):
        raise Invalid(
            f"there is no queue {queue}", slug="unknown-queue", faults=(Fault("/queue", "is not known"),)
        )
    row = await db.fetchrow(
        SQL["bulk_operations.start"],
        *(tenant_id, plan.id, plan.action, plan.target, plan.filter, changes or {}, reason),
        *(plan.newest_id, plan.seen_at, plan.total, plan.total_is_exact, actor, request_id),
        CONFIRMATION_SECONDS,
    )
    if row is not None:
        return BulkOperation.from_row(row), True
    row = await db.fetchrow(SQL["bulk_operations.find_confirmed"], tenant_id, plan.id)
    if row is None:
        raise Conflict("this preview is too old: look again before you confirm", slug="confirmation-expired")
    return BulkOperation.from_row(row), False


async def get(db: Connection, tenant_id: UUID, operation_id: UUID) -> BulkOperation:
    """Return an operation. Raises: NotFound."""
    row = await db.fetchrow(SQL["bulk_operations.get"], tenant_id, operation_id)
    if row is None:
        raise NotFound(f"there is no bulk operation {operation_id}")
    return BulkOperation.from_row(row)


async def list_operations(
    db: Connection, tenant_id: UUID, *, state: str | None = None, before: UUID | None = None, limit: int = 50
) -> list[BulkOperation]:
    """Return operations, newest first, those older than *before*."""
    rows = await db.fetch(SQL["bulk_operations.list"], tenant_id, before, limit, state)
    return [BulkOperation.from_row(row) for row in rows]


async def list_matches(
    db: Connection,
    tenant_id: UUID,
    plan: Plan | BulkOperation,
    *,
    after: UUID | None,
    limit: int,
    among: list[UUID] | None = None,
) -> list[UUID]:
    """Return the tasks that *plan* is about right now, by id, behind *after*; *among* narrows them down."""
    wanted = read_filter(plan.target, plan.filter)
    if among is not None:
        wanted["ids"] = [str(one) for one in among]
    rows = await db.fetch(
        SQL["bulk_operations.list_matches"],
        *(tenant_id, plan.action, plan.target, wanted, plan.newest_id, plan.seen_at, after, limit),
    )
    return [row["id"] for row in rows]


async def stop(db: Connection, tenant_id: UUID, operation_id: UUID, *, actor: str) -> BulkOperation:
    """Stop it behind the batch that is under way; what is done stays done. Stopping twice answers the same.

    Raises: NotFound, Conflict when it has ended otherwise.
    """
    row = await db.fetchrow(SQL["bulk_operations.stop"], tenant_id, operation_id, actor)
    found = await get(db, tenant_id, operation_id) if row is None else BulkOperation.from_row(row)
    if found.state != "stopped":
        raise Conflict(f"this bulk operation is {found.state} already", slug="bulk-operation-ended")
    return found


def read_filter(target: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return *wanted* as app.bulk_matches reads it: a search in tasks is a range of ids, or a text."""
    if target == "dead_letters" or "q" not in wanted:
        return dict(wanted)
    lower, upper, text = task_search.read(wanted["q"])
    found = {"id_from": lower, "id_to": upper, "text": text}
    return wanted | {name: value for name, value in found.items() if value is not None}


def _check(action: str, target: str, wanted: dict[str, Any]) -> None:
    """Raises: Invalid with every fault."""
    states = _STATES_OF.get((action, target))
    if states is None:
        raise Invalid(
            f"{action} is not for {target.replace('_', ' ')}",
            faults=(
                Fault("/target", f"must be {'tasks' if action == 'cancel' else 'dead_letters'} for {action}"),
            ),
        )
    faults = [
        Fault(f"/filter/{name}", f"is no filter of {target.replace('_', ' ')}")
        for name in sorted(wanted.keys() - _FILTERS[target])
    ]
    if (state := wanted.get("state")) is not None and state not in states:
        faults.append(Fault("/filter/state", f"must be one of {', '.join(states)} for {action}"))
    if not 1 <= len(wanted.get("ids", ["any"])) <= CHOSEN_MOST:
        faults.append(Fault("/filter/ids", f"must be 1 to {CHOSEN_MOST}"))
    if faults:
        raise Invalid(faults[0].message, faults=tuple(faults))


def _sign(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, b"bulk operation\x00" + payload, hashlib.sha256)


def _unknown_confirmation() -> Malformed:
    return Malformed("this confirmation was not given out to you", slug="confirmation-invalid")
