"""Worker processes: what they see, what bounds them, and that nothing of them is left behind. Real processes throughout."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from server import worker_main
from server.worker_processes import WorkerProcesses
from services.errors import Fault, Invalid
from services.task_types import Permanent, ProcessCrashed, ProcessLimit, Retryable
from tests import blocking
from tests.blocking import gone, marked

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def processes() -> AsyncIterator[WorkerProcesses]:
    made = WorkerProcesses(limit=2)
    yield made
    await made.close()


async def call(processes: WorkerProcesses, function: Callable[..., Any], *args: Any, **limits: Any) -> Any:
    return await processes.run(
        function, args, **{"cpu_seconds": 10, "memory_mb": 64, "result_mb": 1, **limits}
    )


async def test_a_function_runs_in_a_process_of_its_own_and_its_result_comes_back(
    processes: WorkerProcesses,
) -> None:
    here = await call(processes, blocking.facts)
    there = await call(processes, blocking.facts)

    assert await call(processes, blocking.add, 2, 3) == 5
    assert len({os.getpid(), here.pid, there.pid}) == 3
    assert here.session != os.getsid(0)
    assert here.niceness == min(os.nice(0) + worker_main.NICENESS, 19)


async def test_a_worker_process_has_none_of_the_servers_sockets_and_secrets(
    processes: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "nobody may know this")
    monkeypatch.setenv("DATABASE_URL", "postgresql://galley:password@db/galley")
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with listening:
        facts = await call(processes, blocking.facts)

    assert facts.environment["PATH"] == os.environ["PATH"]
    assert not {"SECRET_KEY", "DATABASE_URL"} & set(facts.environment)
    sockets = [name for name in facts.open_files.values() if name.startswith("socket:")]
    assert len(sockets) == 1, "the one over which it answers"


async def test_a_second_call_starts_in_milliseconds(processes: WorkerProcesses) -> None:
    await call(processes, blocking.add, 1, 1)
    took = []
    for _ in range(20):
        started = time.monotonic()
        await call(processes, blocking.add, 1, 1)
        took.append(time.monotonic() - started)

    assert min(took) < 0.05, (
        took
    )  # 3 ms on a quiet machine; a new interpreter would take several times as long, each time


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ((blocking.burst, (), {}), (ProcessLimit, "needed more than 64 MB of memory")),
        ((blocking.take, (100,), {}), (ProcessLimit, "needed more than 64 MB of memory")),
        (
            (blocking.spin, ("mark",), {"cpu_seconds": 0.5}),
            (ProcessLimit, "more than 0.5 s of processor time"),
        ),
        ((blocking.inflate, (2,), {}), (ProcessLimit, "at most 1 MB")),
        *(
            (
                (blocking.flood, (kind,), {}),
                (ProcessLimit, "sent 1099511627776 bytes; at most 1 MB are taken"),
            )
            for kind in (worker_main.RESULT, worker_main.RAISED, worker_main.TOO_LARGE)
        ),
        *(
            ((blocking.lie, (worker_main.RAISED, pickle.dumps(told)), {}), (Permanent, "it is no error"))
            for told in (1, ("ValueError", "no luck"), ("ValueError", "no luck", "here", None))
        ),
        ((blocking.lie, (worker_main.TOO_LARGE, b"so much"), {}), (Permanent, "it is no b'L'")),
        ((blocking.lie, (b"?", pickle.dumps(1)), {}), (Permanent, r"it is no b'\?'")),
        ((blocking.vanish, (3,), {}), (ProcessCrashed, "ended itself with exit status 3")),
        ((blocking.vanish, (0,), {}), (ProcessCrashed, "ended itself with exit status 0")),
        ((blocking.crash, (), {}), (ProcessCrashed, "SIGSEGV")),
        ((blocking.hang_up, (), {}), (ProcessCrashed, "hung up")),
        ((blocking.be_stubborn, (), {}), (Retryable, "this and that")),
        ((blocking.stumble, (), {}), (ValueError, "no luck")),
        ((blocking.give_code, (), {}), (Permanent, r"system does not come back")),
        ((blocking.add, (1,), {}), (TypeError, "right")),
        ((blocking.add, (1, lambda: 2), {}), (Permanent, "cannot be sent")),
    ],
)
async def test_each_way_to_go_wrong_is_told_apart_and_the_next_call_works(
    processes: WorkerProcesses,
    tmp_path: Path,
    wrong: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
    expected: tuple[type[Exception], str],
) -> None:
    function, args, limits = wrong
    args = tuple(str(tmp_path / arg) if arg == "mark" else arg for arg in args)

    with pytest.raises(expected[0], match=expected[1]) as caught:
        await call(processes, function, *args, **limits)

    assert type(caught.value) is expected[0]
    assert await call(processes, blocking.add, 1, 1) == 2


async def test_memory_up_to_the_limit_may_be_used(processes: WorkerProcesses) -> None:
    assert await call(processes, blocking.take, 40) == 40 << 20


async def test_an_error_keeps_its_class_its_words_and_where_it_came_from(processes: WorkerProcesses) -> None:
    with pytest.raises(Invalid, match="it has no text") as caught:
        await call(processes, blocking.refuse)

    assert (caught.value.slug, caught.value.faults) == ("empty", (Fault("/text", "is empty"),))
    assert "in refuse" in caught.value.__notes__[0]

    with pytest.raises(Retryable) as told:
        await call(processes, blocking.be_stubborn)

    assert told.value.slug == "Stubborn"
    assert "in be_stubborn" in told.value.__notes__[0]


async def test_nothing_is_imported_because_a_worker_process_names_it(processes: WorkerProcesses) -> None:
    with pytest.raises(Permanent, match="nothing here has imported sched"):
        await call(processes, blocking.give_a_stranger)
    with pytest.raises(Retryable, match="no such thing") as told:
        await call(processes, blocking.stumble_over_a_stranger)

    assert told.value.slug == "ZipAppError"
    assert "in stumble_over_a_stranger" in told.value.__notes__[0]
    assert not {"sched", "zipapp"} & sys.modules.keys()


async def test_only_a_function_of_a_module_can_run_there(processes: WorkerProcesses) -> None:
    with pytest.raises(Permanent, match="only a function of a module"):
        await call(processes, lambda: 1)


async def test_a_call_that_is_cancelled_is_killed_with_all_it_has_started(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    running = asyncio.create_task(call(processes, blocking.spin_with_company, str(mark)))
    pids = await marked(mark)

    running.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(*pids)

    assert time.monotonic() - started < 1
    assert len(pids) == 2


async def test_no_more_run_at_a_time_than_allowed_and_each_end_makes_room(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    marks = [tmp_path / str(number) for number in range(3)]
    running = [asyncio.create_task(call(processes, blocking.spin, str(mark))) for mark in marks]
    await asyncio.gather(marked(marks[0]), marked(marks[1]))
    await asyncio.sleep(0.1)
    assert not marks[2].exists()

    running[0].cancel()
    await marked(marks[2])

    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_closing_kills_what_still_runs(tmp_path: Path) -> None:
    processes, mark = WorkerProcesses(limit=1), tmp_path / "mark"
    running = asyncio.create_task(call(processes, blocking.spin, str(mark)))
    pids = await marked(mark)

    await processes.close()

    await gone(*pids)
    with pytest.raises(Retryable, match="has died"):
        await running


async def test_when_the_starter_is_killed_calls_fail_its_processes_end_and_the_next_call_works(
    processes: WorkerProcesses, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    running = asyncio.create_task(call(processes, blocking.spin, str(mark)))
    pids = await marked(mark)
    assert processes._starter is not None

    os.kill(processes._starter._process.pid, signal.SIGKILL)

    with pytest.raises(Retryable, match="has died"):
        await running
    await gone(*pids)
    assert await call(processes, blocking.add, 1, 1) == 2


SERVER = """
import asyncio, sys
from server.worker_processes import WorkerProcesses
from tests import blocking
from tests.blocking import gone, marked
asyncio.run(WorkerProcesses(limit=1).run(blocking.spin_with_company, (sys.argv[1],), cpu_seconds=60, memory_mb=64, result_mb=1))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_no_orphan_is_left_when_the_server_dies(tmp_path: Path, how: signal.Signals) -> None:
    mark = tmp_path / "mark"
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(mark)], cwd=ROOT)
    try:
        pids = await marked(mark)
        starter = int(Path(f"/proc/{pids[0]}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        assert starter != server.pid
    finally:
        server.send_signal(how)
        server.wait()

    assert await gone(starter, *pids) < 2


async def test_a_terminals_ctrl_c_does_not_end_a_call(processes: WorkerProcesses, tmp_path: Path) -> None:
    """The server ends its runs in order; a signal to all its processes must not be faster."""
    mark = tmp_path / "mark"
    running = asyncio.create_task(call(processes, blocking.sleep, 0.3, str(mark)))
    (pid,) = await marked(mark)
    assert processes._starter is not None

    for one in (pid, processes._starter._process.pid):
        os.kill(one, signal.SIGINT)
        os.kill(one, signal.SIGTERM)

    assert await running == 0.3
