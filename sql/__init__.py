"""Every statement the application runs, by name: `SQL["tasks.claim"]` is the block `-- name: claim` of queries/tasks.sql."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection  # what services call `db`: an open transaction

FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"^-- name: (?P<name>[a-z_0-9]+)[ \t]*$", re.MULTILINE)


def load(folder: Path) -> dict[str, str]:
    """Return every named block below *folder* as `{"<file>.<name>": text}`. Raises: ValueError for a name used twice."""
    statements: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        parts = _BLOCK.split(path.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            key = f"{path.stem}.{name}"
            if key in statements:
                raise ValueError(f"{path.name} names {name!r} twice")
            statements[key] = text.strip().rstrip(";")
    return statements


SQL = load(FOLDER / "queries")


@asynccontextmanager
async def savepoint(db: Connection) -> AsyncIterator[None]:
    """Undo only what happens inside when it raises; the transaction around it goes on.

    asyncpg's own nested transaction() refuses a transaction that was begun together with its tenant in one round trip.
    """
    await db.execute("SAVEPOINT inner_work")
    try:
        yield
    except Exception:
        await db.execute("ROLLBACK TO SAVEPOINT inner_work; RELEASE SAVEPOINT inner_work")
        raise
    await db.execute("RELEASE SAVEPOINT inner_work")
