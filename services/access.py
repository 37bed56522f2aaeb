"""Who is calling, and what they may do: principals, roles, API keys, passwords and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from services.errors import Forbidden

# From least to most: each role may do everything the ones before it may.
ROLES = ("viewer", "author", "reviewer", "operator", "admin")
Role = Literal["viewer", "author", "reviewer", "operator", "admin"]
_RANK = {role: rank for rank, role in enumerate(ROLES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A known caller: a person who signed in, or a program with an API key. `id` is the user's or the key's."""

    id: UUID
    tenant_id: UUID
    kind: Literal["user", "api_key"]
    name: str
    role: str

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
            raise Forbidden(f"this needs the role {role}, and {self.actor} is {self.role}")
