"""A real server for tests of the HTTP side: our middleware and guarded connections, real TCP, a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import ClientSession, web

from routes import keys
from server import connections, middleware
from server.database import Database
from services import access
from services.tasks import Cancelled

SECRET = b"a secret of at least thirty-two bytes"


@dataclass
class Served:
    """What handlers told the rest of the process."""

    app: web.Application
    url: str = ""
    woken: list[str] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)


def build(database: Database, *tables: web.RouteTableDef, **site: Any) -> Served:
    """Return an application of *tables* with everything around handlers in place."""
    app = web.Application()
    served = Served(app)
    middleware.install(app)
    values: dict[str, Any] = {
        "environment": "development",
        "base_url": "http://test",
        "secret_key": SECRET,
        "version": "0.0.0",
    }
    app[keys.SITE] = keys.Site(**(values | site))
    app[keys.DATABASE] = database
    app[keys.WAKE] = served.woken.append
    app[keys.CANCELLED] = served.cancelled.extend
    app[keys.CARRY_OUT] = lambda: served.woken.append("bulk operations")
    app[keys.STOPPING] = asyncio.Event()
    for table in tables:
        app.add_routes(table)
    return served


@asynccontextmanager
async def running(served: Served) -> AsyncIterator[Served]:
    """Serve the application on a free port."""
    runner = connections.Runner(served.app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        served.url = f"http://{host}:{port}"
        yield served
    finally:
        served.app[keys.STOPPING].set()  # streams end at once instead of after their minute
        await runner.cleanup()


@asynccontextmanager
async def client(served: Served, key: str | None = None) -> AsyncIterator[ClientSession]:
    """A client of the running application, with an API key or without."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with ClientSession(served.url, headers=headers) as session:
        yield session


async def make_key(database: Database, tenant_id: UUID, role: str = "admin", name: str = "tests") -> str:
    """Make an API key and return its text."""
    async with database.tenant(tenant_id, "test") as db:
        _, text = await access.create_api_key(db, tenant_id=tenant_id, name=name, role=role, actor="test")
    return text
