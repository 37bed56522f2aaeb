"""Every answer carries its headers, every failure is an answer, and nothing of the request or of us leaks into it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import ClientError, ClientSession, web

from routes import keys
from routes.api import health, tasks
from routes.api.kernel import Call, operation
from server import connections, middleware, templating
from server.database import Database
from server.metrics import METRICS, Metrics
from services import errors
from services.errors import Fault, GalleyError
from services.task_context import Connection
from tests import web as served_web
from tests.conftest import Cluster
from tests.web import Served

routes = web.RouteTableDef()
RAISED: dict[str, Exception] = {
    "malformed": errors.Malformed("no"),
    "unauthenticated": errors.Unauthenticated("no"),
    "forbidden": errors.Forbidden("no"),
    "missing": errors.NotFound("task 7 of tenant 8 is not there"),
    "conflict": errors.Conflict("no", slug="task-ended"),
    "stale": errors.StaleAttempt("no"),
    "changed": errors.PreconditionFailed("no"),
    "large": errors.TooLarge("no"),
    "media": errors.UnsupportedMedia("no"),
    "invalid": errors.Invalid("no", faults=(Fault("/a", "is wrong"),)),
    "unsaid": errors.PreconditionNeeded("no"),
    "often": errors.RateLimited("no", retry_after=1.2),
    "away": errors.Unavailable("no", retry_after=3),
    "bug": RuntimeError("a secret: hunter2"),
    "other": GalleyError("no"),
    "refused": web.HTTPBadRequest(text="<script>"),
    "locked": asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
    "killed": asyncpg.AdminShutdownError("terminating connection"),
    "full": asyncpg.DiskFullError("could not extend file base/1/2"),
    "gone": ConnectionResetError("10.0.0.1"),
    "nul": asyncpg.CharacterNotInRepertoireError("invalid byte sequence"),
}
STATUSES = {
    "malformed": 400, "unauthenticated": 401, "forbidden": 403, "missing": 404, "conflict": 409, "stale": 409, "changed": 412, "large": 413,
    "media": 415, "invalid": 422, "unsaid": 428, "often": 429, "away": 503, "bug": 500, "other": 500, "refused": 400, "locked": 503,
    "killed": 503, "full": 503, "gone": 503, "nul": 422,
}  # fmt: skip


@routes.get("/api/v1/raise/{name}")
@routes.get("/raise/{name}")
async def raise_it(request: web.Request) -> web.Response:
    raise RAISED[request.match_info["name"]]


@routes.get("/api/v1/stream", allow_head=False)
async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"some")
    if "fail" in request.query:
        raise RuntimeError("in the middle")
    return response


@routes.get("/public")
async def public(request: web.Request) -> web.Response:
    return web.Response(text="hello", headers={"Cache-Control": "public, max-age=60"})


@operation(routes, "GET", "/api/v1/slow", name="slow", summary="Slow", role="viewer")
async def slow(call: Call, db: Connection) -> None:
    await db.execute("SELECT pg_sleep(30)")


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    built = served_web.build(
        database, routes, tasks.routes, health.routes, allowed_origins=("https://good.example",)
    )
    built.app.on_startup.append(health.prepare_document)
    templating.install(built.app)
    built.app[METRICS] = metrics = Metrics(release="0")
    built.app[keys.SCRAPE] = metrics.render

    async def healthy() -> dict[str, str | None]:
        return {"database": None, "claimer": "no progress for 12 s"}

    built.app[keys.HEALTH] = healthy
    async with served_web.running(built) as running:
        yield running


@pytest.fixture
async def api(served: Served, database: Database, tenant: UUID) -> AsyncIterator[ClientSession]:
    async with served_web.client(served, await served_web.make_key(database, tenant)) as session:
        yield session


def missing_headers(headers: dict[str, str]) -> set[str]:
    """Return what every answer must have and this one lacks."""
    wanted = {*middleware.SECURITY_HEADERS, "X-Request-ID"}
    lacking = {name for name in wanted if name not in headers}
    return lacking | ({"Server"} if headers.get("Server") != "galley" else set())


async def test_each_kind_of_failure_has_its_status_and_says_nothing_of_ours(api: ClientSession) -> None:
    for name, status in STATUSES.items():
        async with api.get(f"/api/v1/raise/{name}") as response:
            text = await response.text()
            body = json.loads(text)
            assert (response.status, response.content_type) == (status, "application/problem+json"), name
            assert body["status"] == status
            assert body["type"].startswith("/problems/")
            assert missing_headers(dict(response.headers)) == set(), name
            assert response.headers["Cache-Control"] == "no-store"
            for secret in (
                "hunter2",
                "Traceback",
                "base/1/2",
                "10.0.0.1",
                "script",
                "RuntimeError",
                "tenant 8",
            ):
                assert secret not in text, name
            if status in {429, 503}:
                assert int(response.headers["Retry-After"]) >= 1
            if status == 422 and name == "invalid":
                assert body["errors"] == [{"pointer": "/a", "message": "is wrong"}]


async def test_pages_fail_as_pages(api: ClientSession) -> None:
    for name, status in STATUSES.items():
        async with api.get(f"/raise/{name}", allow_redirects=False) as response:
            assert response.status == (303 if name == "unauthenticated" else status), name
            assert missing_headers(dict(response.headers)) == set(), name
            if status != 401:
                assert response.content_type == "text/html"
                assert "hunter2" not in await response.text()


async def test_every_route_and_every_refusal_carries_the_headers(served: Served, api: ClientSession) -> None:
    tried = set()
    for route in served.app.router.routes():
        path = str(route.resource.canonical) if route.resource else ""
        path = path.replace("{task_id}", str(uuid4())).replace("{name}", "bug")
        if path.endswith(("/slow", "/docs")):
            continue
        for client_headers in ({}, {"Authorization": "Bearer wrong"}):
            async with api.request(route.method, path, headers=client_headers) as response:
                tried.add(response.status)
                assert missing_headers(dict(response.headers)) == set(), (route.method, path, response.status)
    for method, path in (
        ("GET", "/api/v1/nowhere"),
        ("DELETE", "/api/v1/tasks"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/api/v1/tasks"),
    ):
        async with api.request(method, path) as response:
            tried.add(response.status)
            assert missing_headers(dict(response.headers)) == set()

    assert {200, 401, 404, 405, 415, 503} <= tried


async def test_an_answer_that_fails_midway_is_cut_off(api: ClientSession) -> None:
    async with api.get("/api/v1/stream?fail=1") as response:
        assert response.status == 200
        with pytest.raises(ClientError):
            await response.read()
    async with api.get("/api/v1/stream") as response:
        assert await response.read() == b"some"
        assert missing_headers(dict(response.headers)) == set()


async def test_public_pages_may_be_cached_and_what_is_read_with_a_key_may_not(
    served: Served, api: ClientSession
) -> None:
    async with ClientSession(served.url) as nobody, nobody.get("/public") as response:
        assert response.headers["Cache-Control"] == "public, max-age=60"
    async with api.get("/api/v1/tasks") as response:
        assert response.headers["Cache-Control"] == "no-store"


async def test_a_sane_request_id_is_taken_over_and_another_is_not(api: ClientSession) -> None:
    async with api.get("/api/v1/tasks", headers={"X-Request-ID": "trace-0123.abc"}) as response:
        assert response.headers["X-Request-ID"] == "trace-0123.abc"
    for odd in ("short", "x" * 65, "has blank in it", "<script>alert", "a\u00e9bcdefgh"):
        async with api.get("/api/v1/tasks", headers={"X-Request-ID": odd}) as response:
            assert len(response.headers["X-Request-ID"]) == 32


async def test_only_allowed_origins_may_call_from_scripts(api: ClientSession) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with api.options(
        "/api/v1/tasks", headers={"Origin": "https://good.example"} | preflight
    ) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
    async with api.get(
        "/api/v1/tasks", headers={"Origin": "https://good.example", "Authorization": "Bearer wrong"}
    ) as response:
        assert response.status == 401
        assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert "Origin" in response.headers["Vary"]
    for origin in (
        "https://evil.example",
        "null",
        "https://good.example.evil.example",
        "http://good.example",
    ):
        for method, headers in (("OPTIONS", preflight), ("GET", {})):
            async with api.request(method, "/api/v1/tasks", headers={"Origin": origin} | headers) as response:
                assert "Access-Control-Allow-Origin" not in response.headers, origin


class Link:
    """Between us and PostgreSQL: carries bytes until it is told to break."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._carrying: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def mend(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._carry, path)

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for carrying in self._carrying:
            carrying.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrying = asyncio.current_task()
        assert carrying is not None
        self._carrying.add(carrying)
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            ends.append(far_writer)
            with contextlib.suppress(ConnectionError, ExceptionGroup):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(reader, far_writer))
                    both.create_task(self._pump(far_reader, writer))
        except asyncio.CancelledError:
            pass  # the link is cut; asyncio's streams would report it as an error
        finally:
            for end in ends:
                end.transport.abort()
            self._carrying.discard(carrying)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def linked(
    cluster: Cluster, database_name: str, database: Database, tenant: UUID
) -> AsyncIterator[tuple[Link, str, ClientSession]]:
    """The application behind a link that can be broken: the link, its path, a client."""
    parts = urlsplit(cluster.web(database_name))
    place = parse_qs(parts.query)
    if "host" not in place:
        pytest.skip("the link is cut on a Unix socket; this database is reached by TCP")
    key = await served_web.make_key(database, tenant)
    link = Link(f"{place['host'][0]}/.s.PGSQL.{place['port'][0]}")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/.s.PGSQL.5432"
        await link.mend(path)
        behind = Database(urlunsplit(parts._replace(query=f"host={folder}&port=5432")))
        await behind.open()
        async with (
            served_web.running(served_web.build(behind, tasks.routes)) as served,
            served_web.client(served, key) as api,
        ):
            assert (await api.get("/api/v1/tasks")).status == 200
            yield link, path, api
        await behind.close()
        await link.cut()


async def refused_in_time(api: ClientSession) -> None:
    started = time.perf_counter()
    async with api.get("/api/v1/tasks") as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert (await response.json())["type"] == "/problems/temporary-reduced-capacity"
    assert time.perf_counter() - started < 3


async def served_again(api: ClientSession) -> None:
    async with asyncio.timeout(10):
        while (await api.get("/api/v1/tasks")).status != 200:
            await asyncio.sleep(0.05)


async def test_a_database_that_is_away_is_said_at_once(linked: tuple[Link, str, ClientSession]) -> None:
    link, path, api = linked

    await link.cut()
    for _ in range(3):
        await refused_in_time(api)
    Path(path).unlink(missing_ok=True)
    await link.mend(path)

    await served_again(api)


async def test_a_link_that_has_gone_silent_is_noticed_in_time(
    linked: tuple[Link, str, ClientSession],
) -> None:
    link, _, api = linked
    answers = await asyncio.gather(*(api.get("/api/v1/tasks") for _ in range(8)))
    by_session = ClientSession(answers[0].url.origin(), headers={"Cookie": "sid=anything"})

    link.flowing.clear()
    async with by_session:
        await asyncio.gather(*(refused_in_time(asking) for asking in [api, by_session] * 4))
    link.flowing.set()

    await served_again(api)


async def test_a_statement_that_takes_too_long_is_given_up(api: ClientSession) -> None:
    async with api.get("/api/v1/slow") as response:
        assert (response.status, (await response.json())["type"]) == (503, "/problems/busy")


async def test_ready_tells_what_is_not(api: ClientSession) -> None:
    async with api.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {
            "state": "not ready",
            "checks": {"claimer": "no progress for 12 s", "database": "ok"},
        }
    async with api.get("/livez") as response:
        assert (response.status, await response.json()) == (200, {"state": "alive"})


async def test_requests_are_measured_by_route_template(api: ClientSession) -> None:
    await (await api.get(f"/api/v1/tasks/{uuid4()}")).read()
    await (await api.get("/api/v1/tasks/../../etc/passwd")).read()
    await (await api.get("/never/heard/of")).read()

    async with api.get("/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert (
        'galley_http_request_seconds_count{method="GET",route="/api/v1/tasks/{task_id}",status="404"} 1.0'
        in text
    )
    assert 'route="unmatched"' in text
    assert "never" not in text


async def test_a_failure_is_logged_once_with_its_request(
    api: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await (await api.get("/api/v1/raise/bug")).read()

    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in failures] == ["request failed"]
    assert failures[0].path == "/api/v1/raise/bug"


# Connections


async def exchange(served: Served, sent: bytes, *, seconds: float = 5) -> bytes:
    """Send raw bytes and return everything that comes back until the server closes."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(seconds):
            return await reader.read(-1)
    finally:
        writer.close()


BROKEN = [
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"GET / HTTP/1.1\r\nHost: a\r\nEvil<canary>: \x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n canary: folded\r\n\r\n",
    b"\x16\x03\x01canary\r\n\r\n",
    b"GET /<canary> HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"canary" * 4000 + b"\r\n\r\n",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n",
]


async def test_what_cannot_be_parsed_is_refused_without_repeating_it(served: Served) -> None:
    for sent in BROKEN:
        answer = await exchange(served, sent)
        assert answer.split(b" ", 2)[1] in {b"400", b"431"}, (sent[:60], answer[:200])
        assert b"canary" not in answer
        assert b"nosniff" in answer
        assert b"aiohttp" not in answer


async def test_a_head_that_never_ends_is_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    async with served_web.running(served_web.build(database, routes)) as served:
        for sent in (b"", b"GET /public HTTP/1.1\r\nHost:"):
            started = time.perf_counter()
            assert (await exchange(served, sent)).startswith(b"HTTP/1.1 408 ")
            assert time.perf_counter() - started < 3


async def test_a_second_head_that_never_ends_is_given_up_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    async with served_web.running(served_web.build(database, routes)) as served:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")

        writer.write(b"GET /public HT")
        async with asyncio.timeout(15):
            assert (await reader.read(-1)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_handler_may_take_longer_than_a_head(
    database: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    table = web.RouteTableDef()

    @table.post("/slow")
    async def wait(request: web.Request) -> web.Response:
        await asyncio.sleep(1.5)
        return web.Response(text=await request.text())

    async with (
        served_web.running(served_web.build(database, table)) as served,
        ClientSession(served.url) as client,
        client.post("/slow", data=b"x" * 100_000) as response,
    ):
        assert len(await response.text()) == 100_000
