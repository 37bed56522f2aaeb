"""Live output over the API and the pages of one process, of a task that another one runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from routes.api import task_output
from server.database import Database
from services.task_context import TaskContext
from tests import desk, engine, web
from tests.conftest import Cluster


@pytest.fixture
async def elsewhere(cluster: Cluster, database_name: str) -> AsyncIterator[Database]:
    """Another process's connections to the same database."""
    opened = Database(cluster.web(database_name))
    await opened.open()
    yield opened
    await opened.close()


async def read(client: ClientSession, task_id: UUID, *, until: str, **query: Any) -> dict[str, Any]:
    """Read the output until it holds a text."""
    async with asyncio.timeout(10):
        while True:
            async with client.get(f"/api/v1/tasks/{task_id}/output", params=query) as answer:
                assert answer.status == 200, await answer.text()
                said: dict[str, Any] = await answer.json()
            if until in said["text"]:
                return said
            await asyncio.sleep(0.02)


async def test_a_process_that_runs_nothing_shows_text_and_progress_of_a_run_under_way(
    database: Database, elsewhere: Database, tenant: UUID
) -> None:
    go_on = asyncio.Event()

    async def talk(task: TaskContext, payload: Any) -> None:
        await task.progress(0.25, "a quarter")
        task.emit("The Albion ")
        await go_on.wait()
        task.emit("press.")
        await asyncio.sleep(60)

    key = await web.make_key(database, tenant, "viewer")
    served = desk.build(elsewhere)
    served.app.add_routes(task_output.routes)
    cookies = await desk.sign_up(database, tenant)
    with engine.task_type("talk", talk):
        async with (
            engine.running_executor(database),
            web.running(served),
            web.client(served, key) as client,
            desk.visiting(served, cookies) as visitor,
        ):
            task = await engine.until(database, await engine.enqueue(database, tenant, "talk"), "running")
            first = await read(client, task.id, until="Albion")
            page = await desk.read(visitor, f"/desk/tasks/{task.id}")
            go_on.set()
            second = await read(client, task.id, until="press", after=first["after"])

    assert first == {
        "fence": 1, "text": "The Albion ", "after": 1, "progress": {"fraction": 0.25, "text": "a quarter"},
    }  # fmt: skip
    assert (second["text"], second["after"]) == ("press.", 2)
    assert "The Albion" in desk.words(page, "#task-output")
    assert "25 % · a quarter" in desk.words(page, "#task-status")


async def test_another_tenants_output_is_not_there_and_a_wrong_place_is_refused(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    task = await engine.enqueue(database, tenant, "noop")
    ours, theirs = await web.make_key(database, tenant), await web.make_key(database, other_tenant)
    path = f"/api/v1/tasks/{task.id}/output"
    async with web.running(web.build(database, task_output.routes)) as served:
        async with web.client(served, theirs) as client, client.get(path) as answer:
            assert answer.status == 404
        async with web.client(served, ours) as client:
            async with client.get(path) as answer:
                assert await answer.json() == {"fence": 0, "text": "", "after": 0, "progress": None}
            for query in ({"after": "-1"}, {"after": "2147483648"}, {"fence": "x"}, {"since": "1"}):
                async with client.get(path, params=query) as answer:
                    assert answer.status == 422, query
