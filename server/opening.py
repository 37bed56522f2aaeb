"""The way to the database: where it is, with its schema up to date, and fit to be trusted."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server import embedded, migrations
from server.database import ROLE, Database, is_pooled
from server.migrations import MigrationError
from server.settings import Settings, SettingsError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsns:
    """How to reach PostgreSQL: as the role that serves, round a connection pooler, and as a user that may change the schema."""

    run: str
    direct: str  # empty: run
    migrate: str
    embedded: bool


@asynccontextmanager
async def dsns(settings: Settings) -> AsyncIterator[Dsns]:
    """Give the addresses of PostgreSQL, keeping the embedded one running for as long as the block lasts."""
    if settings.embedded_database:
        async with embedded.postgres(settings.data_dir) as running:
            yield Dsns(run=running.web_dsn, direct="", migrate=running.admin_dsn, embedded=True)
        return
    run, direct, migrate = (
        secret.get_secret_value()
        for secret in (settings.database_url, settings.direct_database_url, settings.migrate_database_url)
    )
    yield Dsns(run=run, direct=direct, migrate=migrate or direct or run, embedded=False)


@asynccontextmanager
async def ready_database(settings: Settings) -> AsyncIterator[Database]:
    """Give the database with its schema up to date, migrating where `serve` may. Raises: GalleyError in one sentence."""
    async with dsns(settings) as where:
        if where.embedded or settings.environment == "development":
            await _migrate(where)
        else:
            await _refuse_unfit(where.run)
        database = Database(
            where.run,
            direct_dsn=where.direct,
            web_connections=settings.web_connections,
            engine_connections=settings.engine_connections,
        )
        await database.open()
        try:
            await _refuse_unsafe(database, settings)
            if settings.listen and not database.can_listen:
                log.warning(
                    "no LISTEN through a connection pooler: work and cancels of other replicas are found by polling",
                    extra={"instead": "set DIRECT_DATABASE_URL to an address of PostgreSQL itself"},
                )
            yield database
        finally:
            await database.close()


async def _migrate(where: Dsns) -> None:
    """Bring the schema up to date; through a pooler, where that cannot be done, only look. Raises: MigrationError."""
    if where.migrate == where.run and await is_pooled(where.run):
        await _refuse_unfit(where.run)
    else:
        await migrations.migrate(where.migrate)


async def _refuse_unfit(dsn: str) -> None:
    status = await migrations.check(dsn)
    if status.behind:
        raise MigrationError(
            f"the database is at schema {status.applied} and this release needs {status.known}: run `python main.py migrate`"
        )
    if status.too_new:
        raise MigrationError(
            f"the database is at schema {status.applied}, made by a newer release than this one ({status.known})"
        )


async def _refuse_unsafe(database: Database, settings: Settings) -> None:
    """Refuse a role that row-level security does not bind, and a PostgreSQL that forgets what it has acknowledged."""
    async with database.statement() as db:
        row = await db.fetchrow(
            "SELECT session_user::text AS name, bool_or(rolsuper OR rolbypassrls) AS unbound,"
            " current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'"
            " AND current_setting('synchronous_commit') <> 'off' AS durable,"
            " current_setting('lock_timeout') <> '0' AS limited"
            " FROM pg_roles WHERE rolname IN (session_user, current_user)"
        )
    assert row is not None
    faults = []
    if row["unbound"]:
        faults.append(
            f"the database user {row['name']} may pass row-level security (superuser or BYPASSRLS); serve as galley_web instead"
        )
    if not row["durable"]:
        faults.append(
            "fsync, full_page_writes or synchronous_commit is off: acknowledged tasks could be lost"
        )
    if not row["limited"]:
        faults.append(
            f"connections through the pooler have no time limits: run `python main.py migrate` again, as a user that may alter the role {ROLE}"
        )
    for fault in faults:
        if settings.environment == "production":
            raise SettingsError(fault)
        log.warning("unsafe database", extra={"fault": fault})
