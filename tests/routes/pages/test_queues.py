"""The pages of queues and executors: what they show to whom, and that each form does what it says."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from server.database import Database
from services import queues
from sql import SQL
from tests import desk, engine, web


@pytest.fixture(autouse=True)
async def operating(admin: Any, tenant: UUID) -> UUID:
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    return tenant


async def get(database: Database, tenant: UUID, name: str) -> queues.Queue:
    async with database.tenant(tenant, "test") as db:
        return await queues.get(db, name)


async def test_the_board_shows_each_queue_with_what_is_in_it(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    for _ in range(3):
        await engine.enqueue(database, tenant, "noop")

    page = await desk.read(client, "/desk/queues")

    rows = [" ".join(row.text().split()) for row in page.css("#queues-board tbody tr")]
    assert [row.split()[0] for row in rows] == ["content", "default", "documents"]
    assert rows[1].startswith("default no limits 3 0 0 0 0")
    assert "The tasks of all tenants." in desk.words(page)


async def test_limits_are_set_and_taken_away_with_the_form(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    form = {
        "max_running": "4",
        "max_running_per_tenant": "2",
        "rate_per_second": "0,5",
        "burst": "3",
        "fair": "1",
    }
    answer = await desk.send(client, "/desk/queues/default/limits", **form)
    page = await desk.read(client, answer.headers["Location"])
    queue = await get(database, tenant, "default")
    assert (
        queue.max_running,
        queue.max_running_per_tenant,
        queue.rate_per_second,
        queue.burst,
        queue.fair,
    ) == (4, 2, 0.5, 3, True)
    assert queue.updated_by == "user:ada@example.org"
    assert "Set. The next claim goes by it." in desk.words(page)
    assert [field.attributes.get("value") for field in page.css("input[inputmode]")][:4] == [
        "4",
        "2",
        "0.5",
        "3",
    ]

    await desk.send(client, "/desk/queues/default/limits")
    queue = await get(database, tenant, "default")
    assert (
        queue.max_running,
        queue.max_running_per_tenant,
        queue.rate_per_second,
        queue.burst,
        queue.fair,
    ) == (None, None, None, None, False)
    assert served.woken == ["default", "default"]


async def test_a_form_sent_back_as_it_came_changes_nothing(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        await queues.change(db, "default", {"rate_per_second": 1234567.25 / 8, "burst": 9}, actor="user:ada")
    await admin.execute("UPDATE queues SET tokens = 2 WHERE name = 'default'")
    page = await desk.read(client, "/desk/queues/default")
    form = {
        str(field.attributes["name"]): str(field.attributes.get("value") or "")
        for field in page.css("form[action$=limits] input")
        if field.attributes.get("type") != "checkbox"
    }
    assert (await desk.send(client, "/desk/queues/default/limits", **form)).status == 303

    assert await admin.fetchval("SELECT rate_per_second FROM queues WHERE name = 'default'") == 1234567.25 / 8
    assert await admin.fetchval("SELECT tokens FROM queues WHERE name = 'default'") == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_running": "many"}, "Max running must be a whole number"), ({"max_running": "0"}, "Max running must be a whole number from 1"),
        ({"rate_per_second": "nan"}, "Rate per second must be a number"), ({"rate_per_second": "-1"}, "Rate per second must be from 0.000001 to 1,000,000"),
        ({"burst": "4"}, "Burst needs a rate"),
    ],
)  # fmt: skip
async def test_a_limit_that_means_nothing_comes_back_as_it_was_typed(
    client: ClientSession, database: Database, tenant: UUID, fields: dict[str, str], says: str
) -> None:
    answer = await desk.send(client, "/desk/queues/default/limits", **fields)

    text = await answer.text()
    assert answer.status == 422
    assert says in text.replace("_", " "), text[:4000]
    assert f'value="{next(iter(fields.values()))}"' in text
    assert (await get(database, tenant, "default")).updated_at is None


async def test_a_pause_says_who_why_and_until_when_to_everybody(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    answer = await desk.send(
        client, "/desk/queues/content/pause", reason="the <provider> is down", until="2100-01-02T03:04"
    )

    page = await desk.read(client, answer.headers["Location"])
    assert "until 2 Jan 2100, 03:04:00 UTC" in desk.words(page)
    assert "By ada@example.org: the <provider> is down." in desk.words(page)
    cookies = await desk.sign_up(database, other_tenant, email="eve@globex.example")
    async with desk.visiting(served, cookies) as theirs:
        seen = await desk.read(theirs, "/desk/queues/content")
        assert "By an operator: the <provider> is down." in desk.words(seen)
        assert seen.css("main form") == []
        assert "paused" in desk.words(await desk.read(theirs, "/desk/queues"))
    await desk.send(client, "/desk/queues/content/resume")
    assert (await get(database, tenant, "content")).paused_at is None
    for wrong, says in (("2001-01-01T00:00", "must lie ahead"), ("soon", "must be a date")):
        refused = await desk.send(client, "/desk/queues/content/pause", until=wrong)
        assert refused.status == 422
        assert says in await refused.text()


async def test_a_queue_is_made_limited_for_a_tenant_and_deleted(
    client: ClientSession, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    assert (await desk.send(client, "/desk/queues", name="Not a name")).status == 422
    made = await desk.send(client, "/desk/queues", name="reports")
    await desk.send(client, "/desk/queues/reports/tenants", tenant="globex", max_running="7")
    page = await desk.read(client, made.headers["Location"])
    assert "globex 7" in desk.words(page)
    for fields in ({"tenant": "nobody", "max_running": "1"}, {"tenant": "globex", "max_running": "x"}):
        assert (await desk.send(client, "/desk/queues/reports/tenants", **fields)).status == 422
    await desk.send(client, "/desk/queues/reports/tenants", tenant="globex")
    assert "globex" not in desk.words(await desk.read(client, "/desk/queues/reports"))

    task = await engine.enqueue(database, tenant, "noop", queue="reports")
    assert (await desk.send(client, "/desk/queues/reports/delete")).status == 409
    await engine.cancel(database, task)
    gone = await desk.send(client, "/desk/queues/reports/delete")
    assert "The queue is deleted." in desk.words(await desk.read(client, gone.headers["Location"]))
    await desk.read(client, "/desk/queues/reports", status=404)
    await desk.read(client, "/desk/queues/reports/live", status=404)


POSTS = (
    "/desk/queues", "/desk/queues/default/limits", "/desk/queues/default/pause", "/desk/queues/default/resume", "/desk/queues/default/tenants",
    "/desk/queues/empty/delete", f"/desk/executors/{uuid4()}/drain", f"/desk/executors/{uuid4()}/undrain",
)  # fmt: skip


async def test_only_operators_of_an_operating_tenant_may_send_the_forms(
    *,
    served: web.Served,
    client: ClientSession,
    database: Database,
    tenant: UUID,
    other_tenant: UUID,
    admin: Any,
) -> None:
    await admin.execute("INSERT INTO queues (name) VALUES ('empty')")
    for owner, role, email in (
        (tenant, "author", "al@example.org"),
        (other_tenant, "admin", "eve@globex.example"),
    ):
        async with desk.visiting(served, await desk.sign_up(database, owner, role, email)) as visitor:
            for path in POSTS:
                answer = await desk.send(visitor, path, name="mine", max_running="1", tenant="acme")
                assert answer.status == 403, (email, path)
            for path in ("/desk/queues", "/desk/queues/default", "/desk/executors"):
                assert (await desk.read(visitor, path)).css("main form") == [], path
    assert (await get(database, tenant, "default")).updated_at is None


async def test_executors_are_shown_with_what_they_run_and_may_be_drained(
    *,
    served: web.Served,
    client: ClientSession,
    database: Database,
    tenant: UUID,
    other_tenant: UUID,
    admin: Any,
) -> None:
    assert "No executor is there" in desk.words(await desk.read(client, "/desk/executors"))
    executor_id = uuid4()
    await admin.execute(SQL["executors.register"], executor_id, "press-1", 4711, "0.1.0", 200, 3600.0)
    for owner in (tenant, other_tenant):
        await engine.enqueue(database, owner, "noop")
    await admin.fetch(SQL["executors.claim"], executor_id, "default", 10, None, None, None)

    page = await desk.read(client, "/desk/executors")
    words = desk.words(page)
    assert "press-1 process 4711 serving" in words
    assert "No other executor serves" in words
    assert len(page.css("#executors-board tbody tr")) == 1  # the own task, not the other tenant's
    drained = await desk.send(client, f"/desk/executors/{executor_id}/drain")
    words = desk.words(await desk.read(client, drained.headers["Location"]))
    assert "press-1 process 4711 draining" in words
    assert "by ada@example.org: it claims nothing" in words
    cookies = await desk.sign_up(database, other_tenant, email="eve@globex.example")
    async with desk.visiting(served, cookies) as theirs:
        seen = desk.words(await desk.read(theirs, "/desk/executors"))
        assert "press-1" not in seen
        assert "ada" not in seen
    await desk.send(client, f"/desk/executors/{executor_id}/undrain")
    assert "serving" in desk.words(await desk.read(client, "/desk/executors"))
    assert served.woken == [""]


@pytest.mark.parametrize(
    ("path", "fragment"),
    [("/desk/queues-live", "queues-board"), ("/desk/queues/default/live", "queue-now"), ("/desk/executors/live", "executors-board")],
)  # fmt: skip
async def test_the_boards_follow_what_happens(
    *, client: ClientSession, database: Database, tenant: UUID, admin: Any, path: str, fragment: str
) -> None:
    async with asyncio.timeout(20), client.get(path) as stream:
        changed = False
        async for line in stream.content:
            if not line.startswith(b'data: {"id"'):
                continue
            sent = json.loads(line[6:])
            if sent["id"] != fragment:
                continue
            if changed:
                assert "321" in sent["html"] or "paused" in sent["html"].lower(), sent["html"]
                break
            changed = True
            await admin.execute("UPDATE queues SET paused_at = now(), paused_by = 'user:ada'")
            await admin.execute(SQL["executors.register"], uuid4(), "321", 1, "0", 1, 60.0)
