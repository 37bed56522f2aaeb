"""What functions that see all tenants refuse to the transaction of one."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from server.database import Database

Admin = asyncpg.Connection
# Those that work for a tenant, or for one that operates the installation: each takes the tenant from the transaction.
FOR_TENANTS = {
    "change_queue",
    "count_live",
    "create_queue",
    "delete_queue",
    "drain_executor",
    "limit_tenant",
    "list_executors",
    "list_tenant_limits",
    "oldest_ready",
    "pause_queue",
    "recent_runs",
    "resume_queue",
    "runs_since",
    "search_chunks",
    "search_publications",
}
ACROSS_TENANTS = """
    SELECT p.proname AS name, p.prosrc AS code,
           format('SELECT FROM app.%I(%s)', p.proname,
                  (SELECT string_agg('NULL::' || format_type(a.type, NULL), ', ' ORDER BY a.place)
                   FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, place))) AS call
    FROM pg_proc p
    WHERE p.pronamespace = 'app'::regnamespace AND p.prosecdef AND p.prorettype <> 'trigger'::regtype
      AND has_function_privilege('galley_web', p.oid, 'EXECUTE')"""


async def test_whatever_sees_all_tenants_refuses_the_transaction_of_one(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    """Functions that are added later are asked as well, by name and with arguments of nothing."""
    doors = {row["name"]: row["call"] for row in await admin.fetch(ACROSS_TENANTS)}
    answers = {}
    for name in doors.keys() - FOR_TENANTS:
        try:
            async with database.tenant(tenant, "user:ada") as db:
                await db.fetch(doors[name])
            answers[name] = "answered"
        except asyncpg.PostgresError as exc:
            answers[name] = str(exc)

    assert len(answers) >= 35
    assert answers == dict.fromkeys(answers, "this is not for the transaction of a tenant")


async def test_what_works_for_a_tenant_takes_it_from_the_transaction(admin: Admin) -> None:
    codes = {
        row["name"]: row["code"] for row in await admin.fetch(ACROSS_TENANTS) if row["name"] in FOR_TENANTS
    }

    assert codes.keys() == FOR_TENANTS
    for name, code in codes.items():
        assert "app.current_tenant()" in code or "app.require_operates()" in code, name


@pytest.mark.parametrize(
    "call",
    [
        "app.fold_statistics(0)",
        "app.sweep_schedule_ticks(0, 1000)",
        "app.retire_month('task_history', '2020-01-01Z', 1, 10)",
        "app.forget_month('task_history', '2020-01-01Z')",
        "app.claim(app.uuid7(), 'default', 10)",
        "app.finish('{}', '{}', '{}', '{}', '{}')",
        "app.retry(app.uuid7(), 1, 'retried', NULL, 0, true)",
        "app.give_back(app.uuid7(), '{}', '{}')",
        "app.heartbeat(app.uuid7(), 20, '{}', '{}')",
        "app.rescue(1000, -1000000)",
        "app.promote(10)",
        "app.sweep(10)",
        "app.ready_queues()",
        "app.give_back_unknown(app.uuid7(), '{}', 0)",
        "app.deregister_executor(app.uuid7())",
        "app.find_login('ada@example.org')",
    ],
)
async def test_the_same_doors_are_open_where_there_is_no_tenant(database: Database, call: str) -> None:
    async with database.engine() as db:
        await db.fetch(f"SELECT FROM {call}")
