"""A real Chromium. Where there is none the tests are skipped and say so; in CI that is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from playwright.async_api import Browser, async_playwright, expect

from server.database import Database
from tests import desk, web

expect.set_options(timeout=20_000)  # a busy machine paints slowly

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FOUND = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of this test's own."""
    if FOUND is None:
        message = f"no Chromium here (looked for {', '.join(NAMES)} and $CHROMIUM)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=FOUND, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        await started.close()


@pytest.fixture
async def served(database: Database, tenant: UUID) -> AsyncIterator[web.Served]:
    """All pages, for the tenant of this test."""
    async with web.running(desk.build(database)) as running:
        yield running
