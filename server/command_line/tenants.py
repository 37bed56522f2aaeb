"""`tenant list|operate`."""

from __future__ import annotations

import click

from server import opening
from server.command_line import output
from server.command_line.session import read_settings, run
from services import installation

COLUMNS = ("name", "operates", "since")


@click.group("tenant")
def group() -> None:
    """Tenants: list, operate."""


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")
def list_(*, as_json: bool) -> None:
    """List all tenants; those that operate the installation may pause queues and drain executors."""

    async def work() -> None:
        async with opening.ready_database(read_settings(quiet=True)) as database, database.engine() as db:
            found = await installation.list_tenants(db)
        if as_json:
            output.machine(found)
            return
        rows = [(one.name, "yes" if one.operates else "no", one.created_at) for one in found]
        output.table(COLUMNS, rows, nothing="no tenants")

    run(work())


@group.command("operate")
@click.argument("name")
@click.option("--no", "ends", is_flag=True, help="Take it away again.")
def operate(*, name: str, ends: bool) -> None:
    """Let the operators of tenant NAME act on queues and executors, which belong to the installation."""

    async def work() -> None:
        async with opening.ready_database(read_settings(quiet=True)) as database, database.engine() as db:
            await installation.set_operates(db, name, operating=not ends)
        click.echo(f"{name} {'no longer operates' if ends else 'operates'} the installation")

    run(work())
