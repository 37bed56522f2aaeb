"""Who is calling, and what they may do: principals and roles, API keys, sign-in and sessions.

Nothing that opens a door is stored: of keys and sessions the database has SHA-256 (they are random, so that is enough), of
passwords Argon2id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import asyncpg

from services import passwords
from services.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from sql import SQL, Connection

if TYPE_CHECKING:
    Record = asyncpg.Record

# From least to most: each role may do everything the ones before it may.
ROLES = ("viewer", "author", "reviewer", "operator", "admin")
_RANK = {role: rank for rank, role in enumerate(ROLES)}

SESSION_LIFE = timedelta(days=7)  # at most; app.find_session also ends one that was idle for 12 hours
_KEY = re.compile(r"gk_([0-9a-f]{32})_([A-Za-z0-9_-]{43})", re.ASCII)
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A known caller: a person who signed in, or a program with an API key. `id` is the user's or the key's."""

    id: UUID
    tenant_id: UUID
    kind: Literal["user", "api_key"]
    name: str
    role: str
    tenant: str = ""

    @property
    def actor(self) -> str:
        """The caller as history records it: `user:ada@example.org`, `key:ci`."""
        return f"{'user' if self.kind == 'user' else 'key'}:{self.name}"

    def may(self, role: str) -> bool:
        """Whether this caller's role is *role* or above it."""
        return _RANK[self.role] >= _RANK[role]

    def require(self, role: str) -> None:
        """Raises: Forbidden when the caller's role is below *role*."""
        if not self.may(role):
            raise Forbidden(f"this needs the role {role}, and yours is {self.role}")

    def require_own(self, creator: str, role: str) -> None:
        """Raises: Forbidden when *creator* (an actor) is somebody else and this caller's role is below *role*."""
        if self.actor != creator:
            self.require(role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A person's session, found by its cookie. `csrf_token` is what forms must send back."""

    id: UUID
    principal: Principal
    csrf_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as it is listed; the secret is shown once, when it is made."""

    id: UUID
    tenant_id: UUID
    name: str
    role: str
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> ApiKey:
        """Return the key in *row*."""
        return cls(
            id=row["id"],
            tenant_id=row["tenant_id"],
            name=row["name"],
            role=row["role"],
            created_by=row["created_by"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            last_used_at=row["last_used_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant, as its public site needs it."""

    id: UUID
    name: str
    settings: dict[str, object]


async def ensure_tenant(db: Connection, name: str) -> UUID:
    """Return the id of the tenant called *name*, made where it is new. Raises: Invalid."""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise _fault("/name", "must have 1 to 100 printable characters")
    tenant_id: UUID = await db.fetchval(SQL["access.ensure_tenant"], name)
    return tenant_id


async def find_tenant(db: Connection, name: str) -> Tenant | None:
    """Return the tenant called *name*. *db* may be a connection outside any transaction; not the transaction of a tenant."""
    row = await db.fetchrow(SQL["access.find_tenant"], name)
    return Tenant(id=row["id"], name=row["name"], settings=row["settings"]) if row else None


async def create_api_key(
    db: Connection, *, tenant_id: UUID, name: str, role: str, actor: str, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """Make a key; returns it with its text `gk_<id>_<secret>`, which cannot be had again. Raises: Invalid."""
    _require_role(role)
    secret = secrets.token_urlsafe(32)
    row = await db.fetchrow(
        SQL["access.create_api_key"], tenant_id, name, role, _digest(secret), actor, expires_at
    )
    assert row is not None
    key = ApiKey.from_row(row)
    return key, f"gk_{key.id.hex}_{secret}"


async def list_api_keys(db: Connection, tenant_id: UUID) -> list[ApiKey]:
    """Return all keys of the tenant, newest first."""
    return [ApiKey.from_row(row) for row in await db.fetch(SQL["access.list_api_keys"], tenant_id)]


async def revoke_api_key(db: Connection, tenant_id: UUID, key_id: UUID) -> None:
    """End a key at once. Raises: NotFound (also when it has ended already)."""
    if await db.fetchval(SQL["access.revoke_api_key"], tenant_id, key_id) is None:
        raise NotFound("no such key")


async def authenticate_keys(db: Connection, texts: Sequence[str]) -> list[Principal | None]:
    """Return who holds each key; None where it is unknown, revoked or has expired. *db* may be a connection outside any transaction."""
    parts = [_KEY.fullmatch(text) for text in texts]
    ids = {UUID(one[1]) for one in parts if one}
    rows = {row["id"]: row for row in await db.fetch(SQL["access.find_api_keys"], list(ids))} if ids else {}
    known: list[Principal | None] = []
    for one in parts:
        row = rows.get(UUID(one[1])) if one else None
        if one is None or row is None or not hmac.compare_digest(row["secret_hash"], _digest(one[2])):
            known.append(None)
        else:
            known.append(_holder(row))
    used = {principal.id for principal in known if principal is not None}
    seldom = [key_id for key_id in used if rows[key_id]["seldom_used"]]
    if seldom:
        await db.execute(SQL["access.touch_api_keys"], sorted(seldom))
    return known


def _holder(row: Record) -> Principal:
    return Principal(
        id=row["id"],
        tenant_id=row["tenant_id"],
        kind="api_key",
        name=row["name"],
        role=row["role"],
        tenant=row["tenant"],
    )


async def create_user(
    db: Connection, *, tenant_id: UUID, email: str, name: str, password: str, role: str
) -> UUID:
    """Create a person who may sign in. Raises: Invalid, Conflict (somebody has this address)."""
    _require_role(role)
    if not _EMAIL.fullmatch(email) or len(email) > 254:
        raise _fault("/email", "must be an e-mail address")
    passwords.check_new(password)
    hashed = await passwords.hash_password(password)
    try:
        user_id: UUID = await db.fetchval(SQL["access.create_user"], tenant_id, email, name, hashed, role)
    except asyncpg.UniqueViolationError:
        raise Conflict(f"somebody signs in as {email} already") from None
    return user_id


async def set_password(db: Connection, *, tenant_id: UUID, user_id: UUID, password: str) -> None:
    """Give a person another password and end every session of theirs. Raises: Invalid, NotFound."""
    passwords.check_new(password)
    hashed = await passwords.hash_password(password)
    if await db.fetchval(SQL["access.set_password"], tenant_id, user_id, hashed) is None:
        raise NotFound("no such user")


async def find_login(db: Connection, email: str) -> tuple[Principal, str] | None:
    """Return who signs in as *email*, with the hash of their password; None for nobody."""
    row = await db.fetchrow(SQL["access.find_login"], email)
    if row is None:
        return None
    who = Principal(
        id=row["id"], tenant_id=row["tenant_id"], kind="user", name=row["email"], role=row["role"]
    )
    return who, row["password_hash"]


async def open_session(db: Connection, user: Principal) -> str:
    """Open a session for *user*, in their tenant's transaction; returns the token for the cookie, which is stored nowhere."""
    token = secrets.token_urlsafe(32)
    await db.execute(
        SQL["access.open_session"],
        user.tenant_id,
        user.id,
        _digest(token),
        secrets.token_urlsafe(32),
        SESSION_LIFE,
    )
    return token


async def find_session(db: Connection, token: str) -> Session | None:
    """Return the living session of *token*. *db* may be a connection outside any transaction."""
    row = await db.fetchrow(SQL["access.find_session"], _digest(token))
    if row is None:
        return None
    if row["seldom_used"]:
        await db.execute(SQL["access.touch_session"], row["id"])
    who = Principal(
        id=row["user_id"],
        tenant_id=row["tenant_id"],
        kind="user",
        name=row["email"],
        role=row["role"],
        tenant=row["tenant"],
    )
    return Session(id=row["id"], principal=who, csrf_token=row["csrf_token"])


async def close_session(db: Connection, tenant_id: UUID, session_id: UUID) -> None:
    """End a session; nothing happens when it has ended already."""
    await db.execute(SQL["access.close_session"], tenant_id, session_id)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _require_role(role: str) -> None:
    if role not in _RANK:
        raise _fault("/role", f"must be one of {', '.join(ROLES)}")


def _fault(pointer: str, message: str) -> Invalid:
    return Invalid(f"{pointer.lstrip('/')} {message}", faults=(Fault(pointer, message),))
