"""Who may act on what belongs to the installation and not to a tenant: its queues and its executors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from services.access import Tenant
from services.errors import Forbidden, NotFound
from sql import SQL, Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A tenant of the installation, and whether its operators act for all of them."""

    id: UUID
    name: str
    operates: bool
    created_at: datetime


async def operates(db: Connection) -> bool:
    """Whether the tenant of this transaction operates the installation: its operators may then act for all tenants."""
    return bool(await db.fetchval(SQL["installation.operates"]))


async def find_operating_tenant(db: Connection) -> Tenant | None:
    """Return the oldest tenant that operates the installation; works in any transaction."""
    row = await db.fetchrow(SQL["installation.find_operating_tenant"])
    return Tenant(id=row["id"], name=row["name"], settings=row["settings"]) if row else None


async def list_tenants(db: Connection) -> list[Member]:
    """Return every tenant, oldest first. *db* must not be a tenant's transaction."""
    return [
        Member(id=row["id"], name=row["name"], operates=row["operates"], created_at=row["created_at"])
        for row in await db.fetch(SQL["installation.list_tenants"])
    ]


async def set_operates(db: Connection, name: str, *, operating: bool) -> None:
    """Let the operators of tenant *name* act on queues and executors, or no longer. *db* must not be a tenant's transaction.

    Raises: NotFound.
    """
    if not await db.fetchval(SQL["installation.set_operates"], name, operating):
        raise NotFound(f"there is no tenant {name}")


@contextmanager
def guarded() -> Iterator[None]:
    """Say in one sentence what PostgreSQL refuses to tenants that do not operate the installation. Raises: Forbidden."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as exc:
        raise Forbidden(
            "queues and executors belong to the installation: only operators of a tenant that operates it may do this",
            slug="not-operating",
        ) from exc
