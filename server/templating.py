"""Jinja2 for every page: escaping on, a missing name is an error, addresses by route name, assets by their hash."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from aiohttp import ETag, web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from routes import keys
from services import markdown

ROOT = Path(__file__).parent.parent
LONGEST_GIST = 120
FOREVER = "public, max-age=31536000, immutable"

# How a state looks. Words carry the meaning, colour and shape only repeat it.
_LOOKS = {
    "good": {
        "succeeded",
        "approved",
        "published",
        "ready",
        "indexed",
        "settled",
        "passed",
        "done",
        "requeued",
        "serving",
    },
    "bad": {"failed", "timed_out", "rejected", "unknown", "lost"},
    "off": {"cancelled", "closed", "expired", "archived", "unpublished", "stopped", "discarded", "drained"},
}
_LOOK = {state: look for look, states in _LOOKS.items() for state in states} | {
    "changes_requested": "waiting", "in_review": "pending", "reserved": "running", "processing": "running", "paused": "waiting", "draining": "waiting",
}  # fmt: skip


_LONG_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{4}([0-9a-f]{8})\b")


class Assets:
    """What stands in server/static, read once; each address carries the content's hash, so it may be kept for ever."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, tuple[str, bytes, str]] = {}
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = path.relative_to(folder).as_posix()
            body = path.read_bytes()
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            self._files[name] = (hashlib.sha256(body).hexdigest()[:12], body, kind)

    def digest(self, name: str) -> str:
        """Return the hash in the address of *name*. Raises: KeyError when there is no such asset."""
        return self._files[name][0]

    async def handle(self, request: web.Request) -> web.Response:
        """Serve one asset; an address with another hash is answered too, but not kept."""
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        digest, body, kind = found
        current = request.match_info["digest"] == digest
        response = web.Response(
            body=body, headers={"Content-Type": kind, "Cache-Control": FOREVER if current else "no-cache"}
        )
        response.headers["Vary"] = "Accept-Encoding"
        response.etag = ETag(digest, is_weak=True)  # the same bytes may travel compressed
        if kind.startswith("text/") or kind.endswith(("javascript", "svg+xml")):
            response.enable_compression()
        return response


class Templates:
    """The templates of one application; `routes.keys.Renderer` is what handlers see of it."""

    def __init__(self, app: web.Application, folder: Path = ROOT / "templates") -> None:
        self.assets = Assets(ROOT / "server" / "static")
        self._app = app
        self._environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"],
        )
        self._environment.filters.update(FILTERS)
        self._environment.tests["json"] = lambda value: isinstance(value, dict | list)
        self._environment.globals.update(url=self._url, static=self._static)

    def render(self, request: web.Request, template: str, /, **values: object) -> str:
        """Return *template* as text. What every page may use: principal, csrf_token, request_id, site, path, now."""
        return self._environment.get_template(template).render(
            {
                "principal": keys.find_principal(request),
                "csrf_token": keys.csrf_token(request),
                "request_id": keys.request_id(request),
                "site": self._app[keys.SITE],
                "path": request.path,
                "now": datetime.now(UTC),
                **values,
            }
        )

    def _url(self, route: str, /, query: dict[str, object] | None = None, **parts: object) -> str:
        """Return the address of the route of this name; empty values leave the query."""
        address = self._app.router[route].url_for(**{name: str(value) for name, value in parts.items()})
        kept = {name: str(value) for name, value in (query or {}).items() if value not in {None, ""}}
        return str(address.with_query(kept) if kept else address)

    def _static(self, name: str) -> str:
        return self._url("static", digest=self.assets.digest(name), name=name)


def install(app: web.Application) -> None:
    """Give *app* its templates and the route of its assets."""
    templates = Templates(app)
    app[keys.TEMPLATES] = templates
    app.router.add_get("/static/{digest}/{name:[a-zA-Z0-9._/-]+}", templates.assets.handle, name="static")


def when(moment: datetime | None) -> str:
    """A moment in full, with its zone: 21 Nov 2026, 14:03:05 UTC."""
    if moment is None:
        return Markup('<span class="muted">–</span>')
    shown = moment.astimezone(UTC)
    return _time(shown, f"{shown.day} {shown:%b %Y, %H:%M:%S} UTC")


@pass_context
def ago(context: Context, moment: datetime | None) -> str:
    """How long ago, or how soon; the moment itself is in the title."""
    if moment is None:
        return Markup('<span class="muted">–</span>')
    passed: timedelta = context["now"] - moment
    ahead = passed < timedelta(0)
    words = _rough(abs(passed))
    return _time(
        moment.astimezone(UTC), words if words == "now" else f"in {words}" if ahead else f"{words} ago"
    )


def date(moment: datetime) -> str:
    """A day as readers write it: 21 November 2026."""
    shown = moment.astimezone(UTC)
    return _time(shown, f"{shown.day} {shown:%B %Y}")


def iso(moment: datetime) -> str:
    """RFC 3339, for machines."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _time(moment: datetime, words: str) -> Markup:
    title = f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso(moment), title, words)


def _rough(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s" if seconds >= 5 else "now"


def duration(span: timedelta | float | None) -> str:
    """A length of time at the precision a person can use: 820 ms, 4.2 s, 3 min 04 s, 2 h 05 min."""
    if span is None:
        return "–"
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def number(value: float | Decimal | None) -> str:
    """Digits in groups of three; whole numbers without decimals."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def plural(value: int, noun: str) -> str:
    """A number with its noun: 1 word, 1,204 words."""
    return f"{number(value)} {noun}" if value == 1 else f"{number(value)} {noun}s"


def cost(value: Decimal | float | None) -> str:
    """US dollars; a price that is not known is never shown as 0."""
    if value is None:
        return "not priced"
    return f"${value:,.4f}" if value else "$0"


def size(value: int | None) -> str:
    """Bytes in the unit a person would use."""
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def short(value: UUID | str | bytes) -> str:
    """The end of an id: version-7 ids of one moment begin alike."""
    return (value.hex() if isinstance(value, bytes) else str(value))[-8:]


def pretty(value: object) -> str:
    """JSON as people read it."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def gist(value: object) -> str:
    """What tells one payload from the next, in one short line: its fields without those that are empty, 0 or false."""
    if not isinstance(value, dict):
        return ""
    told = (
        f"{name}: {json.dumps(one, ensure_ascii=False, default=str)}" for name, one in value.items() if one
    )
    text = ", ".join(told)
    return text if len(text) <= LONGEST_GIST else text[: LONGEST_GIST - 1] + "…"


def look(state: str) -> str:
    """The class that colours a state."""
    return f"state-{_LOOK.get(state, state)}"


def plain(value: object) -> str:
    """A value out of JSON in a line of text; a time in it with its zone, a long id by its end."""
    text = str(value)
    try:
        return (
            when(datetime.fromisoformat(text))
            if "T" in text and "-" in text[:5]
            else _LONG_ID.sub(r"…\1", text)
        )
    except ValueError:
        return text


def words(value: str) -> str:
    """A name from the database as words: timed_out → timed out."""
    return value.replace("_", " ")


def prose(text: str, markers: list[int] | None = None) -> Markup:
    """Markdown as safe HTML; *markers* are the citations that exist."""
    return markdown.render(text, tuple(markers or ()))


def highlight(text: str, opening: str = "\x02", closing: str = "\x03") -> Markup:
    """Text whose found words stand between two control characters, as <mark>."""
    safe = str(escape(text))
    return Markup(safe.replace(opening, "<mark>").replace(closing, "</mark>"))  # noqa: S704 - escaped the line before


def bars(values: list[int], height: int = 100) -> list[dict[str, Any]]:
    """Bars of a chart in a box 10 wide per value and *height* high: position, top and size of each."""
    top = max([*values, 1])
    return [
        {"x": 10 * at, "y": round(height - height * value / top, 1), "height": round(height * value / top, 1)}
        for at, value in enumerate(values)
    ]


FILTERS = {
    "ago": ago, "bars": bars, "cost": cost, "date": date, "duration": duration, "gist": gist, "highlight": highlight, "iso": iso, "look": look,
    "number": number, "plain": plain, "plural": plural, "pretty": pretty, "prose": prose, "short": short, "size": size, "when": when, "words": words,
}  # fmt: skip
