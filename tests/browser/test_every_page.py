"""Every page in a real browser: wide and narrow, light and dark, empty and full."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.async_api import Browser

from server.database import Database
from tests import desk, web
from tests.browser import pages

pytestmark = pytest.mark.browser
SHOTS = os.environ.get("SCREENSHOTS", "")  # a folder: keep a picture of every page

LOOKS = [
    pytest.param({"viewport": pages.WIDE, "color_scheme": "light"}, id="wide light"),
    pytest.param({"viewport": pages.WIDE, "color_scheme": "dark"}, id="wide dark"),
    pytest.param({"viewport": pages.NARROW, "color_scheme": "light"}, id="narrow light"),
    pytest.param({"viewport": pages.NARROW, "color_scheme": "dark"}, id="narrow dark"),
]
DESK = (
    "/desk", "/desk/tasks", "/desk/dead-letters", "/desk/dead-letters?handled=1", "/desk/bulk-operations",
    "/desk/bulk-operations/new?action=cancel&target=tasks&scope=all", "/desk/bulk-operations/new?action=discard&target=dead_letters&scope=all", "/desk/queues", "/desk/queues/default", "/desk/executors", "/desk/reviews", "/desk/reviews?state=closed", "/desk/content", "/desk/content/new", "/desk/documents", "/desk/documents/new",
    "/desk/search", "/desk/search?q=heap&mode=keyword", "/desk/prompts", "/desk/schedules", "/desk/schedules/new", "/desk/alerts", "/desk/statistics", "/desk/statistics?window=1h",
)  # fmt: skip
SITE = ("/", "/search", "/search?q=heap")


def _name(look: dict[str, Any]) -> str:
    return f"{look['viewport']['width']} {look['color_scheme']}"


async def _walk(visit: pages.Visit, paths: tuple[str, ...], name: str) -> dict[str, list[str]]:
    """Return the faults of each page that has any."""
    faults = {}
    for path in paths:
        visit.complaints.clear()
        await visit.open(path)
        if found := await visit.look():
            faults[path] = found
        if SHOTS:
            file = re.sub(r"[^a-z0-9]+", "-", f"{name}{path}")[:90]
            await visit.page.screenshot(path=Path(SHOTS) / f"{file}.png", full_page=True)
    return faults


@pytest.mark.parametrize("look", LOOKS)
async def test_every_empty_page_is_sound(
    browser: Browser, served: web.Served, database: Database, tenant: UUID, look: dict[str, Any]
) -> None:
    cookies = await desk.sign_up(database, tenant)
    visit = await pages.visit(browser, served, cookies, **look)

    faults = await _walk(visit, (*DESK, *SITE), f"empty {_name(look)} ")

    assert faults == {}


@pytest.mark.parametrize("look", LOOKS)
async def test_every_full_page_is_sound(
    browser: Browser, served: web.Served, database: Database, tenant: UUID, look: dict[str, Any]
) -> None:
    things = await desk.fill(database, tenant)
    visit = await pages.visit(browser, served, await desk.sign_up(database, tenant), **look)
    item = f"/desk/content/{things.version.content_id}"
    own = (
        f"/desk/tasks/{things.waiting_task}", f"/desk/tasks/{things.failed_task}", f"/desk/tasks/{things.failed_task}/requeue",
        f"/desk/dead-letters/{things.dead_letter}", f"/desk/bulk-operations/{things.bulk_operation}",
        "/desk/bulk-operations/new?action=requeue&target=dead_letters&scope=all",
        item, f"{item}?version=1", f"{item}/diff", f"{item}/edit", f"/desk/content/{things.published.content_id}",
        f"/desk/documents/{things.document.id}", "/posts/the-first-heap", "/tags/garden",
    )  # fmt: skip

    faults = await _walk(visit, (*DESK, *SITE, *own), f"full {_name(look)} ")

    assert faults == {}
    assert await visit.page.evaluate("window.__xss === undefined")


async def test_the_sign_in_and_errors_are_sound(browser: Browser, served: web.Served) -> None:
    visit = await pages.visit(browser, served, viewport=pages.NARROW)
    await visit.open("/login")
    assert await visit.look() == []

    await visit.page.goto(f"{served.url}/posts/nowhere")
    assert [fault for fault in await visit.look() if "404" not in fault] == []
