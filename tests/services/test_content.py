from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.database import Database
from services import content, content_text, reviews
from services.content import ContentVersion
from services.content_states import STATES, TRANSITIONS
from services.content_text import Changes, Text
from services.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed
from tests.content import BODY, ask, citation, decide, person, waiting_task, write
from tests.patience import patiently

ACTOR = "user:ada@example.org"
WORDS = st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
MIGRATION = Path("sql/migrations/0002_content.up.sql").read_text(encoding="utf-8")


async def edit(
    database: Database, tenant: UUID, version: ContentVersion, base: int | None = None, **changes: Any
) -> ContentVersion:
    async with database.tenant(tenant, ACTOR) as db:
        return await content.edit(
            db,
            person(tenant, "author"),
            version.content_id,
            base_version=base or version.number,
            changes=Changes(**changes),
        )


async def written(database: Database, tenant: UUID, **more: Any) -> ContentVersion:
    async with database.tenant(tenant, ACTOR) as db:
        return await write(db, tenant, **more)


async def test_a_version_keeps_how_it_came_to_be(database: Database, tenant: UUID) -> None:
    made = {
        "retrieval": {"query": "q"},
        "scores": {"clarity": 7},
        "checks": [{"name": "length"}],
        "model": "m",
        "note": "first",
    }
    version = await written(database, tenant, **made)

    async with database.tenant(tenant, ACTOR) as db:
        assert await content.get_version(db, tenant, version.content_id, 1) == version
        item = await content.get(db, tenant, version.content_id)
        assert [cited.marker for cited in await content.list_citations(db, tenant, version.id)] == [1, 2, 3]
    assert (version.number, version.kind, version.parent_number, version.slug) == (
        1,
        "draft",
        None,
        "how-to-compost",
    )
    assert (version.retrieval, version.scores, version.model) == ({"query": "q"}, {"clarity": 7}, "m")
    assert version.tags == ("garden", "soil-life")
    assert (item.state, item.latest_number, item.title, item.live_number) == (
        "draft",
        1,
        "How to compost",
        None,
    )


async def test_versions_are_numbered_without_gaps_when_many_write_at_once(
    database: Database, tenant: UUID
) -> None:
    first = await written(database, tenant)

    await asyncio.gather(
        *(
            patiently(
                lambda n=n: written(
                    database, tenant, content_id=first.content_id, kind="refine", body_md=f"{BODY}\n{n}"
                )
            )
            for n in range(15)
        )
    )

    async with database.tenant(tenant, ACTOR) as db:
        heads = await content.list_versions(db, tenant, first.content_id)
    assert [head.number for head in heads] == list(range(16, 0, -1))
    assert [head.parent_number for head in heads] == [*range(15, 0, -1), None]


async def test_of_many_edits_of_one_version_one_wins(database: Database, tenant: UUID) -> None:
    first = await written(database, tenant)

    results = await asyncio.gather(
        *(
            patiently(lambda n=n: edit(database, tenant, first, body_md=f"{BODY}\nEdit {n}."))
            for n in range(20)
        ),
        return_exceptions=True,
    )

    won = [result for result in results if isinstance(result, ContentVersion)]
    lost = [result for result in results if isinstance(result, PreconditionFailed)]
    assert (len(won), len(lost), won[0].number) == (1, 19, 2)


async def test_of_many_restores_one_wins(database: Database, tenant: UUID) -> None:
    first = await written(database, tenant)
    await edit(database, tenant, first, body_md="Other words.")

    async def restore() -> ContentVersion:
        async with database.tenant(tenant, ACTOR) as db:
            return await content.restore(
                db, person(tenant, "author"), first.content_id, number=1, base_version=2
            )

    results = await asyncio.gather(*(patiently(restore) for _ in range(20)), return_exceptions=True)

    won = [result for result in results if isinstance(result, ContentVersion)]
    assert (len(won), won[0].number, won[0].kind, won[0].parent_number) == (1, 3, "restore", 1)
    assert won[0].content_hash == first.content_hash
    assert all(isinstance(result, PreconditionFailed) for result in results if result is not won[0])


async def test_saving_the_same_words_is_no_new_version(database: Database, tenant: UUID) -> None:
    """A form sends \\r\\n where a program sends \\n, and blanks round tags."""
    first = await written(database, tenant)

    same = await edit(
        database, tenant, first, body_md=BODY.replace("\n", "\r\n"), tags=(" Garden ", "soil life")
    )

    assert same == first


async def test_an_edit_after_the_approval_needs_a_decision_of_its_own_and_saving_nothing_keeps_it(
    database: Database, tenant: UUID
) -> None:
    first = await written(database, tenant)
    async with database.tenant(tenant, ACTOR) as db:
        await decide(db, await ask(db, tenant, first), person(tenant))

    assert await edit(database, tenant, first, title=" How to  compost ") == first
    async with database.tenant(tenant, ACTOR) as db:
        assert (await content.get(db, tenant, first.content_id)).state == "published"

    second = await edit(database, tenant, first, title="How to compost well")
    async with database.tenant(tenant, ACTOR) as db:
        item = await content.get(db, tenant, first.content_id)
        heads = await content.list_versions(db, tenant, first.content_id)
    assert (item.state, item.latest_number, item.live_number, item.live_slug) == (
        "draft",
        2,
        1,
        "how-to-compost",
    )
    assert [(head.number, head.review_state, head.live) for head in heads] == [
        (2, None, False),
        (1, "approved", True),
    ]
    assert (second.kind, second.author) == ("edit", "user:rita@example.org")


async def test_an_edit_keeps_the_citations_that_still_stand_in_the_text_and_checks_anew(
    database: Database, tenant: UUID
) -> None:
    first = await written(database, tenant)

    second = await edit(database, tenant, first, body_md=BODY.replace("[2]", ""))

    async with database.tenant(tenant, ACTOR) as db:
        cited = await content.list_citations(db, tenant, second.id)
    assert [entry.marker for entry in cited] == [1, 3]
    states = {check["name"]: check["state"] for check in second.checks}
    assert (states["section_citations"], states["quotes"]) == ("fail", "warn")


async def test_an_edit_by_a_viewer_of_an_old_or_unknown_version_is_refused(
    database: Database, tenant: UUID
) -> None:
    first = await written(database, tenant)
    await edit(database, tenant, first, title="Second")

    with pytest.raises(PreconditionFailed, match="that is version 2"):
        await edit(database, tenant, first, title="Third")
    async with database.tenant(tenant, ACTOR) as db:
        with pytest.raises(Forbidden):
            await content.edit(
                db, person(tenant, "viewer"), first.content_id, base_version=2, changes=Changes(title="x")
            )
        with pytest.raises(NotFound):
            await content.edit(db, person(tenant), uuid4(), base_version=2, changes=Changes(title="x"))
        with pytest.raises(NotFound):
            await content.restore(db, person(tenant), first.content_id, number=9, base_version=2)


async def test_nobody_edits_under_the_hands_of_a_task_that_writes(database: Database, tenant: UUID) -> None:
    """While it waits for the decision the text may be edited; once it goes on, its next draft would bury the edit."""
    async with database.tenant(tenant, ACTOR) as db:
        _, review = await waiting_task(db, tenant)
        version = await content.get_version_by_id(db, tenant, review.version_id)
    second = await edit(database, tenant, version, title="Edited in review")

    async with database.tenant(tenant, ACTOR) as db:
        moved = await reviews.find_pending(db, tenant, version.content_id)
        assert moved is not None
        await decide(db, moved, person(tenant), "request_changes")

    with pytest.raises(Conflict, match="still writing"):
        await edit(database, tenant, second, title="Edited too late")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"title": " "}, "/title"),
        ({"title": "x" * 301}, "/title"),
        ({"slug": "Ä b"}, "/slug"),
        ({"slug": "-a"}, "/slug"),
        ({"body_md": "\n"}, "/body_md"),
        ({"summary": "x" * 2001}, "/summary"),
        ({"tags": tuple(f"t{n}" for n in range(21))}, "/tags"),
        ({"language": "english!"}, "/language"),
    ],
)
async def test_a_text_that_breaks_a_rule_is_refused(
    database: Database, tenant: UUID, changes: dict[str, Any], pointer: str
) -> None:
    first = await written(database, tenant)

    with pytest.raises(Invalid) as caught:
        await edit(database, tenant, first, **changes)

    assert [fault.pointer for fault in caught.value.faults] == [pointer]


async def test_an_address_belongs_to_one_item_for_good(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    first = await written(database, tenant)
    second = await written(database, tenant)
    elsewhere = await written(database, other_tenant)

    assert (first.slug, second.slug, elsewhere.slug) == (
        "how-to-compost",
        "how-to-compost-2",
        "how-to-compost",
    )
    with pytest.raises(Invalid, match="address of another text"):
        await edit(database, tenant, second, slug="how-to-compost")
    moved = await edit(database, tenant, first, slug="compost")
    with pytest.raises(Invalid, match="address of another text"):
        await edit(database, tenant, second, slug="how-to-compost")
    assert (await edit(database, tenant, moved, slug="how-to-compost")).slug == "how-to-compost", (
        "its own old one it may have"
    )


async def test_a_title_without_latin_letters_still_gets_an_address(database: Database, tenant: UUID) -> None:
    version = await written(database, tenant, title="堆肥", language="zh")

    assert re.fullmatch(r"item-[0-9a-f]{8}", version.slug)


async def test_versions_and_citations_cannot_be_changed_or_taken_away(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await written(database, tenant)

    for table in ("content_versions", "citations", "review_decisions"):
        for statement in (
            f"UPDATE {table} SET tenant_id = tenant_id",
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
        ):
            with pytest.raises(asyncpg.RestrictViolationError):
                await admin.execute(statement)
        async with database.tenant(tenant, ACTOR) as db:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute(f"DELETE FROM {table}")


async def test_the_database_refuses_a_gap_in_the_numbers(
    database: Database, tenant: UUID, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = await written(database, tenant)

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await admin.execute(
            "INSERT INTO content_versions (tenant_id, content_id, number, kind, title, slug, summary, body_md, tags, language, note, author, created_by)"
            " SELECT tenant_id, content_id, 3, kind, title, slug, summary, body_md, tags, language, note, author, created_by"
            " FROM content_versions WHERE id = $1",
            first.id,
        )


async def test_another_tenant_sees_nothing(database: Database, tenant: UUID, other_tenant: UUID) -> None:
    version = await written(database, tenant)

    async with database.tenant(other_tenant, ACTOR) as db:
        for owner in (tenant, other_tenant):
            assert await content.list_items(db, owner) == []
            for look in (
                content.get(db, owner, version.content_id),
                content.get_version_by_id(db, owner, version.id),
            ):
                with pytest.raises(NotFound):
                    await look
        with pytest.raises(NotFound):
            await write(db, other_tenant, version.content_id)


async def test_items_are_found_by_state_title_and_task_page_by_page(database: Database, tenant: UUID) -> None:
    versions = [await written(database, tenant, title=f"Heap {n}") for n in range(3)]
    ids = [version.content_id for version in versions]

    async with database.tenant(tenant, ACTOR) as db:
        await ask(db, tenant, versions[1])

        assert [item.id for item in await content.list_items(db, tenant, limit=2)] == [ids[2], ids[1]]
        assert [item.id for item in await content.list_items(db, tenant, before=ids[1])] == [ids[0]]
        assert [item.id for item in await content.list_items(db, tenant, state="in_review")] == [ids[1]]
        assert [item.id for item in await content.list_items(db, tenant, title="heap 2")] == [ids[2]]
        assert await content.list_items(db, tenant, task_id=uuid4()) == []
        assert await content.count_states(db, tenant) == {"draft": 2, "in_review": 1}


async def test_every_state_change_that_the_table_does_not_have_is_refused(
    database: Database, tenant: UUID
) -> None:
    version = await written(database, tenant)

    for state in STATES:
        for verb, step in TRANSITIONS.items():
            async with database.tenant(tenant, ACTOR) as db:
                await db.execute("UPDATE content_items SET state = $1", state)
                if state in step.sources:
                    assert await content.move(db, tenant, version.content_id, verb) == step.target
                else:
                    with pytest.raises(Conflict, match=state):
                        await content.move(db, tenant, version.content_id, verb)


def test_the_database_knows_the_same_states() -> None:
    listed = re.search(r"content_items_state\s+CHECK \(state IN \(([^)]*)\)\)", MIGRATION)

    assert listed is not None
    assert {state.strip(" '") for state in listed[1].split(",")} == set(STATES)
    assert {step.target for step in TRANSITIONS.values()} == set(STATES), "each state can be reached"


async def test_the_database_and_python_compute_the_same_hash(database: Database, tenant: UUID) -> None:
    hostile = (
        'quote " slash / back \\ bell \x07\x1f\x7f tab \t nl \n cr \r é 堆 🌱 \u2028 \ufeff </script> \ud7ff'
    )
    text = Text(
        title=hostile,
        slug="a-b",
        summary=hostile,
        body_md=hostile,
        tags=(hostile, "b,c", '"'),
        language="pt-BR",
    )

    async with database.tenant(tenant, ACTOR) as db:
        computed = await db.fetchval(
            "SELECT app.content_hash($1, $2, $3, $4, $5, $6)",
            text.title, text.slug, text.summary, text.body_md, text.tags, text.language,
        )  # fmt: skip
    assert computed == text.content_hash


@given(WORDS, WORDS, st.lists(WORDS, max_size=5))
def test_cleaning_twice_changes_nothing_more(title: str, body: str, tags: list[str]) -> None:
    text = Text(
        title=f"t{title}"[:200], slug="a", summary=title, body_md=f"b{body}", tags=tuple(tags), language="en"
    )

    once = content_text.clean(text)

    assert content_text.clean(once) == once


@given(WORDS)
def test_a_slug_made_from_any_title_is_one(title: str) -> None:
    slug = content_text.slugify(title)

    assert slug == "" or re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)


async def test_a_document_lists_what_cites_it(database: Database, tenant: UUID) -> None:
    document = uuid4()
    version = await written(database, tenant, citations=[citation(1, document_id=document)])

    async with database.tenant(tenant, ACTOR) as db:
        assert await content.list_citing(db, tenant, document) == [
            (version.content_id, "How to compost", "draft")
        ]
    await edit(database, tenant, version, body_md="No source is cited any more.")
    async with database.tenant(tenant, ACTOR) as db:
        assert await content.list_citing(db, tenant, document) == []
