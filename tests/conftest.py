"""A real PostgreSQL for every test: one cluster for the whole run, one migrated template, one clone of it per test."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import hypothesis
import pytest

from server import embedded, migrations
from server.database import Database

ADMIN_DSN = os.environ.get("TEST_DATABASE_URL", "")
TEMPLATE = os.environ.get("TEST_TEMPLATE", "")  # there already, beside TEST_DATABASE_URL: nothing is migrated

# The same examples each time, and as long for each as it takes: neither luck nor a busy machine says whether a test passes.
hypothesis.settings.register_profile(
    "galley",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("galley")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where tests make their databases: as superuser, and as the role that serves."""

    admin_dsn: str
    web_dsn: str
    template: str

    def admin(self, name: str) -> str:
        """Return the superuser's address of database *name*."""
        return with_database(self.admin_dsn, name)

    def web(self, name: str) -> str:
        """Return galley_web's address of database *name*."""
        return with_database(self.web_dsn, name)


def with_database(dsn: str, name: str) -> str:
    """Return *dsn* with another database name."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One PostgreSQL and one migrated template database for this process's tests."""
    template = f"template_{uuid.uuid4().hex[:12]}"
    if ADMIN_DSN and TEMPLATE:
        yield Cluster(admin_dsn=ADMIN_DSN, web_dsn=ADMIN_DSN, template=TEMPLATE)
        return
    if ADMIN_DSN:
        yield _with_template(ADMIN_DSN, ADMIN_DSN, template)
        asyncio.run(_execute(ADMIN_DSN, f"DROP DATABASE {template}"))
        return
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent  # the workers share one cluster
    running = embedded.start_postgres(Path(shared) / "cluster", durable=False)
    try:
        yield _with_template(running.admin_dsn, running.web_dsn, template)
    finally:
        embedded.stop_postgres(running)


def _with_template(admin_dsn: str, web_dsn: str, template: str) -> Cluster:
    cluster = Cluster(admin_dsn=admin_dsn, web_dsn=web_dsn, template=template)
    asyncio.run(_execute(admin_dsn, f"CREATE DATABASE {template}"))
    asyncio.run(migrations.migrate(cluster.admin(template)))
    return cluster


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def database_name(cluster: Cluster) -> AsyncIterator[str]:
    """A fresh database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    # FILE_COPY: 45 ms a clone here against 350 ms through the WAL; its checkpoints cost nothing with fsync off.
    await _execute(
        cluster.admin_dsn, f"CREATE DATABASE {name} TEMPLATE {cluster.template} STRATEGY file_copy"
    )
    yield name
    await _execute(cluster.admin_dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def admin(cluster: Cluster, database_name: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A superuser's connection to the test's database: for arranging, and for looking at what is really there."""
    connection = await asyncpg.connect(cluster.admin(database_name))
    yield connection
    await connection.close()


@pytest.fixture
async def database(cluster: Cluster, database_name: str) -> AsyncIterator[Database]:
    """The test's database as the application sees it."""
    opened = Database(cluster.web(database_name))
    await opened.open()
    yield opened
    await opened.close()


async def make_tenant(admin: asyncpg.Connection[asyncpg.Record], name: str) -> UUID:
    """Insert a tenant and return its id."""
    tenant_id: UUID = await admin.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", name)
    return tenant_id


@pytest.fixture
async def tenant(admin: asyncpg.Connection[asyncpg.Record]) -> UUID:
    """A tenant to work in."""
    return await make_tenant(admin, "acme")


@pytest.fixture
async def other_tenant(admin: asyncpg.Connection[asyncpg.Record]) -> UUID:
    """A tenant that must never be seen."""
    return await make_tenant(admin, "globex")
