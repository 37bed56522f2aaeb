"""The statistics page: what it shows of which window, and that it moves by itself."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from aiohttp import ClientSession

from server.database import Database
from tests import desk, engine


async def _done(_task: object, _payload: object) -> dict[str, int]:
    return {}


async def _run(database: Database, tenant: UUID, name: str) -> None:
    with engine.task_type(name, _done):
        async with engine.running_executor(database):
            await engine.ended(database, await engine.enqueue(database, tenant, name))


async def test_the_page_has_a_line_for_each_type_in_each_queue(
    client: ClientSession, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    await _run(database, tenant, "ours")
    await _run(database, other_tenant, "theirs")

    page = await desk.read(client, "/desk/statistics")

    (row,) = page.css("#statistics-kinds tbody tr")
    cells = [" ".join(cell.text().split()) for cell in row.css("td")]
    assert cells[0] == "oursdefault"
    assert cells[2:5] == ["1", "0", "0"]
    assert len(cells) == 11
    assert all(cell.endswith((" ms", " s")) for cell in cells[5:])
    assert row.css_first("a").attributes["href"] == "/desk/tasks?type=ours&queue=default"
    assert "1 task ended" in (page.css_first("svg.chart").attributes["aria-label"] or "")


async def test_the_line_of_a_type_that_was_given_up_leads_to_its_tasks(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    await _run(database, tenant, "given_up")
    await _run(database, tenant, "ours")
    page = await desk.read(client, "/desk/statistics")
    (link,) = [one for one in page.css("#statistics-kinds tbody a") if one.text() == "given_up"]

    tasks = await desk.read(client, link.attributes["href"])

    assert [option.text() for option in tasks.css("#type option[selected]")] == ["given_up"]
    assert len(tasks.css("tbody tr")) == 1


async def test_each_window_is_a_link_and_the_one_shown_says_so(client: ClientSession) -> None:
    for asked, shown in (("", "24 h"), ("?window=1h", "1 h"), ("?window=7d", "7 d"), ("?window=9y", "24 h")):
        page = await desk.read(client, f"/desk/statistics{asked}")
        assert [link.text() for link in page.css(".chips a")] == ["1 h", "24 h", "7 d"]
        assert [link.text() for link in page.css(".chips a[aria-current]")] == [shown]


async def test_numbers_move_while_one_watches(
    client: ClientSession, database: Database, tenant: UUID
) -> None:
    async with client.get("/desk/statistics/live?window=1h") as stream:
        await _until(stream, "Nothing ended in this time")
        await _run(database, tenant, "ours")
        await _until(stream, "1 task ended")


async def _until(stream: Any, words: str) -> None:
    """Read events until one says *words*."""
    async with asyncio.timeout(20):
        while words not in (await stream.content.readuntil(b"\n\n")).decode():
            pass
