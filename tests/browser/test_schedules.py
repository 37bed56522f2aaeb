"""A schedule made, watched and paused in a real browser; an alert that appears without a reload."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from playwright.async_api import Browser, expect

from server.alarm import Alarm
from server.database import Database
from server.ticker import Ticker
from tests import desk, web
from tests.browser import pages

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    "look",
    [
        pytest.param({"viewport": pages.WIDE, "color_scheme": "light"}, id="wide light"),
        pytest.param({"viewport": pages.NARROW, "color_scheme": "dark"}, id="narrow dark"),
    ],
)
async def test_a_schedule_is_made_with_a_preview_and_ticks_before_the_eyes(
    browser: Browser, served: web.Served, database: Database, tenant: UUID, look: dict[str, Any]
) -> None:
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant), **look)
    page = visit.page
    await visit.open("/desk/schedules")
    await page.get_by_role("link", name="New schedule").click()
    await page.get_by_label("Name", exact=True).fill("Heartbeat")
    await page.get_by_label("Task type").select_option("noop")
    await page.get_by_label("Cron expression", exact=True).fill("30 2 29 2 *")
    await page.get_by_role("button", name="Preview").click()
    await expect(page.get_by_role("heading", name="At 02:30 on February 29, UTC")).to_be_visible()
    await expect(page.locator(".notice.good li")).to_have_text(
        [
            f"{day} 29 Feb {year}, 02:30 UTC"
            for day, year in (("Tue", 2028), ("Sun", 2032), ("Fri", 2036), ("Wed", 2040), ("Mon", 2044))
        ]
    )
    await page.get_by_text("At an interval").click()
    await expect(page.get_by_label("Cron expression", exact=True)).to_be_hidden()
    await page.get_by_label("Interval", exact=True).fill("1")
    await page.get_by_label("Unit").select_option("seconds")
    assert await visit.look() == []
    await page.get_by_role("button", name="Create the schedule").click()
    await expect(page.get_by_role("heading", name="Heartbeat")).to_be_visible()
    await expect(page.get_by_text("No tick yet")).to_be_visible()

    ticking = asyncio.create_task(Ticker(database, on_work=lambda _: None).keep(lambda: None))
    try:
        await expect(page.locator("#schedule-ticks tbody tr").nth(1)).to_be_visible()
        assert await visit.look() == []
        await page.get_by_text("Pause…").click()
        assert await visit.look() == []
        await page.get_by_role("button", name="Pause the schedule").click()
        await expect(page.locator("#schedule-now")).to_contain_text("paused")
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
    await visit.open("/desk/schedules")
    assert await visit.look() == []


async def test_an_alert_comes_to_whoever_has_the_overview_open(
    browser: Browser, served: web.Served, database: Database, admin: asyncpg.Connection, tenant: UUID
) -> None:
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant), viewport=pages.NARROW)
    page = visit.page
    await visit.open("/desk")
    await admin.execute(
        "INSERT INTO dead_letters (task_id, tenant_id, queue, type, state, error_class, failed_at)"
        " SELECT app.uuid7(), $1, 'default', 'noop', 'failed', 'x', app.now() FROM generate_series(1, 12)",
        tenant,
    )
    await Alarm(database).evaluate()

    await page.get_by_role("link", name="12 dead letters wait for a person").click()
    await expect(page.get_by_role("heading", name="Alerts")).to_be_visible()
    assert await visit.look() == []
    await page.get_by_role("button", name="Acknowledge").click()
    await expect(page.locator("#alerts-open")).to_contain_text("by ada@example.org")
    await page.get_by_role("link", name="Change the rule: 10 or more dead letters are open").click()
    assert await visit.look() == []
