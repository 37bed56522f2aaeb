"""`executor list|drain|undrain`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import click

from server.command_line import output
from server.command_line.session import Session, options, perform
from services import executors, installation
from services.errors import Conflict, NotFound
from services.executors import Executor

COLUMNS = (
    "id",
    "state",
    "host",
    "pid",
    "release",
    "slots",
    "busy",
    "leaked",
    "lag ms",
    "lease s",
    "running",
    "since",
    "draining by",
)


@click.group("executor")
def group() -> None:
    """Executors: list, drain, undrain."""


@group.command("list")
@options
def list_(*, tenant: str | None, as_json: bool) -> None:
    """List the processes that run tasks; one that is gone without a word stays for an hour."""

    async def work(session: Session) -> None:
        operates = await session.do(installation.operates)
        found = await session.do(lambda db: executors.list_executors(db, installation=operates))
        if session.json:
            output.machine([{**_fields(one), "state": one.state} for one in found])
            return
        output.table(COLUMNS, [_row(one) for one in found], nothing="no executor is there: tasks wait")

    perform(tenant, as_json, work)


@group.command()
@click.argument("executor_id")
@options
def drain(*, tenant: str | None, as_json: bool, executor_id: str) -> None:
    """Let an executor end what it runs and claim nothing more. EXECUTOR_ID: its id, or how that begins."""
    _change(tenant, as_json, executor_id, executors.drain)


@group.command()
@click.argument("executor_id")
@options
def undrain(*, tenant: str | None, as_json: bool, executor_id: str) -> None:
    """Let an executor claim again, within one heartbeat. EXECUTOR_ID: its id, or how that begins."""
    _change(tenant, as_json, executor_id, executors.undrain)


def _change(tenant: str | None, as_json: bool, text: str, verb: Callable[..., Awaitable[Executor]]) -> None:
    async def work(session: Session) -> None:
        found = await session.do(lambda db: executors.list_executors(db, installation=False))
        chosen = _choose([one.id for one in found], text)
        executor = await session.do(lambda db: verb(db, chosen, actor=session.actor))
        await session.tell(queues=[""])
        if session.json:
            output.machine({**_fields(executor), "state": executor.state})
        else:
            click.echo(f"{executor.id} is {executor.state}")

    perform(tenant, as_json, work)


def _choose(ids: list[UUID], text: str) -> UUID:
    matching = [one for one in ids if text and str(one).startswith(text.lower())]
    if not matching:
        raise NotFound(f"there is no executor {text}")
    if len(matching) > 1:
        raise Conflict(f"{len(matching)} executors begin with {text}: name more of the id")
    return matching[0]


def _fields(executor: Executor) -> dict[str, Any]:
    return {name: getattr(executor, name) for name in Executor.__dataclass_fields__}


def _row(one: Executor) -> tuple[object, ...]:
    return (
        one.id, one.state, one.host, one.pid, one.release, one.slots, one.busy, one.leaked, None if one.lag_ms is None else round(one.lag_ms),
        round(one.seconds_left), one.running, one.started_at, one.draining_by,
    )  # fmt: skip
