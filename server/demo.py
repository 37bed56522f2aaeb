"""The demo tenant: documents to read, prompts to write with, an admin to sign in as, one article under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import click

from server.database import Database
from services import access, demo_corpus, documents, prompts, tasks
from services.errors import Conflict
from services.tasks import NewTask
from sql import Connection

TENANT = "demo"
EMAIL = "admin@demo.example"
ACTOR = "system:demo"
ARTICLE = {
    "topic": "How movable type is cast, set and printed",
    "collections": ["printing-history", "shop-handbook"],
    "instructions": "Write for curious visitors of a print shop. Keep to what the sources say.",
}
INDEX_SECONDS = 120


async def prepare(database: Database, *, data_dir: Path, wake: Callable[[str], None]) -> str:
    """Make whatever of the demo tenant is missing and return the admin's password."""
    async with database.engine() as db:
        tenant_id = await access.ensure_tenant(db, TENANT)
    password = _password(data_dir / "demo_password")

    async def make(db: Connection) -> bool:
        await prompts.install_defaults(db, tenant_id=tenant_id, actor=ACTOR)
        due = [await documents.create(db, tenant_id, new, actor=ACTOR) for new in demo_corpus.read()]
        return any(is_due for _, is_due in due)

    async def admit(db: Connection) -> None:
        await access.create_user(
            db, tenant_id=tenant_id, email=EMAIL, name="Demo admin", password=password, role="admin"
        )

    if await database.run(tenant_id, ACTOR, make):
        wake("documents")
    with contextlib.suppress(Conflict):  # from an earlier start
        await database.run(tenant_id, ACTOR, admit)
    return password


def welcome(base_url: str, password: str, *, embedded_model: bool) -> str:
    """Return what the terminal shows when everything is ready."""
    model = (
        "A small demonstration model is at work; set OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL for a real one.\n"
        if embedded_model
        else ""
    )
    lines = [
        "",
        click.style(f"  Galley is ready:  {base_url}/desk", bold=True),
        f"  sign in as        {EMAIL}",
        f"  password          {password}",
        "",
        f"  the public site   {base_url}/",
        f"  the API           {base_url}/docs",
        "",
        f"  {model}  Ctrl-C stops everything; the next start keeps all data.",
        "",
    ]
    return "\n".join(lines)


async def write_article(database: Database, wake: Callable[[str], None]) -> None:
    """Ask for the demo article, once, when its sources can be found. Raises: TimeoutError."""
    async with database.engine() as db:
        tenant_id = await access.ensure_tenant(db, TENANT)

    async def ask(db: Connection) -> bool:
        if await tasks.list_tasks(db, tenant_id, type="generate_content", limit=1):
            return True
        if await tasks.list_tasks(db, tenant_id, type="ingest_document", limit=1) and await _indexing(
            db, tenant_id
        ):
            return False
        await tasks.enqueue(
            db, tenant_id, NewTask(type="generate_content", payload=ARTICLE), actor=f"user:{EMAIL}"
        )
        wake("content")
        return True

    async with asyncio.timeout(INDEX_SECONDS):
        while not await database.run(tenant_id, ACTOR, ask):  # noqa: ASYNC110 - the executor may be another process
            await asyncio.sleep(0.1)


async def _indexing(db: Connection, tenant_id: UUID) -> bool:
    """Whether documents are still being read."""
    live = [
        await tasks.list_tasks(db, tenant_id, type="ingest_document", state=state, limit=1)
        for state in ("queued", "running", "scheduled")
    ]
    return any(live)


def _password(path: Path) -> str:
    """Return the demo admin's password, kept beside the data so that every start can show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(9))
    except FileExistsError:
        pass
    return path.read_text(encoding="utf-8").strip()
