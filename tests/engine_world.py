"""A real database on a clock of its own, and an eye on every task in it: what moved, whether it may, what never may happen.

Used by the state machine (tests/engine_machine.py). The clock is the setting `app.now` of each connection, years ahead of the
machine's: whatever reads another clock is seen at once.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg

from server.database import _prepare
from services.task_states import TRANSITIONS, Transition, after_silent_moves, is_final

T = TypeVar("T")

START = datetime(2031, 3, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=1)  # each step has a moment of its own, so history has an order
# Replicas whose surroundings disagree by a day: what compares without a zone goes wrong in them.
ZONES = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago")

# Marks of what runs have written; and ids that only count, since ids decide between equals and an example must be repeatable.
MADE = """
CREATE TABLE IF NOT EXISTS machine_marks (task_id uuid NOT NULL, fence int NOT NULL);
GRANT SELECT, INSERT ON machine_marks TO galley_web;
CREATE SEQUENCE IF NOT EXISTS machine_ids;
GRANT USAGE ON machine_ids TO galley_web, galley_engine, galley_owner;
CREATE OR REPLACE FUNCTION app.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT overlay(app.uuid7_floor('2031-03-01')::text PLACING lpad(to_hex(nextval('public.machine_ids')), 12, '0') FROM 25 FOR 12)::uuid
$$;
"""
SWEPT = """
DELETE FROM machine_marks;
DELETE FROM task_signals;
DELETE FROM tasks;
DELETE FROM executors;
DELETE FROM dead_letters;
DELETE FROM task_statistics;
DELETE FROM queue_tenant_limits;
UPDATE queues SET paused_at = NULL, paused_by = NULL, resume_at = NULL, max_running = NULL, max_running_per_tenant = NULL,
  rate_per_second = NULL, burst = NULL, tokens = 0, fair = false, last_tenant = NULL;
"""
ROWS = """
SELECT id, tenant_id, queue, type, state, priority, attempt, max_attempts, crashes, fence, executor_id, run_at, created_at, started_at,
       NULL::timestamptz AS finished_at, start_before, concurrency_key, concurrency_limit, waiting_for, wait_until, waiting_since,
       deadline_at, ''::text AS whole, NULL::text AS result
FROM tasks
UNION ALL
SELECT id, tenant_id, queue, type, state, priority, attempt, max_attempts, crashes, fence, executor_id, run_at, created_at, started_at,
       finished_at, start_before, concurrency_key, concurrency_limit, NULL, NULL, NULL, NULL, h::text, h.result::text
FROM task_history h WHERE tenant_id = ANY ($1)
"""
EVENTS = "SELECT task_id, event, fence, attempt, at FROM task_events WHERE tenant_id = ANY ($1) AND at >= $2 ORDER BY at, seq"
ENDS = """
SELECT (SELECT coalesce(array_agg(task_id), '{}') FROM dead_letters WHERE tenant_id = ANY ($1)) AS dead,
       (SELECT coalesce(sum(tasks), 0)::int FROM task_statistics WHERE tenant_id = ANY ($1) AND outcome = ANY ($2)) AS counted,
       (SELECT count(*)::int FROM task_events WHERE tenant_id = ANY ($1)) AS events
"""


class Violation(AssertionError):
    """A promise was broken."""


def require(holds: bool, what: str) -> None:
    """Raise Violation with *what* unless *holds*."""
    if not holds:
        raise Violation(what)


@dataclass(slots=True)
class Clock:
    """The time that all connections are told."""

    now: datetime = START

    def advance(self, by: timedelta) -> None:
        """Let *by* pass."""
        self.now += by


class Replica:
    """One replica's way to the database: a connection of galley_web that lives by the clock. The same shape as server.database's."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], clock: Clock) -> None:
        self.connection = connection
        self._clock = clock
        self._told: datetime | None = None

    async def sync(self) -> None:
        """Tell the connection what time it is."""
        if self._told != self._clock.now:
            await self.connection.execute(f"SET app.now = '{self._clock.now.isoformat()}'")
            self._told = self._clock.now

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID, actor: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Open a transaction that sees one tenant's rows."""
        await self.sync()
        await self.connection.execute(
            f"BEGIN; SELECT set_config('app.tenant', '{tenant_id}', true), set_config('app.actor', '{actor}', true)"
        )
        try:
            yield self.connection
        except BaseException:
            await self.connection.execute("ROLLBACK")
            raise
        await self.connection.execute("COMMIT")

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Open a transaction without a tenant."""
        await self.sync()
        async with self.connection.transaction():
            yield self.connection

    @asynccontextmanager
    async def lookup(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Lend the connection for single statements."""
        await self.sync()
        yield self.connection

    statement = lookup

    async def run(
        self,
        tenant_id: UUID,
        actor: str,
        work: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[T]],
    ) -> T:
        """Do *work* in one tenant transaction."""
        async with self.tenant(tenant_id, actor) as db:
            return await work(db)


@dataclass(kw_only=True)
class World:
    """Connections that last for a whole test, the two tenants of the present example, and what all examples have covered."""

    admin: asyncpg.Connection[asyncpg.Record]
    replicas: list[Replica]
    clock: Clock = field(default_factory=Clock)
    tenants: list[UUID] = field(default_factory=list)
    examples: int = 0
    coverage: Counter[Transition] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)

    async def begin(self) -> Eye:
        """Clear what an earlier example left alive, and make two new tenants to watch."""
        self.examples += 1
        self.clock.now = START
        await self.admin.execute(SWEPT)
        await self.admin.execute(f"UPDATE queues SET tokens_at = '{START.isoformat()}'")
        # Batches share a database.
        names = [f"{name} {self.examples} {uuid4()}" for name in ("acme", "globex")]
        rows = await self.admin.fetch(
            "INSERT INTO tenants (name) SELECT unnest($1::text[]) RETURNING id", names
        )
        self.tenants = [row["id"] for row in rows]
        return Eye(self)

    async def close(self) -> None:
        """Close the connections."""
        for connection in (self.admin, *(replica.connection for replica in self.replicas)):
            await connection.close()


async def make_world(admin_dsn: str, web_dsn: str) -> World:
    """Open the connections to a migrated database."""
    clock = Clock()
    admin = await asyncpg.connect(admin_dsn)
    await admin.execute(MADE)
    replicas = []
    for zone in ZONES:
        connection = await asyncpg.connect(
            web_dsn, server_settings={"jit": "off", "role": "galley_web", "timezone": zone}
        )
        await _prepare(connection)
        replicas.append(Replica(connection, clock))
    return World(admin=admin, replicas=replicas, clock=clock)


class Eye:
    """Looks at every row after each step and compares with what it saw before."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[UUID, asyncpg.Record] = {}
        self.known: set[UUID] = set()  # ids that a caller was told
        self.cancelled: set[UUID] = set()  # cancels that were acknowledged
        self.runs: set[tuple[UUID, int]] = set()  # every claim
        self.told: defaultdict[UUID, list[str]] = defaultdict(list)  # events by task
        self.born: dict[UUID, str] = {}  # the state a task was created in
        self.claims: defaultdict[str, list[datetime]] = defaultdict(list)
        self.limits: dict[str, dict[str, Any]] = {}
        self._step = START

    async def look(self, allowed: Iterable[str]) -> None:
        """Check the step that has just been made by *allowed* (see Transition.by); then the next one begins.

        Raises: Violation.
        """
        world = self.world
        rows = await world.admin.fetch(ROWS, world.tenants)
        events = defaultdict(list)
        for event in await world.admin.fetch(EVENTS, world.tenants, self._step):
            events[event["task_id"]].append(event)
        seen = {row["id"]: row for row in sorted(rows, key=lambda row: row["id"])}
        require(len(seen) == len(rows), "a task exists twice")
        require(set(seen) == self.known, f"lost or invented: {self.known ^ set(seen)}")
        makers = frozenset(allowed)
        for task_id, row in seen.items():
            self._check_move(self.rows.get(task_id), row, events.pop(task_id, []), makers)
            self._check_row(row)
        require(not events, f"events of no task: {dict(events)}")
        self._check_limits(seen.values())
        self.rows = seen
        world.clock.advance(STEP)
        self._step = world.clock.now

    def _check_move(
        self,
        old: asyncpg.Record | None,
        new: asyncpg.Record,
        events: list[asyncpg.Record],
        makers: frozenset[str],
    ) -> None:
        before = old["state"] if old is not None else None
        if old is not None and not events and before == new["state"] and not is_final(before):
            fixed = ("fence", "attempt", "executor_id", "run_at", "crashes")
            if any(old[name] != new[name] for name in fixed):
                raise Violation(f"{before} changed unseen: {old} became {new}")
            return
        what = f"{before} -> {new['state']} by {sorted(makers)} with {[event['event'] for event in events]}"
        if old is not None and is_final(old["state"]):
            require(old["whole"] == new["whole"] and not events, f"a final row changed: {what}")
            return
        require(len(events) <= 1, f"two events in one move: {what}")
        event = events[0] if events else None
        legal = [
            one
            for one in TRANSITIONS
            if (one.before, one.after) == (before, new["state"])
            and one.by in makers
            and one.event == (event["event"] if event else None)
        ]
        require(bool(legal), f"no such transition: {what}")
        self.world.coverage[legal[0]] += 1
        self._check_counters(legal[0], old, new)
        if old is None:
            self.born[new["id"]] = new["state"]
        if event is not None:
            self.told[new["id"]].append(event["event"])
            ran = old["fence"] if old is not None else 0
            require(event["fence"] == ran, f"the event is of run {event['fence']}, not {ran}: {what}")

    def _check_counters(self, move: Transition, old: asyncpg.Record | None, new: asyncpg.Record) -> None:
        if old is None:
            require((new["fence"], new["attempt"], new["crashes"]) == (0, 0, 0), f"a new task has run: {new}")
            return
        require(
            new["fence"] == old["fence"] + move.raises_fence,
            f"{move}: fence {old['fence']} became {new['fence']}",
        )
        require(
            new["attempt"] == old["attempt"] + move.attempts,
            f"{move}: attempt {old['attempt']} became {new['attempt']}",
        )
        if move.after == "running":
            run = (new["id"], new["fence"])
            require(run not in self.runs, f"two runs have the number {run}")
            self.runs.add(run)
            self.claims[new["queue"]].append(self._step)

    def _check_row(self, row: asyncpg.Record) -> None:
        if (wrong := self._find_wrong(row)) is not None:
            raise Violation(f"{wrong}: {row}")

    def _find_wrong(self, row: asyncpg.Record) -> str | None:
        state = row["state"]
        if not is_final(state) and (state == "running") != (row["executor_id"] is not None):
            return "an executor without a run, or a run without one"
        if row["id"] in self.cancelled and state != "cancelled":
            return "a cancel was acknowledged"
        if not 0 <= row["attempt"] <= row["max_attempts"]:
            return "attempts out of bounds"
        if state == "succeeded" and json.loads(row["result"]) != {"fence": row["fence"]}:
            return "the result is of another run"
        for name in ("created_at", "started_at", "finished_at", "waiting_since"):
            moment = row[name]
            if moment is not None and not START <= moment <= self.world.clock.now:
                return f"{name} is of another clock"
        return None

    def _check_limits(self, rows: Iterable[asyncpg.Record]) -> None:
        running = [row for row in rows if row["state"] == "running"]
        keys = Counter(
            (row["tenant_id"], row["queue"], row["concurrency_key"])
            for row in running
            if row["concurrency_key"]
        )
        for row in running:
            held = keys[row["tenant_id"], row["queue"], row["concurrency_key"]]
            if row["concurrency_key"] and held > row["concurrency_limit"]:
                raise Violation(f"{held} run under a key for {row}")
        for queue, limits in self.limits.items():
            here = Counter(row["tenant_id"] for row in running if row["queue"] == queue)
            most = limits.get("max_running")
            require(most is None or here.total() <= most, f"{here.total()} of {most} run in {queue}")
            each = limits.get("max_running_per_tenant")
            require(
                each is None or max(here.values(), default=0) <= each, f"{here} run in {queue}, not {each}"
            )
            self._check_rate(queue, limits)

    def _check_rate(self, queue: str, limits: dict[str, Any]) -> None:
        """No window holds more claims than the burst and what flowed in meanwhile."""
        if limits.get("rate_per_second") is None or not self.claims[queue]:
            return
        times = self.claims[queue]
        for first, since in enumerate(times):
            most = limits["burst"] + limits["rate_per_second"] * (times[-1] - since).total_seconds()
            require(len(times) - first <= most + 1e-6, f"{len(times) - first} claims of {most} since {since}")

    async def confirm(self) -> None:
        """Check what is only worth a look at the end: replays, dead letters, statistics, marks of writes."""
        for task_id, row in self.rows.items():
            possible = after_silent_moves({self.born[task_id]})
            for event in self.told[task_id]:
                possible = after_silent_moves(
                    {one.after for one in TRANSITIONS if one.before in possible and one.event == event}
                )
            require(row["state"] in possible, f"{self.told[task_id]} does not lead to {row['state']}")
        ended = {task_id: row["state"] for task_id, row in self.rows.items() if is_final(row["state"])}
        ends = await self.world.admin.fetchrow(ENDS, self.world.tenants, list(set(ended.values())))
        assert ends is not None
        letters = {task_id for task_id, state in ended.items() if state in {"failed", "timed_out"}}
        require(
            set(ends["dead"]) == letters, f"dead letters {set(ends['dead']) ^ letters} too few or too many"
        )
        require(ends["counted"] == len(ended), f"statistics count {ends['counted']} of {len(ended)} ends")
        require(ends["events"] == sum(map(len, self.told.values())), "events were written on another clock")
        doubled = await self.world.admin.fetch(
            "SELECT task_id FROM machine_marks GROUP BY 1 HAVING count(*) > 1"
        )
        require(not doubled, f"written twice: {doubled}")
