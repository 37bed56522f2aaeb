"""Does nothing for a while: for measuring, for examples and for trying the engine."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.task_context import TaskContext
from services.task_types import Permanent, TaskType


class Payload(BaseModel):
    """How long to sleep, in seconds, and how to misbehave."""

    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    fail: bool = False
    ignore_cancel: bool = False


async def run(task: TaskContext, payload: Payload) -> dict[str, Any]:
    """Sleep, then return how long was asked for, or fail on request."""
    if payload.seconds:
        await (_sleep_deaf(payload.seconds) if payload.ignore_cancel else asyncio.sleep(payload.seconds))
    if payload.fail:
        raise Permanent("it was asked to fail")
    return {"slept": payload.seconds}


async def _sleep_deaf(seconds: float) -> None:
    """Sleep to the end whoever cancels, as badly written code would: shows what the engine does about it."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


TASK_TYPE = TaskType(name="noop", payload=Payload, run=run, timeout=timedelta(hours=1))
