"""The decision form: bound to the text that was shown, kept when something is wrong with it, never by GET."""

from __future__ import annotations

from uuid import UUID

import pytest
from aiohttp import ClientSession

from server.database import Database
from services import content, reviews
from tests import desk, web


@pytest.fixture
async def things(database: Database, tenant: UUID) -> desk.Things:
    return await desk.fill(database, tenant)


def _form(things: desk.Things, **fields: str) -> dict[str, str]:
    return {
        "decision": "approve",
        "reason": "reads well",
        "feedback": "",
        "content_hash": things.version.content_hash,
    } | fields


async def _state(database: Database, tenant: UUID, review_id: UUID) -> str:
    async with database.tenant(tenant, "test") as db:
        return (await reviews.get(db, tenant, review_id)).state


async def test_an_approval_publishes_wakes_the_task_and_says_so(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    answer = await desk.send(client, f"/desk/reviews/{things.review.id}/decision", **_form(things))

    assert answer.status == 303
    assert answer.headers["Location"] == f"/desk/content/{things.review.content_id}?done=approved"
    assert await _state(database, tenant, things.review.id) == "approved"
    assert served.woken == ["default"]
    page = await desk.read(client, answer.headers["Location"])
    assert "Approved: it is on the site." in desk.words(page)
    assert await desk.read(client, "/posts/how-to-compost")


async def test_each_line_of_feedback_becomes_a_point_of_its_own(
    client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    form = _form(things, decision="request_changes", feedback="shorter\r\n\r\n  name the source \r\n")

    await desk.send(client, f"/desk/reviews/{things.review.id}/decision", **form)

    async with database.tenant(tenant, "test") as db:
        points = await reviews.list_open_feedback(db, tenant, things.review.content_id)
    assert [point.text for point in points] == ["shorter", "name the source"]


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"reason": "  "}, 422, "Reason is needed"),
        ({"decision": ""}, 422, "Decision must be one of"),
        ({"feedback": "shorter\n" * 51}, 422, "at most 50 points"),
        ({"content_hash": "0" * 64}, 412, "not the text under review"),
    ],
)
async def test_a_decision_with_a_fault_comes_back_as_it_was_typed(
    client: ClientSession,
    things: desk.Things,
    fields: dict[str, str],
    status: int,
    says: str,
) -> None:
    form = _form(things, **({"reason": "because it reads well"} | fields))
    form["csrf_token"] = await desk.token(client)

    async with client.post(f"/desk/reviews/{things.review.id}/decision", data=form) as answer:
        text = await answer.text()

    assert answer.status == status
    assert says in text
    assert "reason" in fields or "because it reads well" in text
    assert "Your decision on version 2" in text


async def test_the_second_of_two_decisions_is_told_what_became_of_it(
    client: ClientSession, things: desk.Things
) -> None:
    path = f"/desk/reviews/{things.review.id}/decision"
    await desk.send(client, path, **_form(things))

    second = await desk.send(client, path, **_form(things, decision="reject"))

    assert second.status == 409
    assert "is approved already" in await second.text()


async def test_looking_decides_nothing(
    client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    async with client.get(f"/desk/reviews/{things.review.id}/decision", allow_redirects=False) as answer:
        assert answer.status == 405
    async with client.get(f"/desk/reviews/{things.review.id}") as answer:
        assert answer.status == 200
    assert await _state(database, tenant, things.review.id) == "pending"


async def test_an_author_reads_the_review_but_may_not_decide(
    served: web.Served, database: Database, tenant: UUID, things: desk.Things
) -> None:
    cookies = await desk.sign_up(database, tenant, "author", "alan@example.org")
    async with desk.visiting(served, cookies) as author:
        page = await desk.read(author, f"/desk/content/{things.review.content_id}")
        assert "A reviewer decides about it" in desk.words(page)

        refused = await desk.send(author, f"/desk/reviews/{things.review.id}/decision", **_form(things))

    assert refused.status == 403
    assert await _state(database, tenant, things.review.id) == "pending"


async def test_a_form_without_its_token_changes_nothing(
    client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    path = f"/desk/reviews/{things.review.id}/decision"
    async with client.post(path, data=_form(things), allow_redirects=False) as answer:
        assert answer.status == 403
    assert await _state(database, tenant, things.review.id) == "pending"


async def test_an_edit_makes_a_version_that_needs_its_own_decision(
    client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    item = f"/desk/content/{things.review.content_id}"
    form = {
        "base": "2", "title": "How to compost", "slug": "how-to-compost", "summary": "Air.", "tags": "garden, soil",
        "body_md": "# Compost\n\nTurn it. [1]", "note": "cut",
    }  # fmt: skip

    answer = await desk.send(client, f"{item}/edit", **form)
    again = await desk.send(client, f"{item}/edit", **form)

    assert answer.headers["Location"] == f"{item}?done=saved"
    assert again.status == 412
    assert "Version 2 is not the latest" in await again.text()
    async with database.tenant(tenant, "test") as db:
        latest = await content.get_version(db, tenant, things.review.content_id, 3)
        pending = await reviews.find_pending(db, tenant, things.review.content_id)
    assert (latest.kind, latest.tags) == ("edit", ("garden", "soil"))
    assert pending is not None
    assert pending.version == 3


async def test_what_is_on_the_site_can_be_taken_off_and_put_back(
    client: ClientSession, things: desk.Things
) -> None:
    item = f"/desk/content/{things.published.content_id}"

    await desk.send(client, f"{item}/withdraw")
    await desk.read(client, "/posts/the-first-heap", status=404)
    await desk.send(client, f"{item}/publish")

    await desk.read(client, "/posts/the-first-heap")


async def test_an_older_version_can_be_restored(
    client: ClientSession, database: Database, tenant: UUID, things: desk.Things
) -> None:
    item = f"/desk/content/{things.review.content_id}"

    answer = await desk.send(client, f"{item}/restore", number="1", base="2")

    assert answer.status == 303
    async with database.tenant(tenant, "test") as db:
        latest = await content.get_version(db, tenant, things.review.content_id, 3)
    assert (latest.kind, latest.title) == ("restore", "How to compost")
