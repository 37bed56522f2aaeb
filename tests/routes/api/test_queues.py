"""The contract of /api/v1/queues: works, bad input, missing, wrong state, second call, other tenants and lesser roles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from routes.api import queues, tasks
from server.database import Database
from services import tasks as task_service
from services.tasks import NewTask
from tests import web as served_web
from tests.web import Served

FIELDS = {
    "name", "created_at", "paused_at", "paused_by", "pause_reason", "resume_at", "max_running", "max_running_per_tenant", "rate_per_second",
    "burst", "fair", "updated_at", "updated_by", "own_limit", "installation", "depth", "oldest_ready_at", "recent",
}  # fmt: skip


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, queues.routes, tasks.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, admin: Any, tenant: UUID) -> AsyncIterator[ClientSession]:
    """An operator of the tenant that operates the installation."""
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    key = await served_web.make_key(database, tenant, "operator", "ops")
    async with served_web.client(served, key) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    async with api.request(method, f"/api/v1{path}", **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def test_queues_are_listed_with_what_is_in_them(api: ClientSession) -> None:
    task = await call(api, "POST", "/tasks", json={"type": "noop"}, expect=201)

    listed = await call(api, "GET", "/queues", expect=200)

    assert [one["name"] for one in listed["items"]] == ["content", "default", "documents"]
    assert listed["next_cursor"] is None
    queue = listed["items"][1]
    assert set(queue) == FIELDS
    assert queue["installation"] is True
    assert queue["depth"]["queued"] == {"tasks": 1, "more": False}
    assert queue["oldest_ready_at"] == task["run_at"]
    assert len(queue["recent"]["minutes"]) == 60
    assert queue == await call(api, "GET", "/queues/default", expect=200)


async def test_limits_are_set_singly_and_in_force_at_once(api: ClientSession, served: Served) -> None:
    changed = await call(
        api, "PATCH", "/queues/default", json={"max_running": 5, "rate_per_second": 2}, expect=200
    )
    again = await call(api, "PATCH", "/queues/default", json={"max_running": None, "fair": True}, expect=200)

    assert (changed["max_running"], changed["rate_per_second"], changed["burst"]) == (5, 2, 2)
    assert (again["max_running"], again["rate_per_second"], again["fair"]) == (None, 2, True)
    assert again["updated_by"] == "key:ops"
    assert served.woken == ["default", "default"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"max_running": 0}, "/max_running"), ({"max_running": "5"}, "/max_running"), ({"rate_per_second": 0}, "/rate_per_second"),
        ({"rate_per_second": -1.5}, "/rate_per_second"), ({"rate_per_second": 1e-320}, "/rate_per_second"), ({"burst": 3}, "/burst"), ({"fair": None}, "/fair"), ({"fair": "yes"}, "/fair"),
        ({"paused_at": None}, "/paused_at"), ({"max_running_per_tenant": 2**40}, "/max_running_per_tenant"),
    ],
)  # fmt: skip
async def test_bad_limits_change_nothing(api: ClientSession, body: Any, pointer: str) -> None:
    before = await call(api, "GET", "/queues/default", expect=200)

    answer = await call(api, "PATCH", "/queues/default", json=body, expect=422)

    assert [entry["pointer"] for entry in answer["errors"]] == [pointer]
    assert (await call(api, "GET", "/queues/default", expect=200))["updated_at"] == before["updated_at"]


async def test_a_queue_is_paused_with_reason_and_date_and_resumed_twice(
    api: ClientSession, served: Served
) -> None:
    paused = await call(
        api, "POST", "/queues/content/pause", json={"reason": "no credit", "until": "2100-01-01T00:00:00Z"}, expect=200
    )  # fmt: skip
    again = await call(api, "POST", "/queues/content/pause", expect=200)
    resumed = await call(api, "POST", "/queues/content/resume", expect=200)

    assert (paused["paused_by"], paused["pause_reason"], paused["resume_at"]) == (
        "key:ops",
        "no credit",
        "2100-01-01T00:00:00Z",
    )
    assert (again["pause_reason"], again["resume_at"]) == (None, None)
    assert resumed["paused_at"] is None
    assert await call(api, "POST", "/queues/content/resume", expect=200) | {"recent": 0} == resumed | {
        "recent": 0
    }
    assert served.woken == ["content", "content"]
    past = await call(
        api, "POST", "/queues/content/pause", json={"until": "2020-01-01T00:00:00Z"}, expect=422
    )
    assert past["errors"][0]["pointer"] == "/until"


async def test_a_queue_is_created_once_and_deleted_when_empty(api: ClientSession) -> None:
    async with api.post("/api/v1/queues", json={"name": "reports", "max_running_per_tenant": 2}) as response:
        made = await response.json()
        assert (response.status, response.headers["Location"]) == (201, "/api/v1/queues/reports")
    assert made["max_running_per_tenant"] == 2
    assert (await call(api, "POST", "/queues", json={"name": "reports"}, expect=409))[
        "type"
    ] == "/problems/queue-exists"
    for name in ("", "Reports", "a" * 64, "a/b"):
        await call(api, "POST", "/queues", json={"name": name}, expect=422)
    task = await call(api, "POST", "/tasks", json={"type": "noop", "queue": "reports"}, expect=201)
    assert (await call(api, "DELETE", "/queues/reports", expect=409))["type"] == "/problems/queue-in-use"
    await call(api, "POST", f"/tasks/{task['id']}/cancel", expect=200)
    await call(api, "DELETE", "/queues/reports", expect=204)
    await call(api, "DELETE", "/queues/reports", expect=404)
    await call(api, "GET", "/queues/reports", expect=404)


async def test_a_tenant_gets_a_limit_of_its_own(
    api: ClientSession, served: Served, database: Database, other_tenant: UUID
) -> None:
    await call(api, "PUT", "/queues/default/tenants/globex", json={"max_running": 3}, expect=204)
    await call(api, "PUT", "/queues/default/tenants/nobody", json={"max_running": 3}, expect=404)
    await call(api, "PUT", "/queues/nowhere/tenants/globex", json={"max_running": 3}, expect=404)
    await call(api, "PUT", "/queues/default/tenants/globex", json={"max_running": 0}, expect=422)

    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as theirs:
        assert (await call(theirs, "GET", "/queues/default", expect=200))["own_limit"] == 3
        await call(api, "DELETE", "/queues/default/tenants/globex", expect=204)
        assert (await call(theirs, "GET", "/queues/default", expect=200))["own_limit"] is None


CHANGES = [
    ("PATCH", "/queues/default", {"max_running": 1}),
    ("POST", "/queues", {"name": "mine"}),
    ("DELETE", "/queues/empty", None),
    ("POST", "/queues/default/pause", None),
    ("POST", "/queues/default/resume", None),
    ("PUT", "/queues/default/tenants/acme", {"max_running": 1}),
    ("DELETE", "/queues/default/tenants/acme", None),
]


async def test_only_operators_of_an_operating_tenant_change_anything(
    *, api: ClientSession, served: Served, database: Database, admin: Any, tenant: UUID, other_tenant: UUID
) -> None:
    await admin.execute("INSERT INTO queues (name) VALUES ('empty')")
    author = await served_web.make_key(database, tenant, "author", "author")
    theirs = await served_web.make_key(database, other_tenant, "admin", "theirs")
    for key, slug in ((author, "forbidden"), (theirs, "not-operating")):
        async with served_web.client(served, key) as session:
            for method, path, body in CHANGES:
                options = {} if body is None else {"json": body}
                answer = await call(session, method, path, expect=403, **options)
                assert answer["type"] == f"/problems/{slug}", (method, path)


async def test_a_tenant_sees_its_own_numbers_and_no_names_of_others(
    api: ClientSession, served: Served, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await call(api, "POST", "/tasks", json={"type": "noop"}, expect=201)
    await call(api, "POST", "/queues/default/pause", json={"reason": "moving house"}, expect=200)
    viewer = await served_web.make_key(database, tenant, "viewer", "viewer")

    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as theirs:
        seen = await call(theirs, "GET", "/queues/default", expect=200)
    async with served_web.client(served, viewer) as session:
        own = await call(session, "GET", "/queues/default", expect=200)

    assert (seen["installation"], seen["depth"]["queued"]["tasks"], seen["paused_by"]) == (
        False,
        0,
        "operator",
    )
    assert seen["pause_reason"] == "moving house"
    assert (own["installation"], own["depth"]["queued"]["tasks"], own["paused_by"]) == (False, 1, "key:ops")


async def test_a_task_for_a_queue_that_is_being_deleted_is_refused_with_what_there_is(
    api: ClientSession, admin: Any
) -> None:
    """Whoever asks while it is under way waits for it, and is told to ask again."""
    await call(api, "POST", "/queues", json={"name": "going"}, expect=201)
    new = {"type": "noop", "queue": "going"}

    async with admin.transaction():
        await admin.execute("DELETE FROM queues WHERE name = 'going'")
        asking = asyncio.create_task(call(api, "POST", "/tasks", json=new, expect=503))
        async with asyncio.timeout(10):
            while not await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await admin.execute(
                    "SELECT pg_stat_clear_snapshot()"
                )  # inside a transaction it looks only once
                await asyncio.sleep(0.01)
    refused = await asking

    assert refused["type"] == "/problems/busy"
    again = await call(api, "POST", "/tasks", json=new, expect=422)
    assert again["type"] == "/problems/unknown-queue"
    assert again["detail"].startswith("there is no queue going; there are ")


async def test_a_queue_that_just_got_a_task_is_not_deleted(
    api: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await call(api, "POST", "/queues", json={"name": "going"}, expect=201)

    async with database.tenant(tenant, "user:ada") as db:
        await task_service.enqueue(
            db, tenant, NewTask(type="noop", payload={}, queue="going"), actor="user:ada"
        )
        deleting = asyncio.create_task(call(api, "DELETE", "/queues/going", expect=409))
        async with asyncio.timeout(10):
            while not await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)

    await deleting
    assert (await call(api, "GET", "/queues/going", expect=200))["depth"]["queued"]["tasks"] == 1
