"""The contract of /api/v1/reviews: the inbox, and one decision about exactly one text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import ClientSession

from routes.api import reviews
from server.database import Database
from services.reviews import Review
from tests import content as made
from tests import web as served_web
from tests.patience import patiently
from tests.web import Served


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, reviews.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant, name="ci")) as session:
        yield session


@pytest.fixture
async def review(database: Database, tenant: UUID) -> Review:
    async with database.tenant(tenant, "user:ada") as db:
        return (await made.waiting_task(db, tenant))[1]


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    async with api.request(method, f"/api/v1/reviews{path}", **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def decide(api: ClientSession, review: Review, *, expect: int, **more: Any) -> Any:
    body = {"decision": "approve", "reason": "reads well", "content_hash": review.content_hash} | more
    return await call(api, "POST", f"/{review.id}/decision", json=body, expect=expect)


async def test_the_inbox_lists_what_waits_for_a_decision(api: ClientSession, review: Review) -> None:
    page = await call(api, "GET", "?state=pending", expect=200)

    (found,) = page["items"]
    assert page["next_cursor"] is None
    found.pop("created_at")
    assert found == {
        "id": str(review.id),
        "task_id": str(review.task_id),
        "content_id": str(review.content_id),
        "version": 1,
        "version_id": str(review.version_id),
        "content_hash": review.content_hash,
        "title": "How to compost",
        "state": "pending",
        "round": 1,
        "due_at": None,
        "opened_by": f"task:{review.task_id}",
        "ended_at": None,
        "closed_reason": None,
    }
    assert (await call(api, "GET", "?state=approved", expect=200))["items"] == []


async def test_a_decision_is_recorded_with_who_and_why_and_wakes_the_task(
    api: ClientSession, review: Review, served: Served
) -> None:
    answer = await decide(api, review, expect=200)

    at = answer["decision"]["at"]
    assert at.endswith("Z")
    assert answer["decision"] == {
        "decision": "approve", "reason": "reads well", "actor": "key:ci", "role": "admin", "address": "127.0.0.1", "via": "api",
        "at": at, "version": 1, "content_hash": review.content_hash,
    }  # fmt: skip
    assert (answer["state"], served.woken) == ("approved", ["default"])
    assert await call(api, "GET", f"/{review.id}", expect=200) == answer


async def test_requested_changes_come_back_as_open_points(api: ClientSession, review: Review) -> None:
    answer = await decide(
        api, review, decision="request_changes", feedback=["more worms", "shorter"], expect=200
    )

    assert [(point["text"], point["state"], point["version"]) for point in answer["feedback"]] == [
        ("more worms", "open", 1),
        ("shorter", "open", 1),
    ]


async def test_a_stale_hash_is_412_and_a_second_decision_409(api: ClientSession, review: Review) -> None:
    assert (await decide(api, review, content_hash="0" * 64, expect=412))["type"].endswith(
        "/precondition-failed"
    )
    await decide(api, review, decision="reject", expect=200)
    assert (await decide(api, review, expect=409))["type"].endswith("/review-ended")
    await decide(api, review, content_hash="0" * 64, expect=409)


async def test_own_work_is_403_where_the_tenant_asks_for_a_second_person(
    api: ClientSession, review: Review, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute("UPDATE tenants SET settings = '{\"four_eyes\": true}' WHERE id = $1", tenant)
    await admin.execute("ALTER TABLE content_versions DISABLE TRIGGER ALL")
    await admin.execute("UPDATE content_versions SET author = 'key:ci'")

    assert (await decide(api, review, expect=403))["type"].endswith("/own-work")


async def test_of_fifty_decisions_at_once_one_is_200_and_the_others_409(
    api: ClientSession, review: Review, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    async def status(number: int) -> int:
        body = {
            "decision": ("approve", "reject")[number % 2],
            "reason": "r",
            "content_hash": review.content_hash,
        }
        async with api.post(f"/api/v1/reviews/{review.id}/decision", json=body) as response:
            return response.status

    statuses = await asyncio.gather(*(patiently(lambda n=number: status(n)) for number in range(50)))

    assert sorted(statuses) == [200] + [409] * 49
    assert await admin.fetchval("SELECT count(*) FROM review_decisions") == 1


async def test_the_same_decision_under_one_key_is_answered_again(api: ClientSession, review: Review) -> None:
    body = {"decision": "approve", "reason": "good", "content_hash": review.content_hash}
    answers = [
        await call(
            api, "POST", f"/{review.id}/decision", json=body, headers={"Idempotency-Key": "d-1"}, expect=200
        )
        for _ in range(2)
    ]

    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"reason": ""}, "/reason"),
        ({"reason": "  "}, "/reason"),
        ({"decision": "publish"}, "/decision"),
        ({"content_hash": "abc"}, "/content_hash"),
        ({"feedback": "more"}, "/feedback"),
        ({"feedback": [""]}, "/feedback/0"),
        ({"feedback": ["x"] * 51}, "/feedback"),
        ({"role": "admin"}, "/role"),
        ({"reason": "a\u0000"}, "/reason"),
    ],
)
async def test_a_decision_that_breaks_a_rule_says_where_and_decides_nothing(
    api: ClientSession, review: Review, more: dict[str, Any], pointer: str
) -> None:
    problem = await decide(api, review, expect=422, **more)

    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert (await call(api, "GET", f"/{review.id}", expect=200))["state"] == "pending"


async def test_a_review_is_never_decided_by_looking_at_it(api: ClientSession, review: Review) -> None:
    await call(api, "GET", f"/{review.id}/decision", expect=405)
    await call(api, "GET", f"/{review.id}?approved=true&decision=approve", expect=200)

    assert (await call(api, "GET", f"/{review.id}", expect=200))["state"] == "pending"


async def test_authors_strangers_and_nobody_cannot_decide(
    served: Served, review: Review, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    async with served_web.client(served, await served_web.make_key(database, tenant, "author")) as author:
        await decide(author, review, expect=403)
    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as stranger:
        await decide(stranger, review, expect=404)
        await call(stranger, "GET", f"/{review.id}", expect=404)
        await call(stranger, "GET", f"/{uuid4()}", expect=404)
    async with served_web.client(served) as nobody:
        await decide(nobody, review, expect=401)
