"""Brings the schema up to date: numbered files up and down, one migrator at a time, functions re-applied when they change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from server import database
from services.errors import GalleyError
from sql import FOLDER, Connection

log = logging.getLogger(__name__)

LOCK = 0x67616C6C  # pg_advisory_lock key: "gall"
STATEMENT_SECONDS = 6 * 3600.0  # an index of a large table
LOCK_TRIES, LOCK_PAUSE_SECONDS = 30, 1.0
_FILE = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.up\.sql$")
_WORKS_WITH = re.compile(r"^-- works-with: (?P<version>\d+)$", re.MULTILINE)


class MigrationError(GalleyError):
    """The schema cannot be brought to where this release needs it."""

    slug, title = "migration", "The database schema does not fit this release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One numbered change. `works_with` is the oldest schema version whose release still runs once this is applied."""

    version: int
    name: str
    text: str
    checksum: str
    works_with: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the database stands to this release."""

    applied: int  # the newest version in the database
    known: int  # the newest version in this release
    works_with: int  # the oldest release, by schema version, that the database still serves

    @property
    def behind(self) -> bool:
        """Whether this release needs migrations that the database lacks."""
        return self.applied < self.known

    @property
    def too_new(self) -> bool:
        """Whether the database has moved on beyond what this release can work with."""
        return self.works_with > self.known


def read_migrations(folder: Path = FOLDER / "migrations") -> list[Migration]:
    """Return all migrations in order. Raises: MigrationError for a gap in the numbers."""
    found = []
    for path in sorted(folder.glob("*.up.sql")):
        match = _FILE.match(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named like 0001_what_it_does.up.sql")
        text = path.read_text(encoding="utf-8")
        version = int(match["version"])
        works_with = _WORKS_WITH.search(text)
        found.append(
            Migration(
                version=version,
                name=match["name"],
                text=text,
                checksum=_checksum(text),
                works_with=int(works_with["version"]) if works_with else version,
            )
        )
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"migrations must be numbered without gaps, found {[m.version for m in found]}")
    return found


async def migrate(dsn: str, *, web_password: str | None = None) -> Status:
    """Apply what is missing, under a lock that one process holds at a time. Raises: MigrationError, Unavailable."""
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        await _migrate(connection)
        await _limit_role(connection)
        if web_password:
            quoted = await connection.fetchval("SELECT quote_literal($1::text)", web_password)
            await connection.execute(f"ALTER ROLE {database.ROLE} PASSWORD {quoted}")
        return await read_status(connection)
    except asyncpg.PostgresError as exc:
        raise MigrationError(_explain(exc)) from exc
    finally:
        await connection.close()


async def roll_back(dsn: str, *, to: int) -> Status:
    """Undo migrations newer than *to*, newest first; data they made is lost. Raises: MigrationError."""
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        for migration in reversed(read_migrations()):
            if to < migration.version <= (await read_status(connection)).applied:
                path = FOLDER / "migrations" / f"{migration.version:04}_{migration.name}.down.sql"
                async with connection.transaction():
                    await connection.execute(path.read_text(encoding="utf-8"))
                    await connection.execute(
                        "DELETE FROM schema_migrations WHERE version = $1", migration.version
                    )
                    await connection.execute("DELETE FROM schema_functions")
        return await read_status(connection)
    except asyncpg.PostgresError as exc:
        raise MigrationError(_explain(exc)) from exc
    finally:
        await connection.close()


async def check(dsn: str) -> Status:
    """Compare the database with this release without changing anything. Raises: Unavailable."""
    connection = await database.connect(dsn, application_name="galley migrate", pooled=True)
    try:
        return await read_status(connection)
    finally:
        await connection.close()


async def read_status(connection: Connection) -> Status:
    """Return how the database of *connection* stands to this release."""
    known = read_migrations()[-1].version
    if not await connection.fetchval("SELECT to_regclass('public.schema_migrations') IS NOT NULL"):
        return Status(applied=0, known=known, works_with=0)
    row = await connection.fetchrow(
        "SELECT coalesce(max(version), 0) AS applied, coalesce(max(works_with), 0) AS works_with FROM schema_migrations"
    )
    assert row is not None
    return Status(applied=row["applied"], known=known, works_with=row["works_with"])


async def _connect(dsn: str) -> Connection:
    """Open the session that a migration needs for its lock. Raises: MigrationError behind a pooler, Unavailable."""
    if await database.is_pooled(dsn):
        raise MigrationError(
            "migrations need a session of their own and this address leads through a connection pooler:"
            " set MIGRATE_DATABASE_URL or DIRECT_DATABASE_URL to an address of PostgreSQL itself"
        )
    return await database.connect(dsn, application_name="galley migrate", answer_seconds=STATEMENT_SECONDS)


async def _lock(connection: Connection) -> None:
    # Polled: a waiter blocked inside pg_advisory_lock would hold a snapshot that CREATE INDEX CONCURRENTLY waits for.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110 - another process holds it
        await asyncio.sleep(0.1)


async def _migrate(connection: Connection) -> None:
    await _refuse_unfit(connection)
    await connection.execute("""
        CREATE TABLE IF NOT EXISTS schema_migrations (
          version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, works_with int NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
        CREATE TABLE IF NOT EXISTS schema_functions (file text PRIMARY KEY, checksum text NOT NULL);
        GRANT SELECT ON schema_migrations TO PUBLIC""")
    applied = {
        row["version"]: row["checksum"]
        for row in await connection.fetch("SELECT version, checksum FROM schema_migrations")
    }
    for migration in read_migrations():
        if migration.version not in applied:
            await _apply(connection, migration)
        elif applied[migration.version] != migration.checksum:
            raise MigrationError(
                f"migration {migration.version:04}_{migration.name} was edited after it was applied; write a new one instead"
            )
    await _apply_functions(connection)


async def _apply(connection: Connection, migration: Migration) -> None:
    """Apply one migration in a transaction. It waits for a lock two seconds at most, so that nobody waits longer behind it, and tries again."""
    for left in reversed(range(LOCK_TRIES)):
        try:
            async with connection.transaction():
                await connection.execute(migration.text)
                await connection.execute(
                    "INSERT INTO schema_migrations (version, name, checksum, works_with) VALUES ($1, $2, $3, $4)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.works_with,
                )
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if not left:
                raise
            log.info("migration waits for a lock", extra={"migration": migration.name, "tries_left": left})
            await asyncio.sleep(LOCK_PAUSE_SECONDS)


async def _refuse_unfit(connection: Connection) -> None:
    status = await read_status(connection)
    if status.too_new:
        raise MigrationError(
            f"the database is at schema {status.applied} and needs a release of schema {status.works_with} or later; this one is {status.known}"
        )
    server = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    if server < 160000:
        raise MigrationError(f"PostgreSQL 16 or later is needed, this is {server // 10000}")
    vector = await connection.fetchval(
        "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
    )
    if vector is None:
        raise MigrationError(
            "this PostgreSQL has no pgvector: install the extension 'vector' 0.8 or later on its server"
        )
    if tuple(map(int, vector.split(".")[:2])) < (0, 8):
        raise MigrationError(f"pgvector 0.8 or later is needed, this server offers {vector}")


async def _apply_functions(connection: Connection) -> None:
    """Re-create the functions of every file that changed. One transaction, so nobody sees half of them.

    Not those of an older release: the newer one's serve both.
    """
    status = await read_status(connection)
    if status.applied > status.known:
        return
    known = {
        row["file"]: row["checksum"]
        for row in await connection.fetch("SELECT file, checksum FROM schema_functions")
    }
    async with connection.transaction():
        for path in sorted((FOLDER / "functions").glob("*.sql")):
            text = path.read_text(encoding="utf-8")
            if known.get(path.name) == _checksum(text):
                continue
            await connection.execute(text)
            await connection.execute(
                "INSERT INTO schema_functions (file, checksum) VALUES ($1, $2) ON CONFLICT (file) DO UPDATE SET checksum = EXCLUDED.checksum",
                path.name,
                _checksum(text),
            )
        await connection.execute("""
            REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA app FROM PUBLIC;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO galley_owner, galley_web, galley_engine""")


async def _limit_role(connection: Connection) -> None:
    """Give the role the limits that its connections ask for at their start, for those whose pooler drops them.

    The role belongs to the cluster: migrators of other databases may be at it, and a user without the right to it goes on without.
    """
    have = await connection.fetchval(
        "SELECT s.setconfig FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname = $1 AND s.setdatabase = 0",
        database.ROLE,
    )
    for name, value in database.ROLE_SETTINGS.items():
        if f"{name}={value}" in (have or ()):
            continue
        try:
            await connection.execute(f"ALTER ROLE {database.ROLE} SET {name} = '{value}'")
        except asyncpg.InsufficientPrivilegeError as exc:
            log.warning("role keeps no limits of its own", extra={"role": database.ROLE, "error": str(exc)})
            return
        except asyncpg.InternalServerError as exc:
            if "concurrently updated" not in str(exc):
                raise
            await asyncio.sleep(0.05)
            await _limit_role(connection)
            return


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _explain(exc: asyncpg.PostgresError) -> str:
    if isinstance(exc, asyncpg.InsufficientPrivilegeError):
        return f"the database user may not do what a migration needs ({exc}); set MIGRATE_DATABASE_URL to one that may create roles and extensions"
    return f"the migration failed: {exc}"
