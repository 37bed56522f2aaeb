"""Who may act on what belongs to the installation and not to a tenant: its queues and its executors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from services.access import Tenant
from services.errors import Forbidden
from sql import SQL, Connection


async def operates(db: Connection) -> bool:
    """Whether the tenant of this transaction operates the installation: its operators may then act for all tenants."""
    return bool(await db.fetchval(SQL["installation.operates"]))


async def find_operating_tenant(db: Connection) -> Tenant | None:
    """Return the oldest tenant that operates the installation; works in any transaction."""
    row = await db.fetchrow(SQL["installation.find_operating_tenant"])
    return Tenant(id=row["id"], name=row["name"], settings=row["settings"]) if row else None


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
