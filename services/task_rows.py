"""Tasks as values: what is asked for, what is stored, what was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from services.task_states import is_final

if TYPE_CHECKING:
    from services.task_columns import Row


# Not frozen: a thousand of them are made for one call, and a frozen one takes three times as long.
@dataclass(slots=True, kw_only=True)
class NewTask:
    """What a caller asks for; None means the default of the task type or of the queue."""

    type: str
    payload: dict[str, Any]
    queue: str | None = None
    priority: int = 2
    run_at: datetime | None = None
    timeout_seconds: int | None = None
    max_attempts: int | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    start_before: datetime | None = None
    total_timeout_seconds: int | None = None
    retry_of: UUID | None = None  # the task that it repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, live or ended. Times are aware; `error` is that of the latest run that failed."""

    id: UUID
    tenant_id: UUID
    queue: str
    type: str
    type_version: int
    state: str
    priority: int
    attempt: int
    max_attempts: int
    crashes: int
    snoozes: int
    fence: int
    executor_id: UUID | None
    run_at: datetime
    created_at: datetime
    created_by: str
    started_at: datetime | None
    finished_at: datetime | None
    timeout_seconds: int
    start_before: datetime | None
    deadline_at: datetime | None
    retry_of: UUID | None
    concurrency_key: str | None
    concurrency_limit: int | None
    waiting_for: str | None
    wait_until: datetime | None
    progress: dict[str, Any] | None
    payload: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    ended_by: str | None
    reason: str | None
    request_id: str | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return is_final(self.state)

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Task:
        """Build a task from a row of all_tasks."""
        return cls(
            id=row["id"],
            tenant_id=row["tenant_id"],
            queue=row["queue"],
            type=row["type"],
            type_version=row["type_version"],
            state=row["state"],
            priority=row["priority"],
            attempt=row["attempt"],
            max_attempts=row["max_attempts"],
            crashes=row["crashes"],
            snoozes=row["snoozes"],
            fence=row["fence"],
            executor_id=row["executor_id"],
            run_at=row["run_at"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            timeout_seconds=row["timeout_seconds"],
            start_before=row["start_before"],
            deadline_at=row["deadline_at"],
            retry_of=row["retry_of"],
            concurrency_key=row["concurrency_key"],
            concurrency_limit=row["concurrency_limit"],
            waiting_for=row["waiting_for"] if row["state"] == "waiting" else None,
            wait_until=row["wait_until"] if row["state"] == "waiting" else None,
            progress=row["progress"],
            payload=row["payload"],
            result=row["result"],
            error=row["error"],
            ended_by=row["ended_by"],
            reason=row["reason"],
            request_id=row["request_id"],
        )

    @classmethod
    def created(
        cls,
        row: asyncpg.Record,
        given: Row,
        *,
        tenant_id: UUID,
        actor: str,
        retry_of: UUID | None,
        request_id: str | None,
    ) -> Task:
        """Build a task that is new: *given* is what was asked for, *row* what the database has added."""
        return cls(
            id=row["id"],
            tenant_id=tenant_id,
            queue=given.queue,
            type=given.type,
            type_version=given.type_version,
            state=row["state"],
            priority=given.priority,
            attempt=0,
            max_attempts=given.max_attempts,
            crashes=0,
            snoozes=0,
            fence=0,
            executor_id=None,
            run_at=row["run_at"],
            created_at=row["created_at"],
            created_by=actor,
            started_at=None,
            finished_at=None,
            timeout_seconds=given.timeout_seconds,
            start_before=given.start_before and given.start_before.astimezone(UTC),
            deadline_at=None,
            retry_of=retry_of,
            concurrency_key=given.concurrency_key,
            concurrency_limit=given.concurrency_limit,
            waiting_for=None,
            wait_until=None,
            progress=None,
            payload=given.payload,
            result=None,
            error=None,
            ended_by=None,
            reason=None,
            request_id=request_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """A run that lost its task to a cancel: where it ran, for whoever stops it. `executor_id` is None when it did not run."""

    task_id: UUID
    executor_id: UUID | None
    fence: int
