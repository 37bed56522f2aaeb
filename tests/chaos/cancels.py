"""Four clients cancel tasks at random moments over two servers while the tasks begin, run and end (E10: P6)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from typing import Any

from aiohttp import ClientError, ClientSession

from tests.chaos.history import Report
from tests.chaos.processes import Child, Place

CLIENTS = 4
WAVE = 100
WAVE_SECONDS = 0.5
ENDED_OTHERWISE = 409
LIVENESS_SECONDS = 60.0
LATE_SECONDS = 5.0  # what a mark may take to be written; it counts as late all the same


async def run(place: Place, *, seed: int, long: bool = False) -> Report:
    """Create waves of tasks, cancel each at a random phase, freeze one server now and then, check what was told."""
    dice = random.Random(seed)
    key = await place.key()
    servers = list(await asyncio.gather(*(place.start(name, "serve") for name in "ab")))
    freezing = asyncio.create_task(_freeze(servers, dice)) if long else None
    async with place.client(servers[0].url, key) as one, place.client(servers[1].url, key) as two:
        for wave in range((2000 if long else 500) // WAVE):
            await _wave(place, [one, two], random.Random(seed * 1000 + wave))
    if freezing is not None:
        freezing.cancel()
        await asyncio.gather(freezing, return_exceptions=True)
    async with place.admin() as admin, asyncio.timeout(LIVENESS_SECONDS):
        while await admin.fetchval("SELECT count(*) FROM tasks"):
            await asyncio.sleep(0.05)
        with contextlib.suppress(TimeoutError):  # the checker says which
            async with asyncio.timeout(place.pace.heartbeat + place.pace.grace + LATE_SECONDS):
                while any(row["seconds"] is None for row in await admin.fetch(HANDLERS)):
                    await asyncio.sleep(0.05)
    report = await check(place)
    report.expect(all(server.alive for server in servers), "a server died")
    return report


async def _freeze(servers: list[Child], dice: random.Random) -> None:
    """Stop one server for less than its lease, again and again."""
    while True:
        await asyncio.sleep(dice.uniform(0.5, 1.5))
        victim = dice.choice(servers)
        victim.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(dice.uniform(0.1, 0.6))
        finally:
            victim.send(signal.SIGCONT)


async def _wave(place: Place, clients: list[ClientSession], dice: random.Random) -> None:
    seconds = [dice.choice((0, 0.05, dice.uniform(0, WAVE_SECONDS), 60)) for _ in range(WAVE)]
    part = [{"type": "linger", "payload": {"seconds": one}} for one in seconds]
    answer = await place.post(dice.choice(clients), "/api/v1/tasks/bulk", {"tasks": part})
    place.history.add("accepted", tasks=answer["ids"])
    orders = [(dice.uniform(0, WAVE_SECONDS), task_id, dice.choice(clients)) for task_id in answer["ids"]]
    await asyncio.gather(
        *(_cancel_in_turn(place, sorted(orders[n::CLIENTS], key=lambda one: one[0])) for n in range(CLIENTS))
    )


async def _cancel_in_turn(place: Place, orders: list[tuple[float, str, ClientSession]]) -> None:
    """Be one client: cancel each task at its moment, or as soon afterwards as the last answer has come."""
    began = asyncio.get_running_loop().time()
    for moment, task_id, client in orders:
        await asyncio.sleep(began + moment - asyncio.get_running_loop().time())
        while not await _cancel(place, client, task_id):
            await asyncio.sleep(0.1)


async def _cancel(place: Place, client: ClientSession, task_id: str) -> bool:
    """Cancel and note the answer. False: ask again, since nothing is known or the task was busy."""
    try:
        async with client.post(f"/api/v1/tasks/{task_id}/cancel", json={"reason": "chaos"}) as response:
            answer = await response.json()
    except (ClientError, TimeoutError) as exc:
        place.history.add("maybe cancelled", task=task_id, why=type(exc).__name__)
        return False
    told = answer.get("state") if response.status == 200 else answer.get("detail", "")
    place.history.add("answered", task=task_id, status=response.status, told=told)
    return response.status in {200, ENDED_OTHERWISE}


async def check(place: Place) -> Report:
    """What was told is what stands, everything ended once, and each handler that was cancelled ended in time."""
    report = Report()
    accepted = {task for entry in place.history.read("accepted") for task in entry["tasks"]}
    answers = [entry for entry in place.history.read("answered") if entry["status"] in {200, ENDED_OTHERWISE}]
    async with place.admin() as admin:
        rows = await admin.fetch("SELECT id::text, state, result FROM task_history")
        handlers = await admin.fetch(HANDLERS)
    ended = {row["id"]: row for row in rows}
    report.expect(len(rows) == len(ended), f"{len(rows) - len(ended)} tasks ended twice")
    report.expect(set(ended) == accepted, f"{len(accepted ^ set(ended))} tasks lost or invented")
    for answer in answers:
        state, result = ended[answer["task"]]["state"], ended[answer["task"]]["result"]
        if answer["status"] == 200:
            right = answer["told"] == state == "cancelled" and result is None
        else:
            right = state == "succeeded" and "succeeded" in answer["told"]
        report.expect(
            right, f"told {answer['status']} {answer['told']!r}, but the task is {state} with {result}"
        )
    _check_handlers(place, report, handlers)
    report.figures |= {
        "tasks": len(rows),
        "cancelled": sum(row["state"] == "cancelled" for row in rows),
        "of them running": len(handlers),
        "ended before": sum(row["state"] == "succeeded" for row in rows),
        "unknown answers": len(place.history.read("maybe cancelled")),
    }
    report.expect(0 < report.figures["ended before"] < len(rows), "no race took place: this proves nothing")
    return report


# From the cancel to the end of the handler, for each run that had begun when its task was cancelled.
HANDLERS = """
SELECT h.id::text, extract(epoch FROM e.at - h.finished_at)::float8 AS seconds
FROM task_history h
JOIN chaos_marks b ON b.task_id = h.id AND b.what = 'began'
LEFT JOIN chaos_marks e ON e.task_id = h.id AND e.fence = b.fence AND e.what = 'ended'
WHERE h.state = 'cancelled' AND (e.at IS NULL OR e.at > h.finished_at)
"""


def _check_handlers(place: Place, report: Report, handlers: list[Any]) -> None:
    bound = place.pace.heartbeat + place.pace.grace
    endless = [row["id"] for row in handlers if row["seconds"] is None]
    took = sorted(row["seconds"] for row in handlers if row["seconds"] is not None)
    late = [round(seconds, 2) for seconds in took if seconds > bound]
    report.expect(not endless, f"{len(endless)} handlers of cancelled tasks never ended: {endless[:3]}")
    report.expect(not late, f"{len(late)} handlers ended later than {bound} s after the cancel: {late[-5:]}")
    if took:
        report.figures["cancel to handler's end, ms p50"] = round(took[len(took) // 2] * 1000)
        report.figures["ms p99"] = round(took[int(len(took) * 0.99)] * 1000)
