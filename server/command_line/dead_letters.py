"""`dead-letter list|requeue|discard`."""

from __future__ import annotations

from typing import Any

import click

from server.command_line import bulk, output
from server.command_line.session import Session, options, perform
from services import dead_letters
from services.dead_letters import Filter

COLUMNS = ("id", "type", "queue", "state", "error", "before", "failed", "message")


@click.group("dead-letter")
def group() -> None:
    """Failed tasks that wait for a person: list, requeue, discard."""


def filters(command: Any) -> Any:
    """Add the options that choose dead letters."""
    command = click.option(
        "--q", metavar="TEXT", help="Part of an id, a type, an error, its message, a note."
    )(command)
    command = click.option("--error-class", metavar="CLASS")(command)
    command = click.option("--queue", metavar="NAME")(command)
    command = click.option("--type", "type_", metavar="TYPE")(command)
    return click.option("--state", type=click.Choice(["failed", "timed_out"]))(command)


@group.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@options
def list_(*, tenant: str | None, as_json: bool, limit: int, type_: str | None, **wanted: Any) -> None:
    """List open dead letters, those of the newest tasks first."""

    async def work(session: Session) -> None:
        chosen = Filter(type=type_, **wanted)
        found = await session.do(
            lambda db: dead_letters.list_letters(db, session.tenant.id, chosen, limit=limit)
        )
        if session.json:
            output.machine(found)
            return
        rows = [
            (one.task_id, one.type, one.queue, one.state, one.error_class, one.requeues, one.failed_at, (one.error or {}).get("message"))
            for one in found
        ]  # fmt: skip
        output.table(COLUMNS, rows, nothing="no dead letters: nothing that failed waits for anybody")

    perform(tenant, as_json, work)


@group.command()
@click.argument("ids", nargs=-1)
@filters
@click.option(
    "--at-once",
    is_flag=True,
    help="Do not wait 60, 120, 240, 3600 s as they failed once, twice and more often before.",
)
@click.option("--yes", is_flag=True, help="Do it; without, a filter only shows what it would meet.")
@options
def requeue(*, tenant: str | None, as_json: bool, ids: tuple[str, ...], at_once: bool, yes: bool, type_: str | None, **wanted: Any) -> None:  # fmt: skip
    """Make new tasks from dead letters: those named, or all that a filter finds."""
    _perform(tenant, as_json, "requeue", ids, wanted | {"type": type_}, yes=yes, changes={"at_once": at_once})


@group.command()
@click.argument("ids", nargs=-1)
@filters
@click.option("--reason", required=True, help="Why nobody needs them any more.")
@click.option("--yes", is_flag=True, help="Do it; without, a filter only shows what it would meet.")
@options
def discard(*, tenant: str | None, as_json: bool, ids: tuple[str, ...], reason: str, yes: bool, type_: str | None, **wanted: Any) -> None:  # fmt: skip
    """Close dead letters without doing anything else: those named, or all that a filter finds."""
    _perform(tenant, as_json, "discard", ids, wanted | {"type": type_}, yes=yes, reason=reason)


def _perform(
    tenant: str | None, as_json: bool, action: str, ids: tuple[str, ...], wanted: dict[str, Any], *, yes: bool, **more: Any
) -> None:  # fmt: skip
    bulk.require_one_way(ids, wanted)
    chosen = {"ids": bulk.read_ids(ids)} if ids else wanted

    async def work(session: Session) -> None:
        await bulk.perform(session, action, "dead_letters", chosen, yes=yes or bool(ids), **more)

    perform(tenant, as_json, work)
