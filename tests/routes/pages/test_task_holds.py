"""A task that is held after a crash: what its page says, and who may let it run again, by page and by API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import ClientSession

from routes.api import tasks as api_tasks
from server.database import Database
from services.tasks import Task
from sql import SQL
from tests import desk, engine, web

Admin = asyncpg.Connection


async def held(database: Database, tenant: UUID, admin: Admin) -> Task:
    """Return a task whose executor died during its first run, of a type that is held then."""

    async def never(task: Any, payload: Any) -> None: ...

    with engine.task_type("fragile", never, on_crash="hold"):
        task = await engine.enqueue(database, tenant, "fragile")
    await admin.execute(
        "UPDATE tasks SET state = 'running', attempt = 1, fence = 1, executor_id = app.uuid7(), started_at = now() WHERE id = $1", task.id,
    )  # fmt: skip
    async with database.statement() as db:
        await db.fetch(SQL["executors.rescue"], 10, 30)
    return await engine.get(database, tenant, task.id)


async def test_a_held_task_says_what_happened_and_an_operator_lets_it_run_again(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await held(database, tenant, admin)
    path = f"/desk/tasks/{task.id}"

    said = desk.words(await desk.read(client, path), "#task-status")
    assert "for an operator" in said
    assert "Its executor died or lost its lease during run 1" in said

    answer = await desk.send(client, f"{path}/release")

    assert answer.status == 303
    assert "It will run again." in desk.words(await desk.read(client, answer.headers["Location"]))
    assert (await engine.get(database, tenant, task.id)).state == "queued"
    assert served.woken == [task.queue]
    assert await engine.history(database, task) == ["created", "started", "held", "signalled"]
    assert (await desk.send(client, f"{path}/release")).status == 409


async def test_only_operators_see_the_button_and_may_press_it(
    served: web.Served, database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await held(database, tenant, admin)
    path = f"/desk/tasks/{task.id}"
    cookies = await desk.sign_up(database, tenant, "author", "eve@example.org")
    async with desk.visiting(served, cookies) as author:
        page = await desk.read(author, path)
        refused = await desk.send(author, f"{path}/release")

    assert "held for an operator" in desk.words(page)
    assert page.css_first(f'form[action="{path}/release"]') is None
    assert refused.status == 403
    assert (await engine.get(database, tenant, task.id)).state == "waiting"


async def test_over_the_api_the_signal_operator_is_for_operators(
    database: Database, tenant: UUID, admin: Admin
) -> None:
    task = await held(database, tenant, admin)
    await admin.execute("UPDATE tasks SET created_by = 'key:tests'")  # even for one's own task
    keys = {role: await web.make_key(database, tenant, role) for role in ("author", "operator")}
    path, body = f"/api/v1/tasks/{task.id}/signal", {"name": "operator"}
    async with web.running(web.build(database, api_tasks.routes)) as served:
        async with web.client(served, keys["author"]) as author, author.post(path, json=body) as answer:
            assert answer.status == 403, await answer.text()
        async with web.client(served, keys["operator"]) as operator, operator.post(path, json=body) as answer:
            assert answer.status == 202, await answer.text()

    assert (await engine.get(database, tenant, task.id)).state == "queued"
    assert served.woken == [task.queue]
