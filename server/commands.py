"""What the commands of main.py do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from uuid import UUID

import click

from server import migrations, opening
from server.database import Database
from server.settings import Settings
from services import access, prompts
from sql import Connection

if TYPE_CHECKING:
    from aiohttp import web


async def serve(settings: Settings, *, demo: bool) -> None:
    """Serve until a signal; with *demo* prepare the demo tenant first and print how to sign in."""
    # Web server, engine and model client take most of a second to import: no other command needs them.
    from server import demo as demo_data
    from server import serving
    from server.app import ENGINE

    async def announce(app: web.Application, database: Database, base_url: str) -> None:
        if not demo:
            click.echo(f"Galley serves at {base_url}")
            return
        wake = app[ENGINE].wake
        password = await demo_data.prepare(database, data_dir=settings.data_dir, wake=wake)
        click.echo(demo_data.welcome(base_url, password, embedded_model=settings.embedded_model))
        await demo_data.write_article(database, wake)

    await serving.serve(settings, announce=announce)


async def migrate(settings: Settings, *, check: bool, to: int | None) -> None:
    """Bring the schema up to date, only look, or roll back. Ends with 1 when *check* finds it behind."""
    async with opening.dsns(settings) as where:
        if check:
            status = await migrations.check(where.migrate)
        elif to is not None:
            status = await migrations.roll_back(where.migrate, to=to)
        else:
            status = await migrations.migrate(
                where.migrate, web_password=settings.galley_web_password.get_secret_value() or None
            )
    click.echo(f"schema {status.applied} of {status.known}")
    if check and status.behind:
        sys.exit(1)


async def create_key(settings: Settings, *, tenant: str, role: str, name: str) -> None:
    """Make an API key, in a new tenant where there is none of that name, and print its text."""
    async with opening.ready_database(settings) as database:
        tenant_id = await _ensure_tenant(database, tenant)

        async def make(db: Connection) -> str:
            return (
                await access.create_api_key(db, tenant_id=tenant_id, name=name, role=role, actor="system:cli")
            )[1]

        click.echo(await database.run(tenant_id, "system:cli", make))


async def create_user(
    settings: Settings, *, tenant: str, email: str, role: str, name: str, password: str
) -> None:
    """Make a person who may sign in, in a new tenant where there is none of that name."""
    async with opening.ready_database(settings) as database:
        tenant_id = await _ensure_tenant(database, tenant)

        async def make(db: Connection) -> UUID:
            return await access.create_user(
                db, tenant_id=tenant_id, email=email, name=name, password=password, role=role
            )

        await database.run(tenant_id, "system:cli", make)
        click.echo(f"{email} may sign in to {tenant} as {role}")


async def _ensure_tenant(database: Database, name: str) -> UUID:
    """Return the tenant's id; a new tenant gets the prompts that Galley comes with."""
    async with database.engine() as db:
        tenant_id = await access.ensure_tenant(db, name)

    async def equip(db: Connection) -> None:
        await prompts.install_defaults(db, tenant_id=tenant_id, actor="system:cli")

    await database.run(tenant_id, "system:cli", equip)
    return tenant_id
