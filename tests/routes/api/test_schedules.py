"""The contract of /api/v1/schedules: works, bad input, missing, wrong state, second call, role, other tenant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from routes.api import schedules, tasks
from server.database import Database
from server.ticker import Ticker
from tests import web as served_web
from tests.conftest import make_tenant
from tests.web import Served

PATH = "/api/v1/schedules"
FIELDS = {
    "id", "name", "type", "payload", "cron", "time_zone", "interval_seconds", "explanation", "missed", "overlap", "queue", "priority",
    "timeout_seconds", "total_timeout_seconds", "max_attempts", "concurrency_key", "concurrency_limit", "next_tick_at", "last_tick", "paused",
    "paused_at", "paused_by", "resume_at", "version", "created_at", "created_by", "updated_at", "updated_by", "deleted_at", "deleted_by",
}  # fmt: skip


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, schedules.routes, tasks.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    key = await served_web.make_key(database, tenant, role="operator", name="ci")
    async with served_web.client(served, key) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    """Return the decoded answer of a call, which must have the status *expect*."""
    async with api.request(method, path, **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def create(api: ClientSession, name: str = "nightly", **values: Any) -> Any:
    body = (
        {"name": name, "type": "noop"}
        | ({} if "interval_seconds" in values else {"cron": "0 3 * * *"})
        | values
    )
    return await call(api, "POST", PATH, json=body, expect=201)


async def test_a_schedule_is_created_with_its_defaults(api: ClientSession) -> None:
    async with api.post(
        PATH,
        json={"name": "nightly", "type": "noop", "cron": " 0 3  * * mon-fri", "time_zone": "Europe/Berlin"},
    ) as response:
        made = await response.json()
        assert (response.status, response.headers["Location"], response.headers["ETag"]) == (
            201,
            f"{PATH}/{made['id']}",
            '"1"',
        )

    assert set(made) == FIELDS
    assert {name: made[name] for name in ("cron", "explanation", "missed", "overlap", "queue", "priority", "payload", "paused", "last_tick", "created_by")} == {
        "cron": "0 3 * * MON-FRI", "explanation": "At 03:00 on Monday through Friday, Europe/Berlin", "missed": "once", "overlap": "allow", "queue": None,
        "priority": 2, "payload": {}, "paused": False, "last_tick": None, "created_by": "key:ci",
    }  # fmt: skip
    assert await call(api, "GET", f"{PATH}/{made['id']}", expect=200) == made


async def test_everything_that_may_be_said_about_a_schedule_is_kept(api: ClientSession) -> None:
    said = {
        "interval_seconds": 60, "missed": "all", "overlap": "skip", "queue": "content", "priority": 0, "timeout_seconds": 5, "max_attempts": 1,
        "total_timeout_seconds": 50, "concurrency_key": "customer:7", "concurrency_limit": 3, "payload": {"seconds": 1},
    }  # fmt: skip
    made = await create(api, **said)

    assert {name: made[name] for name in said} == said
    assert made["explanation"] == "Every minute"


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/name", "/type"]),
        ({"name": "x", "type": "noop"}, ["/cron"]),
        ({"name": "x", "type": "noop", "cron": "* * * * *", "interval_seconds": 5}, ["/cron"]),
        ({"name": "x", "type": "noop", "cron": "0 0 30 2 *"}, ["/cron"]),
        ({"name": "x", "type": "noop", "cron": "0 25 * * *"}, ["/cron"]),
        ({"name": "x", "type": "noop", "cron": "0 0 * * *", "time_zone": "Moon/Sea"}, ["/time_zone"]),
        ({"name": "x", "type": "noop", "interval_seconds": 0}, ["/interval_seconds"]),
        ({"name": "x", "type": "nope", "interval_seconds": 5}, ["/type"]),
        ({"name": "x", "type": "noop", "interval_seconds": 5, "payload": {"seconds": -1}}, ["/payload/seconds"]),
        ({"name": "x", "type": "noop", "interval_seconds": 5, "queue": "nowhere"}, ["/queue"]),
        ({"name": "x", "type": "noop", "interval_seconds": 5, "missed": "maybe"}, ["/missed"]),
        ({"name": " ", "type": "noop", "interval_seconds": 5}, ["/name"]),
        ({"name": "x", "type": "noop", "interval_seconds": 5, "run_at": "2100-01-01T00:00:00Z"}, ["/run_at"]),
    ],
)  # fmt: skip
async def test_bad_input_is_named(api: ClientSession, body: dict[str, Any], pointers: list[str]) -> None:
    problem = await call(api, "POST", PATH, json=body, expect=422)

    assert [fault["pointer"] for fault in problem["errors"]] == pointers


async def test_an_impossible_expression_says_which_part_is_wrong(api: ClientSession) -> None:
    problem = await call(api, "POST", f"{PATH}/preview", json={"cron": "0 25 * * *"}, expect=422)

    assert problem["errors"] == [{"pointer": "/cron", "message": "'25' is no hour"}]


async def test_a_name_is_given_once(api: ClientSession) -> None:
    await create(api)
    problem = await call(
        api, "POST", PATH, json={"name": "nightly", "type": "noop", "interval_seconds": 5}, expect=409
    )

    assert problem["type"].endswith("name-taken")


async def test_creating_again_with_the_same_key_makes_nothing_new(api: ClientSession) -> None:
    body = {"name": "nightly", "type": "noop", "interval_seconds": 5}
    one = await call(api, "POST", PATH, json=body, headers={"Idempotency-Key": "k"}, expect=201)
    two = await call(api, "POST", PATH, json=body, headers={"Idempotency-Key": "k"}, expect=201)

    assert one == two


async def test_schedules_are_listed_by_name_page_by_page(api: ClientSession) -> None:
    for name in ("b", "c", "a"):
        await create(api, name)

    first = await call(api, "GET", f"{PATH}?limit=2", expect=200)
    second = await call(api, "GET", f"{PATH}?limit=2&cursor={first['next_cursor']}", expect=200)

    assert [one["name"] for one in first["items"] + second["items"]] == ["a", "b", "c"]
    assert second["next_cursor"] is None
    assert (await call(api, "GET", f"{PATH}?type=other", expect=200))["items"] == []


async def test_a_preview_shows_the_next_ticks_in_their_zone(api: ClientSession) -> None:
    shown = await call(
        api, "POST", f"{PATH}/preview", json={"cron": "30 8 * * *", "time_zone": "Asia/Kolkata"}, expect=200
    )

    assert shown["explanation"] == "At 08:30 every day, Asia/Kolkata"
    assert [tick[10:] for tick in shown["next_ticks"]] == ["T08:30:00+05:30"] * 5
    assert (await call(api, "GET", PATH, expect=200))["items"] == []


async def test_a_change_needs_to_know_what_it_changes(api: ClientSession) -> None:
    made = await create(api)
    path = f"{PATH}/{made['id']}"
    await call(api, "PATCH", path, json={"priority": 1}, expect=428)
    async with api.patch(path, json={"priority": 1}, headers={"If-Match": '"1"'}) as response:
        changed = await response.json()
        assert (response.status, response.headers["ETag"]) == (200, '"2"')
    await call(api, "PATCH", path, json={"priority": 2}, headers={"If-Match": '"1"'}, expect=412)

    assert changed == made | {"priority": 1, "version": 2, "updated_at": changed["updated_at"]}


async def test_null_takes_a_value_out_and_what_cannot_be_null_is_refused(api: ClientSession) -> None:
    made = await create(api, queue="content")
    path, head = f"{PATH}/{made['id']}", {"If-Match": "*"}

    assert (await call(api, "PATCH", path, json={"queue": None}, headers=head, expect=200))["queue"] is None
    assert (await call(api, "PATCH", path, json={"interval_seconds": 60}, headers=head, expect=200))[
        "cron"
    ] is None
    await call(api, "PATCH", path, json={"name": None}, headers=head, expect=422)
    await call(api, "PATCH", path, json={"interval_seconds": None}, headers=head, expect=422)


async def test_a_reader_sees_that_it_has_ticked(api: ClientSession, database: Database) -> None:
    made = await create(api, interval_seconds=1)
    etag = {"If-None-Match": '"1"'}
    ticker = Ticker(database, on_work=lambda _: None)
    after = await call(api, "GET", f"{PATH}/{made['id']}", headers=etag, expect=200)
    while after["last_tick"] is None:
        await ticker.tick_due()
        after = await call(api, "GET", f"{PATH}/{made['id']}", headers=etag, expect=200)

    ticks = (await call(api, "GET", f"{PATH}/{made['id']}/ticks", expect=200))["items"]
    assert after["last_tick"] == ticks[0]
    assert (ticks[0]["outcome"], ticks[0]["task_state"], ticks[0]["actor"]) == (
        "enqueued",
        "queued",
        "system:scheduler",
    )
    task = await call(api, "GET", f"/api/v1/tasks/{ticks[0]['task_id']}", expect=200)
    assert task["created_by"] == f"schedule:{made['id']}"


async def test_pause_and_resume_again_and_again(api: ClientSession) -> None:
    made = await create(api)
    path = f"{PATH}/{made['id']}"
    until = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    paused = await call(api, "POST", f"{path}/pause", expect=200)
    again = await call(api, "POST", f"{path}/pause", json={"resume_at": until}, expect=200)
    resumed = await call(api, "POST", f"{path}/resume", expect=200)
    await call(api, "POST", f"{path}/pause", json={"resume_at": "2020-01-01T00:00:00Z"}, expect=422)

    assert (paused["paused"], paused["paused_by"], paused["next_tick_at"]) == (True, "key:ci", None)
    assert again["next_tick_at"] > until[:10]
    assert (resumed["paused"], resumed["next_tick_at"]) == (False, made["next_tick_at"])
    assert await call(api, "POST", f"{path}/resume", expect=200) == resumed


async def test_a_pause_may_last_as_long_as_time_does(api: ClientSession) -> None:
    path = f"{PATH}/{(await create(api))['id']}"
    paused = await call(api, "POST", f"{path}/pause", json={"resume_at": "9999-12-31T23:59:59Z"}, expect=200)

    assert (paused["paused"], paused["resume_at"], paused["next_tick_at"]) == (
        True,
        "9999-12-31T23:59:59Z",
        None,
    )
    await call(api, "GET", path, expect=200)


async def test_run_now_makes_its_task_once_per_key(api: ClientSession, served: Served) -> None:
    made = await create(api, payload={"seconds": 2}, queue="content")
    head = {"Idempotency-Key": "once"}
    task = await call(api, "POST", f"{PATH}/{made['id']}/run", headers=head, expect=201)
    same = await call(api, "POST", f"{PATH}/{made['id']}/run", headers=head, expect=201)

    assert task == same
    assert (task["payload"]["seconds"], task["created_by"], served.woken) == (2, "key:ci", ["content"])
    (tick,) = (await call(api, "GET", f"{PATH}/{made['id']}/ticks", expect=200))["items"]
    assert (tick["manual"], tick["task_id"], tick["actor"]) == (True, task["id"], "key:ci")


async def test_a_deleted_schedule_can_be_read_and_nothing_else(api: ClientSession) -> None:
    made = await create(api)
    path = f"{PATH}/{made['id']}"
    for _ in range(2):
        await call(api, "DELETE", path, expect=204)

    assert (await call(api, "GET", path, expect=200))["deleted_by"] == "key:ci"
    assert (await call(api, "GET", PATH, expect=200))["items"] == []
    for method, where, options in (
        ("POST", "/pause", {}), ("POST", "/resume", {}), ("POST", "/run", {}), ("PATCH", "", {"json": {"priority": 1}, "headers": {"If-Match": "*"}}),
    ):  # fmt: skip
        problem = await call(api, method, path + where, expect=409, **options)
        assert problem["type"].endswith("schedule-deleted")


async def test_what_is_not_there_and_what_is_another_tenants_read_the_same(
    api: ClientSession, served: Served, database: Database, admin: Any
) -> None:
    made = await create(api)
    other = await make_tenant(admin, "globex")
    async with served_web.client(served, await served_web.make_key(database, other)) as stranger:
        for schedule_id in (made["id"], uuid4()):
            path = f"{PATH}/{schedule_id}"
            for method, where in (
                ("GET", ""),
                ("GET", "/ticks"),
                ("POST", "/pause"),
                ("POST", "/resume"),
                ("POST", "/run"),
                ("DELETE", ""),
            ):
                await call(stranger, method, path + where, expect=404)
            await call(stranger, "PATCH", path, json={"priority": 1}, headers={"If-Match": "*"}, expect=404)
    await call(api, "PUT", f"{PATH}/{made['id']}", json={}, expect=405)


async def test_viewers_look_and_operators_change(
    api: ClientSession, served: Served, database: Database, tenant: UUID
) -> None:
    made = await create(api)
    key = await served_web.make_key(database, tenant, role="reviewer")
    async with served_web.client(served, key) as reviewer:
        await call(reviewer, "GET", f"{PATH}/{made['id']}", expect=200)
        await call(reviewer, "POST", f"{PATH}/preview", json={"interval_seconds": 5}, expect=200)
        await call(
            reviewer, "POST", PATH, json={"name": "x", "type": "noop", "interval_seconds": 5}, expect=403
        )
        for where in ("/pause", "/resume", "/run"):
            await call(reviewer, "POST", f"{PATH}/{made['id']}{where}", expect=403)
        await call(reviewer, "DELETE", f"{PATH}/{made['id']}", expect=403)
