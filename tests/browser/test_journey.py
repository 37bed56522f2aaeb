"""What people do, done as they do it: read, decide, publish, find; without a mouse; without JavaScript; while things move."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from playwright.async_api import Browser, expect

from server.database import Database
from services import content, reviews
from services.task_context import TaskContext
from tests import desk, engine, web
from tests.browser import pages

pytestmark = pytest.mark.browser


async def test_a_draft_is_read_approved_published_and_found(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    await desk.sign_up(database, tenant)
    await desk.fill(database, tenant)
    visit = await pages.visit(browser, served)
    page = visit.page

    await visit.open("/desk/tasks?state=waiting")
    await page.get_by_label("E-mail").fill("ada@example.org")
    await page.get_by_label("Password").fill(desk.PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(re.compile(r"/desk/tasks\?state=waiting$"))

    await page.get_by_role("link", name="Overview").click()
    await expect(page.get_by_role("heading", name="Needs you now")).to_be_visible()
    await page.locator("#overview-recent").get_by_role("link", name="noop").last.click()
    await page.get_by_role("link", name="Read and decide").click()
    await page.get_by_role("link", name="What changed").click()
    await expect(page.locator("ins").first).to_be_visible()
    await page.go_back()

    await page.get_by_role("link", name="Decide", exact=True).click()
    await page.get_by_role("radio", name="Approve").check()
    await page.get_by_label("Reason").fill("Clear and well cited.")
    await page.get_by_role("button", name="Record the decision").click()
    await expect(page.get_by_role("status").first).to_have_text("Approved: it is on the site.")
    await expect(page.locator("main")).to_contain_text("Clear and well cited.")

    await page.get_by_role("link", name="On the site").first.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("How to compost")
    await page.locator("article sup a").first.click()
    await expect(page.locator("#note-1")).to_be_in_viewport()
    await page.get_by_label("Search the site").fill("microbes")
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator(".posts mark").first).to_have_text(re.compile("microbes", re.IGNORECASE))

    await visit.open("/desk")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert visit.complaints == []


async def test_a_decision_is_made_with_the_keyboard_alone(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    things = await desk.fill(database, tenant)
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    page, press = visit.page, visit.page.keyboard.press
    await visit.open(f"/desk/reviews/{things.review.id}")

    await press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await press("Enter")
    for _ in range(60):
        await press("Tab")
        focused = page.locator(":focus")
        outline = await focused.evaluate("(element) => getComputedStyle(element).outlineStyle")
        assert outline != "none", await focused.evaluate("(element) => element.outerHTML.slice(0, 200)")
        if await focused.get_attribute("name") == "decision":
            break
    await press("ArrowDown")
    await expect(page.get_by_role("radio", name="Request changes")).to_be_checked()
    await press("Tab")
    await page.keyboard.type("The second section repeats the first.")
    await press("Tab")
    await page.keyboard.type("Cut the repetition")
    await press("Tab")
    await expect(page.get_by_role("button", name="Record the decision")).to_be_focused()
    await press("Enter")

    await expect(page.get_by_role("status").first).to_contain_text("Changes are requested")
    async with database.tenant(tenant, "test") as db:
        points = await reviews.list_open_feedback(db, tenant, things.review.content_id)
        item = await content.get(db, tenant, things.review.content_id)
    assert [point.text for point in points] == ["Cut the repetition"]
    assert item.state == "changes_requested"


async def test_the_menu_of_a_narrow_screen_opens_and_closes_with_the_keyboard(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    visit = await pages.visit(
        browser, served, await desk.sign_up(database, tenant), viewport=pages.NARROW, has_touch=True
    )
    page = visit.page
    await visit.open("/desk")
    menu = page.get_by_role("button", name="Menu")
    link = page.get_by_role("link", name="Documents", exact=True)
    await expect(link).to_be_hidden()

    await menu.focus()
    await page.keyboard.press("Enter")
    await expect(link).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(link).to_be_hidden()
    await menu.tap()
    await link.tap()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Documents")


def _until(seen: asyncio.Event) -> Callable[[TaskContext, object], Awaitable[dict[str, int]]]:
    """Return the code of a task that runs until it was seen running."""

    async def run(_task: TaskContext, _payload: object) -> dict[str, int]:
        await seen.wait()
        return {"done": 1}

    return run


async def test_a_task_is_seen_running_to_its_end_without_a_reload(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    seen = asyncio.Event()
    with engine.task_type("watched", _until(seen)):
        task = await engine.enqueue(database, tenant, "watched")
        visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
        page = visit.page
        await visit.open(f"/desk/tasks/{task.id}")
        await page.evaluate("window.stayed = true")
        await expect(page.locator("#task-status")).to_contain_text("queued")

        async with engine.running_executor(database):
            await expect(page.locator("#task-status")).to_contain_text("running")
            seen.set()
            await expect(page.locator("#task-status")).to_contain_text("succeeded")

    await expect(page.locator("#task-result")).to_be_visible()
    await expect(page.get_by_role("link", name="Requeue…")).to_be_visible()
    assert await page.evaluate("window.stayed") is True
    assert await visit.look() == []


async def test_what_a_person_opened_and_typed_outlives_the_live_changes(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    seen = asyncio.Event()
    with engine.task_type("watched", _until(seen)):
        task = await engine.enqueue(database, tenant, "watched")
        visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
        page = visit.page
        await visit.open(f"/desk/tasks/{task.id}")
        await page.get_by_text("Cancel…").click()
        await page.get_by_label("Why").fill("half a thou")

        async with engine.running_executor(database):
            await expect(page.locator("#task-status")).to_contain_text("running")
            await expect(page.get_by_label("Why")).to_have_value("half a thou")
            await expect(page.get_by_label("Why")).to_be_focused()
            seen.set()


async def test_the_step_that_the_keyboard_is_on_stays_open_and_focused_while_steps_come(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    async def two_steps(task: TaskContext, _payload: object) -> None:
        await task.step("first", _nothing)
        await task.wait_for("go", timeout=timedelta(minutes=1))
        await task.step("second", _nothing)

    with engine.task_type("stepwise", two_steps):
        task = await engine.enqueue(database, tenant, "stepwise")
        visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
        page = visit.page
        async with engine.running_executor(database):
            await visit.open(f"/desk/tasks/{task.id}")
            summary = page.locator("#step-1 summary")
            await summary.focus()
            await page.keyboard.press("Enter")
            await expect(page.locator("#step-1")).to_have_attribute("open", "")
            await engine.signal(database, task, "go")
            await expect(page.locator("#task-steps")).to_contain_text("second")

            await expect(page.locator("#step-1")).to_have_attribute("open", "")
            await expect(summary).to_be_focused()


async def _nothing() -> dict[str, int]:
    return {"done": 1}


async def test_without_javascript_every_page_reads_and_decides(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    things = await desk.fill(database, tenant)
    visit = await pages.visit(
        browser, served, await desk.sign_up(database, tenant), java_script_enabled=False
    )
    page = visit.page
    await visit.open(f"/desk/tasks/{things.waiting_task}")
    await expect(page.locator("noscript p")).to_contain_text("This page stands still without JavaScript.")
    await page.get_by_role("link", name="Read and decide").click()
    await page.get_by_text("Ends it. The text stays here").click()
    await page.get_by_label("Reason").fill("Off topic.")
    await page.get_by_role("button", name="Record the decision").click()

    await expect(page.get_by_text("Rejected.")).to_be_visible()
