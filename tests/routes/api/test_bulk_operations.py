"""The contract of /api/v1/bulk-operations: preview, confirm, watch, stop; and everything that must not begin one."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from routes.api import bulk_operations, tasks
from server.bulk import BulkOperations
from server.database import Database
from tests import dead
from tests import web as served_web
from tests.web import Served

FIELDS = {
    "id", "action", "target", "filter", "changes", "reason", "state", "total", "total_is_exact", "done", "skipped", "failed", "changed", "failures",
    "seen_at", "created_at", "created_by", "finished_at", "stopped_by", "error", "request_id",
}  # fmt: skip
AT = "/api/v1/bulk-operations"
ALL = {"action": "cancel", "target": "tasks"}


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(
        served_web.build(database, bulk_operations.routes, tasks.routes)
    ) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(
        served, await served_web.make_key(database, tenant, "operator", "ops")
    ) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    """Return the decoded answer of a call, which must have the status *expect*."""
    async with api.request(method, path, **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def confirmation(api: ClientSession, **asked: Any) -> str:
    shown = await call(api, "POST", f"{AT}/preview", json=ALL | asked, expect=200)
    return str(shown["confirmation"])


async def carry_out(database: Database) -> None:
    """Do what the background of a process does."""
    bulk = BulkOperations(database, on_work=lambda _queue: None, on_cancelled=lambda _runs: None)
    while await bulk.carry_out(lambda: None):
        pass


async def test_a_preview_is_confirmed_carried_out_and_watched(
    api: ClientSession, served: Served, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 7)
    await dead.make(database, tenant, 2, queue="content")

    shown = await call(
        api,
        "POST",
        f"{AT}/preview",
        json=ALL | {"filter": {"queue": "default", "state": "queued"}},
        expect=200,
    )
    assert (shown["total"], shown["total_is_exact"], shown["by_state"], shown["by_type"], len(shown["sample"])) == (
        7, True, {"queued": 7}, {"noop": 7}, 5,
    )  # fmt: skip
    body = {"confirmation": shown["confirmation"], "reason": "wrong topic"}
    async with api.post(AT, json=body) as response:
        begun = await response.json()
        assert (response.status, response.headers["Location"]) == (201, f"{AT}/{begun['id']}")
    assert set(begun) == FIELDS
    assert (begun["state"], begun["total"], begun["done"], begun["created_by"]) == (
        "running",
        7,
        0,
        "key:ops",
    )
    assert served.woken == ["bulk operations"]

    await carry_out(database)

    ended = await call(api, "GET", f"{AT}/{begun['id']}", expect=200)
    assert (ended["state"], ended["done"], ended["changed"]) == ("done", 7, 0)
    left = await call(api, "GET", "/api/v1/tasks?state=queued", expect=200)
    assert len(left["items"]) == 2
    gone = await call(api, "GET", "/api/v1/tasks?state=cancelled", expect=200)
    assert {(task["ended_by"], task["reason"]) for task in gone["items"]} == {("key:ops", "wrong topic")}
    listed = await call(api, "GET", f"{AT}?state=done", expect=200)
    assert listed["items"] == [ended]


async def test_chosen_dead_letters_are_requeued_with_changes(
    api: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    made = await dead.letters(database, admin, tenant, 4)
    ids = [str(task.id) for task in made[:2]]
    asked = {
        "action": "requeue",
        "target": "dead_letters",
        "filter": {"ids": ids, "failed_after": "2020-01-01T00:00:00Z"},
    }
    body = {"confirmation": await confirmation(api, **asked), "at_once": True, "priority": 0}

    begun = await call(api, "POST", AT, json=body, expect=201)
    await carry_out(database)

    assert begun["changes"] == {"at_once": True, "priority": 0}
    rows = await admin.fetch("SELECT retry_of, state, priority, request_id FROM tasks ORDER BY retry_of")
    assert [(str(row["retry_of"]), row["state"], row["priority"]) for row in rows] == [
        (task_id, "queued", 0) for task_id in ids
    ]
    assert {row["request_id"] for row in rows} == {begun["request_id"]}


async def test_the_same_confirmation_begins_one_operation(
    api: ClientSession, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 2)
    body = {"confirmation": await confirmation(api)}

    first = await call(api, "POST", AT, json=body, headers={"Idempotency-Key": "a"}, expect=201)
    assert await call(api, "POST", AT, json=body, headers={"Idempotency-Key": "a"}, expect=201) == first
    assert (await call(api, "POST", AT, json=body, expect=200))["id"] == first["id"]
    assert len((await call(api, "GET", AT, expect=200))["items"]) == 1


async def test_a_confirmation_that_was_changed_or_given_to_others_begins_nothing(
    api: ClientSession, served: Served, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await dead.make(database, tenant, 2, queue="content")
    await dead.make(database, tenant, 2)
    text = await confirmation(api, filter={"queue": "content"})
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_")
    assert raw.count(b'"content"') == 1
    swapped = base64.urlsafe_b64encode(raw.replace(b'"content"', b'"default"')).decode().rstrip("=")

    for given in (swapped, text[:-8], "nonsense", "ä"):
        refused = await call(api, "POST", AT, json={"confirmation": given}, expect=400)
        assert refused["type"] == "/problems/confirmation-invalid"
    for whose in (tenant, other_tenant):
        async with served_web.client(served, await served_web.make_key(database, whose, name="eve")) as eve:
            await call(eve, "POST", AT, json={"confirmation": text}, expect=400)
    assert (await call(api, "GET", AT, expect=200))["items"] == []


async def test_an_old_confirmation_begins_nothing(
    api: ClientSession, database: Database, tenant: UUID, admin: Any, database_name: str
) -> None:
    await dead.make(database, tenant, 1)
    body = {"confirmation": await confirmation(api)}
    await admin.execute(f"ALTER DATABASE {database_name} SET app.now = '2100-01-01'")
    late = Database(database.dsn)
    await late.open()
    try:
        async with (
            served_web.running(served_web.build(late, bulk_operations.routes)) as running,
            served_web.client(running, await served_web.make_key(late, tenant, name="ops")) as session,
        ):
            refused = await call(session, "POST", AT, json=body, expect=409)
    finally:
        await late.close()

    assert refused["type"] == "/problems/confirmation-expired"


async def test_what_does_not_fit_is_refused(
    api: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.letters(database, admin, tenant, 1)
    for asked, pointer in (
        ({"action": "delete"}, "/action"), ({"action": "discard"}, "/target"), ({"target": "dead_letters"}, "/target"),
        ({"filter": {"state": "failed"}}, "/filter/state"), ({"filter": {"error_class": "x"}}, "/filter/error_class"), ({"filter": {"ids": []}}, "/filter/ids"),
        ({"filter": {"ids": ["x"]}}, "/filter/ids/0"), ({"filter": {"tenant_id": str(uuid4())}}, "/filter/tenant_id"), ({"filter": []}, "/filter"),
        ({"filter": {"q": ""}}, "/filter/q"), ({"filter": {"type": "a\x00"}}, "/filter/type"), ({"confirmed": True}, "/confirmed"),
    ):  # fmt: skip
        answer = await call(api, "POST", f"{AT}/preview", json=ALL | asked, expect=422)
        assert [entry["pointer"] for entry in answer["errors"]] == [pointer], asked
    text = await confirmation(api, action="discard", target="dead_letters")
    for body, pointer in (
        ({"confirmation": text}, "/reason"), ({"confirmation": text, "reason": "x", "priority": 1}, "/priority"), ({}, "/confirmation"),
        ({"confirmation": text, "reason": "  "}, "/reason"),
        ({"confirmation": text, "reason": "x", "filter": {}}, "/filter"),
    ):  # fmt: skip
        answer = await call(api, "POST", AT, json=body, expect=422)
        assert [entry["pointer"] for entry in answer["errors"]] == [pointer], body
    requeue = await confirmation(api, action="requeue", target="dead_letters")
    assert (await call(api, "POST", AT, json={"confirmation": requeue, "queue": "nowhere"}, expect=422))[
        "type"
    ] == "/problems/unknown-queue"
    nothing = await call(api, "POST", f"{AT}/preview", json=ALL, expect=200)
    assert (nothing["total"], nothing["confirmation"]) == (0, None)
    assert (await call(api, "GET", AT, expect=200))["items"] == []


async def test_a_stop_leaves_the_rest_alone_and_may_be_repeated(
    api: ClientSession, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 3)
    begun = await call(api, "POST", AT, json={"confirmation": await confirmation(api)}, expect=201)

    stopped = await call(api, "POST", f"{AT}/{begun['id']}/stop", expect=200)
    await carry_out(database)

    assert (stopped["state"], stopped["stopped_by"], stopped["done"]) == ("stopped", "key:ops", 0)
    assert await call(api, "POST", f"{AT}/{begun['id']}/stop", expect=200) == stopped
    assert len((await call(api, "GET", "/api/v1/tasks?state=queued", expect=200))["items"]) == 3
    other = await call(api, "POST", AT, json={"confirmation": await confirmation(api)}, expect=201)
    await carry_out(database)
    refused = await call(api, "POST", f"{AT}/{other['id']}/stop", expect=409)
    assert refused["type"] == "/problems/bulk-operation-ended"


async def test_lists_are_paged_newest_first(api: ClientSession, database: Database, tenant: UUID) -> None:
    await dead.make(database, tenant, 1)
    ids = [
        (await call(api, "POST", AT, json={"confirmation": await confirmation(api)}, expect=201))["id"]
        for _ in range(3)
    ]

    first = await call(api, "GET", f"{AT}?limit=2", expect=200)
    rest = await call(api, "GET", AT, params={"limit": "2", "cursor": first["next_cursor"]}, expect=200)

    assert [one["id"] for one in first["items"] + rest["items"]] == ids[::-1]
    await call(api, "GET", f"{AT}?state=going", expect=422)


async def test_others_see_none_and_roles_below_operator_begin_and_stop_none(
    api: ClientSession, served: Served, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await dead.make(database, tenant, 1)
    body = {"confirmation": await confirmation(api)}
    begun = await call(api, "POST", AT, json=body, expect=201)
    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as stranger:
        for operation_id in (begun["id"], str(uuid4())):
            await call(stranger, "GET", f"{AT}/{operation_id}", expect=404)
            await call(stranger, "POST", f"{AT}/{operation_id}/stop", expect=404)
        assert (await call(stranger, "GET", AT, expect=200))["items"] == []
        assert (await call(stranger, "POST", f"{AT}/preview", json=ALL, expect=200))["total"] == 0
    for role, expect in (("viewer", 403), ("reviewer", 403), (None, 401)):
        key = await served_web.make_key(database, tenant, role, role) if role else None
        async with served_web.client(served, key) as session:
            await call(session, "GET", f"{AT}/{begun['id']}", expect=200 if role else 401)
            await call(session, "POST", f"{AT}/preview", json=ALL, expect=expect)
            await call(session, "POST", AT, json=body, expect=expect)
            await call(session, "POST", f"{AT}/{begun['id']}/stop", expect=expect)
    for method, path in (
        ("DELETE", f"{AT}/{uuid4()}"),
        ("GET", f"{AT}/preview"),
        ("GET", f"{AT}/{uuid4()}/stop"),
    ):
        await call(api, method, path, expect=405)
