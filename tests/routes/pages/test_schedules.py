"""The pages about schedules: made with a preview, looked at, changed, paused, run, deleted."""

from __future__ import annotations

from urllib.parse import urlencode
from uuid import UUID

import pytest
from aiohttp import ClientSession

from server.database import Database
from server.ticker import Ticker
from tests import desk, web

FORM = {
    "name": "Weekly digest",
    "type": "noop",
    "payload": '{"seconds": 1}',
    "by": "cron",
    "cron": "30 6 * * mon",
    "time_zone": "Europe/Berlin",
}


async def make(client: ClientSession, **changes: str) -> str:
    """Make a schedule and return the path of its page."""
    answer = await desk.send(client, "/desk/schedules/new", **(FORM | changes))
    assert answer.status == 303, await answer.text()
    return answer.headers["Location"].partition("?")[0]


async def test_a_schedule_is_previewed_before_it_is_made(client: ClientSession) -> None:
    form = {"csrf_token": await desk.token(client), **FORM, "preview": "1"}
    async with client.post("/desk/schedules/new", data=form) as answer:
        page = desk.LexborHTMLParser(await answer.text())

    assert answer.status == 200
    assert "At 06:30 on Monday, Europe/Berlin Nothing is saved yet" in desk.words(page, ".notice.good")
    shown = [item.text() for item in page.css(".notice.good li")]
    assert len(shown) == 5
    assert all(
        text.startswith("Mon ") and text.endswith(("CET", "CEST")) and "06:30" in text for text in shown
    )
    field = page.css_first("#cron")
    assert field is not None
    assert field.attributes["value"] == "30 6 * * mon"
    assert "No schedules yet" in desk.words(await desk.read(client, "/desk/schedules"))


async def test_a_schedule_is_made_shown_and_listed(client: ClientSession) -> None:
    path = await make(client, queue="content", timeout_seconds="60")
    page, listed = await desk.read(client, path), await desk.read(client, "/desk/schedules")

    words = desk.words(page)
    for part in (
        "Weekly digest",
        "At 06:30 on Monday, Europe/Berlin",
        "content, priority 2",
        "1 min 00 s per run",
        "the latest is made up for",
        "No tick yet",
    ):
        assert part in words, part
    assert "Weekly digest noop in content" in desk.words(listed)
    assert "none yet" in desk.words(listed)


async def test_faults_come_back_with_what_was_typed(client: ClientSession) -> None:
    form = {
        "csrf_token": await desk.token(client),
        **FORM,
        "cron": "0 0 31 2 *",
        "payload": '{"seconds": -1}',
        "name": "",
    }
    async with client.post("/desk/schedules/new", data=form) as answer:
        page = desk.LexborHTMLParser(await answer.text())

    assert answer.status == 422
    alert = desk.words(page, "[role=alert]")
    for part in (
        "must have 1 to 100 characters",
        "'0 0 31 2 *' names a day that never comes",
        "greater than or equal to 0",
    ):
        assert part in alert
    assert '{"seconds": -1}' in desk.words(page, "#payload")
    for field, value in (
        ("payload", "[1]"),
        ("payload", "{"),
        ("payload", '{"a":' + "[" * 20_000),
        ("payload", '{"a": "\\u0000"}'),
        ("priority", "high"),
        ("max_attempts", "x"),
        ("time_zone", "Mars"),
    ):
        answer = await desk.send(client, "/desk/schedules/new", **(FORM | {field: value}))
        assert answer.status == 422, field


async def test_what_became_of_ticks_is_shown_with_their_tasks(
    client: ClientSession, database: Database
) -> None:
    path = await make(client, by="interval", every="1", unit="seconds")
    while "No tick yet" in desk.words(await desk.read(client, path)):
        await Ticker(database, on_work=lambda _: None).tick_due()

    words = desk.words(await desk.read(client, path), "#schedule-ticks")
    assert "queued" in words
    assert "queued" in desk.words(await desk.read(client, "/desk/schedules"))
    tasks = await desk.read(client, "/desk/tasks")
    assert "a schedule" in desk.words(tasks)


async def test_a_schedule_is_edited_unless_somebody_was_faster(client: ClientSession) -> None:
    path = await make(client)
    version = (await desk.read(client, f"{path}/edit")).css_first("input[name=version]")
    assert version is not None
    said = FORM | {
        "version": str(version.attributes["value"]),
        "by": "interval",
        "every": "2",
        "unit": "hours",
    }
    assert (await desk.send(client, f"{path}/edit", **said)).status == 303
    assert (await desk.send(client, f"{path}/edit", **said)).status == 422
    assert (await desk.send(client, f"{path}/edit", **FORM)).status == 422

    page = await desk.read(client, path)
    assert "Every 2 hours" in desk.words(page)
    every = (await desk.read(client, f"{path}/edit")).css_first("#every")
    assert every is not None
    assert every.attributes["value"] == "2"


async def test_a_schedule_is_paused_resumed_run_and_deleted(
    client: ClientSession, served: web.Served
) -> None:
    path = await make(client)
    await desk.send(client, f"{path}/pause", until="2099-01-01T12:00")
    assert "until 1 Jan 2099, 12:00:00 UTC" in desk.words(await desk.read(client, path), "#schedule-now")
    assert (await desk.send(client, f"{path}/pause", until="2001-01-01T12:00")).status == 422
    await desk.send(client, f"{path}/resume")
    assert "paused" not in desk.words(await desk.read(client, path), "#schedule-now")
    answer = await desk.send(client, f"{path}/run")
    assert answer.headers["Location"].startswith("/desk/tasks/")
    assert served.woken == ["default"]
    assert "run by ada@example.org" in desk.words(await desk.read(client, path), "#schedule-ticks")
    await desk.send(client, f"{path}/delete")

    page = await desk.read(client, path)
    assert "Deleted" in desk.words(page)
    assert "None: it was deleted." in desk.words(page)
    assert page.css("main form") == []
    assert "No schedules yet" in desk.words(await desk.read(client, "/desk/schedules"))


@pytest.mark.parametrize(
    "before",
    ["0001-01-01T00:00:00+14:00~", "9999-12-31T23:59:59-14:00~manual", "2026-01-01~", "soon~manual", "~"],
)
async def test_a_place_in_the_ticks_that_nobody_gave_out_harms_nothing(
    client: ClientSession, before: str
) -> None:
    await desk.read(client, f"{await make(client)}?{urlencode({'before': before})}")


async def test_a_viewer_may_look_only(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    path = await make(client)
    cookies = await desk.sign_up(database, tenant, "reviewer", "rita@example.org")
    async with desk.visiting(served, cookies) as viewer:
        assert (await desk.read(viewer, path)).css("main form") == []
        await desk.read(viewer, "/desk/schedules")
        await desk.read(viewer, "/desk/schedules/new", status=403)
        for where in ("pause", "resume", "run", "delete"):
            assert (await desk.send(viewer, f"{path}/{where}")).status == 403
