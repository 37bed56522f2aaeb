"""Who is let in, by key and by session, and what another site cannot make a browser do (PROMISES S-SES, S-AUTH)."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
from aiohttp import ClientSession, CookieJar, web
from yarl import URL

from routes import keys
from routes.pages import session
from server import auth
from server.database import Database
from services import access, passwords
from services.errors import Conflict, Invalid
from tests import web as served_web
from tests.patience import patiently
from tests.web import Served

routes = web.RouteTableDef()
PASSWORD = "correct horse battery"
Admin = asyncpg.Connection


@routes.get("/desk", name="desk")
async def desk(request: web.Request) -> web.Response:
    return web.json_response({"who": keys.principal(request).actor, "csrf": keys.csrf_token(request)})


@routes.post("/desk/change", name="change")
async def change(request: web.Request) -> web.Response:
    keys.principal(request, "operator")
    fields = await request.post()
    return web.json_response({"changed": fields.get("what")})


@routes.post("/api/v1/change", name="api.change")
async def change_by_program(request: web.Request) -> web.Response:
    return web.json_response({"who": keys.principal(request, "operator").actor})


class Bare:
    """Pages without their looks: the values that a template would get."""

    def render(self, request: web.Request, template: str, /, **values: object) -> str:
        shown = {name: str(value) for name, value in values.items()}
        return f"{template} {sorted(shown.items())}"


@pytest.fixture
async def served(database: Database) -> AsyncIterator[Served]:
    built = served_web.build(database, routes, session.routes)
    built.app[keys.TEMPLATES] = Bare()
    async with served_web.running(built) as running:
        yield running


@pytest.fixture
async def user(database: Database, tenant: UUID) -> UUID:
    async with database.tenant(tenant, "test") as db:
        return await access.create_user(
            db, tenant_id=tenant, email="ada@example.org", name="Ada", password=PASSWORD, role="operator"
        )


@pytest.fixture
async def browser(served: Served) -> AsyncIterator[ClientSession]:
    async with ClientSession(served.url, cookie_jar=CookieJar(unsafe=True)) as opened:
        yield opened


async def sign_in(
    browser: ClientSession, email: str = "ada@example.org", password: str = PASSWORD, **fields: str
) -> tuple[int, str]:
    """Return the status and where it sends the browser."""
    data = {"email": email, "password": password} | fields
    async with browser.post("/login", data=data, allow_redirects=False) as response:
        return response.status, response.headers.get("Location", "")


async def who(browser: ClientSession) -> tuple[str, str]:
    async with browser.get("/desk") as response:
        body = await response.json()
        return body["who"], body["csrf"]


def sid(browser: ClientSession, url: str) -> str:
    return browser.cookie_jar.filter_cookies(URL(url))["sid"].value


# Keys


async def test_a_key_acts_for_its_tenant_with_its_role(
    served: Served, database: Database, tenant: UUID
) -> None:
    key = await served_web.make_key(database, tenant, "operator", "ci")

    async with served_web.client(served, key) as client, client.post("/api/v1/change") as response:
        assert (response.status, await response.json()) == (200, {"who": "key:ci"})
    assert key.startswith("gk_")


async def test_callers_that_come_together_are_each_taken_for_who_they_are(
    served: Served, database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    """Their keys are looked up in one statement."""
    ours = [await served_web.make_key(database, tenant, name=f"ours-{n}") for n in range(4)]
    theirs = await served_web.make_key(database, other_tenant, name="theirs")
    wrong = ours[0][:-43] + theirs[-43:]  # the secret of another key
    keys_sent = [*ours, theirs, wrong, "gk_nonsense"] * 8

    async def ask(client: ClientSession, key: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}"}
        async with client.get("/desk", headers=headers, allow_redirects=False) as response:
            return response.status, (await response.json()).get("who", "") if response.status == 200 else ""

    async with ClientSession(served.url) as client:
        answers = await asyncio.gather(*(patiently(lambda key=key: ask(client, key)) for key in keys_sent))

    expected = [(200, f"key:ours-{n}") for n in range(4)] + [(200, "key:theirs")]
    assert answers[:5] == expected
    assert answers == (answers[:7]) * 8
    assert {status for status, _ in answers[5:7]}.isdisjoint({200})


async def test_only_the_hash_of_a_key_is_stored(database: Database, tenant: UUID, admin: Admin) -> None:
    key = await served_web.make_key(database, tenant)

    secret = key.split("_", 2)[2]
    assert len(secret) >= 43
    row = await admin.fetchrow("SELECT * FROM api_keys")
    assert len(row["secret_hash"]) == 32
    assert secret not in str(dict(row))


async def test_a_wrong_expired_or_revoked_key_is_refused_alike(
    served: Served, database: Database, tenant: UUID, admin: Admin
) -> None:
    good = await served_web.make_key(database, tenant)
    expired = await served_web.make_key(database, tenant)
    revoked = await served_web.make_key(database, tenant)
    await admin.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", UUID(expired[3:35]))
    async with database.tenant(tenant, "test") as db:
        await access.revoke_api_key(db, tenant, UUID(revoked[3:35]))

    bad = [
        expired,
        revoked,
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        "gk_" + "0" * 32 + good[35:],
        "",
        "x",
        "gk__",
        good + "\u00e9",
    ]
    answers = set()
    async with ClientSession(served.url) as client:
        for key in bad:
            async with client.post("/api/v1/change", headers={"Authorization": f"Bearer {key}"}) as response:
                body = await response.json()
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                if key.startswith("gk_"):
                    answers.add((response.status, body["type"], body["detail"]))
                else:
                    assert response.status == 401
        async with client.post(f"/api/v1/change?key={good}") as response:
            assert response.status == 401
        async with client.post("/api/v1/change", headers={"Authorization": f"Basic {good}"}) as response:
            assert response.status == 401
    assert answers == {(401, "/problems/unauthenticated", "this key is unknown, has expired or was revoked")}


async def test_a_role_below_the_one_needed_is_refused_and_a_change_of_role_acts_at_once(
    served: Served, database: Database, tenant: UUID, admin: Admin
) -> None:
    key = await served_web.make_key(database, tenant, "reviewer")

    async with served_web.client(served, key) as client:
        async with client.post("/api/v1/change") as response:
            assert (response.status, (await response.json())["type"]) == (403, "/problems/forbidden")
        await admin.execute("UPDATE api_keys SET role = 'admin'")
        async with client.post("/api/v1/change") as response:
            assert response.status == 200


async def test_a_keys_last_use_is_written_once_a_minute_at_most(
    served: Served, database: Database, tenant: UUID, admin: Admin
) -> None:
    key = await served_web.make_key(database, tenant)

    async with served_web.client(served, key) as client:
        await (await client.post("/api/v1/change")).read()
        first = await admin.fetchval("SELECT last_used_at FROM api_keys")
        await (await client.post("/api/v1/change")).read()
        assert await admin.fetchval("SELECT last_used_at FROM api_keys") == first
        await admin.execute("UPDATE api_keys SET last_used_at = now() - interval '2 minutes'")
        await (await client.post("/api/v1/change")).read()
        assert await admin.fetchval("SELECT last_used_at > now() - interval '1 minute' FROM api_keys")


# Signing in


@pytest.mark.usefixtures("user")
async def test_signing_in_opens_a_session_of_which_only_the_hash_is_stored(
    served: Served, browser: ClientSession, admin: Admin
) -> None:
    async with browser.post(
        "/login", data={"email": "ADA@example.org", "password": PASSWORD}, allow_redirects=False
    ) as response:
        assert (response.status, response.headers["Location"]) == (303, "/desk")
        cookie = response.headers["Set-Cookie"]

    assert cookie.startswith("sid=")
    assert {"HttpOnly", "Path=/", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert (await who(browser))[0] == "user:ada@example.org"
    row = await admin.fetchrow("SELECT * FROM sessions")
    assert sid(browser, served.url) not in str(dict(row))
    assert len(row["token_hash"]) == 32


@pytest.mark.usefixtures("user")
async def test_under_tls_the_cookie_is_bound_to_this_host(database: Database) -> None:
    built = served_web.build(database, routes, session.routes, secure_cookies=True)
    built.app[keys.TEMPLATES] = Bare()
    async with (
        served_web.running(built) as served,
        ClientSession(served.url) as browser,
        browser.post(
            "/login", data={"email": "ada@example.org", "password": PASSWORD}, allow_redirects=False
        ) as response,
    ):
        cookie = response.headers["Set-Cookie"]
        assert response.headers["Strict-Transport-Security"].startswith("max-age=31536000")

    assert cookie.startswith("__Host-sid=")
    assert "Secure" in cookie


@pytest.mark.usefixtures("user")
async def test_a_session_set_before_signing_in_is_worthless_after_it(
    served: Served, browser: ClientSession, admin: Admin
) -> None:
    browser.cookie_jar.update_cookies({"sid": "chosen-by-somebody-else"}, URL(served.url))
    await sign_in(browser)
    first = sid(browser, served.url)
    assert first != "chosen-by-somebody-else"

    _, token = await who(browser)
    await sign_in(browser, csrf_token=token)

    assert sid(browser, served.url) != first
    assert await admin.fetchval("SELECT count(*) FROM sessions") == 1


@pytest.mark.usefixtures("user")
async def test_a_wrong_password_and_an_unknown_address_look_alike_and_take_as_long(
    browser: ClientSession,
) -> None:
    bodies, times = {}, {"ada@example.org": 1000.0, "bob@example.org": 1.0}

    def alike() -> bool:
        return 0.5 < times["ada@example.org"] / times["bob@example.org"] < 2

    for turn in range(25):  # in turns, until both have met a quiet moment
        for email, password in (("ada@example.org", "wrong password"), ("bob@example.org", PASSWORD)):
            started = time.perf_counter()
            async with browser.post("/login", data={"email": email, "password": password}) as response:
                bodies[email] = (response.status, (await response.text()).replace(email, "…"))
            spent = time.perf_counter() - started
            times[email] = min(times[email], spent) if turn else spent
        if turn >= 3 and alike():
            break

    assert bodies["ada@example.org"] == bodies["bob@example.org"]
    assert bodies["ada@example.org"][0] == 401
    # Both hash: without it an unknown address would answer twenty times as fast, however often it is asked.
    assert alike(), times


@pytest.mark.usefixtures("user")
async def test_hostile_input_at_the_sign_in_is_only_wrong(browser: ClientSession) -> None:
    for email, password in (
        ("", ""), ("ada@example.org", ""), ("\x00", "x"), ("x" * 100_000, "x"), ("ada@example.org", "x" * 500_000),
        ("' OR 1=1--", PASSWORD), ("ada@example.org", "\x00"), ("ada@example.org%", PASSWORD),
    ):  # fmt: skip
        started = time.perf_counter()
        assert (await sign_in(browser, email, password))[0] == 401, email[:20]
        assert time.perf_counter() - started < 5


@pytest.mark.usefixtures("user")
async def test_the_way_back_leads_nowhere_else(browser: ClientSession) -> None:
    for evil in (
        "//evil.com", "/\\evil.com", "/\t/evil.com", "https:evil.com", "https://evil.com", "javascript:alert(1)", "http://good@evil",
        "/\r\nSet-Cookie: a=b", "/é", "evil", "\\\\evil.com", " //evil.com",
    ):  # fmt: skip
        browser.cookie_jar.clear()
        assert await sign_in(browser, next=evil) == (303, "/"), evil
    browser.cookie_jar.clear()
    assert await sign_in(browser, next="/desk/tasks?state=failed&q=%C3%BC") == (
        303,
        "/desk/tasks?state=failed&q=%C3%BC",
    )


async def test_a_page_that_needs_somebody_leads_to_the_sign_in_and_back(browser: ClientSession) -> None:
    async with browser.get("/desk?a=1", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/login?next=/desk%3Fa%3D1")
    async with browser.get("/login?next=/desk%3Fa%3D1") as response:
        assert "('next', '/desk?a=1')" in await response.text()


@pytest.mark.usefixtures("user")
async def test_guessing_is_slowed_down_without_locking_the_owner_out(
    served: Served, browser: ClientSession
) -> None:
    for _ in range(auth.PER_ACCOUNT[0]):
        assert (await sign_in(browser, password="wrong"))[0] == 401

    async with browser.post("/login", data={"email": "ada@example.org", "password": PASSWORD}) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
    assert (await sign_in(browser, email="bob@example.org"))[0] == 401
    per_account, _ = served.app[keys.SIGN_IN_LIMITS]
    assert per_account.wait("192.0.2.1 ada@example.org") == 0


# Sessions end


@pytest.mark.usefixtures("user")
async def test_signing_out_ends_the_session_in_the_database(
    served: Served, browser: ClientSession, admin: Admin
) -> None:
    await sign_in(browser)
    token, (_, csrf) = sid(browser, served.url), await who(browser)

    async with browser.post("/logout", data={"csrf_token": csrf}, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/login")

    assert await admin.fetchval("SELECT count(*) FROM sessions") == 0
    browser.cookie_jar.update_cookies({"sid": token}, URL(served.url))
    async with browser.get("/desk", allow_redirects=False) as response:
        assert response.status == 303


@pytest.mark.parametrize(
    "ending",
    [
        "UPDATE sessions SET expires_at = now()",
        "UPDATE sessions SET last_seen_at = now() - interval '12 hours'",
        "UPDATE users SET disabled_at = now()",
        "DELETE FROM sessions",
    ],
)
@pytest.mark.usefixtures("user")
async def test_a_session_ends_by_the_databases_clock_and_with_its_user(
    browser: ClientSession, admin: Admin, ending: str
) -> None:
    await sign_in(browser)
    await who(browser)

    await admin.execute(ending)

    async with browser.get("/desk", allow_redirects=False) as response:
        assert response.status == 303


async def test_another_password_ends_every_session(
    browser: ClientSession, database: Database, tenant: UUID, user: UUID
) -> None:
    await sign_in(browser)

    async with database.tenant(tenant, "test") as db:
        await access.set_password(db, tenant_id=tenant, user_id=user, password="another password")

    async with browser.get("/desk", allow_redirects=False) as response:
        assert response.status == 303
    assert (await sign_in(browser))[0] == 401
    assert (await sign_in(browser, password="another password"))[0] == 303


# Forgery


@pytest.mark.usefixtures("user")
async def test_a_form_needs_its_sessions_token(
    browser: ClientSession, database: Database, tenant: UUID
) -> None:
    await sign_in(browser)
    _, token = await who(browser)
    async with ClientSession(browser._base_url, cookie_jar=CookieJar(unsafe=True)) as second:
        await sign_in(second)
        _, other_token = await who(second)

    for wrong in (
        {},
        {"csrf_token": ""},
        {"csrf_token": "x"},
        {"csrf_token": other_token},
        {"csrf_token": token + "é"},
    ):
        async with browser.post("/desk/change", data={"what": "x"} | wrong) as response:
            assert response.status == 403, wrong
    async with browser.post("/desk/change", data={"what": "x", "csrf_token": token}) as response:
        assert await response.json() == {"changed": "x"}
    async with browser.post("/desk/change", data={"what": "x"}, headers={"X-CSRF-Token": token}) as response:
        assert response.status == 200


@pytest.mark.usefixtures("user")
async def test_a_request_from_another_site_is_refused_even_with_the_token(
    served: Served, browser: ClientSession
) -> None:
    await sign_in(browser)
    _, token = await who(browser)
    host = served.url.removeprefix("http://")

    for headers in (
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.com"}, {"Origin": "null"},
        {"Origin": f"http://{host}.evil.com"}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.com"},
    ):  # fmt: skip
        async with browser.post("/desk/change", data={"csrf_token": token}, headers=headers) as response:
            assert response.status == 403, headers
        async with browser.post("/login", data={"email": "a", "password": "b"}, headers=headers) as response:
            assert response.status == 403, headers
    for headers in (
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": f"http://{host}"},
        {"Sec-Fetch-Site": "none"},
    ):
        async with browser.post("/desk/change", data={"csrf_token": token}, headers=headers) as response:
            assert response.status == 200, headers


@pytest.mark.usefixtures("user")
async def test_the_cookie_alone_moves_nothing_through_the_api(browser: ClientSession) -> None:
    await sign_in(browser)

    async with browser.post("/api/v1/change", data="{}", headers={"Content-Type": "text/plain"}) as response:
        assert (response.status, (await response.json())["type"]) == (403, "/problems/csrf")
    async with browser.post("/api/v1/change", headers={"Sec-Fetch-Site": "same-origin"}) as response:
        assert response.status == 200


# Making users


async def test_a_user_needs_a_password_of_sensible_length_and_an_address_of_their_own(
    database: Database, tenant: UUID, other_tenant: UUID, user: UUID
) -> None:
    async def create(tenant_id: UUID, **changes: str) -> UUID:
        values = {"email": "new@example.org", "name": "N", "password": PASSWORD, "role": "viewer"} | changes
        async with database.tenant(tenant_id, "test") as db:
            return await access.create_user(db, tenant_id=tenant_id, **values)

    for changes in ({"password": "short"}, {"password": "x" * 257}, {"email": "nobody"}, {"role": "owner"}):
        with pytest.raises(Invalid):
            await create(tenant, **changes)
    with pytest.raises(Conflict):
        await create(other_tenant, email="Ada@Example.org")
    assert await create(other_tenant)


async def test_long_passwords_are_not_cut_short() -> None:
    long = "a" * 200
    stored = await passwords.hash_password(long + "b")

    assert stored.startswith("$argon2id$")
    assert await passwords.matches(stored, long + "b")
    assert not await passwords.matches(stored, long + "c")
    assert not await passwords.matches(stored, long)


async def test_hashing_leaves_the_loop_free() -> None:
    medians = []
    for _ in range(10):  # a busy machine may hold up the loop as well, but not each time
        lags = []

        async def tick(lags: list[float]) -> None:
            while True:
                started = time.perf_counter()
                await asyncio.sleep(0.005)
                lags.append(time.perf_counter() - started - 0.005)

        ticking = asyncio.create_task(tick(lags))
        await asyncio.gather(*(passwords.matches(None, "x") for _ in range(4)))
        ticking.cancel()
        medians.append(statistics.median(lags) if lags else math.inf)
        if medians[-1] < 0.05:
            break

    assert min(medians) < 0.05
