"""Numbers, times and addresses as people read them, and assets that may be kept for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from routes import keys
from server import templating


@pytest.fixture
def app() -> web.Application:
    made = web.Application()
    made[keys.SITE] = keys.Site(
        environment="development", base_url="http://test", secret_key=b"", version="0.0.0"
    )
    templating.install(made)
    return made


@pytest.fixture
async def client(app: web.Application) -> AsyncIterator[ClientSession]:
    async with TestServer(app) as server, ClientSession(server.make_url("/")) as session:
        yield session


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (None, "–"),
        (0.0004, "0 ms"),
        (timedelta(milliseconds=820), "820 ms"),
        (4.21, "4.2 s"),
        (184, "3 min 04 s"),
        (7500, "2 h 05 min"),
        (timedelta(days=3, hours=5), "3 d 5 h"),
    ],
)
def test_a_length_of_time_has_the_precision_a_person_can_use(
    span: timedelta | float | None, words: str
) -> None:
    assert templating.duration(span) == words


def test_a_moment_carries_its_zone_in_words_and_for_machines() -> None:
    moment = datetime(2026, 11, 21, 15, 3, 5, tzinfo=UTC)

    assert templating.when(moment) == (
        '<time datetime="2026-11-21T15:03:05Z" title="21 Nov 2026, 15:03:05 UTC">21 Nov 2026, 15:03:05 UTC</time>'
    )


def test_an_unknown_price_is_never_shown_as_nothing() -> None:
    assert templating.cost(None) == "not priced"
    assert templating.cost(Decimal("0.00123")) == "$0.0012"


def test_found_words_are_marked_and_everything_else_is_escaped() -> None:
    assert templating.highlight("<b>\x02heap\x03") == "&lt;b&gt;<mark>heap</mark>"


def test_bars_of_nothing_are_flat() -> None:
    assert [bar["height"] for bar in templating.bars([0, 0])] == [0, 0]


async def test_an_asset_may_be_kept_for_ever_under_the_address_of_its_content(
    app: web.Application, client: ClientSession
) -> None:
    digest = templating.Assets(Path("server/static")).digest("style.css")

    async with client.get(f"/static/{digest}/style.css") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/css"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    async with client.get("/static/000000000000/style.css") as answer:
        assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["../settings.py", "..%2fsettings.py", "nothing.css", "%2e%2e/app.py"])
async def test_nothing_outside_the_folder_of_assets_is_served(client: ClientSession, path: str) -> None:
    async with client.get(f"/static/abc/{path}") as answer:
        assert answer.status == 404
