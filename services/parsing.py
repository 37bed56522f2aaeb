"""A document's source to plain text with a structure: which stretch of the text stands under which headings.

Three formats come in: plain text, Markdown and HTML. Whatever the format, the result is one text and a list of blocks with
offsets into it, so that chunks, citations and pages all speak about the same characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.errors import Invalid

FORMATS = {"text/plain": "text", "text/markdown": "Markdown", "text/html": "HTML"}
HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}

# Parts of a page that are not its text.
_NOT_TEXT = (
    "script, style, noscript, template, nav, footer, aside, form, button, select, iframe, svg, canvas, head"
)
_BLOCK_NAMES = (
    "address article blockquote body caption center dd details dialog div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 header "
    "hgroup html li main menu ol p pre section summary table tbody td tfoot th thead tr ul"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
# Elements that HTML closes by itself, or that hold nothing.
_SELF_CLOSING_NAMES = "p li dt dd td th tr tbody thead tfoot colgroup col option optgroup br hr img input meta link wbr area base embed param source track"
_SELF_CLOSING = frozenset(_SELF_CLOSING_NAMES.split())
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
MAX_NESTING = 2000  # elements; the parser's time grows with the square of it: 100,000 take a minute
_BETWEEN = "\n\n"  # stands between the blocks of a page
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PARAGRAPH = re.compile(r"\S(?:.|\n(?!\s*\n))*")
_MARKDOWN_MARKS = (
    (
        re.compile(r"!?\[([^\[\]\n]*)\]\([^()\s]*(?:\s+\"[^\"\n]*\")?\)"),
        r"\1",
    ),  # links and images: their words
    (re.compile(r"^[ \t]*(?:#{1,6}|>+|```\w*|~~~\w*|[-*+])[ \t]*", re.MULTILINE), ""),
    (re.compile(r"^[ \t|:+-]*-{3}[ \t|:+-]*$", re.MULTILINE), ""),  # rules, and the line below a table's head
    (re.compile(r"[*`|]+|(?<!\w)_+|_+(?!\w)"), " "),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A paragraph, list, table or piece of code: `text[start:end]`, and the headings above it, outermost first.

    `section` counts the headings met so far: two sections may have the same name.
    """

    start: int
    end: int
    headings: tuple[str, ...]
    section: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The text of a document and its blocks in order. Offsets count characters (code points), as PostgreSQL does."""

    text: str
    blocks: tuple[Block, ...]
    mime: str


def parse(source: str, mime: str) -> Parsed:
    """Return the text and blocks of *source*. Raises: Invalid for an unknown format or a source without any text."""
    if mime not in FORMATS:
        raise Invalid(f"format {mime!r} is not supported; use one of {', '.join(FORMATS)}")
    text = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if mime == "text/html":
        _require_flat(text)
        text, blocks = _html(text)
    elif mime == "text/markdown":
        blocks = list(_markdown(text))
    else:
        blocks = list(_plain(text))
    if not blocks:
        raise Invalid("the document has no text")
    return Parsed(text=text, blocks=tuple(blocks), mime=mime)


def readable(text: str, mime: str) -> str:
    """Return *text* without the marks of its format: what a model should read and a search should find."""
    if mime == "text/markdown":
        for marks, replacement in _MARKDOWN_MARKS:
            text = marks.sub(replacement, text)
    return " ".join(text.split())


def terms_text(text: str) -> str:
    """Return *text* as the keyword arm is to read it, documents and queries alike.

    What PostgreSQL takes for a letter, and which small one belongs to it, depends on the locale of the database: in "C", as the
    embedded one has it, a dash is a word and Ä has no ä. So the letters are made small and foreign marks removed here.
    """
    small = unicodedata.normalize("NFKC", text).lower()
    return (
        small
        if small.isascii()
        else "".join(c if c.isascii() or unicodedata.category(c)[0] in "LMN" else " " for c in small)
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a document reading has come to: the headings above, with their levels, and how many there were in all."""

    path: tuple[tuple[int, str], ...] = ()
    section: int = 0

    def below(self, level: int, title: str) -> _Place:
        """Return the place after a heading: it stands under those of a higher rank."""
        above = (heading for heading in self.path if heading[0] < level)
        return _Place((*above, (level, title)), self.section + 1)

    def block(self, text: str, start: int, end: int) -> Block | None:
        """Return the block of `text[start:end]` without the white space around it; None when nothing is left."""
        stretch = text[start:end]
        kept = stretch.strip()
        if not kept:
            return None
        start += len(stretch) - len(stretch.lstrip())
        headings = tuple(title for _, title in self.path)
        return Block(start=start, end=start + len(kept), headings=headings, section=self.section)


def _plain(text: str) -> Iterator[Block]:
    for match in _PARAGRAPH.finditer(text):
        if block := _Place().block(text, match.start(), match.end()):
            yield block


def _markdown(text: str) -> Iterator[Block]:
    front_matter = _FRONT_MATTER.match(text)
    skipped = front_matter.end() if front_matter else 0
    starts = [skipped]
    for line in text[skipped:].split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    place = _Place()
    tokens = MarkdownIt("commonmark").enable("table").parse(text[skipped:])
    for position, token in enumerate(tokens):
        if token.level or token.map is None or token.type == "hr":
            continue
        if token.type == "heading_open":
            title = readable(tokens[position + 1].content, "text/markdown")
            place = place.below(HEADINGS[token.tag], title)
        elif block := place.block(text, starts[token.map[0]], starts[token.map[1]]):
            yield block


def _require_flat(source: str) -> None:
    depth = 0
    for closing, name in _TAG.findall(source):
        if name.lower() not in _SELF_CLOSING:
            depth = max(0, depth - 1) if closing else depth + 1
            if depth > MAX_NESTING:
                raise Invalid(f"the HTML is nested deeper than {MAX_NESTING} elements")


def _html(source: str) -> tuple[str, list[Block]]:
    found = list(_html_blocks(source))
    text = _BETWEEN.join(content for _, content in found)
    blocks: list[Block] = []
    place = _Place()
    start = 0
    for tag, content in found:
        if tag in HEADINGS:
            place = place.below(HEADINGS[tag], content)
        elif block := place.block(text, start, start + len(content)):
            blocks.append(block)
        start += len(content) + len(_BETWEEN)
    return text, blocks


def _html_blocks(source: str) -> Iterator[tuple[str, str]]:
    """Yield (tag, text) for each stretch of text that belongs to one block element, in the order of the page."""
    tree = LexborHTMLParser(source)
    for node in tree.css(_NOT_TEXT):
        node.decompose()
    root = tree.css_first("main") or tree.css_first("article") or tree.body
    if root is None:
        return
    owner_id, owner_tag, parts = -1, "", list[str]()
    for node in root.traverse(include_text=True):
        if node.tag == "br":
            parts.append("\n")
        if node.tag != "-text":
            continue
        owner = _owner(node)
        if owner.mem_id != owner_id:
            yield from _finished(owner_tag, parts)
            owner_id, owner_tag, parts = owner.mem_id, str(owner.tag), []
        parts.append(node.text_content or "")
    yield from _finished(owner_tag, parts)


def _owner(node: LexborNode) -> LexborNode:
    """Return the block element that *node* is part of; a table row owns the words of its cells, `pre` those of its code."""
    found = node
    above = node.parent
    while above is not None and above.tag is not None:
        found = above
        if above.tag in _BLOCKS and above.tag not in {"td", "th"}:
            break
        above = above.parent
    return found


def _finished(tag: str, parts: list[str]) -> Iterator[tuple[str, str]]:
    if tag == "pre":
        content = "".join(parts).strip("\n")
    elif tag == "tr":
        content = " | ".join(" ".join(part.split()) for part in parts if part.strip())
    else:
        content = " ".join("".join(parts).split())
    if content.strip():
        yield tag, content
