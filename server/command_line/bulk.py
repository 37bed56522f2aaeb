"""Cancel, requeue or discard what a filter finds: preview, then with --yes all of it, at once and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import click

from server.command_line import output
from server.command_line.session import Session
from services import bulk_batches, bulk_operations
from services.bulk_operations import BulkOperation, Preview
from services.errors import Conflict

PAUSE_SECONDS = 0.2  # while a server has the next batch in hand, or locked rows rest
DONE = {"cancel": "cancelled", "requeue": "requeued", "discard": "discarded"}


def read_ids(texts: Sequence[str]) -> list[str]:
    """Return ids as filters have them. Raises: click.BadParameter."""
    ids = []
    for text in texts:
        try:
            ids.append(str(UUID(text)))
        except ValueError:
            raise click.BadParameter(f"{text!r} is no id: an id is a UUID, as `list` prints it") from None
    return ids


def require_one_way(ids: Sequence[str], wanted: Mapping[str, object]) -> None:
    """Raises: click.UsageError unless there are either ids or a filter."""
    if bool(ids) == any(value is not None for value in wanted.values()):
        raise click.UsageError("name either ids or a filter, one of the two")


async def perform(
    session: Session,
    action: str,
    target: str,
    wanted: Mapping[str, Any],
    *,
    yes: bool,
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Show what *action* would meet; with *yes* do it and stay until it is over. Raises: Conflict when some could not be helped."""
    given = {name: value for name, value in wanted.items() if value is not None}
    seen = await session.do(
        lambda db: bulk_operations.preview(db, session.tenant.id, action=action, target=target, wanted=given)
    )
    if not yes or not seen.plan.total:
        _show(session, seen)
        return
    kept = {name: value for name, value in (changes or {}).items() if value is not None}
    operation, _ = await session.do(
        lambda db: bulk_operations.start(
            db, session.tenant.id, seen.plan, actor=session.actor, reason=reason, changes=kept or None
        )
    )
    ended = await _finish(session, operation.id)
    if session.json:
        output.machine(ended)
    else:
        click.echo(f"{ended.done:,} {DONE[action]}")
    left = ended.skipped + ended.failed
    if left or ended.state != "done":
        first = f"; the first: {ended.failures[0].message}" if ended.failures else ""
        raise Conflict(f"{left:,} were not {DONE[action]}, the operation is {ended.state}{first}")


async def _finish(session: Session, operation_id: UUID) -> BulkOperation:
    """Do batch after batch, beside whatever server does the same, until there are none."""
    while True:
        batch = await session.do(lambda db: bulk_batches.run_batch(db, session.tenant.id, operation_id))
        if batch is not None:
            await session.tell(cancelled=batch.cancelled, queues=sorted(batch.queues))
        operation = await session.do(lambda db: bulk_operations.get(db, session.tenant.id, operation_id))
        if operation.state != "running":
            return operation
        if batch is None or not batch.done:
            await asyncio.sleep(PAUSE_SECONDS)


def _show(session: Session, seen: Preview) -> None:
    plan = seen.plan
    if session.json:
        output.machine(
            {
                "action": plan.action,
                "total": plan.total,
                "total_is_exact": plan.total_is_exact,
                "by_state": seen.by_state,
                "by_type": seen.by_type,
            }
        )
        return
    if not plan.total:
        click.echo(f"nothing to {plan.action}: nothing matches, or it is done already")
        return
    more = "" if plan.total_is_exact else "more than "
    click.echo(f"{more}{plan.total:,} would be {DONE[plan.action]}")
    output.facts({name: f"{number:,}" for name, number in {**seen.by_state, **seen.by_type}.items()})
    click.echo("nothing is done yet: say it again with --yes")
