"""Connections to PostgreSQL that fail on purpose, for a process that was forked to have them (E9).

Real connections of asyncpg: each statement that our code sends may be hit. `before`: the link breaks and nothing was sent. `after`:
it was done, and the answer is lost. `cancelled`: it is given up after a moment, done or not. `late`: it takes a while longer.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from server import database

KINDS = ("before", "after", "cancelled", "late")
LONGEST_DELAY_SECONDS = 0.3
LONGEST_PATIENCE_SECONDS = 0.004

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Faults:
    """What happens to the statements of this process for as long as the file `flag` exists. `share`: of each kind."""

    share: float
    flag: Path
    dice: random.Random = field(default_factory=random.Random)

    async def around(
        self, connection: asyncpg.Connection[Any], call: Callable[[], Awaitable[Any]], statement: str
    ) -> Any:
        """Send a statement, or do to it what the dice say."""
        number = int(self.dice.random() / self.share)
        if number >= len(KINDS) or not self.flag.exists():
            return await call()
        kind = KINDS[number]
        log.info("fault injected", extra={"kind": kind, "statement": " ".join(statement.split())[:60]})
        if kind == "late":
            await asyncio.sleep(self.dice.uniform(0, LONGEST_DELAY_SECONDS))
            return await call()
        if kind == "after":
            await call()
        if kind == "cancelled":
            await self._give_up(call)
            connection.terminate()
            raise TimeoutError
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async def _give_up(self, call: Callable[[], Awaitable[Any]]) -> None:
        sent = asyncio.ensure_future(call())
        await asyncio.sleep(self.dice.uniform(0, LONGEST_PATIENCE_SECONDS))
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)


def install(*, seed: int, share: float, flag: str) -> None:
    """Give every connection that this process opens from now on its share of faults."""
    faults = Faults(share=share, flag=Path(flag), dice=random.Random(seed))

    class FaultyConnection(database._Connection):
        """Fails now and then."""

        async def execute(self, query: str, *args: Any, **more: Any) -> Any:
            return await faults.around(self, functools.partial(super().execute, query, *args, **more), query)

        async def fetch(self, query: str, *args: Any, **more: Any) -> Any:
            return await faults.around(self, functools.partial(super().fetch, query, *args, **more), query)

        async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
            return await faults.around(self, functools.partial(super().fetchrow, query, *args, **more), query)

        async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
            return await faults.around(self, functools.partial(super().fetchval, query, *args, **more), query)

    database._Connection = FaultyConnection  # type: ignore[misc]
    asyncpg.connect = functools.partial(asyncpg.connect, connection_class=FaultyConnection)
