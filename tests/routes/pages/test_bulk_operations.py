"""Many at once on the desk: ticked rows or all that match, seen before anything happens, watched, stopped, kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import ClientSession
from selectolax.lexbor import LexborHTMLParser

from server.bulk import BulkOperations
from server.database import Database
from tests import dead, desk, web

NEW = "/desk/bulk-operations/new"


def _bulk(database: Database) -> BulkOperations:
    return BulkOperations(database, on_work=lambda _queue: None, on_cancelled=lambda _runs: None)


async def _carry_out(database: Database) -> None:
    while await _bulk(database).carry_out(lambda: None):
        pass


def _hidden(page: LexborHTMLParser, form: str) -> dict[str, str]:
    """Return what the form sends without anybody touching it."""
    return {
        str(field.attributes["name"]): str(field.attributes["value"])
        for field in page.css(f"{form} input[type=hidden]")
    }


async def _preview(
    client: ClientSession, listed: str, scope: str, action: str, *ids: UUID
) -> LexborHTMLParser:
    """Press a button over a list, as its page would send it."""
    page = await desk.read(client, listed)
    fields = _hidden(page, "form[action$='/bulk-operations/new']") | {"scope": scope, "action": action}
    return await desk.read(
        client, f"{NEW}?{urlencode([*fields.items(), *(('id', str(one)) for one in ids)])}"
    )


async def _begin(client: ClientSession, preview: LexborHTMLParser, **fields: str) -> str:
    answer = await desk.send(
        client, "/desk/bulk-operations", **(_hidden(preview, "form[method=post]") | fields)
    )
    assert answer.status == 303, await answer.text()
    return answer.headers["Location"]


async def test_all_that_match_the_filter_are_shown_then_cancelled_and_nothing_else(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.make(database, tenant, 120)
    kept = await dead.make(database, tenant, 2, queue="content")

    preview = await _preview(client, "/desk/tasks?state=queued&queue=default", "all", "cancel")
    assert "Cancel 120 tasks?" in desk.words(preview)
    assert "queue default" in desk.words(preview)
    assert await admin.fetchval("SELECT count(*) FROM bulk_operations") == 0
    later = await dead.make(database, tenant, 1)
    where = await _begin(client, preview, reason="<wrong> topic")
    assert served.woken == ["bulk operations"]
    assert "0 of 120" in desk.words(await desk.read(client, where))
    await _carry_out(database)

    page = await desk.read(client, where)
    words = desk.words(page)
    assert "Cancelled 120" in words
    assert "<wrong> topic" in words
    assert page.css_first("form[action$=stop]") is None
    left = await admin.fetch("SELECT id FROM tasks ORDER BY id")
    assert [row["id"] for row in left] == [task.id for task in (*kept, *later)]
    history = desk.words(await desk.read(client, "/desk/bulk-operations"))
    assert "Cancel 120 tasks" in history
    assert "ada@example.org" in history


async def test_ticked_rows_only_are_requeued(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    made = await dead.letters(database, admin, tenant, 4)

    preview = await _preview(client, "/desk/dead-letters", "chosen", "requeue", made[0].id, made[2].id)
    assert "Requeue 2 dead letters?" in desk.words(preview)
    await _begin(client, preview, when="now")
    await _carry_out(database)

    rows = await admin.fetch("SELECT retry_of, state FROM tasks ORDER BY retry_of")
    assert [(row["retry_of"], row["state"]) for row in rows] == [
        (made[0].id, "queued"),
        (made[2].id, "queued"),
    ]
    handled = desk.words(await desk.read(client, "/desk/dead-letters?handled=1"))
    assert handled.count("requeued") == 2


async def test_an_age_is_fixed_at_the_preview(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.letters(database, admin, tenant, 2)
    preview = await _preview(client, "/desk/dead-letters?age=hour&q=luck", "all", "discard")
    assert "Discard 2 dead letters?" in desk.words(preview)

    await _begin(client, preview, reason="known")
    await _carry_out(database)

    assert await admin.fetchval("SELECT count(*) FROM dead_letters WHERE handled_reason = 'known'") == 2
    wanted = json.loads(await admin.fetchval("SELECT filter FROM bulk_operations"))
    assert set(wanted) == {"failed_after", "q"}


async def test_nothing_ticked_and_nothing_met_say_so_and_offer_no_button(client: ClientSession) -> None:
    for query, says in (
        ("action=cancel&target=tasks&scope=chosen", "Nothing is ticked"),
        ("action=discard&target=dead_letters", "Nothing is ticked"),
        ("action=cancel&target=tasks&scope=all", "Nothing matches"),
        ("action=requeue&target=tasks&id=019a0000-0000-7000-8000-000000000000", "Nothing matches"),
    ):
        page = await desk.read(client, f"{NEW}?{query}")
        assert says in desk.words(page)
        assert page.css("main form") == []
    for query in (
        "",
        "action=delete&target=tasks",
        "action=cancel",
        "action=cancel&target=tasks&id=nonsense",
    ):
        await desk.read(client, f"{NEW}?{query}", status=400)
    for query in (
        "action=discard&target=tasks&scope=all",
        "action=cancel&target=tasks&scope=all&state=failed",
    ):
        await desk.read(client, f"{NEW}?{query}", status=422)


async def test_a_discard_without_reason_is_shown_again_and_a_strange_confirmation_is_not(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.letters(database, admin, tenant, 2)
    preview = await _preview(client, "/desk/dead-letters", "all", "discard")

    again = await desk.send(
        client, "/desk/bulk-operations", **_hidden(preview, "form[method=post]"), reason=" "
    )
    strange = await desk.send(client, "/desk/bulk-operations", confirmation="AAAA", reason="x")

    assert again.status == 422
    assert "Reason is needed to discard" in await again.text()
    assert "Discard 2 dead letters?" in await again.text()
    assert strange.status == 400
    assert await admin.fetchval("SELECT count(*) FROM bulk_operations") == 0


async def test_a_stop_says_what_is_left_and_who_stopped_it(
    client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.make(database, tenant, 600)
    where = await _begin(client, await _preview(client, "/desk/tasks", "all", "cancel"))
    assert await _bulk(database).carry_out(lambda: None)

    answer = await desk.send(client, f"{where}/stop")

    words = desk.words(await desk.read(client, answer.headers["Location"]))
    done = await admin.fetchval("SELECT count(*) FROM task_history")
    assert 0 < done < 600
    assert f"Cancelled {done}" in words
    assert f"by ada@example.org: {600 - done} were left as they are" in words
    assert "Stopped. What was done by then stays done." in words


async def test_the_stream_sends_progress_and_ends_with_the_operation(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 300)
    where = await _begin(client, await _preview(client, "/desk/tasks", "all", "cancel"))
    sent: dict[str, str] = {}

    async with asyncio.timeout(20), client.get(f"{where}/live") as stream:
        event = ""
        async for line in stream.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                event = text[7:]
            elif text.startswith("data: ") and event == "fragment":
                fragment = json.loads(text[6:])
                sent[fragment["id"]] = fragment["html"]
                await _carry_out(database)
            elif event == "end":
                break

    assert "300" in sent["operation-progress"]
    assert "state-good" in sent["operation-progress"]
    assert "form" not in sent["operation-actions"]


async def test_whoever_is_no_operator_is_offered_nothing_and_refused(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.make(database, tenant, 2)
    preview = await _preview(client, "/desk/tasks", "all", "cancel")
    where = await _begin(client, preview)
    async with desk.visiting(
        served, await desk.sign_up(database, tenant, "reviewer", "vera@example.org")
    ) as reader:
        listed = await desk.read(reader, "/desk/tasks")
        page = await desk.read(reader, where)
        await desk.read(reader, f"{NEW}?action=cancel&target=tasks&scope=all", status=403)
        begun = await desk.send(reader, "/desk/bulk-operations", **_hidden(preview, "form[method=post]"))
        stopped = await desk.send(reader, f"{where}/stop")

    assert listed.css("input[type=checkbox], button[name=action]") == []
    assert page.css("main form") == []
    assert (begun.status, stopped.status) == (403, 403)
    assert await admin.fetchval("SELECT state FROM bulk_operations") == "running"
