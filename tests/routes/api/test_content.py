"""The contract of /api/v1/content: read, compare, edit under If-Match, restore, submit, publish."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from routes.api import content, content_versions, reviews
from server.database import Database
from services.content import ContentVersion
from tests import content as made
from tests import web as served_web
from tests.patience import patiently
from tests.web import Served


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    tables = (content.routes, content_versions.routes, reviews.routes)
    async with served_web.running(served_web.build(database, *tables)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant, name="ci")) as session:
        yield session


@pytest.fixture
async def version(database: Database, tenant: UUID) -> ContentVersion:
    async with database.tenant(tenant, "user:ada") as db:
        return await made.write(db, tenant)


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    async with api.request(method, f"/api/v1/content{path}", **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def edit(
    api: ClientSession, content_id: UUID, *, match: str | None = '"1"', expect: int = 201, **body: Any
) -> Any:
    headers = {} if match is None else {"If-Match": match}
    return await call(api, "POST", f"/{content_id}/versions", json=body, headers=headers, expect=expect)


async def approve(api: ClientSession, content_id: UUID, number: int) -> None:
    review = await call(api, "POST", f"/{content_id}/submit", json={"version": number}, expect=201)
    body = {"decision": "approve", "reason": "good", "content_hash": review["content_hash"]}
    async with api.post(f"/api/v1/reviews/{review['id']}/decision", json=body) as response:
        assert response.status == 200, await response.text()


async def test_an_item_is_read_with_an_etag_of_its_latest_version(
    api: ClientSession, version: ContentVersion
) -> None:
    async with api.get(f"/api/v1/content/{version.content_id}") as response:
        item = await response.json()

        assert (response.status, response.headers["ETag"]) == (200, '"1"')
    created, updated = item.pop("created_at"), item.pop("updated_at")
    assert created.endswith("Z") and updated >= created  # noqa: PT018
    assert item == {
        "id": str(version.content_id),
        "title": "How to compost",
        "language": "en",
        "state": "draft",
        "latest_version": 1,
        "live_version": None,
        "live_slug": None,
        "task_id": None,
        "created_by": "user:ada@example.org",
    }


async def test_a_version_is_read_with_its_hash_which_anybody_can_compute(
    api: ClientSession, version: ContentVersion
) -> None:
    found = await call(api, "GET", f"/{version.content_id}/versions/1", expect=200)

    words = {name: found[name] for name in ("title", "slug", "summary", "body_md", "tags", "language")}
    canonical = json.dumps(words, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest() == found["content_hash"] == version.content_hash
    assert (found["version"], found["kind"], found["parent"], found["body_md"]) == (
        1,
        "draft",
        None,
        version.body_md,
    )
    cited = await call(api, "GET", f"/{version.content_id}/versions/1/citations", expect=200)
    assert [entry["marker"] for entry in cited["items"]] == [1, 2, 3]


async def test_an_edit_makes_the_next_version_and_the_difference_is_shown(
    api: ClientSession, version: ContentVersion
) -> None:
    new = await edit(api, version.content_id, title="How to compost well", note="clearer")

    assert (new["version"], new["kind"], new["parent"], new["created_by"], new["note"]) == (
        2,
        "edit",
        1,
        "key:ci",
        "clearer",
    )
    found = await call(api, "GET", f"/{version.content_id}/diff?from=1&to=2", expect=200)
    assert (found["from"], found["to"], found["words_added"], found["words_removed"], found["complete"]) == (
        1,
        2,
        1,
        0,
        True,
    )
    assert [part["field"] for part in found["fields"] if part["changed"]] == ["title"]
    assert found["fields"][0]["segments"] == [
        {"operation": "equal", "text": "How to compost"},
        {"operation": "insert", "text": " well"},
    ]
    heads = await call(api, "GET", f"/{version.content_id}/versions?limit=1", expect=200)
    assert [head["version"] for head in heads["items"]] == [2]
    rest = await call(
        api, "GET", f"/{version.content_id}/versions?limit=1&cursor={heads['next_cursor']}", expect=200
    )
    assert ([head["version"] for head in rest["items"]], rest["next_cursor"]) == ([1], None)


async def test_an_edit_names_the_version_it_started_from(api: ClientSession, version: ContentVersion) -> None:
    assert (await edit(api, version.content_id, match=None, expect=428, title="x"))["type"].endswith(
        "/precondition-required"
    )
    for wrong in ('"2"', '"0"', "1", 'W/"1"', "abc"):
        assert (await edit(api, version.content_id, match=wrong, expect=412, title="x"))["status"] == 412
    assert (await call(api, "GET", f"/{version.content_id}", expect=200))["latest_version"] == 1


async def test_of_fifty_edits_at_once_one_wins_and_the_others_are_told(
    api: ClientSession, version: ContentVersion
) -> None:
    async def status(number: int) -> int:
        path = f"/api/v1/content/{version.content_id}/versions"
        async with api.post(path, json={"title": f"Title {number}"}, headers={"If-Match": '"1"'}) as response:
            return response.status

    statuses = await asyncio.gather(*(patiently(lambda n=number: status(n)) for number in range(50)))

    assert sorted(statuses) == [201] + [412] * 49


async def test_saving_nothing_new_answers_the_version_there_is(
    api: ClientSession, version: ContentVersion
) -> None:
    assert (await edit(api, version.content_id, expect=200))["version"] == 1
    assert (await edit(api, version.content_id, expect=200, title="How to compost"))["version"] == 1


async def test_an_edit_sent_twice_under_one_key_is_made_once(
    api: ClientSession, version: ContentVersion
) -> None:
    headers = {"If-Match": '"1"', "Idempotency-Key": "edit-1"}
    answers = [
        await call(
            api, "POST", f"/{version.content_id}/versions", json={"title": "New"}, headers=headers, expect=201
        )
        for _ in range(2)
    ]

    assert answers[0] == answers[1]
    assert (await call(api, "GET", f"/{version.content_id}", expect=200))["latest_version"] == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"state": "published"}, "/state"),
        ({"tenant_id": str(uuid4()), "title": "x"}, "/tenant_id"),
        ({"content_hash": "0" * 64}, "/content_hash"),
        ({"title": ""}, "/title"),
        ({"slug": "No Slug"}, "/slug"),
        ({"body_md": "a\u0000b"}, "/body_md"),
        ({"tags": "a"}, "/tags"),
        ({"title": 7}, "/title"),
        ({"addresses": ["x"]}, "/addresses/0"),
    ],
)
async def test_an_edit_that_breaks_a_rule_says_where(
    api: ClientSession, version: ContentVersion, body: dict[str, Any], pointer: str
) -> None:
    problem = await edit(api, version.content_id, expect=422, **body)

    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]


async def test_an_older_version_is_restored_as_a_new_one(api: ClientSession, version: ContentVersion) -> None:
    await edit(api, version.content_id, title="Other")

    restored = await call(
        api,
        "POST",
        f"/{version.content_id}/restore",
        json={"version": 1},
        headers={"If-Match": '"2"'},
        expect=201,
    )

    assert (restored["version"], restored["kind"], restored["parent"], restored["content_hash"]) == (
        3,
        "restore",
        1,
        version.content_hash,
    )
    assert restored["note"] == "restored from version 1"


async def test_a_text_goes_from_submission_to_the_site_and_off_it_again(
    api: ClientSession, version: ContentVersion
) -> None:
    path = f"/{version.content_id}"
    assert (await call(api, "POST", f"{path}/publish", expect=409))["type"].endswith("/not-approved")

    await approve(api, version.content_id, 1)
    item = await call(api, "GET", path, expect=200)
    assert (item["state"], item["live_version"], item["live_slug"]) == ("published", 1, "how-to-compost")

    assert (await call(api, "POST", f"{path}/withdraw", expect=200))["live_version"] is None
    await call(api, "POST", f"{path}/withdraw", expect=409)
    assert (await call(api, "POST", f"{path}/publish", expect=200))["slug"] == "how-to-compost"
    await call(api, "POST", f"{path}/submit", json={"version": 1}, expect=409)


async def test_lists_are_filtered_and_paged(
    api: ClientSession, version: ContentVersion, database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "user:ada") as db:
        await made.write(db, tenant, title="Worms")
    await approve(api, version.content_id, 1)

    page = await call(api, "GET", "?limit=1", expect=200)
    assert [item["title"] for item in page["items"]] == ["Worms"]
    rest = await call(api, "GET", f"?limit=1&cursor={page['next_cursor']}", expect=200)
    assert ([item["title"] for item in rest["items"]], rest["next_cursor"]) == (["How to compost"], None)
    assert [i["title"] for i in (await call(api, "GET", "?state=published", expect=200))["items"]] == [
        "How to compost"
    ]
    assert [i["title"] for i in (await call(api, "GET", "?q=WORM", expect=200))["items"]] == ["Worms"]
    for wrong in ("?state=gone", "?limit=0", "?limit=201", "?offset=5", "?task_id=x"):
        await call(api, "GET", wrong, expect=422)
    await call(api, "GET", "?cursor=abc", expect=400)


async def test_what_is_not_there_is_404_and_the_same_for_strangers(
    served: Served, api: ClientSession, version: ContentVersion, database: Database, other_tenant: UUID
) -> None:
    key = await served_web.make_key(database, other_tenant)
    async with served_web.client(served, key) as stranger:
        for path in ("", "/versions", "/versions/1", "/diff?from=1&to=1"):
            await call(stranger, "GET", f"/{version.content_id}{path}", expect=404)
        await edit(stranger, version.content_id, expect=404, title="x")
    for path in (
        f"/{uuid4()}",
        "/x",
        f"/{version.content_id}/versions/2",
        f"/{version.content_id}/versions/0",
    ):
        await call(api, "GET", path, expect=404)
    await call(api, "GET", f"/{version.content_id}/diff?from=1&to=2", expect=404)
    await call(api, "GET", f"/{version.content_id}/diff?from=0&to=1", expect=422)
    await call(api, "DELETE", f"/{version.content_id}", expect=405)


async def test_roles_hold_at_every_door(
    served: Served, version: ContentVersion, database: Database, tenant: UUID
) -> None:
    path = f"/{version.content_id}"
    async with served_web.client(served, await served_web.make_key(database, tenant, "viewer")) as viewer:
        await call(viewer, "GET", path, expect=200)
        await edit(viewer, version.content_id, expect=403, title="x")
        await call(viewer, "POST", f"{path}/submit", json={"version": 1}, expect=403)
    async with served_web.client(served, await served_web.make_key(database, tenant, "author")) as author:
        await call(author, "POST", f"{path}/publish", expect=403)
        await call(author, "POST", f"{path}/withdraw", expect=403)
    async with served_web.client(served) as nobody:
        await call(nobody, "GET", path, expect=401)
