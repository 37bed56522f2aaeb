from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.database import Database
from services import content, publications
from services.content import ContentVersion
from services.content_text import Changes
from services.errors import Conflict, Forbidden, NotFound
from sql import SQL
from tests.content import ask, decide, person, write

ACTOR = "user:ada@example.org"


async def published(database: Database, tenant: UUID, **more: Any) -> ContentVersion:
    async with database.tenant(tenant, ACTOR) as db:
        version = await write(db, tenant, **more)
        await decide(db, await ask(db, tenant, version), person(tenant))
        return version


async def found(database: Database, tenant: UUID, query: str, **more: Any) -> list[str]:
    async with database.tenant(tenant, ACTOR) as db:
        return [hit.title for hit in (await publications.search(db, query, **more))[0]]


async def test_nothing_is_published_without_an_approval_of_exactly_that_version(
    database: Database, tenant: UUID
) -> None:
    """Not even by a statement that goes round the services: a key holds it."""
    approved = await published(database, tenant)
    async with database.tenant(tenant, ACTOR) as db:
        decision = await db.fetchval("SELECT id FROM review_decisions WHERE version_id = $1", approved.id)
        rejected = await write(db, tenant)
        await decide(db, await ask(db, tenant, rejected), person(tenant), "reject")
        rejection = await db.fetchval("SELECT id FROM review_decisions WHERE version_id = $1", rejected.id)
        edited = await content.edit(
            db, person(tenant), approved.content_id, base_version=1, changes=Changes(title="Other")
        )

    for version, decision_id in (
        (rejected, rejection),
        (rejected, decision),
        (edited, decision),
        (rejected, uuid4()),
    ):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            async with database.tenant(tenant, ACTOR) as db:
                await db.execute(SQL["publications.publish"], tenant, version.id, decision_id, "text", ACTOR)


async def test_publishing_what_nobody_approved_is_a_conflict(database: Database, tenant: UUID) -> None:
    async with database.tenant(tenant, ACTOR) as db:
        version = await write(db, tenant)
        with pytest.raises(Conflict, match="not approved"):
            await publications.publish(db, person(tenant), version.content_id)
        with pytest.raises(Forbidden):
            await publications.publish(db, person(tenant, "author"), version.content_id)
        with pytest.raises(Conflict, match="not on the site"):
            await publications.withdraw(db, person(tenant), version.content_id)


async def test_a_text_can_be_withdrawn_and_published_again(database: Database, tenant: UUID) -> None:
    version = await published(database, tenant)

    async with database.tenant(tenant, ACTOR) as db:
        first = await publications.get_post(db, tenant, "how-to-compost")
        await publications.withdraw(db, person(tenant), version.content_id)
        assert (await content.get(db, tenant, version.content_id)).state == "approved"
        with pytest.raises(NotFound):
            await publications.get_post(db, tenant, "how-to-compost")
        assert (await publications.list_posts(db, tenant), await publications.list_tags(db, tenant)) == (
            [],
            [],
        )
        assert await publications.search(db, "sponge") == ([], 0)

        again = await publications.publish(db, person(tenant), version.content_id)
    assert (again.first_published_at, again.published_at > first.published_at) == (
        first.first_published_at,
        True,
    )


async def test_readers_see_the_approved_version_until_the_next_one_is_approved(
    database: Database, tenant: UUID
) -> None:
    version = await published(database, tenant)

    async with database.tenant(tenant, ACTOR) as db:
        second = await content.edit(
            db,
            person(tenant),
            version.content_id,
            base_version=1,
            changes=Changes(title="Heaps", slug="heaps", tags=("heap",)),
        )
        assert (await publications.get_post(db, tenant, "how-to-compost")).title == "How to compost"
        with pytest.raises(NotFound):
            await publications.get_post(db, tenant, "no-such-post")

        await decide(db, await ask(db, tenant, second), person(tenant))

        for slug in ("heaps", "how-to-compost"):
            post = await publications.get_post(db, tenant, slug)
            assert (post.slug, post.title, post.version_id) == ("heaps", "Heaps", second.id), (
                "the old address leads on"
            )
        assert await publications.list_tags(db, tenant) == [("heap", 1)]
        assert len(await publications.list_posts(db, tenant)) == 1


async def test_posts_are_listed_newest_first_by_page_and_tag(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    for number in range(4):
        await published(
            database, tenant, title=f"Post {number}", tags=["even" if number % 2 == 0 else "odd", "all"]
        )
    await published(database, other_tenant)

    async with database.tenant(tenant, ACTOR) as db:
        page = await publications.list_posts(db, tenant, limit=3)
        rest = await publications.list_posts(
            db, tenant, after=(page[-1].first_published_at, page[-1].content_id)
        )
        even = await publications.list_posts(db, tenant, tag="even", limit=1)
        older = await publications.list_posts(
            db, tenant, tag="even", after=(even[0].first_published_at, even[0].content_id)
        )

        assert [post.title for post in page] == ["Post 3", "Post 2", "Post 1"]
        assert [post.title for post in rest] == ["Post 0"]
        assert ([post.title for post in even], [post.title for post in older]) == (["Post 2"], ["Post 0"])
        assert await publications.list_tags(db, tenant) == [("all", 4), ("even", 2), ("odd", 2)]


async def test_search_finds_words_in_their_language_with_titles_first(
    database: Database, tenant: UUID
) -> None:
    await published(database, tenant, title="On heaps", body_md="Nothing else.", tags=[], summary="")
    await published(
        database,
        tenant,
        title="On soil",
        body_md="A heap of it is kept, and more heaps.",
        tags=[],
        summary="",
    )
    await published(
        database,
        tenant,
        title="Über Häuser",
        body_md="Viele Häuser stehen am Hang.",
        tags=[],
        summary="",
        language="de",
    )

    assert await found(database, tenant, "heap") == ["On heaps", "On soil"]
    assert await found(database, tenant, "heap -soil") == ["On heaps"]
    assert await found(database, tenant, '"kept and more"') == ["On soil"]
    assert await found(database, tenant, "haus") == ["Über Häuser"], "the German stem of Häuser"
    assert await found(database, tenant, "the") == []
    assert await found(database, tenant, "") == []
    assert await found(database, tenant, "heap", limit=1, offset=1) == ["On soil"]
    assert await found(database, tenant, "heap", offset=10**9) == []


async def test_search_marks_what_it_found_and_counts_all_pages(database: Database, tenant: UUID) -> None:
    await published(
        database,
        tenant,
        title="One",
        body_md="Turn **the heap** <script>alert(1)</script> often. [1]",
        citations=[],
    )
    await published(database, tenant, title="Two", body_md="A heap.")

    async with database.tenant(tenant, ACTOR) as db:
        hits, total = await publications.search(db, "heap", limit=2)
    one = next(hit for hit in hits if hit.title == "One")
    assert total == 2
    assert one.excerpt == "Turn the \x02heap\x03  alert(1)  often"


@pytest.mark.parametrize(
    "query", ["'", "a & | ! ( )", "\\", "* :*", '"', "-", "<->", "x" * 5000, "é堆🌱", "%_", "\x02"]
)
async def test_no_query_breaks_the_search(database: Database, tenant: UUID, query: str) -> None:
    assert await found(database, tenant, query) == []


async def test_search_never_crosses_tenants(database: Database, tenant: UUID, other_tenant: UUID) -> None:
    await published(database, tenant)

    assert await found(database, tenant, "sponge") == ["How to compost"]
    assert await found(database, other_tenant, "sponge") == []
    async with database.engine() as db:
        assert await publications.search(db, "sponge") == ([], 0), "without a tenant there is nothing"


async def test_search_uses_its_indexes(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """Among many posts of which few match, it must not read them all."""
    version = await published(database, tenant)
    await admin.execute("ALTER TABLE publications DISABLE TRIGGER ALL")
    await admin.execute(
        "INSERT INTO publications (tenant_id, content_id, version_id, decision_id, slug, title, summary, tags, language, body_text, search, published_by)"
        " SELECT tenant_id, app.uuid7(), version_id, decision_id, slug || n, title, summary, '{}', language, '', to_tsvector('english', 'word' || n), ''"
        " FROM publications, generate_series(1, 5000) n WHERE content_id = $1",
        version.content_id,
    )
    await admin.execute("ANALYZE publications")
    scans = (
        "SELECT (SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'publications') AS table_scans, idx_scan AS index_scans"
        " FROM pg_stat_user_indexes WHERE indexrelname IN ('publications_search', 'publications_titles') ORDER BY indexrelname"
    )
    await admin.execute(
        "SELECT pg_stat_force_next_flush()"
    )  # what was scanned so far is told before it is looked at
    before = await admin.fetch(scans)
    async with database.tenant(tenant, ACTOR) as db:
        await publications.search(db, "word77")
        await db.execute("SELECT pg_stat_force_next_flush()")

    async with asyncio.timeout(15):
        while (after := await admin.fetch(scans)) == before:
            await asyncio.sleep(0.02)
    assert [row["table_scans"] for row in after] == [row["table_scans"] for row in before]
    assert [row["index_scans"] for row in after] == [row["index_scans"] + 1 for row in before]


async def test_a_word_in_every_post_finds_the_newest_and_those_that_have_it_in_the_title(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    old = await published(database, tenant, title="All about heaps")
    await admin.execute("ALTER TABLE publications DISABLE TRIGGER ALL")
    await admin.execute(
        "INSERT INTO publications (tenant_id, content_id, version_id, decision_id, slug, title, summary, tags, language, body_text, search, published_by)"
        " SELECT tenant_id, app.uuid7(), version_id, decision_id, slug || n, 'Other ' || n, '', '{}', language, 'heap', to_tsvector('english', 'heap'), ''"
        " FROM publications, generate_series(1, 2000) n WHERE content_id = $1",
        old.content_id,
    )

    async with database.tenant(tenant, ACTOR) as db:
        hits, total = await publications.search(db, "heap", limit=300)

    assert (hits[0].title, total) == ("All about heaps", publications.SEARCH_DEPTH + 1)
