"""Each page renders, empty and full, for the least and the most that a person may be."""

from __future__ import annotations

from uuid import UUID

from aiohttp import ClientSession

from server.database import Database
from tests import desk, web

EMPTY = (
    "/desk", "/desk/tasks", "/desk/executors", "/desk/tasks?state=failed&q=nothing", "/desk/dead-letters", "/desk/dead-letters?handled=1",
    "/desk/dead-letters?q=x&age=day&state=failed", "/desk/bulk-operations", "/desk/bulk-operations/new?action=cancel&target=tasks&scope=all",
    "/desk/bulk-operations/new?action=discard&target=dead_letters", "/desk/reviews", "/desk/reviews?state=approved", "/desk/content",
    "/desk/content?state=draft&q=x", "/desk/content/new", "/desk/documents", "/desk/documents?state=failed", "/desk/documents/new", "/desk/search",
    "/desk/search?q=heap", "/desk/prompts", "/desk/schedules", "/desk/alerts", "/desk/schedules/new", "/desk/statistics",
)  # fmt: skip
SITE = ("/", "/search", "/search?q=heap", "/feed.xml", "/sitemap.xml", "/login")


async def test_every_page_of_an_empty_desk_says_what_to_do_next(client: ClientSession) -> None:
    for path in EMPTY:
        page = await desk.read(client, path)
        assert page.css_first("h1") is not None, path
        if "new" not in path and path != "/desk":
            assert page.css_first(".empty") is not None, path


async def test_every_page_of_the_site_renders_when_nothing_is_published(served: web.Served) -> None:
    async with desk.visiting(served) as reader:
        for path in SITE:
            await desk.read(reader, path)


async def test_every_page_of_a_full_desk_renders(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    things = await desk.fill(database, tenant)
    item = f"/desk/content/{things.version.content_id}"
    for path in (
        *EMPTY,
        "/desk/queues",
        "/desk/queues/default",
        f"/desk/tasks/{things.waiting_task}",
        f"/desk/tasks/{things.failed_task}",
        f"/desk/tasks/{things.failed_task}/requeue",
        f"/desk/dead-letters/{things.dead_letter}",
        f"/desk/bulk-operations/{things.bulk_operation}",
        item,
        f"{item}?version=1",
        f"{item}/diff",
        f"{item}/diff?from=2&to=1",
        f"{item}/edit",
        f"/desk/documents/{things.document.id}",
        await _first_prompt(client),
    ):
        page = await desk.read(client, path)
        assert "<script>alert" not in (page.html or ""), path


async def _first_prompt(client: ClientSession) -> str:
    page = await desk.read(client, "/desk/prompts")
    address = page.css_first("td.main a")
    assert address is not None
    return str(address.attributes["href"])


async def test_a_viewer_sees_everything_and_is_offered_nothing_that_changes_it(
    served: web.Served, database: Database, tenant: UUID
) -> None:
    things = await desk.fill(database, tenant)
    cookies = await desk.sign_up(database, tenant, "viewer", "vera@example.org")
    async with desk.visiting(served, cookies) as viewer:
        for path in (
            f"/desk/tasks/{things.waiting_task}",
            f"/desk/content/{things.version.content_id}",
            f"/desk/documents/{things.document.id}",
            f"/desk/dead-letters/{things.dead_letter}",
            f"/desk/bulk-operations/{things.bulk_operation}",
        ):
            page = await desk.read(viewer, path)
            forms = [form.attributes.get("action") for form in page.css("main form")]
            assert forms == [], path


async def test_whoever_is_not_signed_in_is_led_to_the_sign_in_and_back(served: web.Served) -> None:
    async with desk.visiting(served) as reader:
        for path in EMPTY:
            async with reader.get(path, allow_redirects=False) as answer:
                assert answer.status == 303, path
                assert answer.headers["Location"].startswith("/login?next=/desk"), path


async def test_ids_that_are_none_and_ids_of_another_tenant_read_the_same(
    client: ClientSession, database: Database, other_tenant: UUID
) -> None:
    things = await desk.fill(database, other_tenant)
    for pattern, foreign in (
        ("/desk/tasks/{}", things.waiting_task),
        ("/desk/tasks/{}/live", things.waiting_task),
        ("/desk/content/{}", things.version.content_id),
        ("/desk/reviews/{}", things.review.id),
        ("/desk/documents/{}", things.document.id),
        ("/desk/dead-letters/{}", things.dead_letter),
        ("/desk/bulk-operations/{}", things.bulk_operation),
        ("/desk/bulk-operations/{}/live", things.bulk_operation),
    ):
        for value in (str(foreign), "019a0000-0000-7000-8000-000000000000", "nonsense"):
            page = await desk.read(client, pattern.format(value), status=404)
            assert "Not found" in desk.words(page)
