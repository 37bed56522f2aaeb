"""What a reader gets of a version: title, address, summary, text, tags, language. A decision is bound to the hash of exactly this."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from services.errors import Fault, Invalid

MAX_TITLE, MAX_SLUG, MAX_SUMMARY, MAX_BODY, MAX_TAGS, MAX_TAG = (
    300,
    120,
    2_000,
    200_000,
    20,
    50,
)  # characters; tags

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")
_NOT_IN_TAG = re.compile(r"[^\w.+#]+")
# Control characters, and halves of surrogate pairs: PostgreSQL stores neither NUL nor those.
_NOT_PRINTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The words of a version, as `clean` leaves them."""

    title: str
    slug: str
    summary: str
    body_md: str
    tags: tuple[str, ...]
    language: str

    @property
    def content_hash(self) -> str:
        """SHA-256, in hex, of the canonical JSON: keys sorted, no spaces, UTF-8. app.content_hash computes the same."""
        parts = {field.name: getattr(self, field.name) for field in fields(Text)}
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an edit changes; None leaves a field as it is."""

    title: str | None = None
    slug: str | None = None
    summary: str | None = None
    body_md: str | None = None
    tags: tuple[str, ...] | None = None
    language: str | None = None

    def apply(self, text: Text) -> Text:
        """Return *text* with these changes, cleaned. Raises: Invalid."""
        given = {
            field.name: value for field in fields(Changes) if (value := getattr(self, field.name)) is not None
        }
        return clean(replace(text, **given))


def clean(text: Text) -> Text:
    """Return *text* in the one form that is stored: line ends of Unix, no control characters, a title of one line, tidy tags.

    A form on a page sends other line ends than a program: the same words must have the same hash. Raises: Invalid.
    """
    tidy = Text(
        title=" ".join(_printed(text.title).split()),
        slug=text.slug.strip(),
        summary=" ".join(_printed(text.summary).split()),
        body_md=_printed(text.body_md).strip("\n"),
        tags=clean_tags(text.tags),
        language=text.language.strip(),
    )
    faults = [Fault(f"/{name}", message) for name, message in _faults(tidy)]
    if faults:
        raise Invalid(
            "; ".join(f"{fault.pointer[1:]} {fault.message}" for fault in faults), faults=tuple(faults)
        )
    return tidy


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return each tag once, lower case, words joined by hyphens, in the order given."""
    tidy = (_NOT_IN_TAG.sub("-", unicodedata.normalize("NFC", tag).casefold()).strip("-") for tag in tags)
    return tuple(dict.fromkeys(tag for tag in tidy if tag))


def slugify(title: str) -> str:
    """Return *title* as the last part of an address: ASCII letters, digits and hyphens. Empty where none of it is Latin."""
    plain = unicodedata.normalize("NFKD", title.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    return _NOT_IN_SLUG.sub("-", plain)[:80].strip("-")


def _printed(text: str) -> str:
    return _NOT_PRINTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _faults(text: Text) -> list[tuple[str, str]]:
    rules = [
        ("title", not text.title, "is empty"),
        ("title", len(text.title) > MAX_TITLE, f"is longer than {MAX_TITLE} characters"),
        (
            "slug",
            not _SLUG.fullmatch(text.slug),
            "must be small letters and digits, joined by single hyphens",
        ),
        ("slug", len(text.slug) > MAX_SLUG, f"is longer than {MAX_SLUG} characters"),
        ("summary", len(text.summary) > MAX_SUMMARY, f"is longer than {MAX_SUMMARY} characters"),
        ("body_md", not text.body_md.strip(), "is empty"),
        ("body_md", len(text.body_md) > MAX_BODY, f"is longer than {MAX_BODY} characters"),
        ("tags", len(text.tags) > MAX_TAGS, f"are more than {MAX_TAGS}"),
        ("tags", any(len(tag) > MAX_TAG for tag in text.tags), f"hold one longer than {MAX_TAG} characters"),
        ("language", not _LANGUAGE.fullmatch(text.language), "must be a language tag such as en or pt-BR"),
    ]
    return [(name, message) for name, broken, message in rules if broken]
