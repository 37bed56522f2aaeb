"""kill -9 in the middle of a model's answer, and a new start: what was bought is not bought again, and each call is booked.

From an empty database over HTTP alone: a document, an article, the kill while the model writes, a new start, the review, the
decision, the published page. The model is a process of its own and keeps its own count.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession

from tests.chaos.history import Report
from tests.chaos.processes import Child, Place

TENANT = "chaos"
SLOW_SECONDS = 0.06  # a piece, while the kill is awaited; none otherwise
REVIEW_SECONDS = 90.0
GUIDE = """# Keeping bees in a small garden

## Choosing a place for the hive

A hive needs morning sun and shelter from the wind on its north side. Bees fly out in a straight line, so the entrance should face
away from paths and from the neighbours. A hive that stands on damp ground loses more colonies in winter than one on a dry stand.

## The year of a colony

A colony grows from ten thousand bees in early spring to fifty thousand in June. The queen lays up to two thousand eggs a day at the
height of the season. In autumn the workers push the drones out of the hive, because drones eat and do not forage.

## Harvesting honey

Honey is ripe when the bees have sealed the cells with wax. Unripe honey holds more than twenty percent water and ferments in the jar.
Leave each colony at least fifteen kilograms of honey for the winter.
"""


WISH = {"type": "generate_content", "payload": {"topic": "Keeping bees in a small garden"}}
CLOSE_SECONDS = 1.0
HOW = {False: "serve", True: "program"}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to strike: in the answer to the nth request of a kind, after so many pieces."""

    kind: str
    nth: int
    pieces: int


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Strike once in a draft; *long* strikes at eight moments, each in an article of its own."""
    report = Report()
    dice = random.Random(seed)
    model = await place.spawn("model", "module", ["tests.llm_server", "--port", "0"])
    env = {
        "OPENAI_BASE_URL": await model.says("http://"),
        "OPENAI_MODEL": "scripted-model",
        "PUBLIC_TENANT": TENANT,
    }
    key = await place.key(tenant=TENANT)
    server = await place.start("server", HOW[long], env=env)
    async with place.client(server.url, key) as client:
        body = {"collection": "guides", "title": "Bees", "text": GUIDE}
        document = await _call(client, "POST", "/api/v1/documents", 202, body)
        await _reach(client, document["task"]["id"], "succeeded")
    kinds = ["draft_section"] + (
        ["outline", "draft_section", "critique", "draft_section"] * 2 if long else []
    )
    for kind in kinds:
        moment = Moment(kind=kind, nth=2 if kind == "draft_section" else 1, pieces=dice.randint(2, 3))
        server = await _strike_once(place, report, server, how=HOW[long], env=env, key=key, moment=moment)
    model_url = env["OPENAI_BASE_URL"].removesuffix("/v1")
    async with ClientSession(model_url) as asked, place.client(server.url, key) as client:
        await _cancel_mid_draft(place, report, client, asked)
    await _stop(report, server)
    return report


async def _strike_once(
    place: Place, report: Report, server: Child, *, how: str, env: dict[str, str], key: str, moment: Moment
) -> Child:
    """Write one article with one kill in it; returns the server that finished it."""
    model = env["OPENAI_BASE_URL"].removesuffix("/v1")
    async with ClientSession(model) as asked, place.client(server.url, key) as client:
        before = (await _log(asked))["count"]
        await _call(asked, "POST", "/script", 200, {"delay": SLOW_SECONDS})
        task_id = (await _call(client, "POST", "/api/v1/tasks", 201, WISH))["id"]
        await _until_mid_answer(asked, before, moment)
        server.send(signal.SIGKILL)
        await server.ended()
        await _call(asked, "POST", "/script", 200, {"delay": 0})
        server = await place.start("server", how, env=env)
        async with place.client(server.url, key) as again:
            await _reach(again, task_id, "waiting")
            requests = (await _log(asked))["requests"][before:]
            await _check_books(place, report, task_id, requests, moment)
            await _decide(report, again, task_id)
    return server


async def _until_mid_answer(asked: ClientSession, before: int, moment: Moment) -> None:
    async with asyncio.timeout(REVIEW_SECONDS):
        while True:
            requests = (await _log(asked))["requests"][before:]
            of_kind = [one for one in requests if one["kind"] == moment.kind]
            if len(of_kind) >= moment.nth and of_kind[moment.nth - 1]["pieces"] >= moment.pieces:
                assert not of_kind[moment.nth - 1]["finished"], "the answer was over before the kill"
                return
            await asyncio.sleep(0.01)


async def _check_books(
    place: Place, report: Report, task_id: str, requests: list[dict[str, Any]], moment: Moment
) -> None:
    """One settled row for each step that asked a model, one unknown row for the interrupted call, as many rows as requests."""
    async with place.admin() as admin:
        rows = await admin.fetch(
            "SELECT step, fence, state FROM llm_calls WHERE task_id = $1::text::uuid", task_id
        )
        steps = await admin.fetch(
            "SELECT name FROM task_steps WHERE task_id = $1::text::uuid AND kind = 'step'", task_id
        )
    booked = Counter((row["step"], row["state"]) for row in rows)
    asking = {row["step"] for row in rows}
    unknown = [row["step"] for row in rows if row["state"] == "unknown"]
    report.expect(asking <= {row["name"] for row in steps}, f"calls without a finished step: {asking}")
    report.expect(
        all(booked[step, "settled"] == 1 for step in asking), f"a step was bought twice or never: {booked}"
    )
    report.expect(len(unknown) == 1, f"{len(unknown)} calls are booked as unknown, one was interrupted")
    report.expect(
        len(rows) == booked.total() == len(requests), f"{len(rows)} rows, the model counted {len(requests)}"
    )
    report.expect(not any(row["state"] == "reserved" for row in rows), "a call is still reserved")
    asked_again = Counter(request["hash"] for request in requests)
    report.expect(
        sorted(asked_again.values())[-2:] == [1, 2],
        "other questions than the interrupted one were asked twice",
    )
    interrupted = [one for one in requests if asked_again[one["hash"]] == 2]
    report.expect(
        {one["kind"] for one in interrupted} == {moment.kind}, "the interrupted answer was another one"
    )
    name = f"kill in {moment.kind}: calls booked, steps"
    report.figures[name] = f"{len(rows)}, {len(asking)}"


async def _decide(report: Report, client: ClientSession, task_id: str) -> None:
    """Approve what waits for a decision and read it on the public site."""
    pending = await _call(client, "GET", "/api/v1/reviews?state=pending", 200)
    [review] = [one for one in pending["items"] if one["task_id"] == task_id]
    decision = {"decision": "approve", "reason": "well said", "content_hash": review["content_hash"]}
    await _call(client, "POST", f"/api/v1/reviews/{review['id']}/decision", 200, decision)
    task = await _reach(client, task_id, "succeeded")
    report.expect(task["result"]["decision"] == "approved", f"the result is {task['result']}")
    async with client.get(task["result"]["published_url"]) as page:
        text = await page.text()
    report.expect(page.status == 200 and "hive" in text, f"the published page answers {page.status}")


async def _cancel_mid_draft(
    place: Place, report: Report, client: ClientSession, asked: ClientSession
) -> None:
    """A cancel while the model writes: it hears within a second that nobody listens, and no version appears."""
    before = (await _log(asked))["count"]
    await _call(asked, "POST", "/script", 200, {"delay": SLOW_SECONDS})
    task_id = (await _call(client, "POST", "/api/v1/tasks", 201, WISH))["id"]
    await _until_mid_answer(asked, before, Moment(kind="draft_section", nth=1, pieces=2))
    cancelled_at = time.time()
    task = await _call(client, "POST", f"/api/v1/tasks/{task_id}/cancel", 200, {})
    report.expect(task["state"] == "cancelled", f"the cancelled task is {task['state']}")
    deadline = time.monotonic() + 10 * CLOSE_SECONDS
    while not (last := (await _log(asked))["requests"][-1])["closed_at"] and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await asyncio.sleep(CLOSE_SECONDS)  # whatever should not come would come now
    took = (last["closed_at"] or float("inf")) - cancelled_at
    report.expect(took <= CLOSE_SECONDS, f"the connection to the model was closed after {took:.2f} s")
    report.figures["cancel to closed stream, ms"] = round(took * 1000)
    async with place.admin() as admin:
        versions = await admin.fetchval(
            "SELECT count(*) FROM content_versions WHERE task_id::text = $1", task_id
        )
    report.expect(versions == 0, f"{versions} versions appeared after the cancel")


async def _stop(report: Report, server: Child) -> None:
    server.send(signal.SIGINT)
    await server.ended()
    report.expect(
        "Traceback" not in server.read_log(), f"it stopped with a traceback: {server.read_log()[-2000:]}"
    )


async def _reach(client: ClientSession, task_id: str, state: str) -> dict[str, Any]:
    """Wait until the task is in *state*. Raises: AssertionError when it ends otherwise, TimeoutError."""
    async with asyncio.timeout(REVIEW_SECONDS):
        while True:
            task = await _call(client, "GET", f"/api/v1/tasks/{task_id}", 200)
            if task["state"] == state:
                return task
            assert task["finished_at"] is None, f"the task is {task['state']}: {task['error']}"
            await asyncio.sleep(0.05)


async def _log(asked: ClientSession) -> dict[str, Any]:
    return await _call(asked, "GET", "/log", 200)


async def _call(
    client: ClientSession, method: str, path: str, status: int, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    async with client.request(method, path, json=body) as response:
        answer: dict[str, Any] = await response.json(content_type=None)
        assert response.status == status, answer
        return answer
