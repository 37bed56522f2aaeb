"""Idempotency keys: a call repeated with the same key has its effect once and gets the first answer again (RULINGS 19).

The key is taken in the transaction of the effect, before anything else in it: what rolls back leaves no key behind, so a refused
call stores nothing and may be corrected and sent again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.errors import Conflict, Invalid, Malformed
from services.task_context import Connection
from sql import SQL

MAX_LENGTH = 255
_PRINTABLE = re.compile(r"[ -~]+", re.ASCII)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)  # a string of RFC 8941


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where the answer to one call is kept: whose call, of which operation, under which key, asking for what."""

    tenant_id: UUID
    principal_id: UUID
    route: str
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The answer that the first call with a key got."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_key(header: str) -> str:
    """Return the key in an `Idempotency-Key` header, bare or quoted. Raises: Malformed."""
    text = header.strip()
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        text = re.sub(r"\\(.)", r"\1", quoted.group(1)) if quoted else ""
    if not _PRINTABLE.fullmatch(text) or len(text) > MAX_LENGTH:
        raise Malformed(
            f"an Idempotency-Key is 1 to {MAX_LENGTH} printable ASCII characters",
            slug="idempotency-key-invalid",
        )
    return text


async def take(db: Connection, slot: Slot) -> Kept | None:
    """Take the key for this transaction, or return the answer kept under it.

    Waits at most 2 s for a twin under way. Raises: Conflict (the twin is still at it), Invalid (the key stands for another request).
    """
    try:
        row = await db.fetchrow(
            SQL["idempotency.take"],
            slot.tenant_id,
            slot.principal_id,
            slot.route,
            slot.key,
            slot.request_hash,
        )
    except asyncpg.LockNotAvailableError:
        raise _under_way() from None
    if row is None:  # what held the key was swept away in between
        raise _under_way()
    if row["taken"]:
        return None
    if row["request_hash"] != slot.request_hash:
        raise Invalid("this Idempotency-Key stands for another request", slug="idempotency-key-reused")
    if row["status"] is None:
        raise _under_way()
    return Kept(status=row["status"], headers=row["headers"], body=row["body"])


async def keep(db: Connection, slot: Slot, answer: Kept) -> None:
    """Keep *answer* under the key taken before in this transaction."""
    await db.execute(
        SQL["idempotency.keep"],
        slot.tenant_id,
        slot.principal_id,
        slot.route,
        slot.key,
        answer.status,
        answer.headers,
        answer.body,
    )


def _under_way() -> Conflict:
    return Conflict(
        "a call with this Idempotency-Key is still under way", slug="idempotency-key-in-use", retry_after=1
    )
