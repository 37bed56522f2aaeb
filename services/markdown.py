"""Markdown from people and models, turned into HTML that can do no harm.

Two walls: the parser passes no raw HTML, and what it makes is filtered once more against an allow-list. Pictures are never
loaded from elsewhere (their address could carry text out): the description stands in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

_MARKER = re.compile(r"\[(\d{1,3})\]")
_LOOSE_MARKER = re.compile(r"\s*\[\d{1,3}\]")
_NOT_WORD = re.compile(r"[^\w]+")
_OWN_ID = re.compile(r"(s|ref)-[\w-]+")

_TAGS = {
    "a", "blockquote", "br", "code", "del", "em", "h2", "h3", "h4", "hr", "li", "ol", "p", "pre", "s", "strong", "sup",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES = {
    "a": {"href", "title", "id", "aria-label"},
    "h2": {"id"}, "h3": {"id"}, "h4": {"id"}, "ol": {"start"},
}  # fmt: skip
# Level 1 belongs to the page's own title.
_LEVELS = {"h1": "h2", "h5": "h4", "h6": "h4"}


@lru_cache(maxsize=256)  # the texts are immutable versions, shown again and again
def render(text: str, markers: tuple[int, ...] = ()) -> Markup:
    """Return *text* as safe HTML. Each [n] with n in *markers* becomes a raised link to `#note-n`; the first of them
    carries `id="ref-n"`, so that the note can link back.
    """
    tokens = _PARSER.parse(text)
    _name_headings(tokens)
    _link_markers(tokens, frozenset(markers))
    html = _PARSER.renderer.render(tokens, _PARSER.options, {})
    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_keep_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(clean)  # noqa: S704 - both walls stand before it


def markers(text: str) -> list[int]:
    """Return the numbers of the citation markers in *text*, each once, in order of appearance."""
    return list(dict.fromkeys(int(found) for found in _MARKER.findall(text)))


def plain_text(text: str) -> str:
    """Return the words of *text*, a heading, paragraph or list item a line, without marks and citation markers."""
    lines = (words(token) for token in _PARSER.parse(text) if token.type in {"inline", "fence", "code_block"})
    return "\n".join(line for line in (_LOOSE_MARKER.sub("", line).strip() for line in lines) if line)


def words(token: Token) -> str:
    """Return what a reader sees of an inline token, on one line."""
    if not token.children:
        return token.content
    breaks = {"softbreak", "hardbreak"}
    return "".join(" " if child.type in breaks else child.content for child in token.children)


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    """Ids only as this module makes them: a stray one could shadow a name that scripts or forms rely on."""
    if attribute == "id" and not _OWN_ID.fullmatch(value):
        return None
    return value


def _name_headings(tokens: Sequence[Token]) -> None:
    """Give each heading an id made from its words and fit its level under the page's title."""
    seen: dict[str, int] = {}
    for position, token in enumerate(tokens):
        if token.type not in {"heading_open", "heading_close"}:
            continue
        token.tag = _LEVELS.get(token.tag, token.tag)
        if token.type == "heading_open":
            words = _NOT_WORD.sub("-", tokens[position + 1].content.lower()).strip("-")[:60] or "section"
            seen[words] = seen.get(words, 0) + 1
            token.attrSet("id", f"s-{words}" if seen[words] == 1 else f"s-{words}-{seen[words]}")


def _link_markers(tokens: Sequence[Token], known: frozenset[int]) -> None:
    """Split the text at each known marker and put a link in its place; code and links are left alone."""
    linked: set[int] = set()
    for block in tokens:
        if block.type != "inline" or not block.children:
            continue
        children: list[Token] = []
        inside_link = 0
        for token in block.children:
            inside_link += {"link_open": 1, "link_close": -1}.get(token.type, 0)
            if token.type == "text" and not inside_link:
                children.extend(_split(token.content, known, linked))
            else:
                children.append(token)
        block.children = children


def _split(text: str, known: frozenset[int], linked: set[int]) -> list[Token]:
    """Return *text* as text tokens and links, in order; *linked* collects the numbers that have had their id."""
    parts: list[Token] = []
    end = 0
    for match in _MARKER.finditer(text):
        number = int(match[1])
        if number not in known:
            continue
        between = text[end : match.start()].rstrip(" ")
        follows_link = bool(parts) and not between
        parts.append(_token("html_inline", "<sup>,</sup>") if follows_link else _token("text", between))
        anchor = "" if number in linked else f' id="ref-{number}"'
        linked.add(number)
        link = f'<sup><a href="#note-{number}"{anchor} aria-label="note {number}">{number}</a></sup>'
        parts.append(_token("html_inline", link))
        end = match.end()
    parts.append(_token("text", text[end:]))
    return [part for part in parts if part.content]


def _token(kind: str, content: str) -> Token:
    token = Token(kind, "", 0)
    token.content = content
    return token


def _describe_image(
    self: RendererHTML, tokens: Sequence[Token], position: int, options: OptionsDict, env: dict[str, Any]
) -> str:
    """The words of a picture instead of the picture."""
    return escapeHtml(self.renderInlineAsText(tokens[position].children or [], options, env))


_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_PARSER.add_render_rule("image", _describe_image)
