"""The published site: the list, one post, one tag, the feed and the sitemap."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from routes import keys
from routes.public import site
from services import content, markdown, publications
from services.publications import Post, Publication

routes = web.RouteTableDef()

FEED_SIZE = 30
SITEMAP_SIZE = 50_000  # what the format allows in one file
WORDS_PER_MINUTE = 220


@routes.get("/", name="site")
async def index(request: web.Request) -> web.Response:
    """All posts, newest first."""
    async with site.open_site(request) as here:
        return here.page("public/index.html", **await _list(here, None))


@routes.get("/tags/{tag}", name="site.tag")
async def tag(request: web.Request) -> web.Response:
    """The posts with one tag, newest first."""
    name = request.match_info["tag"]
    async with site.open_site(request) as here:
        values = await _list(here, name)
        if not values["posts"]:
            raise web.HTTPNotFound
        return here.page("public/tag.html", tag=name, **values)


@routes.get("/posts/{slug}", name="site.post")
async def show(request: web.Request) -> web.Response:
    """One post; an address that it had before leads to the one it has."""
    async with site.open_site(request) as here:
        post = await publications.get_post(here.db, here.tenant_id, request.match_info["slug"])
        if post.slug != request.match_info["slug"]:
            raise web.HTTPMovedPermanently(request.app.router["site.post"].url_for(slug=post.slug))
        citations = await content.list_citations(here.db, here.tenant_id, post.version_id)
    markers = tuple(citation.marker for citation in citations)
    html = await asyncio.to_thread(markdown.render, post.body_md, markers)
    return here.page(
        "public/post.html",
        post=post,
        html=html,
        citations=citations,
        linked=set(markdown.markers(post.body_md)),
        minutes=max(1, round(len(post.body_md.split()) / WORDS_PER_MINUTE)),
        linked_data=_linked_data(request, here.name, post),
    )


@routes.get("/feed.xml", name="site.feed")
async def feed(request: web.Request) -> web.Response:
    """The newest posts as an Atom feed."""
    async with site.open_site(request) as here:
        posts = await publications.list_posts(here.db, here.tenant_id, limit=FEED_SIZE)
    updated = max((post.published_at for post in posts), default=None)
    return here.page("public/feed.xml", content_type="application/atom+xml", posts=posts, updated=updated)


@routes.get("/sitemap.xml", name="site.sitemap")
async def sitemap(request: web.Request) -> web.Response:
    """Every address, for search engines."""
    async with site.open_site(request) as here:
        posts = await publications.list_posts(here.db, here.tenant_id, limit=SITEMAP_SIZE)
    return here.page("public/sitemap.xml", content_type="application/xml", posts=posts)


async def _list(here: site.Site, tag_name: str | None) -> dict[str, Any]:
    """Return one page of posts, with the addresses of the first and the next page."""
    query = here.request.query
    after = site.read_cursor(query.get("after"))
    posts = await publications.list_posts(
        here.db, here.tenant_id, tag=tag_name, after=after, limit=site.PAGE_SIZE + 1
    )
    shown: list[Publication] = posts[: site.PAGE_SIZE]
    path = here.request.rel_url.with_query(None)
    more = len(posts) > site.PAGE_SIZE
    return {
        "posts": shown,
        "first_page": after is None,
        "newest": str(path) if after else None,
        "older": str(path.with_query(after=site.cursor(shown[-1]))) if more else None,
    }


def _linked_data(request: web.Request, name: str, post: Post) -> dict[str, Any]:
    """Return what search engines read about a post (schema.org)."""
    address = request.app[keys.SITE].base_url + publications.path(post.slug)
    return {
        "@context": "https://schema.org",
        "@type": "Article",
        "headline": post.title,
        "description": post.summary,
        "inLanguage": post.language,
        "keywords": list(post.tags),
        "datePublished": post.first_published_at.isoformat(),
        "dateModified": post.published_at.isoformat(),
        "mainEntityOfPage": address,
        "publisher": {"@type": "Organization", "name": name},
    }
