"""What a run shows while it works: its progress and its text, written in small batches so that every replica can show it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from services.errors import Unavailable
from sql import SQL

if TYPE_CHECKING:
    from services.task_context import Database

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25  # what a person still sees as live; a token stream would otherwise be a write each 10 ms


class LiveOutput:
    """Buffers progress and text of one run and writes both every FLUSH_SECONDS while there is something new."""

    def __init__(self, database: Database, *, tenant_id: UUID, task_id: UUID, fence: int) -> None:
        self._database = database
        self._tenant_id, self._task_id, self._fence = tenant_id, task_id, fence
        self._progress: dict[str, Any] | None = None
        self._text: list[str] = []
        self._seq = 0
        self._flusher: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def progress(self, progress: dict[str, Any]) -> None:
        """Remember *progress* for the next write; an earlier one not yet written is forgotten."""
        self._progress = progress
        self._wake()

    def append(self, text: str) -> None:
        """Add *text* to what is written next."""
        if text:
            self._text.append(text.replace("\x00", ""))
            self._wake()

    async def close(self) -> None:
        """Write what is left and stop."""
        if self._flusher is not None:
            # Asked to end rather than cancelled: a write under way would lose what it has taken out of the buffer.
            flusher, self._flusher = self._flusher, None
            self._closing.set()
            await flusher
            self._closing.clear()

    def _wake(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._loop(), name=f"live output {self._task_id}")

    async def _loop(self) -> None:
        last = False
        while not last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._closing.wait()
            last = self._closing.is_set()  # before the write: what comes while it writes gets one of its own
            await self._flush()

    async def _flush(self) -> None:
        progress, text = self._progress, "".join(self._text)
        if progress is None and not text:
            return
        self._progress, self._text = None, []
        try:
            await self._write(progress, text)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as exc:
            # Nobody's work is lost by a gap in what people watch.
            log.warning("live output not written", extra={"task_id": str(self._task_id), "error": str(exc)})

    async def _write(self, progress: dict[str, Any] | None, text: str) -> None:
        async with self._database.tenant(self._tenant_id, f"task:{self._task_id}") as db:
            if progress is not None:
                await db.fetchval(
                    SQL["runs.set_progress"], self._tenant_id, self._task_id, self._fence, progress
                )
            if text:
                self._seq += 1
                await db.execute(
                    SQL["runs.append_output"], self._tenant_id, self._task_id, self._fence, self._seq, text
                )
