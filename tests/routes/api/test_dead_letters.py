"""The contract of /api/v1/dead-letters: works, bad input, missing, handled by others, second call, other tenant, role."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from routes.api import dead_letters, tasks
from server.database import Database
from tests import dead
from tests import web as served_web
from tests.patience import patiently
from tests.web import Served

FIELDS = {
    "task_id", "queue", "type", "state", "error_class", "error", "requeues", "failed_at", "note", "noted_at", "noted_by", "handled_at", "handled_as",
    "handled_by", "handled_reason", "successor_id",
}  # fmt: skip
AT = "/api/v1/dead-letters"


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, dead_letters.routes, tasks.routes)) as running:
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


async def failed(database: Database, admin: Any, tenant: UUID, count: int = 1) -> list[str]:
    return [str(task.id) for task in await dead.letters(database, admin, tenant, count)]


async def test_lists_are_filtered_and_paged(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    made = await failed(database, admin, tenant, 5)
    await call(api, "POST", f"{AT}/{made[0]}/discard", json={"reason": "known"}, expect=200)

    first = await call(api, "GET", AT, params={"limit": "3", "error_class": "ValueError"}, expect=200)
    rest = await call(
        api,
        "GET",
        AT,
        params={"limit": "3", "error_class": "ValueError", "cursor": first["next_cursor"]},
        expect=200,
    )

    assert [letter["task_id"] for letter in first["items"] + rest["items"]] == made[:0:-1]
    assert rest["next_cursor"] is None
    assert set(first["items"][0]) == FIELDS
    handled = await call(api, "GET", AT, params={"handled": "true"}, expect=200)
    assert [letter["task_id"] for letter in handled["items"]] == [made[0]]
    for filters, found in (
        ({"q": "NO LUCK"}, 4), ({"q": "%"}, 0), ({"queue": "content"}, 0), ({"state": "timed_out"}, 0), ({"failed_before": "2020-01-01T00:00:00Z"}, 0),
        ({"failed_after": "2020-01-01T00:00:00Z", "type": "noop"}, 4),
    ):  # fmt: skip
        assert len((await call(api, "GET", AT, params=filters, expect=200))["items"]) == found, filters
    for wrong in (
        "state=succeeded",
        "handled=maybe",
        "failed_after=yesterday",
        "limit=0",
        "colour=red",
        "cursor=x",
    ):
        await call(api, "GET", f"{AT}?{wrong}", expect=400 if "cursor" in wrong else 422)


async def test_counts_are_by_type_and_error_class(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    await failed(database, admin, tenant, 3)

    answer = await call(api, "GET", f"{AT}/groups?type=noop", expect=200)

    assert [(group["type"], group["error_class"], group["count"]) for group in answer["groups"]] == [
        ("noop", "ValueError", 3)
    ]
    assert (answer["counted"], answer["complete"]) == (3, True)


async def test_one_comes_with_its_task_and_its_chain(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    (task_id,) = await failed(database, admin, tenant)
    new = await call(api, "POST", f"{AT}/{task_id}/requeue", expect=201)

    letter = await call(api, "GET", f"{AT}/{task_id}", expect=200)

    assert set(letter) == FIELDS | {"backoff_seconds", "task", "chain"}
    assert letter["task"]["payload"] == new["payload"]
    assert [link["task_id"] for link in letter["chain"]] == [task_id, new["id"]]
    assert (letter["handled_as"], letter["handled_by"], letter["successor_id"]) == (
        "requeued",
        "key:ops",
        new["id"],
    )


async def test_a_requeue_waits_its_back_off_or_comes_at_once_with_changes(
    api: ClientSession, served: Served, database: Database, admin: Any, tenant: UUID
) -> None:
    later, now = await failed(database, admin, tenant, 2)

    async with api.post(f"{AT}/{later}/requeue") as response:
        waiting = await response.json()
        assert (response.status, response.headers["Location"]) == (201, f"/api/v1/tasks/{waiting['id']}")
    body = {"at_once": True, "priority": 9, "payload": {"seconds": 2}, "reason": "mended"}
    at_once = await call(api, "POST", f"{AT}/{now}/requeue", json=body, expect=201)

    assert (waiting["state"], waiting["retry_of"]) == ("scheduled", later)
    assert (at_once["state"], at_once["priority"], at_once["payload"]["seconds"]) == ("queued", 9, 2.0)
    assert served.woken == ["default", "default"]
    assert (await call(api, "GET", f"{AT}/{now}", expect=200))["handled_reason"] == "mended"


async def test_the_second_to_requeue_or_discard_is_told_of_the_first(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    one, other = await failed(database, admin, tenant, 2)
    new = await call(api, "POST", f"{AT}/{one}/requeue", expect=201)
    await call(api, "POST", f"{AT}/{other}/discard", json={"reason": "known"}, expect=200)

    for task_id, path, body in (
        (one, "requeue", {}),
        (one, "discard", {"reason": "x"}),
        (other, "requeue", {}),
        (other, "discard", {"reason": "x"}),
    ):
        refused = await call(api, "POST", f"{AT}/{task_id}/{path}", json=body, expect=409)
        assert refused["type"] == "/problems/dead-letter-handled"
        assert " by key:ops at " in refused["detail"]
        assert (new["id"] in refused["detail"]) == (task_id == one)
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 1
    await call(
        api, "POST", f"/api/v1/tasks/{one}/requeue", expect=201
    )  # as a task it may be repeated at will


async def test_of_ten_callers_at_once_one_requeues(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    (task_id,) = await failed(database, admin, tenant)

    async def requeue() -> int:
        async with api.post(f"{AT}/{task_id}/requeue") as response:
            return response.status

    assert sorted(await asyncio.gather(*(patiently(requeue) for _ in range(10)))) == [201] + [409] * 9
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE retry_of IS NOT NULL") == 1


async def test_a_repeat_under_the_same_key_gets_the_first_answer(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    one, other = await failed(database, admin, tenant, 2)
    headers = {"Idempotency-Key": "k"}

    first = await call(api, "POST", f"{AT}/{one}/requeue", headers=headers, expect=201)
    assert await call(api, "POST", f"{AT}/{one}/requeue", headers=headers, expect=201) == first
    await call(api, "POST", f"{AT}/{other}/requeue", headers=headers, expect=422)


async def test_bad_input_is_refused_and_handles_nothing(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    (task_id,) = await failed(database, admin, tenant)
    for path, body, pointer in (
        ("requeue", {"payload": {"seconds": "x"}}, "/payload/seconds"), ("requeue", {"queue": "nowhere"}, "/queue"), ("requeue", {"priority": 10}, "/priority"),
        ("requeue", {"at_once": "yes"}, "/at_once"), ("requeue", {"colour": 1}, "/colour"), ("discard", {}, "/reason"), ("discard", {"reason": ""}, "/reason"),
        ("discard", {"reason": "  "}, "/reason"), ("discard", {"reason": "a\x00"}, "/reason"), ("discard", {"reason": "a" * 2001}, "/reason"),
        ("note", {"text": ""}, "/text"), ("note", {"text": 1}, "/text"),
    ):  # fmt: skip
        method = "PUT" if path == "note" else "POST"
        answer = await call(api, method, f"{AT}/{task_id}/{path}", json=body, expect=422)
        assert [entry["pointer"] for entry in answer["errors"]] == [pointer], body
    await call(api, "POST", f"{AT}/{task_id}/discard", expect=415)
    letter = await call(api, "GET", f"{AT}/{task_id}", expect=200)
    assert (letter["handled_at"], letter["note"]) == (None, None)


async def test_a_note_is_kept_with_its_author_and_can_be_replaced(
    api: ClientSession, database: Database, admin: Any, tenant: UUID
) -> None:
    (task_id,) = await failed(database, admin, tenant)
    await call(api, "PUT", f"{AT}/{task_id}/note", json={"text": "asked"}, expect=200)

    letter = await call(api, "PUT", f"{AT}/{task_id}/note", json={"text": "they say no"}, expect=200)

    assert (letter["note"], letter["noted_by"], letter["handled_at"]) == ("they say no", "key:ops", None)


async def test_what_is_not_there_and_what_belongs_to_others_answers_alike(
    served: Served, database: Database, admin: Any, tenant: UUID, other_tenant: UUID
) -> None:
    (theirs,) = await failed(database, admin, tenant)
    key = await served_web.make_key(database, other_tenant)
    async with served_web.client(served, key) as stranger:
        for method, path, body in (
            ("GET", "", None), ("POST", "/requeue", {}), ("POST", "/discard", {"reason": "mine"}), ("PUT", "/note", {"text": "mine"}),
        ):  # fmt: skip
            answers = []
            for task_id in (theirs, str(uuid4())):
                async with stranger.request(method, f"{AT}/{task_id}{path}", json=body) as response:
                    text = (await response.text()).replace(response.headers["X-Request-ID"], "")
                    answers.append((response.status, text))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        assert (await call(stranger, "GET", AT, expect=200))["items"] == []
        assert (await call(stranger, "GET", f"{AT}/groups", expect=200))["groups"] == []


async def test_viewers_read_and_operators_act(
    served: Served, database: Database, admin: Any, tenant: UUID
) -> None:
    (task_id,) = await failed(database, admin, tenant)
    for role, expect in (("viewer", 403), ("reviewer", 403), (None, 401)):
        key = await served_web.make_key(database, tenant, role, role) if role else None
        async with served_web.client(served, key) as session:
            await call(session, "GET", f"{AT}/{task_id}", expect=200 if role else 401)
            await call(session, "POST", f"{AT}/{task_id}/requeue", expect=expect)
            await call(session, "POST", f"{AT}/{task_id}/discard", json={"reason": "x"}, expect=expect)
            await call(session, "PUT", f"{AT}/{task_id}/note", json={"text": "x"}, expect=expect)


async def test_other_methods_are_refused(api: ClientSession) -> None:
    for method, path in (
        ("POST", AT),
        ("DELETE", f"{AT}/{uuid4()}"),
        ("GET", f"{AT}/{uuid4()}/requeue"),
        ("POST", f"{AT}/{uuid4()}/note"),
    ):
        await call(api, method, path, expect=405)
