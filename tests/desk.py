"""The pages, served for real: every route of desk and site, people who are signed in, and a desk with something on it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from aiohttp import ClientResponse, ClientSession
from selectolax.lexbor import LexborHTMLParser

from routes import keys
from routes.api import health
from routes.pages import alerts as alert_pages
from routes.pages import articles, overview, prompts, search, session
from routes.pages import bulk_operations as bulk_pages
from routes.pages import content as content_pages
from routes.pages import dead_letters as dead_letter_pages
from routes.pages import documents as document_pages
from routes.pages import executors as executor_pages
from routes.pages import queues as queue_pages
from routes.pages import reviews as review_pages
from routes.pages import schedules as schedule_pages
from routes.pages import statistics as statistics_pages
from routes.pages import tasks as task_pages
from routes.public import posts
from routes.public import search as site_search
from server import templating
from server.database import Database
from services import access, bulk_operations, dead_letters, documents, reviews, tasks
from services import prompts as prompt_service
from services.content import ContentVersion
from services.documents import NewDocument
from services.tasks import NewTask
from sql import Connection
from tests import content as contents
from tests import web
from tests.knowledge import RememberingEmbedder

PASSWORD = "correct horse battery"
FAIL = "SELECT app.end_tasks($1, 'failed', 'failed', jsonb_build_object('class', $2::text, 'message', $3::text), 'test', NULL)"
TABLES = (
    schedule_pages.routes,
    statistics_pages.routes, alert_pages.routes, overview.routes, articles.routes, task_pages.routes, dead_letter_pages.routes, bulk_pages.routes, queue_pages.routes, executor_pages.routes, review_pages.routes, content_pages.routes, document_pages.routes, search.routes, prompts.routes,
    session.routes, posts.routes, site_search.routes, health.routes,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """What a full desk has, by id."""

    review: reviews.Review
    version: ContentVersion
    published: reviews.Review
    waiting_task: UUID
    failed_task: UUID
    dead_letter: UUID
    bulk_operation: UUID
    document: documents.Document


def build(database: Database) -> web.Served:
    """Return an application with all pages; the site is that of tenant acme."""
    served = web.build(database, *TABLES, public_tenant="acme", embedded_model=True)
    templating.install(served.app)
    served.app[keys.EMBEDDER] = RememberingEmbedder()
    return served


async def sign_up(
    database: Database, tenant: UUID, role: str = "admin", email: str = "ada@example.org"
) -> dict[str, str]:
    """Make a person and a session for them; return their cookie."""
    async with database.tenant(tenant, "test") as db:
        await access.create_user(db, tenant_id=tenant, email=email, name=email, password=PASSWORD, role=role)
    async with database.engine() as db:
        found = await access.find_login(db, email)
    assert found is not None
    async with database.tenant(tenant, "test") as db:
        return {"sid": await access.open_session(db, found[0])}


@asynccontextmanager
async def visiting(served: web.Served, cookies: dict[str, str] | None = None) -> AsyncIterator[ClientSession]:
    """A browser without a screen: keeps cookies, follows no redirects unless told to."""
    async with ClientSession(served.url, cookies=cookies) as client:
        yield client


async def token(client: ClientSession, path: str = "/desk") -> str:
    """Return the token that forms on the page at *path* carry."""
    async with client.get(path) as answer:
        found = re.search(r'name="csrf_token" value="([^"]+)"', await answer.text())
        assert found, f"{path} has no form"
        return found[1]


async def send(client: ClientSession, path: str, **fields: str) -> ClientResponse:
    """Send a form as its page would."""
    form = {"csrf_token": await token(client), **fields}
    async with client.post(path, data=form, allow_redirects=False) as answer:
        await answer.read()
        return answer


async def read(client: ClientSession, path: str, status: int = 200) -> LexborHTMLParser:
    """Return the page at *path*."""
    async with client.get(path, allow_redirects=False) as answer:
        text = await answer.text()
        assert answer.status == status, f"{path} answered {answer.status}: {text[:2000]}"
        return LexborHTMLParser(text)


def words(page: LexborHTMLParser, selector: str = "main") -> str:
    """Return what a person reads there, spaces made one."""
    node = page.css_first(selector)
    assert node is not None, f"the page has no {selector}"
    return " ".join(node.text().split())


async def fill(database: Database, tenant: UUID) -> Things:
    """Put something on the desk that every page has to show: hostile words among it."""
    async with database.tenant(tenant, "user:ada@example.org") as db:
        await prompt_service.install_defaults(db, tenant_id=tenant, actor="user:ada@example.org")
        document, _ = await documents.create(
            db, tenant, NewDocument(collection="garden", title="Compost at home", text="# Air\n\nTurn the heap every week."),
            actor="user:ada@example.org",
        )  # fmt: skip
        published = await _published(db, tenant)
        task_id, review = await contents.waiting_task(db, tenant)
        second = await contents.write(
            db,
            tenant,
            review.content_id,
            kind="refine",
            title="How to compost <script>alert(1)</script>",
            note="shorter",
        )
        failed = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={"fail": True}), actor="key:ci")
        await tasks.cancel(
            db, tenant, failed.id, actor="user:ada@example.org", reason="<b>no longer</b> wanted"
        )
        dead_letter, bulk_operation = await _dead_letter(db, tenant)
        await _count_runs(db, tenant)
        pending = await reviews.find_pending(db, tenant, review.content_id)
        assert pending is not None
    return Things(
        review=pending,
        version=second,
        published=published,
        waiting_task=task_id,
        failed_task=failed.id,
        dead_letter=dead_letter,
        bulk_operation=bulk_operation,
        document=document,
    )


async def _published(db: Connection, tenant: UUID) -> reviews.Review:
    version = await contents.write(db, tenant, title="The first heap", summary="Where to put it.")
    review = await contents.ask(db, tenant, version)
    return await contents.decide(db, review, contents.person(tenant))


async def _count_runs(db: Connection, tenant: UUID) -> None:
    """Numbers of runs as an executor's batches leave them: hours of them, some failed, milliseconds to hours long."""
    await db.execute(
        """INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, waited_spread, ran_spread)
           SELECT $1, date_trunc('minute', app.now()) - n * interval '7 minutes', 'default', CASE WHEN n % 3 = 0 THEN 'generate_content' ELSE 'noop' END,
             CASE WHEN n % 5 = 0 THEN 'failed' ELSE 'succeeded' END, 1000, 1000 * n, 9 * n, 50000 * n, 7000000,
             ARRAY[app.spread_entry(n % 20, 1000)], ARRAY[app.spread_entry(n, 990), app.spread_entry(92, 10)]
           FROM generate_series(1, 60) n""",
        tenant,
    )


async def _dead_letter(db: Connection, tenant: UUID) -> tuple[UUID, UUID]:
    """Leave tasks that failed for good, one of them a second time, and a bulk operation about to requeue some."""
    ids = []
    for title in ("<script>alert(1)</script> heap", "A very long subject " * 8, "Leaves"):
        task = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={}), actor="user:ada@example.org")
        await db.execute(FAIL, [task.id], "ValueError", f"no <b>luck</b> with {title}")
        ids.append(task.id)
    again = await tasks.requeue(db, tenant, ids[0], actor="user:ada@example.org", reason="<i>mended</i>")
    await db.execute(FAIL, [again.id], "timeout", "it took longer than 300 s")
    await dead_letters.note(
        db, tenant, again.id, actor="user:ada@example.org", text="<b>asked</b> the provider"
    )
    wanted = {"q": "<b>luck</b>", "ids": [str(ids[1])]}
    shown = await bulk_operations.preview(db, tenant, action="requeue", target="dead_letters", wanted=wanted)
    begun, _ = await bulk_operations.start(
        db,
        tenant,
        shown.plan,
        actor="user:ada@example.org",
        reason="<i>mended</i>",
        changes={"at_once": True},
    )
    return again.id, begun.id
