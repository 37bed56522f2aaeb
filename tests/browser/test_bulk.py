"""Many at once in a real browser: chosen with the mouse or on a phone without a script, watched to the end."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Browser, expect

from server.bulk import BulkOperations
from server.database import Database
from tests import dead, desk, web
from tests.browser import pages

pytestmark = pytest.mark.browser


def _bulk(database: Database) -> BulkOperations:
    return BulkOperations(database, on_work=lambda _queue: None, on_cancelled=lambda _runs: None)


async def test_all_that_match_are_requeued_and_the_page_shows_it_without_a_reload(
    browser: Browser, served: web.Served, database: Database, tenant: UUID, admin: Any
) -> None:
    await dead.letters(database, admin, tenant, 600)
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    page = visit.page
    await visit.open("/desk/dead-letters")
    await page.get_by_role("link", name="ValueError").click()
    await page.get_by_label("All that match these filters").check()
    await page.get_by_role("button", name="Requeue…").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Requeue 600 dead letters?")
    assert await visit.look() == []
    await page.get_by_text("At once", exact=True).click()
    await page.get_by_label("Why").fill("the provider is back")
    await page.get_by_role("button", name="Requeue 600 dead letters").click()
    await expect(page.locator("#operation-progress")).to_contain_text("0 of 600")
    await page.evaluate("window.stayed = true")

    bulk = _bulk(database)
    await bulk.carry_out(lambda: None)
    await expect(page.locator("#operation-progress")).to_contain_text("250 of 600")
    assert await visit.look() == []
    while await bulk.carry_out(lambda: None):
        pass

    await expect(page.locator("#operation-progress")).to_contain_text("done")
    await expect(page.get_by_text("Stop…")).to_have_count(0)
    assert await page.evaluate("window.stayed") is True
    assert await visit.look() == []
    assert await admin.fetchval("SELECT count(*) FROM tasks WHERE state = 'queued'") == 600


async def test_on_a_phone_without_a_script_ticked_tasks_are_cancelled_and_the_rest_is_stopped(
    browser: Browser, served: web.Served, database: Database, tenant: UUID, admin: Any
) -> None:
    made = await dead.make(database, tenant, 3)
    visit = await pages.visit(
        browser,
        served,
        await desk.sign_up(database, tenant),
        viewport=pages.NARROW,
        java_script_enabled=False,
    )
    page = visit.page
    await visit.open("/desk/tasks")
    for task in made[:2]:
        await page.locator(f"input[value='{task.id}']").check()
    await page.get_by_role("button", name="Cancel…").click()
    await page.get_by_role("button", name="Cancel 2 tasks").click()
    await expect(page.locator("noscript p")).to_contain_text("This page stands still without JavaScript.")
    await page.get_by_text("Stop…").click()
    await page.get_by_role("button", name="Stop it").click()
    await expect(page.locator("#operation-progress")).to_contain_text("2 were left as they are")
    assert not await _bulk(database).carry_out(lambda: None)

    assert await admin.fetchval("SELECT count(*) FROM tasks") == 3
