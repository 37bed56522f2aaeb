"""The page of the alerts: what is open, acknowledging it, the rules, and the banner."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest
from aiohttp import ClientSession

from server.alarm import Alarm
from server.database import Database
from tests import desk, web


@pytest.fixture
async def trouble(database: Database, admin: asyncpg.Connection, tenant: UUID) -> None:
    """Twelve dead letters, which somebody should look at."""
    await admin.execute(
        "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
        " SELECT app.uuid7(), $1, 'default', 'noop', 'failed', 'x', app.now() FROM generate_series(1, 12)",
        tenant,
    )
    await Alarm(database).evaluate()


async def test_a_quiet_desk_says_so_and_shows_its_rules(client: ClientSession) -> None:
    page = await desk.read(client, "/desk/alerts")

    assert "All is well" in desk.words(page)
    assert "not looked at yet" in desk.words(page)
    assert "50 % or more of the tasks that ended in 15 min failed, given 20 ends" in desk.words(
        page, "#rules"
    )
    assert desk.words(await desk.read(client, "/desk"), "#alerts-banner") == ""


@pytest.mark.usefixtures("trouble")
async def test_an_alert_is_on_the_overview_until_it_is_over_and_acknowledged_here(
    client: ClientSession,
) -> None:
    banner = desk.words(await desk.read(client, "/desk"), "#alerts-banner")
    assert banner.startswith("12 dead letters wait for a person since")
    page = await desk.read(client, "/desk/alerts")
    assert "12 dead letters" in desk.words(await desk.read(client, "/desk/dead-letters"), "#alerts-banner")
    form = page.css_first("#alerts-open form")
    assert form is not None
    assert "Alerts 1 new" in desk.words(page, "#nav")
    answer = await desk.send(client, str(form.attributes["action"]))
    assert answer.status == 303

    page = await desk.read(client, "/desk/alerts")
    assert "by ada@example.org" in desk.words(page, "#alerts-open")
    assert page.css("#alerts-open form") == []
    assert "1 new" not in desk.words(page, "#nav")
    assert "seen by ada@example.org" in desk.words(await desk.read(client, "/desk"), "#alerts-banner")


@pytest.mark.usefixtures("trouble")
async def test_authors_see_alerts_on_their_page_but_no_banner(
    served: web.Served, database: Database, tenant: UUID
) -> None:
    cookies = await desk.sign_up(database, tenant, "author", "art@example.org")
    async with desk.visiting(served, cookies) as author:
        page = await desk.read(author, "/desk/alerts")
        assert "12 dead letters" in desk.words(page)
        assert page.css("main form") == []
        assert desk.words(await desk.read(author, "/desk"), "#alerts-banner") == ""
        assert (
            await desk.send(author, "/desk/alerts/rules", kind="dead_letters", queue="content", threshold="3")
        ).status == 403


async def test_rules_are_changed_in_units_of_people(client: ClientSession) -> None:
    addresses = [
        str(link.attributes["href"]) for link in (await desk.read(client, "/desk/alerts")).css("#rules td a")
    ]
    for address, form, words in (
        (addresses[0], {"threshold": "3"}, "3 or more dead letters are open on"),
        (addresses[1], {"threshold": "1.5", "unit": "h"}, "the oldest dead letter is 90 min old on"),
        (
            addresses[2],
            {"threshold": "2", "unit": "d", "muted_until": "2099-01-01T12:00"},
            "waits for 2 d muted until 1 Jan 2099, 12:00:00 UTC",
        ),
        (
            addresses[3],
            {"threshold": "12.5", "window": "30", "minimum": "7"},
            "12.5 % or more of the tasks that ended in 30 min failed, given 7 ends on",
        ),
    ):
        assert (await desk.send(client, address, version="1", enabled="1", **form)).status == 303
        assert words in desk.words(await desk.read(client, "/desk/alerts"), "#rules")
        assert (await desk.send(client, address, version="1", enabled="1", **form)).status == 422
        assert (await desk.send(client, address, enabled="1", **form)).status == 422
        assert (
            await desk.send(client, address, version="2", enabled="1", **(form | {"threshold": "much"}))
        ).status == 422
    assert (await desk.send(client, addresses[0], version="2", threshold="3")).status == 303
    assert "3 or more dead letters are open off" in desk.words(
        await desk.read(client, "/desk/alerts"), "#rules"
    )


async def test_a_rule_sent_back_as_it_came_stays_as_it_is(
    client: ClientSession, admin: asyncpg.Connection
) -> None:
    await desk.read(client, "/desk/alerts")
    await admin.execute("UPDATE alert_rules SET threshold = 1234567 WHERE kind = 'dead_letter_age'")
    await admin.execute("UPDATE alert_rules SET window_seconds = 86399 WHERE kind = 'failure_rate'")
    rules = "SELECT kind, threshold, window_seconds, minimum FROM alert_rules ORDER BY kind"
    before = await admin.fetch(rules)
    for (rule_id,) in await admin.fetch("SELECT id FROM alert_rules"):
        page = await desk.read(client, f"/desk/alerts/rules/{rule_id}")
        form = {
            str(field.attributes["name"]): str(field.attributes.get("value") or "")
            for field in page.css(".form input")
        }
        unit = page.css_first("#unit option[selected]")
        form |= {"unit": unit.text()} if unit else {}
        assert (await desk.send(client, f"/desk/alerts/rules/{rule_id}", **form)).status == 303

    assert await admin.fetch(rules) == before


async def test_a_rule_about_a_queue_is_made_and_deleted(client: ClientSession) -> None:
    said = {"kind": "ready_age", "queue": "content", "threshold": "5", "unit": "min"}
    assert (await desk.send(client, "/desk/alerts/rules", **said)).status == 303
    assert (await desk.send(client, "/desk/alerts/rules", **said)).status == 422
    page = await desk.read(client, "/desk/alerts")
    (link,) = [one for one in page.css("#rules td a") if "queue content" in one.text()]
    address = str(link.attributes["href"])
    await desk.read(client, address)
    assert (await desk.send(client, f"{address}/delete")).status == 303

    assert "queue content" not in desk.words(await desk.read(client, "/desk/alerts"), "#rules tbody")
