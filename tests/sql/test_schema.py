"""Standing guards on the schema: what keeps tenants apart, what keeps statements honest, what keeps migrations safe."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from server import migrations
from server.cluster import MAJOR
from server.database import Database
from sql import FOLDER, SQL
from tests import schema
from tests.conftest import Cluster

ROOT = Path(__file__).parents[2]
Admin = asyncpg.Connection


@pytest.mark.parametrize("name", sorted(SQL))
async def test_every_statement_prepares_on_the_migrated_schema(
    name: str, prepared: asyncpg.Connection
) -> None:
    if not SQL[name].split("\n")[-1].startswith("SET "):
        await prepared.prepare(SQL[name])


@pytest.fixture(scope="module")
def prepared_name(cluster: Cluster) -> str:
    return cluster.template


@pytest.fixture
async def prepared(cluster: Cluster, prepared_name: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(cluster.web(prepared_name))
    yield connection
    await connection.close()


async def test_the_schema_in_one_piece_is_that_of_the_migrations(
    admin: Admin, cluster: Cluster, database_name: str
) -> None:
    if admin.get_server_version().major != MAJOR:
        pytest.skip("written by another PostgreSQL")
    found = await asyncio.to_thread(schema.dump, cluster.admin(database_name))
    assert found == schema.FILE.read_text(), "run `make schema`"


def test_every_statement_is_used() -> None:
    code = "\n".join(
        path.read_text()
        for folder in ("server", "services", "routes")
        for path in (ROOT / folder).rglob("*.py")
    )
    used = set(re.findall(r'SQL\["([a-z_0-9.]+)"\]', code))

    assert set(SQL) - used == set()
    assert used - set(SQL) == set()


async def test_row_level_security_is_forced_wherever_there_is_a_tenant(admin: Admin) -> None:
    rows = await admin.fetch("""
        SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced, c.relispartition AS partition,
               has_table_privilege('galley_web', c.oid, 'SELECT, INSERT, UPDATE, DELETE') AS granted,
               EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant') AS policy,
               pg_get_userbyid(c.relowner) AS owner
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')""")

    assert len(rows) >= 25
    for row in rows:
        assert row["forced"], f"{row['relname']} does not force row-level security"
        assert row["owner"] == "galley_owner", f"{row['relname']} belongs to {row['owner']}"
        assert row["policy"] or row["partition"], f"{row['relname']} has no tenant policy"
        assert not (row["partition"] and row["granted"]), (
            f"{row['relname']} can be read past its parent's policy"
        )


async def test_the_web_role_owns_nothing_and_passes_nothing(admin: Admin) -> None:
    assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relowner = 'galley_web'::regrole") == 0
    assert (
        await admin.fetchval(
            "SELECT bool_or(rolsuper OR rolbypassrls OR rolcreaterole) FROM pg_roles WHERE rolname LIKE 'galley%'"
        )
        is False
    )


async def test_without_a_tenant_every_table_looks_empty(
    database: Database, tenant: object, admin: Admin
) -> None:
    tables = [
        row["relname"]
        for row in await admin.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        )
    ]
    await admin.execute("INSERT INTO queues (name) VALUES ('q')")
    await admin.execute(
        "INSERT INTO tasks (tenant_id, queue, type, state, created_by, payload) SELECT id, 'q', 'noop', 'queued', 'x', '{}' FROM tenants"
    )

    async with database.engine() as db:
        counts = {
            table: await db.fetchval(f"SELECT count(*) FROM {table}")
            for table in [*tables, "tenants", "all_tasks"]
        }

    assert set(counts.values()) == {0}, {name: n for name, n in counts.items() if n}


async def test_definer_functions_fix_their_search_path_and_are_closed_to_the_public(admin: Admin) -> None:
    rows = await admin.fetch("""
        SELECT p.proname, p.prosecdef, p.proconfig::text AS config, has_function_privilege('public', p.oid, 'EXECUTE') AS open,
               pg_get_userbyid(p.proowner) AS owner
        FROM pg_proc p WHERE p.pronamespace = 'app'::regnamespace""")

    assert len(rows) >= 15
    for row in rows:
        assert not row["open"], f"{row['proname']} is open to everybody"
        if row["prosecdef"]:
            assert "search_path" in (row["config"] or ""), f"{row['proname']} has no fixed search_path"
            assert row["owner"] in {"galley_engine", "galley_owner"}, (
                f"{row['proname']} runs as {row['owner']}"
            )


async def test_migrating_twice_changes_nothing(cluster: Cluster, database_name: str) -> None:
    first = await migrations.check(cluster.admin(database_name))
    second = await migrations.migrate(cluster.admin(database_name))

    assert first == second
    assert not second.behind


async def test_down_to_nothing_and_up_again(cluster: Cluster, database_name: str) -> None:
    down = await migrations.roll_back(cluster.admin(database_name), to=0)
    up = await migrations.migrate(cluster.admin(database_name))

    assert (down.applied, up.applied) == (0, up.known)


async def test_an_edited_migration_is_refused(cluster: Cluster, database_name: str, admin: Admin) -> None:
    await admin.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 1")

    with pytest.raises(migrations.MigrationError, match="0001_roles_tenants_tasks was edited"):
        await migrations.migrate(cluster.admin(database_name))


async def test_a_schema_of_a_later_release_is_refused_unless_it_says_it_works_with_this_one(
    cluster: Cluster, database_name: str, admin: Admin
) -> None:
    known = migrations.read_migrations()[-1].version
    await admin.execute(
        "INSERT INTO schema_migrations (version, name, checksum, works_with) VALUES ($1, 'later', 'x', $2)",
        known + 1,
        known,
    )
    assert (await migrations.migrate(cluster.admin(database_name))).applied == known + 1

    await admin.execute("UPDATE schema_migrations SET works_with = version WHERE version > $1", known)
    with pytest.raises(migrations.MigrationError, match="needs a release of schema"):
        await migrations.migrate(cluster.admin(database_name))


async def test_months_ahead_have_their_partitions(admin: Admin) -> None:
    for parent in ("task_history", "task_steps", "task_events"):
        assert (
            await admin.fetchval(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass", parent
            )
            == 5
        )


async def test_ended_tasks_and_events_cannot_be_changed(admin: Admin, tenant: object) -> None:
    await admin.execute(
        """
        INSERT INTO task_events (tenant_id, task_id, event, fence, attempt, actor) VALUES ($1, app.uuid7(), 'created', 0, 0, 'x')""",
        tenant,
    )

    for statement in ("UPDATE task_events SET actor = 'y'", "DELETE FROM task_events"):
        with pytest.raises(asyncpg.PostgresError, match="immutable"):
            await admin.execute(statement)


def test_statements_are_named_after_their_file_and_explain_their_parameters() -> None:
    for path in sorted((FOLDER / "queries").glob("*.sql")):
        for name in re.findall(r"^-- name: (\S+)", path.read_text(), re.MULTILINE):
            text = SQL[f"{path.stem}.{name}"]
            if "$1" in text:
                assert "$1" in text.split("\n")[0], (
                    f"{path.name}: {name} does not say what its parameters are"
                )
