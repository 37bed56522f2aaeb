"""Queues and executors in a real browser, as their operator sees them: sound in every look, live, and by keyboard alone."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from server.database import Database
from services import queues
from sql import SQL
from tests import desk, engine, web
from tests.browser import pages

pytestmark = pytest.mark.browser

LOOKS = [(viewport, scheme) for viewport in (pages.WIDE, pages.NARROW) for scheme in ("light", "dark")]


@pytest.fixture(autouse=True)
async def operating(admin: Any, tenant: UUID) -> UUID:
    await admin.execute("UPDATE tenants SET operates = true WHERE id = $1", tenant)
    return tenant


async def fill(database: Database, admin: Any, tenant: UUID) -> UUID:
    """Put something into queues and executors; returns a task with a history."""
    ended = await engine.enqueue(database, tenant, "noop")
    async with engine.running_executor(database):
        await engine.ended(database, ended)
    await admin.execute(
        "INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms)"
        " SELECT $1, date_trunc('minute', now()) - n * interval '1 min', 'default', 'noop', o, 1 + n % 7, 9, 9, 900, 500"
        " FROM generate_series(1, 50) n, unnest(ARRAY['succeeded', 'failed']) o",
        tenant,
    )
    for lease in (3600.0, -60.0):
        await admin.execute(
            SQL["executors.register"],
            uuid4(),
            "press-1.a-rather-long-name.example.org",
            4711,
            "0.1.0",
            200,
            lease,
        )
    await engine.enqueue(database, tenant, "noop", {"seconds": 60})
    await admin.execute(
        "SELECT app.claim((SELECT id FROM executors WHERE lease_until > now() LIMIT 1), 'default', 5)"
    )
    async with database.tenant(tenant, "test") as db:
        await queues.change(
            db,
            "default",
            {"max_running": 50, "rate_per_second": 2.5, "fair": True},
            actor="user:ada@example.org",
        )
        await queues.limit_tenant(db, "default", "acme", 5, actor="user:ada@example.org")
        await queues.pause(
            db, "content", actor="user:ada@example.org", reason="The provider is out of credit"
        )
    return ended.id


@pytest.mark.parametrize(("viewport", "scheme"), LOOKS)
async def test_the_pages_are_sound_with_everything_on_them(
    *,
    browser: Browser,
    served: web.Served,
    database: Database,
    admin: Any,
    tenant: UUID,
    viewport: Any,
    scheme: Any,
) -> None:
    task_id = await fill(database, admin, tenant)
    visit = await pages.visit(
        browser, served, await desk.sign_up(database, tenant), viewport=viewport, color_scheme=scheme
    )
    faults = {}
    for path in (
        "/desk",
        "/desk/queues",
        "/desk/queues/default",
        "/desk/queues/content",
        "/desk/executors",
        f"/desk/tasks/{task_id}",
    ):
        visit.complaints.clear()
        await visit.open(path)
        for summary in await visit.page.locator("main summary").all():
            await summary.click()
        if found := await visit.look():
            faults[path] = found

    assert faults == {}


async def _tab_to(page: Page, text: str) -> None:
    """Press Tab until what says *text*, or is labelled so, has the focus."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        said = await page.evaluate(
            "(document.activeElement.labels?.[0] ?? document.activeElement).textContent.trim()"
        )
        if said == text:
            return
    raise AssertionError(f"Tab never comes to {text}")


async def test_a_queue_is_paused_and_resumed_by_keyboard_alone(
    browser: Browser, served: web.Served, database: Database, tenant: UUID
) -> None:
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    await visit.open("/desk/queues/default")
    keys = visit.page.keyboard

    await _tab_to(visit.page, "Pause…")
    await keys.press("Enter")
    await _tab_to(visit.page, "Why")
    await keys.type("moving house")
    await _tab_to(visit.page, "Pause the queue")
    await keys.press("Enter")
    await expect(visit.page.get_by_text("The queue is paused.")).to_be_visible()
    await expect(visit.page.locator("#queue-now")).to_contain_text("By ada@example.org: moving house.")
    await _tab_to(visit.page, "Resume now")
    await keys.press("Enter")
    await expect(visit.page.get_by_text("The queue moves again.")).to_be_visible()

    assert visit.complaints == []


async def test_the_boards_change_by_themselves(
    browser: Browser, served: web.Served, database: Database, admin: Any, tenant: UUID
) -> None:
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant))
    await visit.open("/desk/queues")
    row = visit.page.locator("#queues-board tr", has_text="default")
    await expect(row.locator("td").nth(1)).to_have_text("0")
    await engine.enqueue(database, tenant, "noop")
    await expect(row.locator("td").nth(1)).to_have_text("1")
    await visit.open("/desk/executors")
    await expect(visit.page.get_by_text("No executor is there")).to_be_visible()
    await admin.execute(SQL["executors.register"], uuid4(), "press-9", 1, "0", 1, 60.0)
    await expect(visit.page.get_by_text("press-9")).to_be_visible()
