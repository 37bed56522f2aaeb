"""What was asked of models, as it was booked. services/llm.py writes the rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg

from sql import SQL, Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmCall:
    """One request to a model. `cost_usd` is None where the price is not known."""

    id: UUID
    task_id: UUID
    fence: int
    step: str
    prompt_version_id: UUID | None
    model: str
    state: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    latency_ms: int | None
    first_token_ms: int | None
    error: str | None
    started_at: datetime
    finished_at: datetime | None

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> LlmCall:
        """Build a call from a row of llm_calls."""
        return cls(
            id=row["id"],
            task_id=row["task_id"],
            fence=row["fence"],
            step=row["step"],
            prompt_version_id=row["prompt_version_id"],
            model=row["model"],
            state=row["state"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_usd=row["cost_usd"],
            latency_ms=row["latency_ms"],
            first_token_ms=row["first_token_ms"],
            error=row["error"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
        )

    @property
    def tokens(self) -> int:
        """What went in and came out, as far as it is known."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    @property
    def latency(self) -> timedelta | None:
        """From the request to the end of the answer."""
        return None if self.latency_ms is None else timedelta(milliseconds=self.latency_ms)

    @property
    def first_token(self) -> timedelta | None:
        """From the request to the first piece of the answer."""
        return None if self.first_token_ms is None else timedelta(milliseconds=self.first_token_ms)


async def list_of_task(db: Connection, tenant_id: UUID, task_id: UUID) -> list[LlmCall]:
    """Return what a task asked of models, oldest first."""
    return [LlmCall.from_row(row) for row in await db.fetch(SQL["llm_calls.list"], tenant_id, task_id)]
