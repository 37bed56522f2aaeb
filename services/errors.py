"""Everything that can go wrong in the product, as one tree.

GalleyError
├── NotFound            the thing does not exist, or belongs to another tenant (the same answer)
├── Malformed           the input cannot be read at all (not JSON, a forged cursor, an impossible header)
├── UnsupportedMedia    the input is of a kind or encoding that is not accepted here
├── Invalid             the input breaks a rule; carries one entry per fault
├── Unauthenticated     nobody is known to be calling
├── Forbidden           somebody is known, but may not do this
├── Conflict            the thing is in a state that does not allow this
├── PreconditionFailed  the caller decided about something that has changed since
├── PreconditionNeeded  the caller must say which version is meant before it may be changed
├── TooLarge            a stated limit on size was passed
├── RateLimited         too many calls; try again later
├── Unavailable         something this needs is not answering right now
└── StaleAttempt        this run of a task no longer owns the task; whatever it wanted to write is refused

Each class has a slug that names the problem for programs (RFC 9457 `type`). Only `server/middleware.py` knows HTTP statuses.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in an input: a JSON pointer to where it is, and what is wrong there."""

    pointer: str
    message: str


class GalleyError(Exception):
    """Base of every error that services raise on purpose. The message is one lower-case sentence without full stop."""

    slug = "internal-error"
    title = "Something went wrong"

    def __init__(self, message: str, *, slug: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.slug = slug or type(self).slug
        self.retry_after = retry_after


class NotFound(GalleyError):
    """The thing does not exist for this caller."""

    slug, title = "not-found", "Not found"


class Malformed(GalleyError):
    """The input cannot be read at all."""

    slug, title = "malformed", "The request cannot be read"


class UnsupportedMedia(GalleyError):
    """The input is of a kind or encoding that is not accepted here."""

    slug, title = "unsupported-media-type", "Not a kind of content that is accepted here"


class Invalid(GalleyError):
    """The input breaks a rule; `faults` says where and why."""

    slug, title = "validation", "The request is not valid"

    def __init__(self, message: str, *, faults: tuple[Fault, ...] = (), slug: str | None = None) -> None:
        super().__init__(message, slug=slug)
        self.faults = faults


class Unauthenticated(GalleyError):
    """Nobody is known to be calling."""

    slug, title = "unauthenticated", "Sign in or send a key"


class Forbidden(GalleyError):
    """The caller is known but may not do this."""

    slug, title = "forbidden", "Not allowed"


class Conflict(GalleyError):
    """The thing is in a state that does not allow this."""

    slug, title = "conflict", "Not possible in this state"


class PreconditionFailed(GalleyError):
    """The caller decided about something that has changed since."""

    slug, title = "precondition-failed", "It has changed since you saw it"


class PreconditionNeeded(GalleyError):
    """The caller must say which version is meant (If-Match) before it may be changed."""

    slug, title = "precondition-required", "Say which version you mean"


class TooLarge(GalleyError):
    """A stated limit on size was passed."""

    slug, title = "too-large", "Too large"


class RateLimited(GalleyError):
    """Too many calls; `retry_after` says when to try again, in seconds."""

    slug, title = "quota-exceeded", "Too many requests"


class Unavailable(GalleyError):
    """Something this needs is not answering right now; `retry_after` in seconds."""

    slug, title = "temporary-reduced-capacity", "Not available right now"


class StaleAttempt(GalleyError):
    """The run no longer owns its task: it was cancelled, timed out or taken over. Its writes are refused."""

    slug, title = "stale-attempt", "This run no longer owns the task"
