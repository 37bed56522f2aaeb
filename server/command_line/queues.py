"""`queue list|pause|resume|set|create|delete`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from server.command_line import output
from server.command_line.session import Session, options, perform
from services import installation, queues
from services.queues import Count, Queue, Report

COLUMNS = (
    "queue",
    "ready",
    "running",
    "blocked",
    "scheduled",
    "waiting",
    "oldest ready",
    "ended/h",
    "failed/h",
    "limits",
    "paused",
)


class Limit(click.ParamType[Any]):
    """A number, or `none` to take the limit away."""

    name = "N|none"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or the word."""
        if value == "none":
            return value
        try:
            return self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor none", param, ctx)


@click.group("queue")
def group() -> None:
    """Queues: list, pause, resume, limit, create, delete."""


@group.command("list")
@options
def list_(*, tenant: str | None, as_json: bool) -> None:
    """List queues with what is in them: of all tenants where the tenant operates the installation."""

    async def work(session: Session) -> None:
        operates = await session.do(installation.operates)
        found = await session.do(lambda db: queues.report(db, session.tenant.id, installation=operates))
        if session.json:
            output.machine(found)
            return
        output.table(COLUMNS, [_row(one) for one in found], nothing="no queues")

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@click.option("--reason", help="Everybody who looks at the queue reads it.")
@click.option("--until", type=click.DateTime(), help="In UTC; left out: until it is resumed.")
@options
def pause(
    *, tenant: str | None, as_json: bool, name: str, reason: str | None, until: datetime | None
) -> None:
    """Let nothing more of a queue start; what runs goes on."""

    async def work(session: Session) -> None:
        end = until.replace(tzinfo=UTC) if until else None
        queue = await session.do(
            lambda db: queues.pause(db, name, actor=session.actor, reason=reason, until=end)
        )
        _tell(session, queue, f"{name} is paused" + (f" until {end:%Y-%m-%d %H:%M:%SZ}" if end else ""))

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@options
def resume(*, tenant: str | None, as_json: bool, name: str) -> None:
    """Let a queue's tasks start again."""

    async def work(session: Session) -> None:
        queue = await session.do(lambda db: queues.resume(db, name))
        await session.tell(queues=[name])
        _tell(session, queue, f"{name} moves")

    perform(tenant, as_json, work)


@group.command("set")
@click.argument("name")
@click.option("--max-running", type=Limit(int), help="Tasks running at once.")
@click.option("--max-running-per-tenant", type=Limit(int), help="The same for each tenant.")
@click.option("--rate", "rate_per_second", type=Limit(float), help="Tasks started per second.")
@click.option("--burst", type=Limit(int), help="Tasks started at once after a rest.")
@click.option("--fair/--no-fair", default=None, help="Tenants take turns.")
@click.option(
    "--of-tenant",
    nargs=2,
    metavar="NAME N|none",
    help="Another number than --max-running-per-tenant for one tenant.",
)
@options
def set_(
    *, tenant: str | None, as_json: bool, name: str, of_tenant: tuple[str, str] | None, **limits: Any
) -> None:
    """Set limits of a queue, in force with the next claim; what is not named stays. `none` takes one away."""
    changes = {key: None if value == "none" else value for key, value in limits.items() if value is not None}
    if not changes and of_tenant is None:
        raise click.UsageError("name at least one limit")
    own = Limit(int).convert(of_tenant[1], None, None) if of_tenant else None

    async def work(session: Session) -> None:
        if of_tenant:
            number = None if own == "none" else own
            await session.do(
                lambda db: queues.limit_tenant(db, name, of_tenant[0], number, actor=session.actor)
            )
        if changes:
            await session.do(lambda db: queues.change(db, name, changes, actor=session.actor))
        queue = await session.do(lambda db: queues.get(db, name))
        await session.tell(queues=[name])
        _tell(session, queue, f"{name}: {_limits(queue)}")

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@options
def create(*, tenant: str | None, as_json: bool, name: str) -> None:
    """Create a queue without limits."""

    async def work(session: Session) -> None:
        queue = await session.do(lambda db: queues.create(db, name, {}, actor=session.actor))
        _tell(session, queue, f"{name} is there")

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@options
def delete(*, tenant: str | None, as_json: bool, name: str) -> None:
    """Delete an empty queue."""

    async def work(session: Session) -> None:
        await session.do(lambda db: queues.delete(db, name))
        if not session.json:
            click.echo(f"{name} is deleted")

    perform(tenant, as_json, work)


def _tell(session: Session, queue: Queue, text: str) -> None:
    if session.json:
        output.machine(queue)
    else:
        click.echo(text)


def _row(one: Report) -> tuple[object, ...]:
    depth = [_count(one.depth[state]) for state in ("queued", "running", "blocked", "scheduled", "waiting")]
    age = datetime.now(UTC) - one.oldest_ready_at if one.oldest_ready_at else None
    queue = one.queue
    paused = None
    if queue.paused_at:
        until = f" until {queue.resume_at:%Y-%m-%d %H:%MZ}" if queue.resume_at else ""
        paused = f"by {queue.paused_by}{until}" + (f": {queue.pause_reason}" if queue.pause_reason else "")
    return (
        queue.name,
        *depth,
        output.length(age),
        one.recent.ended,
        one.recent.failed,
        _limits(queue),
        paused,
    )


def _count(count: Count) -> int | str:
    return f"{count.tasks}+" if count.more else count.tasks


def _limits(queue: Queue) -> str:
    said = []
    if queue.max_running:
        said.append(f"{queue.max_running} running")
    if queue.max_running_per_tenant:
        said.append(f"{queue.max_running_per_tenant} per tenant")
    if queue.rate_per_second:
        said.append(f"{queue.rate_per_second:g}/s, {queue.burst} at once")
    if queue.fair:
        said.append("in turns")
    return "; ".join(said) or "no limits"
