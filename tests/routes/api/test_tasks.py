"""The contract of /api/v1/tasks: works, bad input, missing, wrong state, second call, other tenant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import ClientSession

from routes.api import task_history, tasks
from server.database import Database
from services import tasks as service
from tests import web as served_web
from tests.patience import patiently
from tests.web import Served

FIELDS = {
    "id", "type", "state", "queue", "priority", "attempt", "max_attempts", "fence", "payload", "result", "error", "progress", "created_at",
    "created_by", "run_at", "started_at", "finished_at", "timeout_seconds", "start_before", "concurrency_key", "concurrency_limit",
    "waiting_for", "wait_until", "retry_of", "ended_by", "reason", "request_id",
}  # fmt: skip


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, tasks.routes, task_history.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant, name="ci")) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    """Return the decoded answer of a call, which must have the status *expect*."""
    async with api.request(method, path, **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def create(api: ClientSession, **values: Any) -> Any:
    return await call(api, "POST", "/api/v1/tasks", json={"type": "noop"} | values, expect=201)


async def test_tasks_created_at_the_same_time_share_transactions_and_nothing_else(
    api: ClientSession, served: Served, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """What one of the calls did wrong is that call's answer alone."""

    async def ask(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"X-Request-ID": f"request-{number:03}"}
        async with api.post("/api/v1/tasks", json=body, headers=headers) as response:
            return response.status, await response.json()

    bodies: dict[int, dict[str, Any]] = {
        number: {"type": "noop", "payload": {"seconds": number}} for number in range(60)
    }
    bodies[7] = {"type": "noop", "queue": "nowhere"}
    bodies[23] = {"type": "dance"}
    bodies[41] = {"type": "noop", "payload": {"seconds": -1}}
    answers = await asyncio.gather(
        *(patiently(lambda n=number, body=body: ask(n, body)) for number, body in bodies.items())
    )

    assert [status for status, _ in answers] == [422 if n in {7, 23, 41} else 201 for n in bodies]
    assert [answers[n][1]["errors"][0]["pointer"] for n in (7, 23, 41)] == [
        "/queue",
        "/type",
        "/payload/seconds",
    ]
    for number in bodies.keys() - {7, 23, 41}:
        task = answers[number][1]
        assert (task["payload"]["seconds"], task["request_id"]) == (number, f"request-{number:03}")
        assert await call(api, "GET", f"/api/v1/tasks/{task['id']}", expect=200) == task
    rows = await admin.fetchrow(
        "SELECT count(*) AS tasks, count(DISTINCT xmin::text) AS transactions FROM tasks"
    )
    assert rows is not None
    assert rows["tasks"] == 57
    assert rows["transactions"] < 40
    assert served.woken == ["default"] * 57


async def test_a_task_is_created_with_its_defaults(api: ClientSession, served: Served) -> None:
    async with api.post(
        "/api/v1/tasks",
        json={"type": "noop", "payload": {"seconds": 2}},
        headers={"X-Request-ID": "from-outside-1"},
    ) as response:
        task = await response.json()
        assert (response.status, response.headers["Location"]) == (201, f"/api/v1/tasks/{task['id']}")

    assert set(task) == FIELDS
    assert task["payload"] == {"seconds": 2.0, "fail": False, "ignore_cancel": False}
    assert {name: task[name] for name in ("type", "state", "queue", "priority", "attempt", "fence", "created_by", "request_id", "result")} == {
        "type": "noop", "state": "queued", "queue": "default", "priority": 2, "attempt": 0, "fence": 0, "created_by": "key:ci",
        "request_id": "from-outside-1", "result": None,
    }  # fmt: skip
    assert UUID(task["id"]).version == 7
    assert task["created_at"].endswith("Z")
    assert served.woken == ["default"]
    assert await call(api, "GET", f"/api/v1/tasks/{task['id']}", expect=200) == task


async def test_everything_that_may_be_said_about_a_task_is_kept(api: ClientSession) -> None:
    said = {
        "queue": "content", "priority": 0, "run_at": "2100-01-01T00:00:00Z", "timeout_seconds": 5, "max_attempts": 1,
        "concurrency_key": "customer:7", "concurrency_limit": 3, "start_before": "2100-01-02T00:00:00Z",
    }  # fmt: skip
    task = await create(api, **said, total_timeout_seconds=60)

    assert {name: task[name] for name in said} == said
    assert task["state"] == "scheduled"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/type"), ({"type": "unheard-of"}, "/type"), ({"type": "noop", "payload": {"seconds": "long"}}, "/payload/seconds"),
        ({"type": "noop", "payload": []}, "/payload"), ({"type": "noop", "queue": "nowhere"}, "/queue"), ({"type": "noop", "priority": 10}, "/priority"),
        ({"type": "noop", "priority": True}, "/priority"), ({"type": "noop", "run_at": "tomorrow"}, "/run_at"),
        ({"type": "noop", "max_attempts": 0}, "/max_attempts"), ({"type": "noop", "timeout_seconds": 2**31}, "/timeout_seconds"),
        ({"type": "noop", "concurrency_key": "a"}, "/concurrency_limit"), ({"type": "noop", "state": "succeeded"}, "/state"),
        ({"type": "noop", "tenant_id": str(uuid4())}, "/tenant_id"),
        ({"type": "noop", "run_at": "2100-01-02T00:00:00Z", "start_before": "2100-01-02T01:00:00+01:00"}, "/start_before"),
    ],
)  # fmt: skip
async def test_a_bad_task_is_refused_and_nothing_is_stored(
    api: ClientSession, served: Served, body: Any, pointer: str
) -> None:
    answer = await call(api, "POST", "/api/v1/tasks", json=body, expect=422)

    assert [entry["pointer"] for entry in answer["errors"]] == [pointer]
    assert (await call(api, "GET", "/api/v1/tasks", expect=200))["items"] == []
    assert served.woken == []


@pytest.mark.parametrize(
    ("path", "body", "pointer", "meant"),
    [
        ("/api/v1/tasks", {"type": "noop", "timeout": 5}, "/timeout", "timeout_seconds"),
        ("/api/v1/tasks", {"type": "noop", "payload": {"secnds": 5}}, "/payload/secnds", "seconds"),
        (
            "/api/v1/tasks/bulk",
            {"tasks": [{"type": "noop"}, {"type": "noop", "prio": 1}]},
            "/tasks/1/prio",
            "priority",
        ),
    ],
)
async def test_a_name_that_is_nearly_right_is_told_which_was_meant(
    api: ClientSession, path: str, body: Any, pointer: str, meant: str
) -> None:
    answer = await call(api, "POST", path, json=body, expect=422)

    [fault] = answer["errors"]
    assert fault == {"pointer": pointer, "message": f"is not known here; did you mean {meant}?"}


async def test_a_thousand_tasks_are_created_in_one_call_or_none(api: ClientSession, served: Served) -> None:
    answer = await call(
        api, "POST", "/api/v1/tasks/bulk", json={"tasks": [{"type": "noop"}] * 1000}, expect=201
    )

    assert len(set(answer["ids"])) == 1000
    assert served.woken == ["default"]
    assert (
        await call(api, "POST", "/api/v1/tasks/bulk", json={"tasks": [{"type": "noop"}] * 1001}, expect=422)
    )["errors"][0]["pointer"] == "/tasks"
    await call(api, "POST", "/api/v1/tasks/bulk", json={"tasks": []}, expect=422)

    mixed = {"tasks": [{"type": "noop"}, {"type": "noop", "payload": {"seconds": "x"}}, {"type": "nope"}]}
    refused = await call(api, "POST", "/api/v1/tasks/bulk", json=mixed, expect=422)
    assert [entry["pointer"] for entry in refused["errors"]] == ["/tasks/1/payload/seconds", "/tasks/2/type"]
    assert len((await call(api, "GET", "/api/v1/tasks?limit=200", expect=200))["items"]) == 200


async def test_lists_are_newest_first_filtered_and_paged(api: ClientSession) -> None:
    ids = [(await create(api, priority=number % 10))["id"] for number in range(5)]
    later = (await create(api, run_at="2100-01-01T00:00:00Z", queue="content"))["id"]

    async def listed(**filters: str) -> list[str]:
        found = await call(api, "GET", "/api/v1/tasks", params=filters, expect=200)
        return [item["id"] for item in found["items"]]

    assert await listed() == [later, *reversed(ids)]
    assert await listed(state="scheduled") == [later]
    assert await listed(queue="content") == [later]
    assert await listed(type="generate_content") == []
    assert await listed(q=later[:36]) == [later]
    assert await listed(q="noo") == [later, *reversed(ids)]
    assert await listed(q="%") == []
    assert await listed(q="' OR 1=1--") == []
    first = await call(api, "GET", "/api/v1/tasks?limit=4&state=queued", expect=200)
    rest = await call(
        api,
        "GET",
        "/api/v1/tasks",
        params={"limit": "4", "state": "queued", "cursor": first["next_cursor"]},
        expect=200,
    )
    assert [item["id"] for item in first["items"] + rest["items"]] == list(reversed(ids))
    assert rest["next_cursor"] is None
    assert set(first["items"][0]) == FIELDS - {"payload", "result"}
    await call(api, "GET", "/api/v1/tasks?state=done", expect=422)


async def test_a_cancel_is_final_says_why_and_may_be_repeated(api: ClientSession, served: Served) -> None:
    task = await create(api)

    cancelled = await call(
        api, "POST", f"/api/v1/tasks/{task['id']}/cancel", json={"reason": "not needed"}, expect=200
    )

    assert {name: cancelled[name] for name in ("state", "reason", "ended_by")} == {
        "state": "cancelled",
        "reason": "not needed",
        "ended_by": "key:ci",
    }
    assert [one.task_id for one in served.cancelled] == [UUID(task["id"])]
    assert await call(api, "POST", f"/api/v1/tasks/{task['id']}/cancel", expect=200) == cancelled
    events = await call(api, "GET", f"/api/v1/tasks/{task['id']}/events", expect=200)
    assert [(event["event"], event["actor"]) for event in events["items"]] == [
        ("created", "key:ci"),
        ("cancelled", "key:ci"),
    ]


async def test_a_scheduled_task_is_run_before_it_is_due_and_no_other(
    served: Served, api: ClientSession
) -> None:
    task = await create(api, run_at="2090-01-31T00:00:00Z")
    assert task["state"] == "scheduled"
    served.woken.clear()

    now = await call(api, "POST", f"/api/v1/tasks/{task['id']}/run", expect=200)

    assert (now["state"], now["attempt"]) == ("queued", 0)
    assert now["run_at"] < "2090"
    assert served.woken == ["default"]
    events = await call(api, "GET", f"/api/v1/tasks/{task['id']}/events", expect=200)
    assert [(event["event"], event["actor"]) for event in events["items"]] == [
        ("created", "key:ci"),
        ("hurried", "key:ci"),
    ]
    again = await call(api, "POST", f"/api/v1/tasks/{task['id']}/run", expect=409)
    assert "is queued; only a scheduled task can be run before it is due" in again["detail"]


async def test_a_task_that_ended_otherwise_cannot_be_cancelled(api: ClientSession, admin: Any) -> None:
    task = await create(api)
    await admin.execute(
        "SELECT app.end_tasks(ARRAY[$1::uuid], 'succeeded', 'succeeded', NULL, 'test', NULL)",
        UUID(task["id"]),
    )

    answer = await call(api, "POST", f"/api/v1/tasks/{task['id']}/cancel", expect=409)

    assert answer["type"] == "/problems/task-ended"


async def test_an_ended_task_is_requeued_as_a_new_one(api: ClientSession) -> None:
    old = await create(api, payload={"seconds": 1}, priority=4)
    await call(api, "POST", f"/api/v1/tasks/{old['id']}/requeue", expect=409)
    await call(api, "POST", f"/api/v1/tasks/{old['id']}/cancel", expect=200)

    same = await call(api, "POST", f"/api/v1/tasks/{old['id']}/requeue", expect=201)
    changed = await call(
        api,
        "POST",
        f"/api/v1/tasks/{old['id']}/requeue",
        json={"payload": {"seconds": 3}, "priority": 0, "queue": "content"},
        expect=201,
    )

    assert same["id"] != old["id"]
    assert {name: same[name] for name in ("retry_of", "payload", "priority", "state")} == {
        "retry_of": old["id"], "payload": old["payload"], "priority": 4, "state": "queued",
    }  # fmt: skip
    assert (changed["payload"]["seconds"], changed["priority"], changed["queue"]) == (3.0, 0, "content")
    bad = await call(
        api, "POST", f"/api/v1/tasks/{old['id']}/requeue", json={"payload": {"seconds": "x"}}, expect=422
    )
    assert bad["errors"][0]["pointer"] == "/payload/seconds"


async def test_a_signal_reaches_the_task_once_and_cannot_fake_an_approval(
    api: ClientSession, admin: Any
) -> None:
    task = await create(api)
    path = f"/api/v1/tasks/{task['id']}/signal"

    await call(api, "POST", path, json={"name": "go-on", "data": {"a": 1}}, expect=202)
    await call(api, "POST", path, json={"name": "go-on", "data": {"a": 2}}, expect=202)

    assert [dict(row) for row in await admin.fetch("SELECT name, data::text, actor FROM task_signals")] == [
        {"name": "go-on", "data": '{"a": 1}', "actor": "key:ci"}
    ]
    for name in ("review:0190", "", "A", "a b", "a" * 101, "ä"):
        assert (await call(api, "POST", path, json={"name": name}, expect=422))["errors"][0][
            "pointer"
        ] == "/name"
    await call(api, "POST", f"/api/v1/tasks/{task['id']}/cancel", expect=200)
    assert (await call(api, "POST", path, json={"name": "late"}, expect=409))[
        "type"
    ] == "/problems/task-ended"


async def test_steps_are_listed(api: ClientSession, admin: Any, tenant: UUID) -> None:
    task = await create(api)
    await admin.execute(
        "INSERT INTO task_steps (tenant_id, task_id, name, kind, fence, output, started_at) VALUES ($1, $2, 'outline', 'step', 1, '{\"a\": 1}', now())",
        tenant, UUID(task["id"]),
    )  # fmt: skip

    steps = await call(api, "GET", f"/api/v1/tasks/{task['id']}/steps", expect=200)

    assert [(step["name"], step["kind"], step["output"]) for step in steps["items"]] == [
        ("outline", "step", {"a": 1})
    ]


PATHS = [
    ("GET", ""),
    ("GET", "/events"),
    ("GET", "/steps"),
    ("POST", "/cancel"),
    ("POST", "/run"),
    ("POST", "/requeue"),
    ("POST", "/signal"),
]


async def test_another_tenants_task_answers_exactly_as_one_that_never_was(
    served: Served, api: ClientSession, database: Database, other_tenant: UUID
) -> None:
    theirs = (await create(api))["id"]
    key = await served_web.make_key(database, other_tenant)

    async with served_web.client(served, key) as stranger:
        for method, path in PATHS:
            answers = []
            for task_id in (theirs, str(uuid4())):
                body = {"json": {"name": "go"}} if path == "/signal" else {}
                async with stranger.request(method, f"/api/v1/tasks/{task_id}{path}", **body) as response:
                    text = (await response.text()).replace(response.headers["X-Request-ID"], "")
                    answers.append((response.status, text))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        assert (await call(stranger, "GET", "/api/v1/tasks", expect=200))["items"] == []
        assert (await call(stranger, "GET", "/api/v1/tasks", params={"q": theirs}, expect=200))["items"] == []


async def test_roles_decide_who_may_do_what(
    served: Served, api: ClientSession, database: Database, tenant: UUID
) -> None:
    task = await create(api)
    clients = {
        role: await served_web.make_key(database, tenant, role, role)
        for role in ("viewer", "author", "operator")
    }

    async with served_web.client(served, clients["viewer"]) as viewer:
        await call(viewer, "GET", f"/api/v1/tasks/{task['id']}", expect=200)
        assert (await call(viewer, "POST", "/api/v1/tasks", json={"type": "noop"}, expect=403))[
            "type"
        ] == "/problems/forbidden"
    async with served_web.client(served, clients["author"]) as author:
        own = await create(author)
        await call(author, "POST", f"/api/v1/tasks/{own['id']}/cancel", expect=200)
        for path, body in (("cancel", {}), ("requeue", {}), ("signal", {"name": "go"})):
            await call(author, "POST", f"/api/v1/tasks/{task['id']}/{path}", json=body, expect=403)
    async with served_web.client(served, clients["operator"]) as operator:
        await call(operator, "POST", f"/api/v1/tasks/{task['id']}/cancel", expect=200)
    async with served_web.client(served) as nobody:
        await call(nobody, "GET", f"/api/v1/tasks/{task['id']}", expect=401)


async def test_a_running_task_shows_its_progress_through_the_service(
    api: ClientSession, database: Database, tenant: UUID
) -> None:
    task = await create(api)

    async with database.tenant(tenant, "test") as db:
        found = await service.get(db, tenant, UUID(task["id"]))

    assert {name: getattr(found, name) for name in ("state", "type", "priority")} == {
        name: task[name] for name in ("state", "type", "priority")
    }


async def test_other_methods_are_refused_with_those_that_work(api: ClientSession) -> None:
    for method, path, allowed in (
        ("DELETE", "/api/v1/tasks", {"GET", "HEAD", "POST"}), ("TRACE", "/api/v1/tasks", {"GET", "HEAD", "POST"}), ("GET", "/api/v1/tasks/bulk", {"POST"}),
        ("PUT", f"/api/v1/tasks/{uuid4()}", {"GET", "HEAD"}), ("FOO", "/api/v1/tasks", {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}),
    ):  # fmt: skip
        async with api.request(method, path) as response:
            assert response.status == 405, (method, path)
            assert {one.strip() for one in response.headers["Allow"].split(",")} == allowed, (method, path)
            assert (await response.json())["type"] == "/problems/method-not-allowed"
