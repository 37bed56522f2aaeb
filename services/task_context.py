"""What a task's code is given: its identity, its checkpoints, its live output and its models.

`step` is for work outside the database (at least once, its result kept), `write` for changes inside it (exactly once: the
changes, the checkpoint and the fence check are one transaction), `wait_for` ends the run until a signal comes. When a task
runs again its code starts from the top and finished steps answer from their checkpoints.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import orjson

from services import runs
from services.errors import StaleAttempt
from services.live_output import LiveOutput
from services.task_types import Permanent, StepMismatch
from sql import Connection

if TYPE_CHECKING:
    from services.embeddings import Embedder
    from services.llm import TaskModel

Item = TypeVar("Item")
T = TypeVar("T")

MAX_OUTPUT_BYTES = 1 << 20  # one checkpoint (RULINGS 17)
WRITE_SECONDS = 2.0  # one fenced transaction (RULINGS 6)


class Database(Protocol):
    """Where transactions come from. Hold none over a call to a model or to another server."""

    def tenant(self, tenant_id: UUID, actor: str) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that sees one tenant's rows."""
        ...

    def engine(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction without a tenant: only the engine's functions see rows."""
        ...

    def lookup(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection for one statement before the tenant is known: who is calling."""
        ...

    async def run(self, tenant_id: UUID, actor: str, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do *work* in one tenant transaction, once more when PostgreSQL broke a deadlock or a serialisation failed."""
        ...

    async def run_together(
        self,
        tenant_id: UUID,
        actor: str,
        work: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[T]]],
        item: Item,
    ) -> T:
        """Do *work* as `run` does, for *item* and whatever else the same actor asks of it just now. Returns the result for *item*."""
        ...

    async def look_up(
        self, work: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[T]]], item: Item
    ) -> T:
        """Do *work* as with `lookup`, for *item* and whatever else is looked up just now. Returns the result for *item*."""
        ...


class Processes(Protocol):
    """Where code runs that computes, blocks or may crash."""

    async def run(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        *,
        cpu_seconds: float,
        memory_mb: int,
        result_mb: int,
    ) -> T:
        """Call *function* in a process of its own; cancelling this kills the process."""
        ...


class Suspended(BaseException):
    """Ends a run because the task now waits. Not an Exception: code that catches those must not stop it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What a wait ended with. `expired` means that nothing came in time; then `data` is empty."""

    name: str
    data: dict[str, Any]
    actor: str | None
    expired: bool = False


class Run(NamedTuple):
    """One claimed run of a task: what identifies it and what it was asked to do."""

    id: UUID
    tenant_id: UUID
    type: str
    type_version: int
    fence: int
    attempt: int
    max_attempts: int
    seconds_left: float
    created_by: str
    request_id: str | None
    payload: dict[str, Any]
    snoozes: int = 0
    deadline_is_total: bool = False  # then `seconds_left` is what is left of the task's whole time


class TaskContext:
    """One run of a task, as its code sees it."""

    def __init__(
        self,
        run: Run,
        *,
        database: Database,
        embedder: Embedder | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.run = run
        self.database = database
        self.current_step: str | None = None
        self.alive_at = 0.0  # the latest sign of progress, on the monotonic clock; 0: none yet
        self._embedder, self._processes = embedder, processes
        self._make_llm: Callable[[], TaskModel] | None = None
        self._llm: TaskModel | None = None
        self._checkpoints: dict[str, runs.Checkpoint] | None = None
        self._used: set[str] = set()
        self._live: LiveOutput | None = None  # most runs show nothing

    def __repr__(self) -> str:
        return f"<TaskContext {self.run.type} {self.run.id} run {self.run.fence}>"

    @property
    def id(self) -> UUID:
        """The task's id."""
        return self.run.id

    @property
    def tenant_id(self) -> UUID:
        """The tenant the task belongs to."""
        return self.run.tenant_id

    @property
    def fence(self) -> int:
        """The number of this run; every write of it is refused once the task has gone on without it."""
        return self.run.fence

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        return self.run.attempt

    @property
    def created_by(self) -> str:
        """The actor who created the task."""
        return self.run.created_by

    @property
    def actor(self) -> str:
        """How history names this task when it changes something."""
        return f"task:{self.run.id}"

    @property
    def embedder(self) -> Embedder:
        """The local embedding model. Raises: Permanent when this process has none."""
        if self._embedder is None:
            raise Permanent("this process has no embedding model")
        return self._embedder

    @property
    def llm(self) -> TaskModel:
        """The language model, bound to this run. Raises: Permanent when this process has none."""
        if self._llm is None and self._make_llm is not None:
            self._llm = self._make_llm()
        if self._llm is None:
            raise Permanent(
                "this process has no language model: set OPENAI_BASE_URL or install the embedded one"
            )
        return self._llm

    def bind_llm(self, make: Callable[[], TaskModel]) -> None:
        """Say how to make the run's model, for code that asks for it; the executor calls this before the code starts."""
        self._make_llm = make

    async def step(self, name: str, fn: Callable[[], Awaitable[Any]], *, input: Any = None) -> Any:  # noqa: A002 - the step's own word
        """Do *fn* once and keep its JSON result; later runs get the kept result.

        Args:
            name: unique within the task, for example `refine:3`.
            fn: at-least-once work outside the database; one model call at most.
            input: JSON the result depends on; a later run with another input is refused.
        Raises: StepMismatch, StaleAttempt, Permanent (output over 1 MiB).
        """
        input_hash = (
            None
            if input is None
            else hashlib.sha256(orjson.dumps(input, option=orjson.OPT_SORT_KEYS)).digest()
        )
        kept = await self._kept(name, input_hash)
        if kept is not None:
            return kept.output
        started = self.alive_at = time.monotonic()
        self.current_step = name
        try:
            output = await fn()
        finally:
            self.current_step = None
            self.alive_at = time.monotonic()
        checkpoint = runs.Checkpoint(
            name=name, kind="step", input_hash=input_hash, output=_plain(name, output)
        )
        async with self.database.tenant(self.tenant_id, self.actor) as db:
            await runs.lock(db, self.id, self.fence)
            await runs.save_checkpoint(db, self.run, checkpoint, seconds=time.monotonic() - started)
        return checkpoint.output

    async def write(
        self, name: str, fn: Callable[[Connection], Awaitable[Any]], *, seconds: float = WRITE_SECONDS
    ) -> Any:
        """Change the database exactly once: *fn*, its checkpoint and the fence check are one transaction.

        Raises: StaleAttempt when the run no longer owns the task (nothing was written), TimeoutError after *seconds*.
        """
        kept = await self._kept(name, None)
        if kept is not None:
            return kept.output
        started = self.alive_at = time.monotonic()
        async with asyncio.timeout(seconds), self.database.tenant(self.tenant_id, self.actor) as db:
            await runs.lock(db, self.id, self.fence)
            output = await fn(db)
            checkpoint = runs.Checkpoint(
                name=name, kind="write", input_hash=None, output=_plain(name, output)
            )
            await runs.save_checkpoint(db, self.run, checkpoint, seconds=time.monotonic() - started)
        return checkpoint.output

    async def wait_for(self, name: str, *, timeout: timedelta | None = None) -> Signal:
        """Return the signal *name*, or end this run until it comes or *timeout* has passed.

        Waiting holds no slot, no key and no attempt. A signal sent before the wait is found. Raises: StaleAttempt.
        """
        kept = await self._kept(f"wait:{name}", None)
        if kept is not None:
            return Signal(name=name, **kept.output)
        await self.close()
        async with self.database.tenant(self.tenant_id, self.actor) as db:
            outcome = await runs.wait(db, self.run, name, timeout=timeout)
        if outcome is None:
            raise Suspended(name)
        return Signal(name=name, **outcome)

    async def in_process(
        self,
        function: Callable[..., T],
        *args: Any,
        cpu_seconds: float = 60,
        memory_mb: int = 512,
        result_mb: int = 16,
    ) -> T:
        """Call `function(*args)` in a worker process: code that computes, blocks or may crash takes nothing with it there.

        Stopping the run, for whatever reason, kills the process at once. It waits its turn when WORKER_PROCESSES are busy.

        Args:
            function: of a module, not of a class or another function. Its module is imported in a process that every call
                starts from: it must start no threads. It has no connections, no settings and no secrets, and is no
                coroutine. What it prints goes to the server's standard error.
            args: what pickle can copy.
            cpu_seconds: of processor time, rounded up; time by the clock is that of the run.
            memory_mb: what it may take beyond what it starts with. Threads count with the address space they reserve.
            result_mb: how large its result may be, which is made of plain values and data classes.
        Raises: what the function raises, by class where it can be copied, else Retryable with the class as its slug;
            ProcessLimit (never retried) naming the limit; ProcessCrashed (tried once more) when the process died otherwise.
        """
        if self._processes is None:
            raise Permanent("this process has no worker processes")
        self.alive_at = time.monotonic()
        try:
            return await self._processes.run(
                function, args, cpu_seconds=cpu_seconds, memory_mb=memory_mb, result_mb=result_mb
            )
        finally:
            self.alive_at = time.monotonic()

    async def progress(self, fraction: float, text: str) -> None:
        """Tell how far the run is: *fraction* of 1 and a few words. Written at most every 250 ms, the latest wins."""
        self.alive_at = time.monotonic()
        self._output.progress({"fraction": round(max(0.0, min(1.0, fraction)), 4), "text": text[:200]})
        await asyncio.sleep(0)

    def emit(self, text: str) -> None:
        """Append live text for people watching; written at most every 250 ms."""
        self.alive_at = time.monotonic()
        self._output.append(text)

    async def close(self) -> None:
        """Write what is still buffered; the executor calls this when the code has ended."""
        if self._live is not None:
            await self._live.close()

    @property
    def _output(self) -> LiveOutput:
        if self._live is None:
            run = self.run
            self._live = LiveOutput(self.database, tenant_id=run.tenant_id, task_id=run.id, fence=run.fence)
        return self._live

    async def _kept(self, name: str, input_hash: bytes | None) -> runs.Checkpoint | None:
        if name in self._used:
            raise Permanent(f"step {name!r} is used twice in one run; names are unique")
        self._used.add(name)
        if self._checkpoints is None:
            async with self.database.tenant(self.tenant_id, self.actor) as db:
                self._checkpoints = await runs.list_checkpoints(db, self.tenant_id, self.id)
        kept = self._checkpoints.get(name)
        if kept is not None and kept.input_hash != input_hash:
            raise StepMismatch(f"step {name!r} was finished with another input")
        return kept


def _plain(name: str, output: Any) -> Any:
    """Return *output* as it will read from its checkpoint. Raises: Permanent when it is too large or no JSON."""
    try:
        data = orjson.dumps(output)
    except TypeError as exc:
        raise Permanent(f"step {name!r} returned something that is not JSON: {exc}") from exc
    if len(data) > MAX_OUTPUT_BYTES:
        raise Permanent(f"step {name!r} returned {len(data)} bytes; at most {MAX_OUTPUT_BYTES} are kept")
    return orjson.loads(data)


__all__ = ["Connection", "Database", "Processes", "Run", "Signal", "StaleAttempt", "Suspended", "TaskContext"]
