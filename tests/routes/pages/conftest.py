"""A served desk and people at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from aiohttp import ClientSession

from server.database import Database
from tests import desk, web


@pytest.fixture
async def served(database: Database, tenant: UUID) -> AsyncIterator[web.Served]:
    """All pages, for the tenant of this test."""
    async with web.running(desk.build(database)) as running:
        yield running


@pytest.fixture
async def client(served: web.Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    """An admin who is signed in."""
    async with desk.visiting(served, await desk.sign_up(database, tenant)) as session:
        yield session
