"""Task types that exist only in processes made for experiments. Each leaves marks in a table of its own, for the checker.

A mark is (task, fence, process, what, when, owner): `began` and `ended` are written freely, `version` only inside `task.write`, as a
content version would be. Its owner is the fence that the task had by then: another one than the run's own means that it was lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from services import task_types
from services.task_context import Connection, TaskContext
from services.task_types import Retry, TaskType
from tests.patience import patiently

log = logging.getLogger(__name__)

MARKS = """
CREATE TABLE IF NOT EXISTS chaos_marks (
  task_id uuid NOT NULL, fence int NOT NULL, pid int NOT NULL, what text NOT NULL, owner int, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT ON chaos_marks TO galley_web;
"""
MARK = """
INSERT INTO chaos_marks (task_id, fence, pid, what, owner) VALUES ($1, $2, $3, $4, (SELECT t.fence FROM tasks t WHERE t.id = $1))
"""


class Payload(BaseModel):
    """What the types below read; each only what it needs."""

    seconds: float = 0
    phase: str = "result"
    pid: int = 0
    until: str = ""  # a file


async def mark(task: TaskContext, what: str) -> None:
    """Leave a mark that no fence guards."""

    async def insert() -> None:
        async with task.database.tenant(task.tenant_id, task.actor) as db:
            await db.execute(MARK, task.id, task.fence, os.getpid(), what)

    await patiently(insert)


async def write_version(task: TaskContext) -> None:
    """Leave a mark in the fenced transaction of a write."""

    async def insert(db: Connection) -> int:
        await db.execute(MARK, task.id, task.fence, os.getpid(), "version")
        return task.fence

    await task.write("version", insert)


async def drip(task: TaskContext, payload: Payload) -> dict[str, int]:
    """Work a while, write a version in the middle, return the fence that did it."""
    await asyncio.sleep(payload.seconds / 2)
    await write_version(task)
    await asyncio.sleep(payload.seconds / 2)
    return {"fence": task.fence}


async def beacon(task: TaskContext, payload: Payload) -> dict[str, int]:
    """Work long in one process only, and say in that process's own log when it ended, however: no link can swallow that."""
    try:
        await asyncio.sleep(payload.seconds if payload.pid == os.getpid() else 0)
        await write_version(task)
        return {"fence": task.fence}
    finally:
        log.info("beacon ended", extra={"fence": task.fence, "at": time.time()})


async def tally(task: TaskContext, payload: Payload) -> dict[str, int]:
    """Do next to nothing and return the fence that did it."""
    await asyncio.sleep(payload.seconds)
    return {"fence": task.fence}


async def staged(task: TaskContext, payload: Payload) -> dict[str, int]:
    """Wait for a file in the first run only, so that it can be stopped there, then do one fenced thing and end."""

    async def count() -> int:
        return task.fence

    await task.step("prepare", count)  # from here on it knows its checkpoints and learns of no newer ones
    await mark(task, "began")
    while task.fence == 1 and payload.until and not Path(payload.until).exists():
        await asyncio.sleep(0.01)
    if payload.phase == "step":
        await task.step("paid", count)
    if payload.phase == "write":
        await write_version(task)
    if payload.phase == "wait":
        await task.wait_for("go", timeout=timedelta(minutes=1))
    return {"fence": task.fence}


async def linger(task: TaskContext, payload: Payload) -> dict[str, int]:
    """Say when it began and when it ended, however it ended."""
    try:
        await mark(task, "began")
        await asyncio.sleep(payload.seconds)
        return {"fence": task.fence}
    finally:
        ending = asyncio.create_task(mark(task, "ended"))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # it came while the sleep was over already
            await ending
            raise


async def talk(task: TaskContext, payload: Payload) -> dict[str, str]:
    """Stream an answer out of the model, then write a version of it."""

    async def ask() -> str:
        question = [{"role": "user", "content": "Tell me everything."}]
        return (await task.llm.complete(question, max_tokens=4000)).text

    text = await task.step("draft", ask)
    await write_version(task)
    return {"text": text}


def register() -> None:
    """Add these types to this process."""
    runs: tuple[Any, ...] = (drip, beacon, tally, staged, linger, talk)
    for run in runs:
        task_types.load_all()[run.__name__] = TaskType(
            name=run.__name__,
            payload=Payload,
            run=run,
            max_attempts=100,
            retry=Retry(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=50)),
        )
