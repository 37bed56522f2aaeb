"""A fault between any two statements of any path that changes something: all of it happens, or nothing (E5: P9).

Which statements a path sends is recorded, not listed by hand: connections of asyncpg that count. Then each boundary, before the first
statement, between any two and after the last, is visited once with each fault:

    raise      our own code fails there
    cancel     the asyncio task is cancelled there
    terminate  PostgreSQL drops the connection there
    pause      nothing happens for longer than the lease, and the rescuer comes by
    kill       the process dies of kill -9 there (a process of its own)

Each visit has a tenant of its own; what is compared is how many rows it has in each table there is, and the states they are in. Before
the last statement that is what was before, after it that of the whole. Then the path is gone once more, to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from server import database as connections
from server.database import CONNECTION_ERRORS, Database
from services import access
from services.errors import GalleyError
from tests.chaos import types
from tests.chaos.history import Report
from tests.chaos.paths import PATHS, Made, Path
from tests.chaos.processes import Child, Place

FAULTS = ("raise", "cancel", "terminate", "pause", "kill")
IN_FULL = {
    "succeed",
    "write",
}  # these meet every fault in the short form too, the others two at each boundary and no kill
LATER_SECONDS = 10.0
# What a visited path may end with; anything else is a fault of ours.
EXPECTED = (
    GalleyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncio.CancelledError,
    *CONNECTION_ERRORS,
)

TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace ORDER BY 1
"""
STATES = """
SELECT array_agg(s ORDER BY s) FROM (
  SELECT 'task ' || state || ' ' || attempt || ' ' || crashes AS s FROM tasks WHERE tenant_id = $1
  UNION ALL SELECT 'ended ' || state || ' ' || attempt || coalesce(' ' || result::text, '') FROM task_history WHERE tenant_id = $1
  UNION ALL SELECT 'event ' || event FROM task_events WHERE tenant_id = $1
  UNION ALL SELECT 'step ' || kind || ' ' || name FROM task_steps WHERE tenant_id = $1
  UNION ALL SELECT 'item ' || state FROM content_items WHERE tenant_id = $1
  UNION ALL SELECT 'review ' || state FROM reviews WHERE tenant_id = $1
  UNION ALL SELECT 'mark ' || what FROM chaos_marks m
    WHERE EXISTS (SELECT FROM all_tasks t WHERE t.id = m.task_id AND t.tenant_id = $1)
) AS states (s)
"""
# The rescuer comes by when every lease has run out.
TAKE_OVER = "UPDATE executors SET lease_until = app.now() - interval '1 second'; SELECT app.rescue(500, 30);"


class Struck(Exception):
    """Our own code failed at a boundary."""


Strike = Callable[["asyncpg.Connection[Any]"], Awaitable[None]]


@dataclass(slots=True)
class Counter:
    """Counts the statements of one act, and strikes at the boundary *at*: after so many of them."""

    at: int = -1
    strike: Strike | None = None
    statements: list[str] = field(default_factory=list)
    struck: bool = False
    inside: bool = False  # struck inside a transaction

    async def around(
        self, connection: asyncpg.Connection[Any], call: Callable[[], Awaitable[Any]], statement: str
    ) -> Any:
        """Send a statement."""
        await self._pass(connection)
        answer = await call()
        self.statements.append(" ".join(statement.split())[:60])
        if statement == "COMMIT" or not connection.is_in_transaction():
            await self._pass(connection)  # the end of a path is a boundary as well
        return answer

    async def _pass(self, connection: asyncpg.Connection[Any]) -> None:
        if len(self.statements) == self.at and self.strike is not None and not self.struck:
            self.struck, self.inside = True, connection.is_in_transaction()
            await self.strike(connection)


COUNTING: list[Counter] = []  # the one at work, if any


class CountingConnection(connections._Connection):
    """A real connection that tells the counter of each statement."""

    async def execute(self, query: str, *args: Any, **more: Any) -> Any:
        return await _around(self, functools.partial(super().execute, query, *args, **more), query)

    async def fetch(self, query: str, *args: Any, **more: Any) -> Any:
        return await _around(self, functools.partial(super().fetch, query, *args, **more), query)

    async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
        return await _around(self, functools.partial(super().fetchrow, query, *args, **more), query)

    async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
        return await _around(self, functools.partial(super().fetchval, query, *args, **more), query)


async def _around(
    connection: asyncpg.Connection[Any], call: Callable[[], Awaitable[Any]], statement: str
) -> Any:
    if not COUNTING:
        return await call()
    return await COUNTING[0].around(connection, call, statement)


@contextmanager
def counting(counter: Counter) -> Iterator[Counter]:
    """Count what is sent inside."""
    COUNTING.append(counter)
    try:
        yield counter
    finally:
        COUNTING.clear()


@contextmanager
def counted_connections() -> Iterator[None]:
    """Let pools that are opened inside be of connections that count."""
    real = connections._Connection
    connections._Connection = CountingConnection  # type: ignore[misc]
    try:
        yield
    finally:
        connections._Connection = real  # type: ignore[misc]


async def die(connection: asyncpg.Connection[Any]) -> None:
    """kill -9 of oneself."""
    os.kill(os.getpid(), signal.SIGKILL)


def be_killed(arguments: list[str]) -> None:
    """Walk the ordered path in this process and die on the way."""
    dsn, tenant, path, at, made = arguments

    async def walk() -> None:
        opened = Database(dsn, web_connections=1, engine_connections=1)
        with counted_connections():
            await opened.open()
            with counting(Counter(at=int(at), strike=die)):
                await PATHS[path].act(opened, UUID(tenant), json.loads(made))

    asyncio.run(walk())


def faults_at(at: int, *, full: bool) -> tuple[str, ...]:
    """Return what strikes after *at* statements: everything, or two of the four that need no process of their own."""
    return FAULTS if full else (FAULTS[at % 4], FAULTS[(at + 2) % 4])


async def run(place: Place, *, seed: int = 0, long: bool = False) -> Report:
    """Visit every boundary of every path with every fault; the short form with two of them, but for the paths IN_FULL."""
    types.register()
    report = Report(figures={"paths": len(PATHS), "boundaries": 0, "visits": 0, "killed": 0})
    opened = Database(place.web_dsn, web_connections=4, engine_connections=2)
    with counted_connections():
        await opened.open()
    try:
        async with place.admin() as admin:
            visitor = Visitor(place, opened, admin, report)
            await visitor.learn_tables()
            for name in PATHS:
                await visitor.walk(name, full=long or name in IN_FULL)
            await visitor.be_live()
    finally:
        await opened.close()
    return report


@dataclass(frozen=True, slots=True)
class Course:
    """A path as it was recorded: how many statements it is, and what a tenant has before and after it."""

    name: str
    length: int
    before: Any
    after: Any
    after_rescue: Any  # the rescuer came first
    rescued_after: Any

    def allows(self, fault: str, at: int, *, inside: bool) -> list[Any]:
        """Return what may be there when it was struck after *at* statements."""
        ended = at == self.length
        if fault == "pause":
            return [self.rescued_after] if ended else [self.after, self.after_rescue]
        if fault == "terminate" and not inside and not ended:
            return [
                self.before,
                self.after,
            ]  # a connection lost between two transactions may be missed by none
        return [self.after if ended else self.before]


@dataclass(slots=True)
class Visitor:
    """Visits boundaries and compares."""

    place: Place
    database: Database
    admin: asyncpg.Connection[asyncpg.Record]
    report: Report
    count_rows: str = ""

    async def learn_tables(self) -> None:
        """Make the statement that counts a tenant's rows in every table there is."""
        names = [row["relname"] for row in await self.admin.fetch(TABLES)]
        assert {"tasks", "task_history", "publications", "llm_calls"} <= set(names)
        parts = [
            f"SELECT '{name}' AS name, count(*) AS rows FROM {name} WHERE tenant_id = $1" for name in names
        ]
        self.count_rows = " UNION ALL ".join(parts)

    async def look(self, tenant: UUID) -> dict[str, Any]:
        """Return how many rows the tenant has in each table, and the states of what it has."""
        rows = await self.admin.fetch(self.count_rows, tenant)
        counted: dict[str, Any] = {row["name"]: row["rows"] for row in rows if row["rows"]}
        return counted | {"states": await self.admin.fetchval(STATES, tenant)}

    async def arranged(self, path: Path) -> tuple[UUID, Made]:
        """Make a tenant and what the path starts from."""
        await self.admin.execute("DELETE FROM tasks")  # of visits before: a claim takes what comes first
        async with self.database.engine() as db:
            tenant = await access.ensure_tenant(db, uuid4().hex)
        return tenant, await path.arrange(self.database, tenant)

    async def walk(self, name: str, *, full: bool) -> None:
        """Record a path, then visit all its boundaries."""
        path = PATHS[name]
        tenant, made = await self.arranged(path)
        before = await self.look(tenant)
        with counting(Counter()) as recorded:
            await path.act(self.database, tenant, made)
        after = await self.look(tenant)
        self.report.expect(before != after, f"{name} changes nothing: this proves nothing")
        course = Course(name, len(recorded.statements), before, after, *await self._interrupted(path))
        planned = {(fault, at) for at in range(course.length + 1) for fault in faults_at(at, full=full)}
        visited = set()
        for fault, at in sorted(planned):
            await self.visit(course, fault, at)
            visited.add(at)
        missing = set(range(len(recorded.statements) + 1)) - visited
        self.report.expect(not missing, f"{name}: boundaries not visited: {missing}")
        self.report.figures["boundaries"] += course.length + 1
        self.place.history.add("path", name=name, statements=recorded.statements)

    async def visit(self, course: Course, fault: str, at: int) -> None:
        """Strike at one boundary and look at what is there."""
        path = PATHS[course.name]
        tenant, made = await self.arranged(path)
        where = f"{course.name}, {fault} after {at} statements"
        counter = Counter(at=at)
        if fault == "kill":
            await self._kill(course.name, tenant, made, at)
        else:
            counter.strike = getattr(self, f"_{fault}")
            await self._strike(path, tenant, made, counter)
            self.report.expect(counter.struck, f"{where}: the boundary was never reached")
        self.report.figures["visits"] += 1
        found = await self.look(tenant)
        allowed = course.allows(fault, at, inside=counter.inside)
        self.report.expect(found in allowed, f"{where}: {found} is none of {allowed}")
        if fault == "pause" or (found == course.after and not path.again):
            return
        with contextlib.suppress(GalleyError):  # it says that it has been done
            await path.act(self.database, tenant, made)
        found = await self.look(tenant)
        self.report.expect(found == course.after, f"{where}, then again: {found} instead of {course.after}")

    async def _strike(self, path: Path, tenant: UUID, made: Made, counter: Counter) -> None:
        walking = asyncio.create_task(self._walk(path, tenant, made, counter))
        with contextlib.suppress(Struck, *EXPECTED):
            await walking

    async def _walk(self, path: Path, tenant: UUID, made: Made, counter: Counter) -> None:
        with counting(counter):
            await path.act(self.database, tenant, made)

    async def _raise(self, connection: asyncpg.Connection[Any]) -> None:
        raise Struck

    async def _cancel(self, connection: asyncpg.Connection[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async def _terminate(self, connection: asyncpg.Connection[Any]) -> None:
        await self.admin.fetchval("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())

    async def _pause(self, connection: asyncpg.Connection[Any]) -> None:
        await self.admin.execute(TAKE_OVER)

    async def _interrupted(self, path: Path) -> tuple[Any, Any]:
        """Return what is there when the rescuer came before the act, and after it."""
        found = []
        for early in (True, False):
            tenant, made = await self.arranged(path)
            if early:
                await self.admin.execute(TAKE_OVER)
            with contextlib.suppress(GalleyError):
                await path.act(self.database, tenant, made)
            if not early:
                await self.admin.execute(TAKE_OVER)
            found.append(await self.look(tenant))
        return found[0], found[1]

    async def _kill(self, name: str, tenant: UUID, made: Made, at: int) -> None:
        living = set(await self._backends())
        arguments = [self.place.web_dsn, str(tenant), name, str(at), json.dumps(made)]
        child: Child = await self.place.spawn("walker", "path", arguments)
        await child.ended()
        died = child.exit_code is None and "Traceback" not in child.read_log()
        self.report.expect(died, f"{name}, kill after {at}: {child.read_log()[-500:]}")
        self.report.figures["killed"] += 1
        async with asyncio.timeout(LATER_SECONDS):
            while set(await self._backends()) - living:  # PostgreSQL has yet to notice
                await asyncio.sleep(0.01)

    async def _backends(self) -> list[int]:
        rows = await self.admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND usename = 'galley_web'"
        )
        return [row["pid"] for row in rows]

    async def be_live(self) -> None:
        """Faults are off: a last task runs through."""
        tenant, made = await self.arranged(PATHS["succeed"])
        await PATHS["succeed"].act(self.database, tenant, made)
        states = (await self.look(tenant))["states"]
        ended = [one for one in states if one.startswith("ended succeeded")]
        self.report.expect(len(ended) == 1, f"nothing works any more: {states}")
