"""`schedule list`."""

from __future__ import annotations

import click

from server.command_line import output
from server.command_line.session import Session, options, perform
from services import schedules

COLUMNS = ("name", "type", "when", "next tick", "paused by", "made by")
MOST = 1000


@click.group("schedule")
def group() -> None:
    """Schedules: list."""


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
