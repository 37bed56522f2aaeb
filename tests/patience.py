"""For tests that do many things at once: a busy machine may refuse some of them for want of a connection or a lock, which a caller asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from services.errors import Unavailable

T = TypeVar("T")
BUSY = 503


async def patiently(act: Callable[[], Awaitable[T]]) -> T:
    """Do it, again while it is refused as busy: by an error, or by an answer whose status says so. Nothing was done then."""
    while True:
        try:
            answer = await act()
        except (Unavailable, asyncpg.LockNotAvailableError):
            pass
        else:
            status = answer[0] if isinstance(answer, tuple) else answer
            if status != BUSY:
                return answer
        await asyncio.sleep(0.1)
