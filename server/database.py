"""Connections to PostgreSQL: pools, codecs, transactions that know their tenant."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import asyncpg
import orjson
from pgvector.asyncpg import register_vector

from server.gathering import Gathering
from services.errors import GalleyError, Unavailable
from sql import Connection

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Pool = asyncpg.Pool

Item = TypeVar("Item")
T = TypeVar("T")

log = logging.getLogger(__name__)

ACQUIRE_SECONDS = 2.0  # longer than this for a free connection means that the database is not answering
CACHED_STATEMENTS = 200  # prepared in each connection; none behind a pooler, where the next one may meet another server process
ROLE = "galley_web"
WEB_STATEMENT_SECONDS, ENGINE_STATEMENT_SECONDS = 5, 30
# A link may stay open and carry nothing. The engine's statements take milliseconds: a loop waits this long and tries another connection.
WEB_ANSWER_SECONDS, ENGINE_ANSWER_SECONDS = 10.0, 4.0
COMMIT_SECONDS = 10.0  # one that is given up may have happened
LIMITS = {
    "jit": "off",  # costs more than it gives on short statements, and asyncpg's introspection is priced above its threshold
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "2s",
    "timezone": "UTC",
}
SERVER_SETTINGS = LIMITS | {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
}
# A connection pooler refuses or drops what a connection asks for at its start, so the role itself carries it as well.
ROLE_SETTINGS = LIMITS | {"statement_timeout": f"{ENGINE_STATEMENT_SECONDS}s"}
# What PostgreSQL being away looks like from here; everything else is a fault of a statement.
CONNECTION_ERRORS = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the backend said goodbye while the connection lay idle in the pool
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


def is_refusal(exc: BaseException) -> bool:
    """Whether something is wrong with what was sent and not with the database: sent again it would be refused again."""
    cannot_be_sent = isinstance(exc, asyncpg.InterfaceError) and isinstance(exc, ValueError)
    return cannot_be_sent or isinstance(exc, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)


class _Connection(asyncpg.Connection):
    """A connection whose settings are all transaction-local, so giving it back to the pool needs no round trip."""

    def get_reset_query(self) -> str:
        """Return nothing to run on release."""
        return ""


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value)


def _decode_jsonb(data: bytes) -> Any:
    return orjson.loads(data[1:])


async def _prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await register_vector(connection)


async def connect(
    dsn: str,
    *,
    application_name: str,
    role: str | None = None,
    pooled: bool = False,
    timeout: float = 10.0,
    answer_seconds: float = 60.0,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection outside any pool. *pooled*: ask for nothing that a pooler in between refuses, keep nothing in the session.

    Raises: Unavailable with the reason.
    """
    settings = {"application_name": application_name}
    if not pooled:
        settings |= SERVER_SETTINGS | ({"role": role} if role else {})
    try:
        return await asyncpg.connect(
            dsn,
            server_settings=settings,
            timeout=timeout,
            command_timeout=answer_seconds,
            statement_cache_size=0 if pooled else CACHED_STATEMENTS,
        )
    except (*CONNECTION_ERRORS, asyncpg.PostgresError, TimeoutError, ValueError) as exc:
        raise Unavailable(
            f"PostgreSQL does not answer at {without_password(dsn)}: {exc or type(exc).__name__}"
        ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address of PostgreSQL and what was found out there."""

    dsn: str
    pooled: bool  # a connection pooler is in between: nothing may be kept in a session, LISTEN hears nothing
    role: str | None  # to act as; None when the address signs in as galley_web


async def inspect(dsn: str) -> Endpoint:
    """Find out who signs in at *dsn*, and whether a connection pooler answers there. Raises: Unavailable."""
    connection = await connect(dsn, application_name="galley check", pooled=True)
    try:
        row = await connection.fetchrow(
            "SELECT session_user::text AS name, EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS known,"
            " CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = $1) THEN pg_has_role(session_user, $1, 'SET') END AS may",
            ROLE,
        )
        pooled = await _leads_through_pooler(connection)
    finally:
        connection.terminate()
    assert row is not None
    if row["name"] == ROLE:
        return Endpoint(dsn=dsn, pooled=pooled, role=None)
    if not row["known"] or not row["may"]:
        raise Unavailable(
            f"the database user {row['name']!r} may not act as {ROLE}: run `python main.py migrate` with a user that may create roles"
        )
    return Endpoint(dsn=dsn, pooled=pooled, role=ROLE)


async def is_pooled(dsn: str) -> bool:
    """Return whether a connection pooler answers at *dsn*. Raises: Unavailable."""
    connection = await connect(dsn, application_name="galley check", pooled=True)
    try:
        return await _leads_through_pooler(connection)
    finally:
        connection.terminate()


async def _leads_through_pooler(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Return whether a process serves *connection* that is not its own.

    PostgreSQL names the process when a connection opens, with the key that cancels its statements. A pooler, whose processes serve
    now this client and now that one, has to make up keys of its own.
    """
    return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())


def without_password(dsn: str) -> str:
    """Return *dsn* fit for a message."""
    scheme, separator, rest = dsn.partition("://")
    credentials, at, host = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{host}"


class Database:
    """Two pools, so that pages never wait for the engine nor the engine for pages. Both act as galley_web.

    *direct_dsn* is a way round the connection pooler that *dsn* may lead through. Without one nothing listens, and everything works
    by polling.
    """

    def __init__(
        self, dsn: str, *, direct_dsn: str = "", web_connections: int = 20, engine_connections: int = 7
    ) -> None:
        self.dsn = dsn
        self._direct_dsn = direct_dsn
        self._sizes = (web_connections, engine_connections)
        self._endpoint: Endpoint  # of the pools
        self._direct: Endpoint  # of connections of their own
        self._limit = ""  # goes into the round trip of BEGIN where the web pool's connections cannot carry it
        self._web: Pool
        self._engine: Pool
        self._runs = Gathering(self._run_each, refused=is_refusal, seconds=ACQUIRE_SECONDS)
        self._lookups = Gathering(self._look_up_each, refused=is_refusal, seconds=ACQUIRE_SECONDS)

    @property
    def pooled(self) -> bool:
        """Whether the pools lead through a connection pooler."""
        return self._endpoint.pooled

    @property
    def can_listen(self) -> bool:
        """Whether a connection of its own hears notifications."""
        return not self._direct.pooled

    async def open(self) -> None:
        """Open the pools. Raises: Unavailable when PostgreSQL does not answer or the role is missing."""
        self._endpoint = self._direct = await inspect(self.dsn)
        if self._direct_dsn and self._direct_dsn != self.dsn:
            self._direct = await inspect(self._direct_dsn)
        self._refuse_unfit()
        self._web = await self._pool(
            "galley web", self._sizes[0], WEB_STATEMENT_SECONDS, answer_seconds=WEB_ANSWER_SECONDS
        )
        self._engine = await self._pool(
            "galley engine", self._sizes[1], ENGINE_STATEMENT_SECONDS, answer_seconds=ENGINE_ANSWER_SECONDS
        )
        if self.pooled:
            self._limit = f", set_config('statement_timeout', '{WEB_STATEMENT_SECONDS}s', true)"
            log.info("connection pooler found", extra={"address": without_password(self.dsn)})

    def _refuse_unfit(self) -> None:
        """Raises: Unavailable where a pooler is in the way of what needs a session."""
        if self._endpoint.pooled and self._endpoint.role:
            raise Unavailable(
                f"DATABASE_URL leads through a connection pooler, where no role can be taken on: it must sign in as {ROLE}"
            )
        if self._direct.pooled and self._direct is not self._endpoint:
            raise Unavailable(
                "DIRECT_DATABASE_URL leads through a connection pooler as well: it must reach PostgreSQL itself"
            )

    async def close(self) -> None:
        """Close the pools; connections still in use after five seconds are dropped."""
        for pool in (self._web, self._engine):
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def dedicated(self, name: str) -> asyncpg.Connection[asyncpg.Record]:
        """Open a connection of its own, for listening or for the heartbeat, round the pooler where there is a way; the caller closes it."""
        where = self._direct
        connection = await connect(
            where.dsn,
            application_name=f"galley {name}",
            role=where.role,
            pooled=where.pooled,
            timeout=ACQUIRE_SECONDS,
            answer_seconds=ENGINE_ANSWER_SECONDS,
        )
        try:
            async with asyncio.timeout(ENGINE_ANSWER_SECONDS):
                await _prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID, actor: str) -> AsyncIterator[Connection]:
        """Open a transaction that sees the rows of one tenant and knows who acts."""
        quoted = actor.replace("'", "''").replace("\x00", "")
        begin = f"BEGIN; SELECT set_config('app.tenant', '{tenant_id!s}', true), set_config('app.actor', '{quoted}', true){self._limit}"
        async with self._transaction(self._web, begin) as db:
            yield db

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Connection]:
        """Open a transaction without a tenant: tables look empty, the engine's functions work."""
        async with self._transaction(self._engine, "BEGIN") as db:
            yield db

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """Lend an engine connection for single statements that are transactions of their own."""
        async with self._lend(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def lookup(self) -> AsyncIterator[Connection]:
        """Lend a web connection for one statement before the tenant is known: who is calling."""
        # Every request comes through here first: a link that has gone silent is noticed in time for its answer.
        async with asyncio.timeout(ACQUIRE_SECONDS), self._lend(self._web) as connection:
            yield connection

    async def run(self, tenant_id: UUID, actor: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do *work* in one tenant transaction, once more when PostgreSQL broke a deadlock or a serialisation failed."""
        try:
            async with self.tenant(tenant_id, actor) as db:
                return await work(db)
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            async with self.tenant(tenant_id, actor) as db:
                return await work(db)

    async def run_together(
        self,
        tenant_id: UUID,
        actor: str,
        work: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[T]]],
        item: Item,
    ) -> T:
        """Do *work* as `run` does, for *item* and whatever else the same actor asks of it just now. Returns the result for *item*."""
        result: T = await self._runs.ask((tenant_id, actor, work), item)
        return result

    async def look_up(
        self, work: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[T]]], item: Item
    ) -> T:
        """Do *work* as with `lookup`, for *item* and whatever else is looked up just now. Returns the result for *item*."""
        async with asyncio.timeout(ACQUIRE_SECONDS):  # waiting for others included
            result: T = await self._lookups.ask(work, item)
        return result

    async def _run_each(self, key: Any, items: Sequence[Any]) -> Sequence[Any]:
        tenant_id, actor, work = key
        results: Sequence[Any] = await self.run(tenant_id, actor, lambda db: work(db, items))
        return results

    async def _look_up_each(self, work: Any, items: Sequence[Any]) -> Sequence[Any]:
        async with self.lookup() as db:
            results: Sequence[Any] = await work(db, items)
        return results

    async def _pool(self, name: str, size: int, statement_seconds: int, *, answer_seconds: float) -> Pool:
        settings = {"application_name": name}
        if not self.pooled:
            settings |= SERVER_SETTINGS | {"statement_timeout": f"{statement_seconds}s"}
        if self._endpoint.role:
            settings["role"] = self._endpoint.role
        return await asyncpg.create_pool(
            self.dsn,
            min_size=1,
            max_size=size,
            server_settings=settings,
            init=_prepare,
            connection_class=_Connection,
            command_timeout=answer_seconds,
            timeout=10,
            max_inactive_connection_lifetime=60,
            statement_cache_size=0 if self.pooled else CACHED_STATEMENTS,
        )

    async def _acquire(self, pool: Pool) -> Any:
        try:
            return await pool.acquire(timeout=ACQUIRE_SECONDS)
        except (*CONNECTION_ERRORS, TimeoutError) as exc:
            raise Unavailable("the database is not answering", retry_after=2) from exc

    @asynccontextmanager
    async def _lend(self, pool: Pool) -> AsyncIterator[Connection]:
        connection = await self._acquire(pool)
        try:
            yield connection
        except BaseException as exc:
            if not isinstance(exc, asyncpg.PostgresError | GalleyError):
                _drop(connection)
            raise
        finally:
            await pool.release(connection)

    @asynccontextmanager
    async def _transaction(self, pool: Pool, begin: str) -> AsyncIterator[Connection]:
        connection = await self._acquire(pool)
        try:
            await connection.execute(begin, timeout=ACQUIRE_SECONDS)
            yield connection
            await connection.execute("COMMIT", timeout=COMMIT_SECONDS)
        except BaseException as exc:
            await _abandon(connection, exc)
            raise
        finally:
            await pool.release(connection)


async def _abandon(connection: Any, exc: BaseException) -> None:
    """Roll back after an error the connection survived; drop the connection after one that may have hit it mid-query."""
    if isinstance(exc, Exception) and not isinstance(exc, (*CONNECTION_ERRORS, TimeoutError)):
        with contextlib.suppress(*CONNECTION_ERRORS, TimeoutError, asyncpg.PostgresError):
            async with asyncio.timeout(2):
                await connection.execute("ROLLBACK")
                return
    _drop(connection)


def _drop(connection: Any) -> None:
    """Close at once. A connection that has broken by itself has left its pool already, and must not hide why we are here."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()
