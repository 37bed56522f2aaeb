"""What the pages of the published site have in common: whose site it is, and answers that caches may keep but must ask about."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiohttp import ETag, web

from routes import keys
from services import access
from services.errors import Malformed, NotFound
from services.publications import Publication
from services.task_context import Connection

PAGE_SIZE = 20
READER = "reader"  # the actor of transactions that only read


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The site of one tenant, with an open transaction of it."""

    request: web.Request
    tenant_id: UUID
    name: str
    db: Connection

    def page(self, template: str, /, *, content_type: str = "text/html", **values: object) -> web.Response:
        """Return *template*, or 304 when the reader has this very text already."""
        request = self.request
        base = request.app[keys.SITE].base_url
        text = request.app[keys.TEMPLATES].render(
            request, template, publication_name=self.name, base=base, canonical=base + request.path, **values
        )
        body = text.encode()
        tag = hashlib.sha256(body).hexdigest()[:24]
        known = request.if_none_match
        fresh = known is None or not any(etag.value in {tag, "*"} for etag in known)
        response = (
            web.Response(body=body, content_type=content_type, charset="utf-8")
            if fresh
            else web.Response(status=304)
        )
        response.headers["Cache-Control"] = "public, no-cache"
        response.headers["Vary"] = "Accept-Encoding"
        response.etag = ETag(tag, is_weak=True)  # the same text may travel compressed
        if fresh:
            response.enable_compression()
        return response


@asynccontextmanager
async def open_site(request: web.Request) -> AsyncIterator[Site]:
    """Open the site that the address names: the tenant called like the host, else the one that is set. Raises: NotFound."""
    tenant = None
    for name in (request.url.host or "", request.app[keys.SITE].public_tenant):
        if name and tenant is None:
            async with request.app[keys.DATABASE].lookup() as db:
                tenant = await access.find_tenant(db, name)
    if tenant is None:
        raise NotFound("no site is published at this address")
    async with request.app[keys.DATABASE].tenant(tenant.id, READER) as db:
        title = str(tenant.settings.get("site_title") or tenant.name)
        yield Site(request=request, tenant_id=tenant.id, name=title, db=db)


def cursor(post: Publication) -> str:
    """Return where the page after *post* begins, for the address."""
    return f"{post.first_published_at.isoformat()}_{post.content_id}"


def read_cursor(text: str | None) -> tuple[datetime, UUID] | None:
    """Read what `cursor` wrote. Raises: Malformed."""
    if not text:
        return None
    moment, _, content_id = text.rpartition("_")
    try:
        at = datetime.fromisoformat(moment)
        if at.tzinfo is None:
            raise ValueError(moment)
        return at, UUID(content_id)
    except ValueError:
        raise Malformed("the address of this page is not complete") from None
