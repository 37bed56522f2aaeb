"""The list of tasks in a real browser: it moves by itself, keeps what a person is at, and lets them choose many."""

from __future__ import annotations

from uuid import UUID

import pytest
from playwright.async_api import Browser, expect

from server.database import Database
from tests import dead, desk, engine, web
from tests.browser import pages

pytestmark = pytest.mark.browser


async def test_the_list_moves_by_itself_and_leaves_a_person_their_place(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    first = await engine.enqueue(database, tenant, "noop", {"seconds": 7})
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    page = visit.page
    await visit.open("/desk/tasks")
    rows = page.locator("#tasks-rows tbody tr")
    await expect(rows).to_have_count(1)
    await page.evaluate("window.stayed = true")
    await rows.locator("a").focus()

    await engine.enqueue(database, tenant, "noop")

    await expect(rows).to_have_count(2)
    await expect(page.locator("#tasks-states")).to_contain_text("queued 2")
    held = await page.evaluate("document.activeElement.getAttribute('href')")
    assert held == f"/desk/tasks/{first.id}"
    await engine.cancel(database, first)
    await expect(rows.nth(1)).to_contain_text("cancelled")
    assert await page.evaluate("window.stayed") is True
    assert await visit.look() == []


async def test_the_list_stands_still_while_rows_are_chosen(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 2)
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    page = visit.page
    await visit.open("/desk/tasks")
    rows, states = page.locator("#tasks-rows tbody tr"), page.locator("#tasks-states")
    box = rows.nth(1).get_by_role("checkbox")
    await box.check()

    # With the second count, what was sent beside the first one has been dealt with.
    for count in (3, 4):
        await engine.enqueue(database, tenant, "noop")
        await expect(states).to_contain_text(f"queued {count}")

    await expect(rows).to_have_count(2)
    await expect(box).to_be_checked()
    await box.uncheck()
    await engine.enqueue(database, tenant, "noop")
    await expect(rows).to_have_count(5)


async def test_all_of_a_page_or_a_range_of_it_is_chosen_at_once(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    await dead.make(database, tenant, 6)
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    page = visit.page
    await visit.open("/desk/tasks")
    every, boxes = page.get_by_label("Choose all on this page"), page.locator("td.pick input")
    await every.check()
    await expect(page.locator("td.pick input:checked")).to_have_count(6)
    await expect(page.get_by_text("The ticked ones (6)")).to_be_visible()
    await every.uncheck()
    await expect(page.locator("td.pick input:checked")).to_have_count(0)

    await boxes.nth(1).click()
    await boxes.nth(4).click(modifiers=["Shift"])

    await expect(page.get_by_text("The ticked ones (4)")).to_be_visible()
    assert await every.evaluate("box => box.indeterminate") is True
    assert await visit.look() == []
    await page.get_by_role("button", name="Cancel…").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Cancel 4 tasks?")
