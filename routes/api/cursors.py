"""Cursors for keyset pages: the sort key of the last row shown, signed, and bound to the tenant and the list it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from uuid import UUID

import orjson

from services.errors import Malformed

_SIGNATURE_BYTES = 16
Scalar = str | int | float | bool | None


def encode(secret: bytes, tenant_id: UUID, scope: str, values: tuple[Scalar | UUID | datetime, ...]) -> str:
    """Return *values* as an opaque cursor of the list *scope* (a route name) in this tenant."""
    payload = orjson.dumps(values, default=str)
    return base64.urlsafe_b64encode(_sign(secret, tenant_id, scope, payload) + payload).decode().rstrip("=")


def decode(secret: bytes, tenant_id: UUID, scope: str, cursor: str) -> list[Scalar]:
    """Return the values in *cursor*, ids and times as text. Raises: Malformed when it was not made here, for this list and tenant."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(secret, tenant_id, scope, payload)):
        raise _invalid()
    values: list[Scalar] = orjson.loads(payload)
    return values


def _sign(secret: bytes, tenant_id: UUID, scope: str, payload: bytes) -> bytes:
    message = b"cursor\x00" + tenant_id.bytes + scope.encode() + b"\x00" + payload
    return hmac.digest(secret, message, hashlib.sha256)[:_SIGNATURE_BYTES]


def _invalid() -> Malformed:
    return Malformed("this cursor was not given out for this list", slug="invalid-cursor")
