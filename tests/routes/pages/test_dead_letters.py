"""Dead letters on the desk: found by what they have in common, handled once, with the reason for all to read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from server.database import Database
from services import dead_letters
from tests import dead, desk, engine, web


async def _letter(database: Database, tenant: UUID, task_id: UUID) -> dead_letters.DeadLetter:
    async with database.tenant(tenant, "test") as db:
        return await dead_letters.get(db, tenant, task_id)


async def test_a_group_leads_to_its_letters_and_a_filter_can_be_undone(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.letters(database, admin, tenant, 3, error="KeyError", message="<b>topic</b>")
    await dead.letters(database, admin, tenant, 60, error="timeout", state="timed_out")

    page = await desk.read(client, "/desk/dead-letters")
    assert "63 open" in desk.words(page)
    group = next(link for link in page.css("td.main a") if link.text() == "KeyError")
    chosen = await desk.read(client, str(group.attributes["href"]))

    assert len(chosen.css("td.pick")) == 3
    assert "<b>topic</b>" in desk.words(chosen)
    assert "Any error class" in desk.words(chosen)
    older = (await desk.read(client, "/desk/dead-letters?state=timed_out&age=hour")).css_first("a[rel=next]")
    assert older is not None
    rest = await desk.read(client, str(older.attributes["href"]))
    assert len(rest.css("td.pick")) == 10
    nothing = await desk.read(client, "/desk/dead-letters?age=older-day")
    assert "Nothing fits these filters" in desk.words(nothing)


async def test_a_requeue_leads_to_the_new_task_and_the_letter_says_who_and_why(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    later, now = await dead.letters(database, admin, tenant, 2)

    waits = await desk.send(client, f"/desk/dead-letters/{later.id}/requeue", when="later", reason="<mended>")
    runs = await desk.send(client, f"/desk/dead-letters/{now.id}/requeue", when="now")

    states = []
    for answer in (waits, runs):
        task_id = UUID(answer.headers["Location"].split("?")[0].rsplit("/", 1)[1])
        states.append((await engine.get(database, tenant, task_id)).state)
    assert states == ["scheduled", "queued"]
    assert served.woken == ["default", "default"]
    page = await desk.read(client, f"/desk/dead-letters/{later.id}")
    assert "Requeued by ada@example.org" in desk.words(page)
    assert "<mended>" in desk.words(page)
    assert page.css_first("form[action$=requeue]") is None
    assert "Dead letter, requeued" in desk.words(await desk.read(client, f"/desk/tasks/{later.id}"))


async def test_the_second_is_told_who_was_first_and_nothing_more_happens(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    (task,) = await dead.letters(database, admin, tenant)
    async with desk.visiting(
        served, await desk.sign_up(database, tenant, "operator", "bob@example.org")
    ) as bob:
        await desk.send(bob, f"/desk/dead-letters/{task.id}/discard", reason="known")

    for path, fields in (("requeue", {"when": "now"}), ("discard", {"reason": "mine"})):
        answer = await desk.send(client, f"/desk/dead-letters/{task.id}/{path}", **fields)
        assert answer.status == 409
        assert "It was discarded by user:bob@example.org" in (await answer.text())
    letter = await _letter(database, tenant, task.id)
    assert (letter.handled_by, letter.handled_reason) == ("user:bob@example.org", "known")
    assert await admin.fetchval("SELECT count(*) FROM tasks") == 0


async def test_a_discard_without_reason_and_an_empty_note_are_refused_with_words(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    (task,) = await dead.letters(database, admin, tenant)

    discard = await desk.send(client, f"/desk/dead-letters/{task.id}/discard", reason="  ")
    note = await desk.send(client, f"/desk/dead-letters/{task.id}/note", text=" ")

    assert (discard.status, note.status) == (422, 422)
    assert "Reason is needed" in await discard.text()
    assert "Note must not be empty" in await note.text()
    kept = await desk.send(client, f"/desk/dead-letters/{task.id}/note", text="asked\r\nthem")
    page = await desk.read(client, kept.headers["Location"])
    assert "The note is kept." in desk.words(page)
    assert (await _letter(database, tenant, task.id)).note == "asked\nthem"


@pytest.mark.parametrize("role", ["viewer", "reviewer"])
async def test_who_may_not_act_reads_and_is_offered_nothing(
    served: web.Served, database: Database, tenant: UUID, admin: Any, role: str
) -> None:
    (task,) = await dead.letters(database, admin, tenant)
    async with desk.visiting(
        served, await desk.sign_up(database, tenant, role, "vera@example.org")
    ) as reader:
        page = await desk.read(reader, f"/desk/dead-letters/{task.id}")
        listed = await desk.read(reader, "/desk/dead-letters")
        refused = [
            (
                await desk.send(
                    reader, f"/desk/dead-letters/{task.id}/{path}", when="now", reason="x", text="x"
                )
            ).status
            for path in ("requeue", "discard", "note")
        ]

    assert "no luck" in desk.words(page)
    assert page.css("main form") == []
    assert listed.css("input[type=checkbox], button[name=action]") == []
    assert refused == [403, 403, 403]
    assert (await _letter(database, tenant, task.id)).handled_at is None
