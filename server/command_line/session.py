"""What all commands have in common: settings, the database, the tenant and the actor, telling the running servers, and how to end."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from server import listener, logs, opening, settings
from server.database import Database
from services import access, installation
from services.access import Tenant
from services.errors import Forbidden, GalleyError, NotFound
from services.tasks import Cancelled
from sql import Connection

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

SENDER = "cli"  # of notifications; no server has this name, so every one listens


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* to its end; an error made for people ends the process with one sentence and 1."""
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        with runner:
            runner.run(work)
    except GalleyError as exc:
        click.echo(f"galley: {exc}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def read_settings(*, quiet: bool = False) -> settings.Settings:
    """Read the environment and start the logs, or end with one sentence and 2. *quiet*: what concerns servers is not said again here."""
    try:
        read = settings.read()
    except GalleyError as exc:
        click.echo(f"galley: {exc}", err=True)
        sys.exit(2)
    logs.configure("ERROR" if quiet and read.log_level == "INFO" else read.log_level, read.log_format)
    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One command at work: for which tenant, as whom, and whether a machine reads its answer."""

    database: Database
    tenant: Tenant
    actor: str
    json: bool

    async def do(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do *work* in one transaction of the tenant."""
        return await self.database.run(self.tenant.id, self.actor, work)

    async def tell(self, *, cancelled: Sequence[Cancelled] = (), queues: Sequence[str] = ()) -> None:
        """Hint to the running servers that runs are to be stopped and that queues have work; without it they find out by themselves."""
        running = [one for one in cancelled if one.executor_id is not None]
        async with self.database.statement() as db:
            await listener.send_cancelled(db, SENDER, running)
            await listener.send_work(db, SENDER, sorted(set(queues)))


def options(command: Command) -> Command:
    """Add what every command takes: --tenant and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")(command)
    return click.option(
        "--tenant", metavar="NAME", help="Whose tasks; left out: the tenant that operates the installation."
    )(command)


def perform(
    tenant: str | None, as_json: bool, work: Callable[[Session], Coroutine[Any, Any, None]]
) -> None:  # fmt: skip
    """Open a session and do *work* in it."""

    async def begin() -> None:
        async with _open(tenant, as_json=as_json) as session:
            await work(session)

    run(begin())


@asynccontextmanager
async def _open(tenant: str | None, *, as_json: bool) -> AsyncIterator[Session]:
    async with opening.ready_database(read_settings(quiet=True)) as database:
        async with database.engine() as db:
            found = await (
                access.find_tenant(db, tenant) if tenant else installation.find_operating_tenant(db)
            )
        if found is None and tenant:
            raise NotFound(f"there is no tenant {tenant}")
        if found is None:
            raise Forbidden("no tenant operates this installation yet: name one with --tenant")
        yield Session(database=database, tenant=found, actor=f"cli:{_user()}", json=as_json)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid-{os.getuid()}"
