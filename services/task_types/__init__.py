"""What a task type is, what its code may raise, and how its file is found.

A task type is one file in this folder with a constant `TASK_TYPE`; the file name is the type's name.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError

from services.errors import Forbidden, GalleyError, Invalid, NotFound

if TYPE_CHECKING:
    from services.task_context import TaskContext


class Retryable(GalleyError):
    """The run failed but may succeed later: tried again while attempts last."""

    slug, title = "retryable", "Failed, will be tried again"


class Permanent(GalleyError):
    """The run failed and would fail again: the task fails at once."""

    slug, title = "permanent", "Failed"


class Throttled(GalleyError):
    """A provider asked for patience: tried again after `retry_after` seconds (an hour at most) without using up an attempt."""

    slug, title = "throttled", "Asked to wait"


class NotKnownHere(Throttled):
    """The task is of a newer release than this process: it comes back until a process that knows its type takes it."""

    slug, title = "unknown-task-type", "Of a newer release"


class Poison(GalleyError):
    """What the task was given seems to do harm: tried once more at most, however many attempts are left."""

    slug, title = "poison", "Harmful"


class ProcessCrashed(Poison):
    """The worker process of `task.in_process` died without an answer: of a signal, or because the code ended it."""

    slug, title = "process-crash", "A worker process died"


class ProcessLimit(Permanent):
    """The worker process of `task.in_process` used more processor time or memory than it was given, or returned too much."""

    slug, title = "process-limit", "A limit of a worker process was passed"


class StepMismatch(Permanent):
    """A step's checkpoint was made from another input: the code or the payload has changed under the task."""

    slug, title = "step-mismatch", "A finished step was asked for with another input"


Kind = Literal["retryable", "permanent", "throttled", "poison"]
# What errors mean unless a type's policy says otherwise; every other one is retryable.
KINDS: Mapping[type[BaseException], Kind] = {
    Permanent: "permanent",
    Invalid: "permanent",
    NotFound: "permanent",
    Forbidden: "permanent",
    ValidationError: "permanent",
    Throttled: "throttled",
    Poison: "poison",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a run that failed is tried again, and how long after: min(cap, base · 2^(n-1)), half of it fixed and half random.

    Every error is of a kind:

        retryable   tried again while attempts last; whatever is not listed in KINDS
        permanent   fails at once, for it would fail again
        throttled   comes back without using an attempt, after its `retry_after` or, without one, after this policy's wait;
                    `max_snoozes` times at most
        poison      tried once more at most, however many attempts are left

    `by_error` gives single errors another kind, or other waits (they are retryable then). They are named by class, which
    includes its subclasses, or by what history shows as their class: a slug ("timeout", "stalled", "process-crash") or the
    name of an exception. A name counts before a class, a nearer class before a further one.

        Retry(by_error={ConnectionError: Retry(base=timedelta(minutes=1)), "BadZipFile": "permanent", "timeout": "poison"})
    """

    base: timedelta = timedelta(seconds=2)
    cap: timedelta = timedelta(minutes=10)
    by_error: Mapping[type[BaseException] | str, Kind | Retry] = field(default_factory=dict)

    def delay(self, attempt: int, *, dice: random.Random) -> timedelta:
        """Return the wait after *attempt* runs have failed, counted from 1."""
        full: timedelta = min(self.cap, self.base * 2.0 ** min(attempt - 1, 30))
        return full / 2 + dice.random() * full / 2

    def judge(self, name: str, error: BaseException | None = None) -> tuple[Kind, Retry]:
        """Return the kind of an error, and the policy whose waits it gets. *name* is its class as history shows it."""
        ancestors: tuple[type[Any], ...] = type(error).__mro__ if error is not None else ()
        keys: tuple[type[Any] | str, ...] = (name, *ancestors)
        for key in keys:
            rule = self.by_error.get(key)
            if isinstance(rule, Retry):
                return "retryable", rule
            if rule is not None:
                return rule, self
        return next((KINDS[one] for one in ancestors if one in KINDS), "retryable"), self


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskType:
    """A kind of work. `version` rises when finished steps no longer fit the code.

    `timeout` is for one run, `total_timeout` for the task from its creation on, waiting excluded; callers may give others. A
    run that shows no sign of life (progress, live text, a step or write begun or ended) for `progress_timeout` is stopped and
    tried again like one that took too long. `max_snoozes` bounds how often a throttled task comes back. `on_crash` says what
    becomes of a task whose executor died: tried again, failed, or held until an operator sends the signal `operator`.
    """

    name: str
    payload: type[BaseModel]
    run: Callable[[TaskContext, Any], Awaitable[Any]]
    version: int = 1
    queue: str = "default"
    timeout: timedelta = timedelta(minutes=5)
    total_timeout: timedelta | None = None
    progress_timeout: timedelta | None = None
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
