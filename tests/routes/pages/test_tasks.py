"""Task pages: filters and pages of the list, cancel, requeue, and the stream of what changes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import ClientResponse, ClientSession

from routes import keys
from server.database import Database
from services import tasks
from services.task_context import TaskContext
from services.tasks import NewTask
from tests import desk, engine, web


async def _tasks(database: Database, tenant: UUID, count: int) -> list[UUID]:
    async with database.tenant(tenant, "test") as db:
        made = await tasks.enqueue_many(
            db, tenant, [NewTask(type="noop", payload={}) for _ in range(count)], actor="key:ci"
        )
    return [task.id for task in made]


async def test_the_list_shows_every_task_once_over_its_pages(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    made = await _tasks(database, tenant, 120)
    seen: list[str] = []
    path: str | None = "/desk/tasks"
    while path:
        page = await desk.read(client, path)
        seen += [str(link.attributes["href"]).rsplit("/", 1)[1] for link in page.css("td.main a")]
        older = page.css_first("a[rel=next]")
        path = str(older.attributes["href"]) if older is not None else None

    assert sorted(seen) == sorted(map(str, made))


async def test_a_filter_outlives_the_next_page_and_can_be_undone(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    await _tasks(database, tenant, 60)

    page = await desk.read(client, "/desk/tasks?state=queued&type=noop")
    older = page.css_first("a[rel=next]")
    assert older is not None
    assert "state=queued" in str(older.attributes["href"])
    second = await desk.read(client, str(older.attributes["href"]))
    assert second.css_first("a[rel=first]") is not None
    none = await desk.read(client, "/desk/tasks?state=running&type=noop")
    assert "Show all tasks" in desk.words(none)


async def test_the_list_says_what_each_task_is_about_and_what_it_is_at(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    async with database.tenant(tenant, "test") as db:
        for payload, more in (
            ({"seconds": 4.5, "fail": False}, {}),
            ({}, {"run_at": datetime.now(UTC) + timedelta(hours=3, minutes=1)}),
        ):
            await tasks.enqueue(db, tenant, NewTask(type="noop", payload=payload, **more), actor="key:ci")
        gone = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={}), actor="key:ci")
        await tasks.cancel(db, tenant, gone.id, actor="key:ci", reason="the customer left")

    page = await desk.read(client, "/desk/tasks")

    states = " ".join(desk.words(page, "#tasks-states").split())
    assert (
        states
        == "All scheduled 1 queued 1 blocked 0 running 0 waiting 0 succeeded 0 failed 0 timed out 0 cancelled 1"
    )
    assert page.css_first("#tasks-states [aria-current]").text().strip() == "All"
    rows = [" ".join(row.text().split()) for row in page.css("#tasks-rows tbody tr")]
    assert "cancelled the customer left" in rows[0]
    assert "scheduled in 3 h" in rows[1]
    assert "seconds: 4.5" in rows[2]
    assert "fail" not in rows[2]


async def test_the_stream_of_the_list_tells_of_a_task_once_it_does_something(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    made = await _tasks(database, tenant, 51)

    async with asyncio.timeout(30), client.get("/desk/tasks-live?state=queued") as stream:
        first = await _next_rows(stream)
        async with database.tenant(tenant, "test") as db:
            await tasks.cancel(db, tenant, made[-1], actor="key:ci")
        second = await _next_rows(stream)

    assert str(made[-1]) in first
    assert str(made[-1]) not in second
    assert str(made[0]) in second
    assert f'href="/desk/tasks?state=queued&amp;before={made[1]}"' in first


async def _next_rows(stream: ClientResponse) -> str:
    """Return the rows that the stream sends next."""
    async for line in stream.content:
        text = line.decode()
        if text.startswith("data: ") and (fragment := json.loads(text[6:])).get("id") == "tasks-rows":
            return str(fragment["html"])
    raise AssertionError("the stream ended")


async def test_a_cancelled_task_says_who_when_and_why(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    (task_id,) = await _tasks(database, tenant, 1)

    answer = await desk.send(client, f"/desk/tasks/{task_id}/cancel", reason="not <needed>")

    page = await desk.read(client, answer.headers["Location"])
    words = desk.words(page)
    assert "The task is cancelled." in words
    assert "by ada@example.org" in words
    assert "not <needed>" in words
    assert served.cancelled[0].task_id == task_id


async def test_a_failed_task_shows_where_each_of_its_errors_came_from(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    async def broken(task: TaskContext, _payload: object) -> None:
        if task.run.attempt == 1:
            raise KeyError("first")
        raise ValueError("second")

    with engine.task_type("trial", broken, max_attempts=2):
        async with engine.running_executor(database):
            task = await engine.ended(database, await engine.enqueue(database, tenant, "trial"))

    page = await desk.read(client, f"/desk/tasks/{task.id}")
    status, first = page.css_first("#task-status"), page.css_first("#task-timeline #trace-1")
    assert status is not None
    assert first is not None
    assert "ValueError second" in " ".join(status.text().split())
    assert "tests/routes/pages/test_tasks.py:" in status.text()
    assert "in test_a_failed_task_shows_where_each_of_its_errors_came_from.<locals>.broken" in first.text()


async def test_a_scheduled_task_is_run_before_it_is_due(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    due = datetime.now(UTC) + timedelta(hours=3)
    task = await engine.enqueue(database, tenant, "noop", run_at=due)

    answer = await desk.send(client, f"/desk/tasks/{task.id}/run")

    page = await desk.read(client, answer.headers["Location"])
    strip = page.css_first("#task-timeline svg")
    assert strip is not None
    assert str(strip.attributes["aria-label"]).startswith("scheduled for ")
    assert "Run before it was due by ada@example.org" in desk.words(page)
    assert "Run now" not in desk.words(page)
    assert served.woken == ["default"]
    refused = await desk.send(client, f"/desk/tasks/{task.id}/run")
    assert refused.status == 409


async def test_a_requeue_makes_a_linked_task_with_the_changes(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    (task_id,) = await _tasks(database, tenant, 1)
    await desk.send(client, f"/desk/tasks/{task_id}/cancel")

    answer = await desk.send(
        client, f"/desk/tasks/{task_id}/requeue", payload='{"seconds": 2}', priority="7", queue="content"
    )

    new_id = UUID(answer.headers["Location"].split("?")[0].rsplit("/", 1)[1])
    new = await engine.get(database, tenant, new_id)
    assert (new.payload["seconds"], new.priority, new.queue, new.retry_of) == (2, 7, "content", task_id)
    page = await desk.read(client, f"/desk/tasks/{task_id}")
    assert f"/desk/tasks/{new_id}" in (page.html or "")


async def test_a_requeue_with_a_fault_comes_back_as_it_was_typed(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    (task_id,) = await _tasks(database, tenant, 1)
    await desk.send(client, f"/desk/tasks/{task_id}/cancel")
    for fields, says in (
        ({"payload": "{not json"}, "is not JSON"),
        ({"payload": "[]"}, "must be a JSON object"),
        ({"payload": '{"a":' + "[" * 20_000}, "nested deeper than 32 levels"),
        ({"payload": '{"a": "\\u0000"}'}, "Payload/a must not hold NUL"),
        ({"payload": '{"seconds": 1, "seconds": 2}'}, "is given twice"),
        ({}, "is not JSON"),
        ({"payload": '{"second": 1}'}, "Payload/second"),
        ({"payload": "{}", "queue": "nowhere"}, "must be one of"),
        ({"payload": "{}", "priority": "12"}, "must be a whole number from 0 to 9"),
    ):
        form = {"priority": "2", "queue": "default"} | fields
        answer = await desk.send(client, f"/desk/tasks/{task_id}/requeue", **form)
        text = await answer.text()
        assert answer.status == 422, fields
        assert says in text, text[:3000]


async def test_the_stream_sends_what_changes_and_ends_with_the_task(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    (task_id,) = await _tasks(database, tenant, 1)
    sent: dict[str, str] = {}

    async with asyncio.timeout(20), client.get(f"/desk/tasks/{task_id}/live") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Cache-Control"] == "no-store"
        async with engine.running_executor(database):
            event = ""
            async for line in stream.content:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    event = text[7:]
                elif text.startswith("data: ") and event == "fragment":
                    fragment = json.loads(text[6:])
                    sent[fragment["id"]] = fragment["html"]
                elif event == "end":
                    break

    assert "succeeded" in sent["task-status"]
    assert "slept" in sent["task-result"]
    assert "Requeue" in sent["task-actions"]


async def test_an_article_can_be_asked_for_with_a_form(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    with engine.task_type("generate_content", _never):
        answer = await desk.send(client, "/desk/content/new", topic="Compost", instructions="short")

    task_id = UUID(answer.headers["Location"].split("?")[0].rsplit("/", 1)[1])
    task = await engine.get(database, tenant, task_id)
    assert task.payload == {"topic": "Compost", "collections": [], "instructions": "short"}
    assert task.created_by == "user:ada@example.org"
    assert served.woken == [task.queue]


async def _never(_task: object, _payload: object) -> None:
    raise AssertionError("nothing runs it")


async def test_an_author_cancels_their_own_task_and_nobody_elses(
    served: web.Served, database: Database, tenant: UUID
) -> None:
    cookies = await desk.sign_up(database, tenant, "author", "alan@example.org")
    async with database.tenant(tenant, "test") as db:
        own = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={}), actor="user:alan@example.org")
        other = await tasks.enqueue(db, tenant, NewTask(type="noop", payload={}), actor="key:ci")

    async with desk.visiting(served, cookies) as author:
        page = await desk.read(author, f"/desk/tasks/{other.id}")
        assert page.css_first("main form") is None
        refused = await desk.send(author, f"/desk/tasks/{other.id}/cancel")
        taken = await desk.send(author, f"/desk/tasks/{own.id}/cancel")

    assert (refused.status, taken.status) == (403, 303)


async def test_a_stream_ends_when_the_process_begins_to_stop(
    served: web.Served, client: ClientSession, database: Database, tenant: UUID
) -> None:
    (task_id,) = await _tasks(database, tenant, 1)

    async with asyncio.timeout(15), client.get(f"/desk/tasks/{task_id}/live") as stream:
        await stream.content.readuntil(b"\n\n")
        served.app[keys.STOPPING].set()
        rest = await stream.content.read()

    assert b"event: end" not in rest
