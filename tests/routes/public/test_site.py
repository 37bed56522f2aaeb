"""The published site: what readers and machines get, and what they must not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest
from aiohttp import ClientSession

from server.database import Database
from services import content, publications
from services.content_text import Changes
from tests import content as contents
from tests import desk, web

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
async def served(database: Database, tenant: UUID) -> AsyncIterator[web.Served]:
    async with web.running(desk.build(database)) as running:
        yield running


@pytest.fixture
async def reader(served: web.Served) -> AsyncIterator[ClientSession]:
    async with desk.visiting(served) as session:
        yield session


async def _publish(database: Database, tenant: UUID, **more: object) -> UUID:
    async with database.tenant(tenant, "test") as db:
        version = await contents.write(db, tenant, **more)
        review = await contents.ask(db, tenant, version)
        await contents.decide(db, review, contents.person(tenant))
    return version.content_id


async def test_a_post_shows_its_text_with_notes_that_link_both_ways(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    await _publish(database, tenant, title="How to compost")

    page = await desk.read(reader, "/posts/how-to-compost")

    assert [heading.text() for heading in page.css("article .prose h2")] == [
        "Compost",
        "Air",
        "Water",
        "Warmth",
    ]
    assert page.css_first("article .prose a[href='#note-1']") is not None
    assert "Turn the heap every week." in desk.words(page, "#note-1 q")
    assert page.css_first("#note-1 a[href='#ref-1']") is not None
    canonical = page.css_first("link[rel=canonical]")
    assert canonical is not None
    assert canonical.attributes["href"] == "http://test/posts/how-to-compost"
    data = page.css_first("script[type='application/ld+json']")
    assert data is not None
    assert json.loads(data.text())["headline"] == "How to compost"


async def test_hostile_words_are_only_words(reader: ClientSession, database: Database, tenant: UUID) -> None:
    await _publish(
        database, tenant, title="</script><script>alert(1)</script>", summary='"><img src=x onerror=alert(1)>',
        tags=["a&b"], slug="hostile",
    )  # fmt: skip

    for path in ("/", "/posts/hostile", "/search?q=alert", "/search?q=%3Cscript%3E"):
        page = await desk.read(reader, path)
        assert "<script>alert" not in (page.html or ""), path
        assert page.css_first("img") is None, path
    async with reader.get("/feed.xml") as answer:
        title = ET.fromstring(await answer.text()).findtext(f"{ATOM}entry/{ATOM}title")
    assert title == "</script><script>alert(1)</script>"


async def test_the_list_shows_every_post_once_over_its_pages(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    for number in range(23):
        await _publish(database, tenant, title=f"Post {number}", tags=["heap"])

    for start in ("/", "/tags/heap"):
        seen: list[str] = []
        path: str | None = start
        while path:
            page = await desk.read(reader, path)
            seen += [link.text() for link in page.css(".posts h2 a")]
            older = page.css_first("a[rel=next]")
            path = str(older.attributes["href"]) if older is not None else None
        assert seen == [f"Post {number}" for number in reversed(range(23))]


async def test_an_old_address_leads_to_the_one_the_post_has_now(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    content_id = await _publish(database, tenant, title="First title")
    async with database.tenant(tenant, "test") as db:
        editor = contents.person(tenant, "author", "eve@example.org")
        version = await content.edit(db, editor, content_id, base_version=1, changes=Changes(slug="second"))
        await contents.decide(db, await contents.ask(db, tenant, version), contents.person(tenant))

    async with reader.get("/posts/first-title", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (301, "/posts/second")


async def test_search_marks_what_it_found_and_says_when_there_is_nothing(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    await _publish(database, tenant, title="How to compost")

    found = await desk.read(reader, "/search?q=microbes")
    assert [mark.text() for mark in found.css("mark")][:1] == ["microbes"]
    nothing = await desk.read(reader, "/search?q=zeppelin&page=999999")
    assert "0 texts with “zeppelin”" in desk.words(nothing)


async def test_the_feed_and_the_sitemap_name_what_is_published(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    content_id = await _publish(database, tenant, title="How to compost")

    async with reader.get("/feed.xml") as answer:
        feed = ET.fromstring(await answer.text())
        assert answer.content_type == "application/atom+xml"
    assert feed.findtext(f"{ATOM}entry/{ATOM}id") == f"urn:uuid:{content_id}"
    async with reader.get("/sitemap.xml") as answer:
        assert "<loc>http://test/posts/how-to-compost</loc>" in await answer.text()


async def test_a_reader_who_has_the_page_is_not_sent_it_again(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    await _publish(database, tenant, title="How to compost")
    async with reader.get("/posts/how-to-compost") as answer:
        tag = answer.headers["ETag"]
        assert answer.headers["Cache-Control"] == "public, no-cache"

    async with reader.get("/posts/how-to-compost", headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    await _publish(database, tenant, title="Another")
    async with reader.get("/", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 200


async def test_what_is_not_published_is_nowhere(
    reader: ClientSession, database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "test") as db:
        await contents.ask(db, tenant, await contents.write(db, tenant, title="Not yet"))
    gone = await _publish(database, tenant, title="Gone again")
    async with database.tenant(tenant, "test") as db:
        await publications.withdraw(db, contents.person(tenant), gone)

    for path in ("/", "/search?q=microbes", "/feed.xml", "/sitemap.xml"):
        async with reader.get(path) as answer:
            text = await answer.text()
        assert "Not yet" not in text, path
        assert "not-yet" not in text, path
        assert "Gone again" not in text, path
        assert "gone-again" not in text, path
    for path in ("/posts/not-yet", "/posts/gone-again", "/tags/garden"):
        await desk.read(reader, path, status=404)


async def test_another_tenants_posts_are_under_their_own_host_only(
    served: web.Served, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await _publish(database, tenant, title="Ours")
    await _publish(database, other_tenant, title="Theirs")
    async with desk.visiting(served) as reader:
        async with reader.get("/") as answer:
            ours = await answer.text()
        async with reader.get("/", headers={"Host": "globex"}) as answer:
            theirs = await answer.text()

    assert "Ours" in ours
    assert "Theirs" not in ours
    assert "Theirs" in theirs
    assert "Ours" not in theirs


@pytest.mark.parametrize("path", ["/?after=nonsense", "/?after=2026-11-21T00:00:00_x", "/tags/none?after=_"])
async def test_an_address_that_cannot_be_is_answered_not_followed(reader: ClientSession, path: str) -> None:
    async with reader.get(path) as answer:
        assert answer.status in {400, 404}
