"""The addresses of content items. One that an item ever had stays its own, so links keep working when it changes."""

from __future__ import annotations

from uuid import UUID

from sql import SQL, Connection


async def take(db: Connection, tenant_id: UUID, content_id: UUID, slug: str) -> UUID | None:
    """Take *slug* for the item unless another has it. Returns whose it is; None when somebody is taking it right now."""
    owner: UUID | None = await db.fetchval(SQL["content.reserve_slug"], tenant_id, slug, content_id)
    return owner


async def take_free(db: Connection, tenant_id: UUID, content_id: UUID, slug: str) -> str:
    """Return *slug*, or *slug* with the first number behind it that makes it this item's own."""
    for number in range(1, 20):
        candidate = slug if number == 1 else f"{slug[:100].rstrip('-')}-{number}"
        if await take(db, tenant_id, content_id, candidate) == content_id:
            return candidate
    unique = f"{slug[:100].rstrip('-')}-{content_id.hex[-12:]}"
    await take(db, tenant_id, content_id, unique)
    return unique
