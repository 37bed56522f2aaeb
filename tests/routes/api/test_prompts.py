"""The contract of /api/v1/prompts: versions, labels, rendering."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from routes.api import prompts
from server.database import Database
from tests import web as served_web
from tests.web import Served

NEW = {
    "template": "Write about {{topic}} in {{words}} words.",
    "system": "Be {{tone}}.",
    "variables": [
        {"name": "topic"},
        {"name": "words", "type": "integer", "default": 300},
        {"name": "tone", "default": "brief", "description": "How it sounds."},
    ],
    "settings": {"temperature": 0.2},
    "output_schema": {"type": "object"},
    "note": "first",
}


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    async with served_web.running(served_web.build(database, prompts.routes)) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant, name="ci")) as session:
        yield session


async def call(api: ClientSession, method: str, path: str, *, expect: int, **options: Any) -> Any:
    async with api.request(method, f"/api/v1/prompts{path}", **options) as response:
        text = await response.text()
        assert response.status == expect, text
        return json.loads(text) if text else None


async def add(api: ClientSession, *, name: str = "article", expect: int = 201, **more: Any) -> Any:
    return await call(api, "POST", f"/{name}/versions", json=NEW | more, expect=expect)


async def label(
    api: ClientSession, version: int, *, name: str = "production", expect: int = 200, **more: Any
) -> Any:
    return await call(api, "PUT", f"/article/labels/{name}", json={"version": version} | more, expect=expect)


async def test_the_first_version_makes_the_prompt(api: ClientSession) -> None:
    async with api.post("/api/v1/prompts/article/versions", json=NEW) as response:
        made = await response.json()
        assert (response.status, response.headers["Location"]) == (201, "/api/v1/prompts/article?version=1")

    assert UUID(made.pop("id")).version == 7
    assert made.pop("created_at").endswith("Z")
    assert len(made.pop("content_hash")) == 64
    assert made == NEW | {
        "name": "article", "version": 1, "labels": [], "created_by": "key:ci",
        "variables": [
            {"name": "topic", "type": "string", "default": None, "description": ""},
            {"name": "words", "type": "integer", "default": 300, "description": ""},
            {"name": "tone", "type": "string", "default": "brief", "description": "How it sounds."},
        ],
    }  # fmt: skip
    assert (await add(api, expect=200))["version"] == 1, "the same again is no new version"
    assert (await add(api, template="Other {{topic}}"))["version"] == 2
    assert [v["version"] for v in (await call(api, "GET", "/article/versions", expect=200))["items"]] == [
        2,
        1,
    ]


async def test_a_version_is_found_by_number_by_label_or_as_the_one_in_use(api: ClientSession) -> None:
    await add(api)
    await add(api, template="Two {{topic}}")

    assert (await call(api, "GET", "/article", expect=200))["version"] == 2
    await label(api, 1, reason="proven")
    assert (await call(api, "GET", "/article", expect=200))["version"] == 1
    assert (await call(api, "GET", "/article?label=latest", expect=200))["version"] == 2
    assert (await call(api, "GET", "/article?version=2", expect=200))["labels"] == []
    assert (await call(api, "GET", "/article?label=production", expect=200))["labels"] == ["production"]
    for missing in ("/article?label=staging", "/article?version=3", "/other", "/article/versions/1"):
        await call(api, "GET", missing, expect=404)
    for wrong in ("/article?version=0", "/article?version=x", "/article?tag=x"):
        await call(api, "GET", wrong, expect=422)


async def test_a_label_moves_back_and_its_moves_are_told(api: ClientSession) -> None:
    await add(api)
    await add(api, template="Two {{topic}}")
    for version in (1, 2, 1):
        assert (await label(api, version, reason=f"use {version}"))["version"] == version

    events = (await call(api, "GET", "/article/label-events", expect=200))["items"]

    assert [(e["from_version"], e["to_version"], e["reason"], e["actor"]) for e in events] == [
        (2, 1, "use 1", "key:ci"),
        (1, 2, "use 2", "key:ci"),
        (None, 1, "use 1", "key:ci"),
    ]
    await label(api, 3, expect=404)
    await label(api, 0, expect=422)
    await label(api, 1, name="latest", expect=422)
    await label(api, 1, name="Bad", expect=422)


async def test_a_prompt_is_rendered_with_its_values_as_they_are(api: ClientSession) -> None:
    await add(api)

    rendered = await call(
        api, "POST", "/article/render", json={"values": {"topic": "{{tone}} %s {0}"}}, expect=200
    )

    assert rendered == {
        "name": "article",
        "version": 1,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Write about {{tone}} %s {0} in 300 words."},
        ],
    }


@pytest.mark.parametrize(
    ("values", "pointer"),
    [
        ({}, "/values/topic"),
        ({"topic": None}, "/values/topic"),
        ({"topic": 7}, "/values/topic"),
        ({"topic": "x", "a/b": 1}, "/values/a~1b"),
    ],
)
async def test_a_value_that_is_missing_or_wrong_is_named(
    api: ClientSession, values: dict[str, Any], pointer: str
) -> None:
    await add(api)

    problem = await call(api, "POST", "/article/render", json={"values": values}, expect=422)

    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert "None" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"template": ""}, "/template"),
        ({"template": "{{nothing}}"}, "/template"),
        ({"variables": [{"name": "topic", "required": True}]}, "/variables/0/required"),
        ({"variables": [{"name": "topic", "type": "blob"}]}, "/variables/0/type"),
        ({"number": 7}, "/number"),
        ({"settings": []}, "/settings"),
    ],
)
async def test_a_version_that_breaks_a_rule_says_where(
    api: ClientSession, more: dict[str, Any], pointer: str
) -> None:
    problem = await add(api, expect=422, **more)

    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    await call(api, "GET", "/article", expect=404)


async def test_prompts_are_listed_by_name_page_by_page(api: ClientSession) -> None:
    for name in ("c", "a", "b"):
        await add(api, name=name)

    page = await call(api, "GET", "?limit=2", expect=200)
    rest = await call(api, "GET", f"?limit=2&cursor={page['next_cursor']}", expect=200)

    assert [p["name"] for p in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert (rest["items"][0]["latest_version"], rest["items"][0]["labels"], rest["next_cursor"]) == (
        1,
        {},
        None,
    )


async def test_roles_and_tenants_hold(
    served: Served, api: ClientSession, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await add(api)
    async with served_web.client(served, await served_web.make_key(database, tenant, "viewer")) as viewer:
        await call(viewer, "GET", "/article", expect=200)
        await add(viewer, expect=403)
    async with served_web.client(served, await served_web.make_key(database, tenant, "author")) as author:
        await label(author, 1, expect=403)
    async with served_web.client(served, await served_web.make_key(database, other_tenant)) as stranger:
        await call(stranger, "GET", "/article", expect=404)
        assert (await call(stranger, "GET", "", expect=200))["items"] == []
    async with served_web.client(served) as nobody:
        await call(nobody, "GET", "/article", expect=401)
