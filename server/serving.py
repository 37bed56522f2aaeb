"""From an empty process to a serving one, and back: what is opened in which order, and what a signal does."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web

from routes import keys
from server import embedded
from server.app import ENGINE, HURRY, Parts, create_app
from server.connections import Runner
from server.database import Database
from server.opening import ready_database
from server.settings import Settings
from services.embeddings import Embedder
from services.errors import GalleyError
from services.llm import Provider

log = logging.getLogger(__name__)

HANDLER_SECONDS = 3.0  # for requests under way when the process stops; streams reconnect elsewhere


class ServeError(GalleyError):
    """The process cannot serve; the message says why in one sentence."""

    slug, title = "serve", "Cannot serve"


async def serve(
    settings: Settings, *, announce: Callable[[web.Application, Database, str], Coroutine[Any, Any, None]]
) -> None:
    """Serve until SIGINT or SIGTERM; a second signal hurries. *announce* is called with the address once it answers."""
    signals = _Signals()
    try:
        async with AsyncExitStack() as stack:
            await _serve(stack, settings, signals, announce)
    except asyncio.CancelledError:
        if not signals.stopping.is_set():
            raise
        log.info("stopped before it served")


async def _serve(
    stack: AsyncExitStack,
    settings: Settings,
    signals: _Signals,
    announce: Callable[[web.Application, Database, str], Coroutine[Any, Any, None]],
) -> None:
    bound = stack.enter_context(
        _bind(settings)
    )  # first: a taken port is found out before anything is started
    port = bound.getsockname()[1]
    database = await stack.enter_async_context(ready_database(settings))
    provider = await stack.enter_async_context(_provider(settings)) if settings.role != "web" else None
    base_url = settings.base_url.rstrip("/") or f"http://{_shown(settings.host)}:{port}"
    app = create_app(
        Parts(
            settings=settings,
            database=database,
            provider=provider,
            embedder=Embedder(),
            base_url=base_url,
        )
    )
    signals.opened(on_second=app[HURRY].set)
    runner = Runner(app, shutdown_timeout=HANDLER_SECONDS)
    await runner.setup()
    try:
        await _listen(runner, bound, settings)
        announcing = asyncio.create_task(announce(app, database, base_url), name="announce")
        announcing.add_done_callback(_report)
        await signals.stopping.wait()
        announcing.cancel()
        await _stop(app, runner)
    finally:
        await runner.cleanup()


def _report(announcing: asyncio.Task[None]) -> None:
    if not announcing.cancelled() and (exc := announcing.exception()) is not None:
        log.error("the start was not announced", exc_info=exc)


async def _stop(app: web.Application, runner: Runner) -> None:
    """Stop claiming at once; stop accepting requests; let what runs end."""
    log.info("stopping")
    app[keys.STOPPING].set()
    for site in list(runner.sites):
        await site.stop()
    await app[ENGINE].stop(app[HURRY])


def _bind(settings: Settings) -> socket.socket:
    """Take the port without listening yet. PORT=0 takes a free one. Raises: ServeError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as exc:
        raise _cannot_listen(settings, exc) from exc
    return bound


async def _listen(runner: Runner, bound: socket.socket, settings: Settings) -> None:
    try:
        await web.SockSite(runner, bound).start()
    except OSError as exc:  # another program bound the same port and was quicker to listen
        raise _cannot_listen(settings, exc) from exc


def _cannot_listen(settings: Settings, exc: OSError) -> ServeError:
    if exc.errno == errno.EADDRINUSE:
        return ServeError(
            f"port {settings.port} on {settings.host} is taken by another program; set PORT to a free one"
        )
    return ServeError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}")


class _Signals:
    """SIGINT and SIGTERM from the first moment on: while things are still being opened they undo that, later they stop the server.

    Without this a process told to stop while its engine starts would die with claims that wait for their lease to expire.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._opening = asyncio.current_task()
        self._on_second: Callable[[], None] = lambda: None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    def opened(self, *, on_second: Callable[[], None]) -> None:
        """From now on a signal ends things in order, and a second one hurries."""
        self._opening, self._on_second = None, on_second

    def _receive(self) -> None:
        if self.stopping.is_set():
            self._on_second()
        elif self._opening is not None:
            self._opening.cancel()
        self.stopping.set()


@asynccontextmanager
async def _provider(settings: Settings) -> AsyncIterator[Provider]:
    if not settings.embedded_model:
        yield Provider(
            settings.openai_base_url or "https://api.openai.com/v1",
            settings.openai_api_key.get_secret_value() or "none",
            settings.openai_model,
            concurrency=settings.llm_concurrency,
        )
        return
    async with embedded.model(settings.data_dir) as running:
        yield Provider(running.base_url, running.api_key, running.model, concurrency=4, embedded=True)


def _shown(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host
