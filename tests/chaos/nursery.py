"""The parent of every process that an experiment starts: it has imported everything once and forks.

Reads one JSON object a line, `{"how", "env", "log", "self_fence", "faults", "arguments"}`, and answers with the child's process id:
    serve     the whole server, as `python main.py serve`, with the task types of tests/chaos/types.py
    engine    executor and loops only, without HTTP
    command   any other command of main.py, such as `key create`
    program   `python main.py …` itself, from its first import on: a fresh program, no fork of this one
    module    `python -m …`, likewise
    path      one act of tests/chaos/paths.py, which dies on the way

Children die with their parent, and the parent ends when its standard input does: an experiment that is killed leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import main as command_line
from server import lease, logs, opening, settings
from server.app import Engine, Parts
from server.metrics import Metrics
from services.embeddings import Embedder
from tests.chaos import boundaries, faulty_connections, types

ROOT = Path(__file__).parents[2]
PR_SET_PDEATHSIG = 1
BEGINS, ENDED = "process begins", "process ended with "


def be_parent() -> None:
    """Fork a child for each line read, until there is none."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps: an ended child's id is gone at once
    children: list[int] = []
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            be_child(order)
        children.append(pid)
        print(pid, flush=True)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def be_child(order: dict[str, Any]) -> None:
    """Become what was ordered. Never returns."""
    code = 1
    try:
        with contextlib.suppress(
            OSError, AttributeError
        ):  # not on Linux: then only the parent's end is not followed
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)  # a Ctrl-C in the experiment's terminal is the experiment's to pass on
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, number)
        os.environ.update(order["env"])
        os.chdir(ROOT)
        print(BEGINS, flush=True)
        code = become(order)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001 - os._exit would take it along unsaid
        traceback.print_exc()
    finally:
        print(f"{ENDED}{code}", flush=True)  # nobody waits for it: the system reaps
        sys.stderr.flush()
        os._exit(code)


def become(order: dict[str, Any]) -> int:
    """Run what was ordered to its end and return its exit code."""
    if order["how"] == "program":
        os.execv(sys.executable, [sys.executable, "main.py", *order["arguments"]])
    if order["how"] == "module":
        os.execv(sys.executable, [sys.executable, "-m", *order["arguments"]])
    types.register()
    if not order.get("self_fence", True):
        sleepwalk()
    if faults := order.get("faults"):
        faulty_connections.install(**faults)
    if order["how"] == "engine":
        asyncio.run(keep_engine())
        return 0
    if order["how"] == "path":
        boundaries.be_killed(order["arguments"])
        return 0
    command_line.main(order["arguments"])
    return 0


def sleepwalk() -> None:
    """Learn of a lost lease a second late, so that what is under way reaches the database, which has to refuse it."""
    expire = lease.Lease._expire

    def expire_late(self: lease.Lease) -> None:
        lost = self.executor_id

        def expire_unless_renewed() -> None:
            if self.executor_id == lost:
                expire(self)

        asyncio.get_running_loop().call_later(1.0, expire_unless_renewed)

    lease.Lease._expire = expire_late  # type: ignore[method-assign]


async def keep_engine() -> None:
    """Run an engine until SIGTERM."""
    chosen = settings.read()
    logs.configure(chosen.log_level, chosen.log_format)
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with opening.ready_database(chosen) as database:
        parts = Parts(settings=chosen, database=database, provider=None, embedder=Embedder(), base_url="")
        engine = Engine(parts, Metrics(release="0", depths=lambda: engine.depths()))  # noqa: PLW0108
        engine.start()
        assert engine.executor is not None
        await engine.executor.lease.held.wait()
        print("engine runs", flush=True)
        await stopping.wait()
        await engine.stop(asyncio.Event())


if __name__ == "__main__":
    be_parent()
