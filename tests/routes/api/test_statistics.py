"""The contract of /api/v1/statistics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from routes.api import statistics
from server.database import Database
from tests import engine
from tests import web as served_web
from tests.web import Served

LINE = {"succeeded", "failed", "cancelled", "retried", "snoozed", "wait_seconds", "run_seconds", "points"}


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, statistics.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    key = await served_web.make_key(database, tenant, "viewer", "dashboard")
    async with served_web.client(served, key) as session:
        yield session


async def get(api: ClientSession, query: str = "", *, expect: int = 200) -> Any:
    async with api.get(f"/api/v1/statistics{query}") as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text)


async def _done(_task: object, _payload: object) -> dict[str, int]:
    return {}


async def test_runs_are_counted_and_timed_by_type_and_queue(
    api: ClientSession, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    with engine.task_type("good", _done):
        async with engine.running_executor(database):
            for owner in (tenant, tenant, other_tenant):
                await engine.ended(database, await engine.enqueue(database, owner, "good"))

    found = await get(api, "?window=1h")

    assert set(found) == {"installation", "window", "since", "step_seconds", "whole", "items"}
    assert (found["window"], found["step_seconds"], len(found["whole"]["points"])) == ("1h", 60, 61)
    assert set(found["whole"]) == LINE
    (item,) = found["items"]
    assert set(item) == LINE | {"queue", "type"}
    assert (item["type"], item["queue"], item["succeeded"]) == ("good", "default", 2)
    assert sum(point["succeeded"] for point in item["points"]) == 2
    for lengths in (item["wait_seconds"], item["run_seconds"]):
        assert set(lengths) == {"mean", "p50", "p95", "p99", "longest"}
        assert 0 <= lengths["p50"] <= lengths["p95"] <= lengths["p99"] < timedelta(minutes=1).total_seconds()
    assert item | {"queue": None, "type": None} == found["whole"] | {"queue": None, "type": None}


async def test_one_queue_or_type_may_be_asked_for(
    api: ClientSession, database: Database, tenant: UUID
) -> None:
    with engine.task_type("good", _done), engine.task_type("other", _done):
        async with engine.running_executor(database):
            for name in ("good", "other"):
                await engine.ended(database, await engine.enqueue(database, tenant, name))

    assert [one["type"] for one in (await get(api, "?type=other"))["items"]] == ["other"]
    assert len((await get(api, "?queue=default"))["items"]) == 2
    assert (await get(api, "?queue=content"))["items"] == []


async def test_nothing_that_ended_has_no_lengths(api: ClientSession) -> None:
    found = await get(api)

    nothing = dict.fromkeys(("mean", "p50", "p95", "p99", "longest"))
    assert (found["window"], found["step_seconds"], found["items"]) == ("24h", 3600, [])
    assert (found["whole"]["wait_seconds"], found["whole"]["run_seconds"]) == (nothing, nothing)


@pytest.mark.parametrize("query", ["?window=2h", "?window=", "?since=yesterday", "?type=" + "x" * 101])
async def test_what_cannot_be_asked_for_is_refused(api: ClientSession, query: str) -> None:
    assert (await get(api, query, expect=422))["errors"]


async def test_strangers_are_not_answered(served: Served) -> None:
    async with served_web.client(served) as stranger:
        await get(stranger, expect=401)
