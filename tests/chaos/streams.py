"""A cancel in the middle of a model's answer closes the connection to the model, whichever server is told (P6)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession

from tests.chaos.history import Report
from tests.chaos.processes import Child, Pace, Place
from tests.llm_server import ScriptedModel

PACE = Pace(lease=6.0, heartbeat=2.0)  # slow: what closes a stream within a second is not the heartbeat
CLOSE_SECONDS = 1.0
PIECE_SECONDS = 0.05
BOOK_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Who is told, and how the news travels."""

    name: str
    told: str  # which server gets the cancel; the task runs on "a"
    listen: bool


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What every case needs."""

    place: Place
    model: ScriptedModel
    servers: dict[str, Child]
    key: str


CASES = (
    Case(name="same server", told="a", listen=True),
    Case(name="other server", told="b", listen=True),
    Case(name="other server, LISTEN off", told="b", listen=False),
)


async def run(place: Place, *, seed: int = 0, long: bool = False) -> Report:
    """Try each case, ten times where *long*."""
    report = Report()
    key = await place.key()
    async with ScriptedModel(answer=lambda *_: " ".join(f"word-{n}" for n in range(4000))) as model:
        model.set(delay=PIECE_SECONDS)
        for listen in (True, False):
            env = {"LISTEN": str(listen), "OPENAI_BASE_URL": model.base_url, "OPENAI_MODEL": model.model}
            # Only "a" has a model and runs tasks; "b" is the replica that a client happens to reach.
            a, b = await asyncio.gather(
                place.start("a", env=env), place.start("b", env={**env, "ROLE": "web"})
            )
            stage = Stage(place=place, model=model, servers={"a": a, "b": b}, key=key)
            for case in CASES:
                if case.listen == listen:
                    for _ in range(10 if long else 1):
                        await _cancel_mid_stream(stage, report, case)
    await _check_nothing_came_after(place, report)
    return report


async def _cancel_mid_stream(stage: Stage, report: Report, case: Case) -> None:
    place, model, servers, key = stage.place, stage.model, stage.servers, stage.key
    bound = CLOSE_SECONDS + (0 if case.listen else place.pace.heartbeat)
    asked_before = model.count
    async with place.client(servers["a"].url, key) as a, place.client(servers[case.told].url, key) as told:
        task = await place.post(a, "/api/v1/tasks", {"type": "talk"})
        async with asyncio.timeout(15):
            while model.count == asked_before or model.requests[-1].pieces < 3:
                await asyncio.sleep(0.01)
        request = model.requests[-1]
        sent_at = time.time()
        cancelled = await _post(told, f"/api/v1/tasks/{task['id']}/cancel", {}, 200)
    place.history.add("cancelled", task=task["id"], case=case.name)
    report.expect(cancelled["state"] == "cancelled", f"{case.name}: the answer says {cancelled['state']}")
    try:
        async with asyncio.timeout(bound + 5):
            while request.closed_at is None:
                await asyncio.sleep(0.005)
    except TimeoutError:
        report.expect(False, f"{case.name}: the connection to the model was not closed")
        return
    took = request.closed_at - sent_at
    report.expect(took <= bound, f"{case.name}: closed after {took:.2f} s, allowed {bound:.2f} s")
    report.expect(not request.finished, f"{case.name}: the model was heard to the end")
    name = f"{case.name}, ms"
    report.figures[name] = max(report.figures.get(name, 0), round(took * 1000))


async def _post(client: ClientSession, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
    async with client.post(path, json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == status, answer
        return answer


async def _check_nothing_came_after(place: Place, report: Report) -> None:
    """No version, no step and no open call is left of the cancelled tasks."""
    await asyncio.sleep(1)
    cancelled = [entry["task"] for entry in place.history.read("cancelled")]
    async with place.admin() as admin:
        with contextlib.suppress(TimeoutError):  # what is reserved for ever is told below
            async with asyncio.timeout(BOOK_SECONDS):
                while await admin.fetchval("SELECT count(*) FROM llm_calls WHERE state = 'reserved'"):
                    await asyncio.sleep(0.05)
        states = await admin.fetch("SELECT id::text, state FROM task_history")
        written = await admin.fetchval("SELECT count(*) FROM chaos_marks WHERE what = 'version'")
        steps = await admin.fetchval("SELECT count(*) FROM task_steps")
        calls = await admin.fetch("SELECT task_id::text, state FROM llm_calls")
    report.expect(
        {row["id"]: row["state"] for row in states} == dict.fromkeys(cancelled, "cancelled"),
        f"the tasks ended as {[row['state'] for row in states]}",
    )
    report.expect(
        written == 0 and steps == 0, f"{written} versions and {steps} steps appeared after the cancel"
    )
    report.expect(
        sorted((row["task_id"], row["state"]) for row in calls)
        == sorted((task, "unknown") for task in cancelled),
        f"the calls are booked as {[row['state'] for row in calls]}, not one unknown for each task",
    )
