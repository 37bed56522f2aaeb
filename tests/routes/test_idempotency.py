"""A call repeated with its Idempotency-Key has its effect once and gets the first answer again (PROMISES P2, E4, S-IDEM)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import ClientSession, FormData, web

from routes.api import tasks
from routes.api.kernel import Body, Call, View, operation
from server.database import Database
from services.task_context import Connection
from tests import web as served_web
from tests.web import Served

routes = web.RouteTableDef()
Admin = asyncpg.Connection


class Upload(Body):
    text: str


class Uploaded(View):
    said: str


@operation(
    routes, "POST", "/api/v1/uploads", name="uploads.create", summary="Upload", role="author", answer=Uploaded, status=201, idempotent=True,
    also_accepts={"multipart/form-data": {"type": "object"}},
)  # fmt: skip
async def upload(call: Call, db: Connection, body: Upload | None) -> Uploaded:
    said = body.text if body else str((await call.request.post())["text"])
    return Uploaded(said=f"{said} {uuid4()}")


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, tasks.routes, routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant)) as session:
        yield session


async def post(
    api: ClientSession, key: str, body: object, path: str = "/api/v1/tasks"
) -> tuple[int, bytes, dict[str, str]]:
    async with api.post(path, json=body, headers={"Idempotency-Key": key}) as response:
        return response.status, await response.read(), dict(response.headers)


async def test_a_repeat_gets_the_first_answer_to_the_byte(
    api: ClientSession, served: Served, admin: Admin
) -> None:
    first = await post(api, "one", {"type": "noop", "payload": {"seconds": 1}, "priority": 3})
    again = await post(
        api, "one", {"priority": 3, "payload": {"seconds": 1}, "type": "noop"}
    )  # the order of names is no difference

    assert first[0] == again[0] == 201
    assert first[1] == again[1]
    assert {name: again[2][name] for name in ("Location", "Content-Type", "Idempotency-Replayed")} == {
        "Location": first[2]["Location"], "Content-Type": first[2]["Content-Type"], "Idempotency-Replayed": "true",
    }  # fmt: skip
    assert "Idempotency-Replayed" not in first[2]
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 1
    assert served.woken == ["default"]


async def test_a_key_may_be_quoted_and_then_is_the_same(api: ClientSession, admin: Admin) -> None:
    for key in ("a-key", '"a-key"', "  a-key "):
        assert (await post(api, key, {"type": "noop"}))[0] == 201

    assert await admin.fetchval("SELECT count(*) FROM tasks") == 1


async def test_the_same_key_with_another_body_is_refused(api: ClientSession) -> None:
    await post(api, "one", {"type": "noop"})

    status, body, _ = await post(api, "one", {"type": "noop", "priority": 1})

    assert status == 422
    assert b"/problems/idempotency-key-reused" in body


async def test_what_was_refused_stores_nothing_and_may_be_corrected(api: ClientSession, admin: Admin) -> None:
    assert (await post(api, "one", {"type": "noop", "priority": 99}))[0] == 422
    assert (await post(api, "one", {"type": "noop", "queue": "nowhere"}))[0] == 422
    assert await admin.fetchval("SELECT count(*) FROM idempotency") == 0

    assert (await post(api, "one", {"type": "noop"}))[0] == 201


async def test_an_impossible_key_is_refused(api: ClientSession) -> None:
    for key in ("", " ", "x" * 256, '"open', '"a"b"', '"\\x"', "é", "a\tb"):
        status, body, _ = await post(api, key, {"type": "noop"})
        assert (status, b"/problems/idempotency-key-invalid" in body) == (400, True), key
    assert (await post(api, "x" * 255, {"type": "noop"}))[0] == 201
    assert (await post(api, '"a \\"quoted\\" key"', {"type": "noop"}))[0] == 201


async def test_a_key_belongs_to_its_caller_tenant_and_route(
    api: ClientSession, served: Served, database: Database, other_tenant: UUID, admin: Admin
) -> None:
    first = await post(api, "one", {"type": "noop"})
    tenant = await admin.fetchval("SELECT tenant_id FROM tasks")
    for owner in (tenant, other_tenant):
        async with served_web.client(served, await served_web.make_key(database, owner)) as other:
            status, body, _ = await post(other, "one", {"type": "noop"})
            assert status == 201
            assert body != first[1]

    assert (await post(api, "one", {"tasks": [{"type": "noop"}]}, "/api/v1/tasks/bulk"))[0] == 201
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 4


async def test_a_key_on_another_tasks_address_is_another_request(api: ClientSession) -> None:
    paths = []
    for _ in range(2):
        async with api.post("/api/v1/tasks", json={"type": "noop"}) as response:
            task_id = (await response.json())["id"]
        async with api.post(f"/api/v1/tasks/{task_id}/cancel") as response:
            assert response.status == 200
        paths.append(f"/api/v1/tasks/{task_id}/requeue")

    assert (await post(api, "one", {}, paths[0]))[0] == 201
    assert (await post(api, "one", {}, paths[1]))[0] == 422


async def test_an_expired_key_counts_as_new_by_the_databases_clock(api: ClientSession, admin: Admin) -> None:
    await post(api, "one", {"type": "noop"})
    await admin.execute("UPDATE idempotency SET expires_at = now()")

    assert (await post(api, "one", {"type": "noop", "priority": 7}))[0] == 201
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 2
    assert (
        await admin.fetchval(
            "SELECT count(*) FROM idempotency WHERE expires_at > now() + interval '23 hours'"
        )
        == 1
    )


async def test_an_upload_is_the_same_whatever_stands_between_its_parts(api: ClientSession) -> None:
    async def send(text: str) -> tuple[int, bytes]:
        form = FormData(default_to_multipart=True)
        form.add_field("text", text)
        async with api.post("/api/v1/uploads", data=form, headers={"Idempotency-Key": "one"}) as response:
            return response.status, await response.read()

    first = await send("a")
    assert first[0] == 201
    assert await send("a") == first
    assert (await send("b"))[0] == 422


async def test_a_twin_waits_for_the_first_and_gives_up_after_two_seconds(
    api: ClientSession, database: Database, tenant: UUID, admin: Admin
) -> None:
    principal_id = await admin.fetchval("SELECT id FROM api_keys")
    async with database.tenant(tenant, "test") as db:
        await db.execute(
            "SELECT app.take_idempotency_key($1, $2, 'POST /api/v1/tasks', 'held', $3)",
            tenant,
            principal_id,
            b"\0" * 32,
        )
        started = asyncio.get_running_loop().time()
        status, body, headers = await post(api, "held", {"type": "noop"})
        waited = asyncio.get_running_loop().time() - started

    assert status == 409
    assert b"/problems/idempotency-key-in-use" in body
    assert headers["Retry-After"] == "1"
    assert 1.5 < waited < 4


async def test_fifty_keys_ten_times_at_once_make_fifty_tasks_and_one_answer_each(
    api: ClientSession, admin: Admin
) -> None:
    """E4 in small. Its mutant: look for the key before inserting it."""
    answers: defaultdict[str, set[bytes]] = defaultdict(set)
    statuses: Counter[int] = Counter()

    at_once = asyncio.Semaphore(40)

    async def one(key: str, body: object) -> None:
        async with at_once:
            status, text, _ = await post(api, key, body)
            while status == 503:  # a busy machine; a repeat is what the key is for
                await asyncio.sleep(0.2)
                status, text, _ = await post(api, key, body)
        statuses[status] += 1
        if status == 201:
            answers[key].add(text)

    keys = [str(uuid4()) for _ in range(50)]
    calls = [one(key, {"type": "noop", "payload": {"seconds": 0}}) for key in keys for _ in range(10)]
    calls += [one(key, {"type": "noop", "priority": 9}) for key in keys[:10]]
    await asyncio.gather(*calls)

    assert set(statuses) <= {201, 409, 422}
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 50
    assert {len(texts) for texts in answers.values()} == {1}
    assert len(answers) == 50
