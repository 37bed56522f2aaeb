"""`schedule list|pause|resume|run`."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from server.command_line import output
from server.command_line.session import Session, options, perform
from services import schedules
from services.schedules import Schedule

COLUMNS = ("name", "type", "when", "next tick", "paused by", "made by")
MOST = 1000


@click.group("schedule")
def group() -> None:
    """Schedules: list, pause, resume, run now."""


@group.command("list")
@options
def list_(*, tenant: str | None, as_json: bool) -> None:
    """List schedules by name, with when they tick next."""

    async def work(session: Session) -> None:
        found = await session.do(lambda db: schedules.list_schedules(db, session.tenant.id, limit=MOST))
        if session.json:
            output.machine(found)
            return
        rows = [
            (one.name, one.type, one.explanation, one.next_tick_at, one.paused_by, one.created_by)
            for one in found
        ]
        output.table(COLUMNS, rows, nothing="no schedules")

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@click.option("--until", type=click.DateTime(), help="In UTC; left out: until it is resumed.")
@options
def pause(*, tenant: str | None, as_json: bool, name: str, until: datetime | None) -> None:
    """Let a schedule tick no more. NAME: its name or its id."""

    async def work(session: Session) -> None:
        end = until.replace(tzinfo=UTC) if until else None
        chosen = await session.do(lambda db: schedules.find(db, session.tenant.id, name))
        changed = await session.do(
            lambda db: schedules.pause(db, session.tenant.id, chosen, actor=session.actor, resume_at=end)
        )
        _tell(session, changed, "is paused" + (f" until {end:%Y-%m-%d %H:%M:%SZ}" if end else ""))

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@options
def resume(*, tenant: str | None, as_json: bool, name: str) -> None:
    """Let a schedule tick again, from now on. NAME: its name or its id."""

    async def work(session: Session) -> None:
        chosen = await session.do(lambda db: schedules.find(db, session.tenant.id, name))
        changed = await session.do(lambda db: schedules.resume(db, session.tenant.id, chosen))
        when = f"{changed.next_tick_at:%Y-%m-%d %H:%M:%SZ}" if changed.next_tick_at else "never"
        _tell(session, changed, f"ticks next {when}")

    perform(tenant, as_json, work)


@group.command()
@click.argument("name")
@options
def run(*, tenant: str | None, as_json: bool, name: str) -> None:
    """Make a schedule's task now, paused or not; its ticks stay as they are. NAME: its name or its id."""

    async def work(session: Session) -> None:
        chosen = await session.do(lambda db: schedules.find(db, session.tenant.id, name))
        task = await session.do(
            lambda db: schedules.run_now(db, session.tenant.id, chosen, actor=session.actor)
        )
        await session.tell(queues=[task.queue])
        if session.json:
            output.machine(task)
        else:
            click.echo(f"{task.id} made")

    perform(tenant, as_json, work)


def _tell(session: Session, schedule: Schedule, text: str) -> None:
    if session.json:
        output.machine(schedule)
    else:
        click.echo(f"{schedule.name} {text}")
