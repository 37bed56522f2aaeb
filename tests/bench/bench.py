"""One PostgreSQL, the contenders that can run on this machine, and what was found so far."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from server.embedded import EmbeddedPostgres
from tests.bench.contenders import GALLEY, Contender
from tests.bench.environments import ROOT, WORKERS, Environments
from tests.bench.figures import Figures
from tests.bench.process import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    tasks: int = 20_000
    singles: int = 2000  # tasks created one by one in a round
    history: int = 1_000_000
    samples: int = 60  # latencies in a round
    idle_seconds: float = 5.0
    seconds: float = 3.0  # of HTTP requests in a round


@dataclass(slots=True)
class Bench:
    """What every measurement needs."""

    postgres: EmbeddedPostgres
    environments: Environments
    sizes: Sizes
    figures: Figures
    logs: Path

    def dsn(self, database: str, *, role: str = "admin") -> str:
        """Return how the superuser, or with role "web" galley_web, reaches a database."""
        dsn = self.postgres.web_dsn if role == "web" else self.postgres.admin_dsn
        return dsn.replace("/galley?", f"/{database}?")

    @asynccontextmanager
    async def admin(self, database: str = "galley") -> AsyncIterator[asyncpg.Connection[Any]]:
        """Lend a superuser's connection."""
        connection = await asyncpg.connect(self.dsn(database))
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def process(
        self, contender: Contender, *, role: str = "all", install: bool = False
    ) -> AsyncIterator[Process]:
        """Run a contender's program, connected; role "web" is one that only creates tasks."""
        node = contender.kind == "node"
        arguments = [self.dsn(contender.database)]
        if contender is GALLEY:
            arguments += [self.dsn(contender.database, role="web"), role]
        process = await Process.start(
            [
                *self.environments.interpreters[contender.kind],
                str(WORKERS / contender.program) if node else contender.program,
                *arguments,
            ],
            cwd=ROOT,
            variables=self.environments.variables,
            log=self.logs / f"{contender.name}.log",
        )
        try:
            await process.ask("open", install=install)
            yield process
            await process.ask("close")
        finally:
            await process.end()

    async def install(self, contenders: Iterable[Contender]) -> list[Contender]:
        """Make the databases; return the contenders that can be measured."""
        ready = []
        for contender in contenders:
            if why := self.environments.missing.get(contender.kind):
                self.figures.about.setdefault("missing", {})[contender.name] = why
                say(f"{contender.name} is left out: {why}")
                continue
            async with self.admin() as admin:
                await admin.execute(f"CREATE DATABASE {contender.database}")
            async with self.process(contender, install=True):
                ready.append(contender)
        return ready


def say(text: str) -> None:
    """Tell whoever waits where it is."""
    print(text, file=sys.stderr, flush=True)
