"""What a task type is, what its code may raise, and how its file is found.

A task type is one file in this folder with a constant `TASK_TYPE`; the file name is the type's name.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from services.errors import GalleyError, Invalid

if TYPE_CHECKING:
    from services.task_context import TaskContext


class Retryable(GalleyError):
    """The run failed but may succeed later: tried again while attempts last."""

    slug, title = "retryable", "Failed, will be tried again"


class Permanent(GalleyError):
    """The run failed and would fail again: the task fails at once."""

    slug, title = "permanent", "Failed"


class Throttled(GalleyError):
    """A provider asked for patience: tried again after `retry_after` seconds without using up an attempt."""

    slug, title = "throttled", "Asked to wait"


class StepMismatch(Permanent):
    """A step's checkpoint was made from another input: the code or the payload has changed under the task."""

    slug, title = "step-mismatch", "A finished step was asked for with another input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How long to wait before the next attempt: min(cap, base · 2^(n-1)), half of it fixed and half random."""

    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=10)

    def delay(self, attempt: int, *, dice: random.Random) -> timedelta:
        """Return the wait after *attempt* runs have failed, counted from 1."""
        full: timedelta = min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return full / 2 + dice.random() * full / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """A kind of work. `timeout` is for one run, `version` rises when finished steps no longer fit the code."""

    name: str
    payload: type[BaseModel]
    run: Callable[[TaskContext, Any], Awaitable[Any]]
    version: int = 1
    queue: str = "default"
    timeout: timedelta = timedelta(minutes=5)
    max_attempts: int = 5
    max_snoozes: int = 100
    retry: Retry = field(default_factory=Retry)
    on_crash: Literal["retry", "fail", "hold"] = "retry"


@cache
def load_all() -> dict[str, TaskType]:
    """Return every task type by name, read from the files of this folder. Raises: RuntimeError for a file without one."""
    found: dict[str, TaskType] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        task_type = getattr(module, "TASK_TYPE", None)
        if not isinstance(task_type, TaskType) or task_type.name != module_info.name:
            raise RuntimeError(
                f"services/task_types/{module_info.name}.py must define TASK_TYPE named {module_info.name!r}"
            )
        found[task_type.name] = task_type
    return found


def get(name: str) -> TaskType:
    """Return the task type of that name. Raises: Invalid naming the known ones."""
    try:
        return load_all()[name]
    except KeyError:
        known = ", ".join(sorted(load_all()))
        raise Invalid(
            f"there is no task type {name!r}; there are {known}", slug="unknown-task-type"
        ) from None
