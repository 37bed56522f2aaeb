"""Whatever a process is there for, it carries bulk operations out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession, web

from server.app import ENGINE, Parts, create_app
from server.connections import Runner
from server.database import Database
from server.settings import Settings
from services import bulk_operations
from services.embeddings import Embedder
from tests import dead
from tests import web as served_web

ACTOR = "user:ops"


def _app(database: Database, folder: Path, role: Any) -> web.Application:
    settings = Settings(role=role, listen=False, data_dir=folder, executor_slots=5)
    return create_app(
        Parts(
            settings=settings, database=database, provider=None, embedder=Embedder(), base_url="http://test"
        )
    )


@pytest.mark.parametrize("role", ["web", "executor"])
async def test_every_role_carries_out_what_another_process_has_begun(
    database: Database, tenant: UUID, admin: Any, tmp_path: Path, role: str
) -> None:
    await admin.execute("UPDATE queues SET paused_at = now(), paused_by = 'test'")
    await dead.make(database, tenant, 600)
    app = _app(database, tmp_path, role)
    runner = Runner(app)
    await runner.setup()
    try:
        async with database.tenant(tenant, ACTOR) as db:
            shown = await bulk_operations.preview(db, tenant, action="cancel", target="tasks", wanted={})
            await bulk_operations.start(db, tenant, shown.plan, actor=ACTOR)
        async with asyncio.timeout(20):
            while await admin.fetchval("SELECT state FROM bulk_operations") == "running":
                await asyncio.sleep(0.02)
        health = await app[ENGINE].health()
    finally:
        await runner.cleanup()

    assert await admin.fetchval("SELECT done FROM bulk_operations") == 600
    assert health["bulk operations"] is None


async def test_what_a_caller_begins_here_starts_at_once_and_wakes_its_queue(
    database: Database, tenant: UUID, admin: Any, tmp_path: Path
) -> None:
    await dead.letters(database, admin, tenant, 3)
    runner = Runner(_app(database, tmp_path, "all"))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        key = await served_web.make_key(database, tenant)
        async with ClientSession(
            f"http://127.0.0.1:{runner.addresses[0][1]}", headers={"Authorization": f"Bearer {key}"}
        ) as session:
            asked = {"action": "requeue", "target": "dead_letters"}
            async with session.post("/api/v1/bulk-operations/preview", json=asked) as response:
                text = (await response.json())["confirmation"]
            async with session.post(
                "/api/v1/bulk-operations", json={"confirmation": text, "at_once": True}
            ) as response:
                assert response.status == 201
            async with asyncio.timeout(20):
                while await admin.fetchval("SELECT count(*) FROM task_history WHERE state = 'succeeded'") < 3:
                    await asyncio.sleep(0.02)
    finally:
        await runner.cleanup()
    assert await admin.fetchval("SELECT done FROM bulk_operations") == 3
