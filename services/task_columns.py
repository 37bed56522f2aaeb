"""What a caller asks for as the columns of new tasks: checked against the task type, and completed from it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from pydantic import BaseModel, ValidationError

from services import task_types
from services.errors import Fault, Invalid
from services.faults import of as faults_in

if TYPE_CHECKING:
    from services.task_rows import NewTask

MAX_PAYLOAD_BYTES = 1 << 20


class Row(NamedTuple):
    """A new task, checked and completed, in the order of tasks.enqueue."""

    type: str
    type_version: int
    payload: dict[str, Any]
    queue: str
    priority: int
    run_at: datetime | None
    timeout_seconds: int
    max_attempts: int
    on_crash: str
    concurrency_key: str | None
    concurrency_limit: int | None
    start_before: datetime | None
    total_timeout_seconds: int | None


def complete(new: Sequence[NewTask]) -> list[Row]:
    """Return the tasks, each checked against its type and completed from it. Raises: Invalid with every fault."""
    faults: list[Fault] = []
    rows = []
    for index, one in enumerate(new):
        where = "" if len(new) == 1 else f"/tasks/{index}"
        try:
            task_type = task_types.get(one.type)
        except Invalid as exc:
            faults.append(Fault(f"{where}/type", str(exc)))
            continue
        payload, wrong = _validate(task_type.payload, one.payload, f"{where}/payload")
        faults.extend(wrong)
        faults.extend(_odd_pairs(one, where))
        rows.append(
            Row(
                one.type,
                task_type.version,
                payload,
                one.queue or task_type.queue,
                one.priority,
                one.run_at,
                one.timeout_seconds or int(task_type.timeout.total_seconds()),
                one.max_attempts or task_type.max_attempts,
                task_type.on_crash,
                one.concurrency_key,
                one.concurrency_limit,
                one.start_before,
                one.total_timeout_seconds or _seconds(task_type.total_timeout),
            )
        )
    if faults:
        raise Invalid(
            f"{faults[0].pointer}: {faults[0].message}"
            if len(faults) == 1
            else f"{len(faults)} faults in the request",
            faults=tuple(faults),
        )
    return rows


def _odd_pairs(one: NewTask, where: str) -> list[Fault]:
    """Return what is wrong with values that are each right by themselves."""
    faults = []
    if (one.concurrency_key is None) != (one.concurrency_limit is None):
        faults.append(
            Fault(f"{where}/concurrency_limit", "concurrency_key and concurrency_limit belong together")
        )
    if one.start_before is not None and one.run_at is not None and one.start_before <= one.run_at:
        message = f"{one.start_before.isoformat()} is not after run_at, {one.run_at.isoformat()}: it could never start"
        faults.append(Fault(f"{where}/start_before", message))
    return faults


def _seconds(duration: timedelta | None) -> int | None:
    return None if duration is None else int(duration.total_seconds())


def _validate(
    model: type[BaseModel], payload: dict[str, Any], where: str
) -> tuple[dict[str, Any], list[Fault]]:
    """Return the payload with its defaults filled in, and the faults found."""
    try:
        valid = model.model_validate(payload).model_dump(mode="json")
    except ValidationError as exc:
        return {}, list(faults_in(exc, where, schema=model.model_json_schema))
    if (size := len(orjson.dumps(valid))) > MAX_PAYLOAD_BYTES:
        return {}, [Fault(where, f"is {size} bytes; at most {MAX_PAYLOAD_BYTES} are taken")]
    return valid, []


def arrays(rows: Sequence[tuple[Any, ...]]) -> list[list[Any] | None]:
    """Return the columns of *rows*, None for one that holds nothing: what is not sent costs nothing. There must be at least one row."""
    return [
        None if column[0] is None and column.count(None) == len(column) else column
        for column in transposed(rows)
    ]


def transposed(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Return the columns of *rows*, as unnest wants them. There must be at least one row."""
    return [list(column) for column in zip(*rows, strict=True)]
