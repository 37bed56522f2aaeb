"""What people type into the search of a list of tasks: the beginning of an id or of a type, or a concurrency key; never payloads."""

from __future__ import annotations

import re
from uuid import UUID

_HEX_PREFIX = re.compile(r"^[0-9a-f-]{4,36}$")


def read(q: str | None) -> tuple[UUID | None, UUID | None, str | None]:
    """Return the range of ids that *q* is the beginning of, or else *q* as a text; None is anything."""
    if not q:
        return None, None, None
    digits = q.lower().replace("-", "")
    if _HEX_PREFIX.match(q.lower()) and 4 <= len(digits) <= 32:
        return UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")), None
    return None, None, q
