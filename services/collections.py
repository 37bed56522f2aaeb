"""Collections: named shelves of documents, made when the first document names one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.errors import Fault, Invalid
from sql import SQL, Connection

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection and what it holds. `model` made its vectors."""

    id: UUID
    name: str
    model: str
    documents: int
    chunks: int
    created_by: str
    created_at: datetime

    @classmethod
    def from_row(cls, row: asyncpg.Record) -> Collection:
        """Build a collection from a row of collections.list."""
        return cls(
            id=row["id"],
            name=row["name"],
            model=row["model"],
            documents=row["documents"],
            chunks=row["chunks"],
            created_by=row["created_by"],
            created_at=row["created_at"],
        )


async def ensure(db: Connection, tenant_id: UUID, name: str, *, actor: str) -> UUID:
    """Return the id of the collection *name*, made if need be. Raises: Invalid for a name that is none."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            "a collection's name has 1 to 63 of a–z, 0–9, - and _, and starts with a letter or digit",
            faults=(Fault("/collection", "must match [a-z0-9][a-z0-9_-]{0,62}"),),
        )
    made: UUID | None = await db.fetchval(SQL["collections.ensure"], tenant_id, name, actor)
    return made or (await find_ids(db, tenant_id, [name]))[0]


async def find_ids(db: Connection, tenant_id: UUID, names: Sequence[str]) -> list[UUID]:
    """Return the ids of the collections of these names, in their order. Raises: Invalid naming those that do not exist."""
    rows = await db.fetch(SQL["collections.find_ids"], tenant_id, list(names))
    ids = {row["name"]: row["id"] for row in rows}
    faults = tuple(
        Fault(f"/collections/{place}", "there is no such collection")
        for place, name in enumerate(names)
        if name not in ids
    )
    if faults:
        raise Invalid("there is no such collection", faults=faults)
    return [ids[name] for name in names]


async def list_all(db: Connection, tenant_id: UUID) -> list[Collection]:
    """Return the tenant's collections by name."""
    return [Collection.from_row(row) for row in await db.fetch(SQL["collections.list"], tenant_id)]
