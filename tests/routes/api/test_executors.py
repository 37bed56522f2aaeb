"""The contract of /api/v1/executors: who is shown what, drain and undrain, and that both are in force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from routes.api import executors
from server.database import Database
from sql import SQL
from tests import engine
from tests import web as served_web
from tests.web import Served

FIELDS = {
    "id", "state", "host", "pid", "release", "slots", "busy", "leaked", "lag_ms", "started_at", "seen_at", "seconds_left", "draining_at",
    "draining_by", "running",
}  # fmt: skip
HIDDEN = ("host", "pid", "release", "slots", "busy", "leaked", "lag_ms", "draining_by")


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, executors.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, admin: Any, tenant: UUID) -> AsyncIterator[ClientSession]:
    """An operator of the tenant that operates the installation."""
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    async with served_web.client(
        served, await served_web.make_key(database, tenant, "operator", "ops")
    ) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int) -> Any:
    async with api.request(method, f"/api/v1/executors{path}") as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def register(admin: Any, lease: float = 3600.0) -> UUID:
    executor_id = uuid4()
    await admin.execute(SQL["executors.register"], executor_id, "host-1", 4711, "0.1.0", 200, lease)
    return executor_id


async def test_an_executor_is_shown_as_it_reported(api: ClientSession, admin: Any) -> None:
    executor_id = await register(admin)
    await admin.execute(SQL["executors.heartbeat"], executor_id, 20.0, [], [], 17, 2, 3.5)

    (one,) = (await call(api, "GET", "", expect=200))["items"]

    assert set(one) == FIELDS
    assert {name: one[name] for name in ("id", "state", "host", "pid", "slots", "busy", "leaked", "lag_ms", "running")} == {
        "id": str(executor_id), "state": "serving", "host": "host-1", "pid": 4711, "slots": 200, "busy": 17, "leaked": 2, "lag_ms": 3.5, "running": 0,
    }  # fmt: skip
    assert 15 < one["seconds_left"] <= 20
    assert set(await call(api, "GET", f"/{executor_id}", expect=200)) == FIELDS | {"tasks"}


async def test_one_whose_lease_is_over_is_lost(api: ClientSession, admin: Any) -> None:
    executor_id = await register(admin, lease=-1.0)

    one = await call(api, "GET", f"/{executor_id}", expect=200)

    assert (one["state"], one["seconds_left"]) == ("lost", 0)


async def test_a_drained_executor_ends_what_it_runs_and_claims_nothing_until_it_is_undrained(
    api: ClientSession, served: Served, database: Database, tenant: UUID
) -> None:
    go_on = asyncio.Event()

    async def held(_task: object, _payload: object) -> None:
        await go_on.wait()

    with engine.task_type("held", held):
        async with engine.running_executor(database) as executor:
            running = await engine.until(database, await engine.enqueue(database, tenant, "held"), "running")
            path = f"/{executor.lease.executor_id}"
            drained = await call(api, "POST", f"{path}/drain", expect=200)
            again = await call(api, "POST", f"{path}/drain", expect=200)
            later = await engine.enqueue(database, tenant, "noop")
            executor.wake()
            shown = await call(api, "GET", path, expect=200)
            go_on.set()
            assert (await engine.ended(database, running)).state == "succeeded"
            assert (await engine.get(database, tenant, later.id)).state == "queued"
            assert (await call(api, "GET", path, expect=200))["state"] == "drained"
            undrained = await call(api, "POST", f"{path}/undrain", expect=200)
            assert (await engine.ended(database, later)).state == "succeeded"

    assert (drained["state"], drained["draining_by"], drained["running"]) == ("draining", "key:ops", 1)
    assert again["draining_at"] == drained["draining_at"]
    assert [task["id"] for task in shown["tasks"]] == [str(running.id)]
    assert (undrained["state"], undrained["draining_by"]) == ("serving", None)
    assert served.woken == [""]


async def test_other_tenants_see_that_there_are_executors_and_their_own_tasks_only(
    *, api: ClientSession, served: Served, database: Database, admin: Any, tenant: UUID, other_tenant: UUID
) -> None:
    executor_id = await register(admin)
    for owner in (tenant, tenant, other_tenant):
        await engine.enqueue(database, owner, "noop")
    await admin.fetch(SQL["executors.claim"], executor_id, "default", 10, None, None, None)
    viewer = await served_web.make_key(database, tenant, "viewer", "viewer")

    everything = await call(api, "GET", f"/{executor_id}", expect=200)
    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as theirs:
        seen = await call(theirs, "GET", f"/{executor_id}", expect=200)
        for verb in ("drain", "undrain"):
            answer = await call(theirs, "POST", f"/{executor_id}/{verb}", expect=403)
            assert answer["type"] == "/problems/not-operating"
    async with served_web.client(served, viewer) as session:
        own = await call(session, "GET", f"/{executor_id}", expect=200)
        await call(session, "POST", f"/{executor_id}/drain", expect=403)

    assert (everything["running"], len(everything["tasks"])) == (3, 2)
    assert (seen["running"], len(seen["tasks"])) == (1, 1)
    assert (own["running"], len(own["tasks"])) == (2, 2)
    assert {seen[name] for name in HIDDEN} == {own[name] for name in HIDDEN} == {None}
    assert await admin.fetchval("SELECT draining_at FROM executors") is None


async def test_one_that_never_was_is_not_found(api: ClientSession) -> None:
    for method, path in (("GET", ""), ("POST", "/drain"), ("POST", "/undrain")):
        await call(api, method, f"/{uuid4()}{path}", expect=404)
