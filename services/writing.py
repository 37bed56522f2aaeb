"""What can be done to a text without asking a model: cut it into sentences, hold them against their sources, assemble them.

The rule of the house is that a sentence stands in an article because a source says so. A sentence is *supported* when most of
its content words, all of its numbers and its yes or no are in a passage, and its *quote* is the sentence of that passage that
is nearest to it, verbatim. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

SUPPORT = 0.6  # of the content words of a sentence must be in the passage that is to support it
NEAR = 0.8  # of the content words shared: two sentences say the same
CITED_SUPPORT = 0.25  # is enough where the model itself named the source: paraphrase is its job

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_MARKER = re.compile(r"\s*\[\s*(?:S(?:ource)?\s*)(\d{1,3})\s*(?:[,;]\s*S?\s*(\d{1,3})\s*)*\]", re.IGNORECASE)
_NUMBERS_IN_MARKER = re.compile(r"\d{1,3}")
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|etc|cf|vs|ca|approx|no|nos|fig|vol|ed|dr|mr|mrs|ms|prof|st|[a-z]|[0-9]+)\.$",
    re.IGNORECASE,
)
_SKIPPED_LINE = re.compile(r"^\s*(?:#{1,6}\s|\||```|~~~|---|===|\*\*\*|!\[|<)")
_LIST_MARK = re.compile(r"^\s*(?:[-*+•]|\d{1,2}[.)])\s+")
_NEGATION = re.compile(
    r"\b(?:not|never|no|none|nor|neither|without|cannot|avoid|avoids|unless|except|isn|aren|don|doesn|won|can)(?:['’]t)?\b",
    re.IGNORECASE,
)
_COMMON = """a about after again all also am an and any are as at be because been before being between both but by can cannot could did do
    does doing down during each either else ever every few for from further get gets given had has have having he her here hers him
    his how however i if in into is it its itself just like made make makes many may me might more most much must my need needs no nor
    not of off often on once one only or other our out over own per quite rather same shall she should since so some still such than
    that the their them then there these they this those through thus to too under until up upon us use used uses using very was way we
    well were what when where whether which while who whom whose why will with within without would you your"""
_STOP_WORDS = frozenset(_COMMON.split())
# A model that talks about its task instead of doing it.
_CHATTER = re.compile(
    r"\b(?:i|i['’](?:m|d|ve|ll)|my|we['’]ll|let['’]s)\b"
    r"|\b(?:this|the|these|each|above|following|original|given|provided) (?:article|section|paragraph|passage|passages|source|sources"
    r"|sentence|sentences|text|summary|outline|version|rewrite|excerpt|statement|statements|instructions?|prompt)\b"
    r"|\b(?:rewritten|rephrased?|paraphrased?|revised version|in summary|in conclusion|suffice|as an ai|word count|here (?:is|are|['’]s))\b"
    r"|^(?:sure|certainly|of course|okay|here['’]s|note|title|section \d+|heading|topic|output|answer|example|sources?)\b[\s:,.!–-]"
    r"|\[(?:your|insert|name|topic|heading)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A retrieved chunk, numbered as the prompts name it: [S<number>]."""

    number: int
    chunk_id: str
    document_id: str
    document_title: str
    heading: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence of an article. With a source it has a quote that stands in that source verbatim."""

    text: str
    source: int | None = None
    quote: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """What remained of a model's text, in paragraphs, and what was taken out of it, by reason."""

    paragraphs: tuple[tuple[Sentence, ...], ...]
    removed: dict[str, int]

    @property
    def sentences(self) -> list[Sentence]:
        """All of them, in order."""
        return [sentence for paragraph in self.paragraphs for sentence in paragraph]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of *text* as verbatim slices of it. A line that is empty, a heading, a table row or a list item ends
    the sentence before it; headings, tables and fences hold none. Text without an end mark is a sentence of its own.
    """
    found: list[str] = []
    for block in _blocks(text):
        start = 0
        for match in _END.finditer(block):
            if match.group().startswith(".") and _ABBREVIATION.search(block[start : match.start() + 1]):
                continue
            found.append(block[start : match.end()].strip())
            start = match.end()
        found.append(block[start:].strip())
    return [sentence for sentence in found if sentence]


def _blocks(text: str) -> list[str]:
    """Return the runs of lines that belong together, each a verbatim slice of *text* without its list mark."""
    blocks: list[str] = []
    start: int | None = None
    position = 0
    fenced = False
    for line in text.splitlines(keepends=True):
        skipped = _SKIPPED_LINE.match(line) is not None
        fence = line.lstrip().startswith(("```", "~~~"))
        mark = _LIST_MARK.match(line)
        if start is not None and (fenced or skipped or fence or mark or not line.strip()):
            blocks.append(text[start:position])
            start = None
        fenced ^= fence
        if start is None and line.strip() and not (skipped or fence or fenced):
            start = position + (mark.end() if mark else 0)
        position += len(line)
    if start is not None:
        blocks.append(text[start:])
    return blocks


def is_complete(sentence: str) -> bool:
    """Whether *sentence* begins like one and has an end mark: a model that ran out of tokens stops in the middle."""
    bare = _MARKER.sub("", sentence).rstrip("\"'”’)]*_ ")
    return (
        bare.endswith((".", "!", "?", "…"))
        and bare.lstrip("\"'“‘([*_ ")[:1].isalnum()
        and len(_words(bare)) >= 4
    )


@lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """Return the words that carry meaning, lower-cased and cut to a rough stem."""
    return frozenset(
        _stem(word) for word in _words(text) if word not in _STOP_WORDS and (len(word) > 1 or word.isdigit())
    )


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(word.lower().replace("’", "'").removesuffix("'s") for word in _WORD.findall(text))


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that 'composting' meets 'composts'. Other languages merely match less."""
    for ending in ("ingly", "edly", "ing", "ied", "ies", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)] + ("y" if ending in {"ied", "ies"} else "")
            return (
                stem[:-1]
                if len(stem) > 4 and stem[-1] == stem[-2] and stem[-1] not in "ls"
                else stem.removesuffix("e")
            )
    return word.removesuffix("e") if len(word) > 3 else word


def same(one: str, other: str) -> bool:
    """Whether two sentences say nearly the same in nearly the same words."""
    if _words(one) == _words(other):
        return True
    first, second = content_words(one), content_words(other)
    smaller = min(len(first), len(second))
    if smaller < 3:
        return first == second and bool(first)
    return len(first & second) / len(first | second) >= NEAR


def is_chatter(sentence: str) -> bool:
    """Whether a sentence speaks of the task ("here is the paragraph") instead of the topic."""
    return _CHATTER.search(sentence) is not None


def goes_round(sentence: str) -> bool:
    """Whether a sentence repeats itself: the same four words in a row twice, or hardly any different words."""
    words = _words(sentence)
    fours = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return any(count > 1 for count in fours.values()) or (
        len(words) > 14 and len(set(words)) < len(words) * 0.5
    )


def support(sentence: str, passage: str) -> float:
    """Return how much of *sentence* the *passage* says: 0 to 1. 0 when a number is not in it, or its yes is a no there."""
    words = content_words(sentence)
    if not words:
        return 0.0
    if not set(_NUMBER.findall(sentence)) <= set(_NUMBER.findall(passage)):
        return 0.0
    return len(words & content_words(passage)) / len(words)


def find_quote(sentence: str, passage: str) -> str | None:
    """Return the sentence of *passage* nearest to *sentence*, verbatim; None when none shares two content words with it."""
    words = content_words(sentence)
    best: tuple[float, str] | None = None
    for candidate in quotable(passage):
        theirs = content_words(candidate)
        shared = len(words & theirs)
        if shared < min(2, len(words)):
            continue
        likeness = shared / (len(words | theirs))
        if best is None or likeness > best[0]:
            best = (likeness, candidate)
    return best[1] if best else None


@lru_cache(maxsize=512)
def quotable(passage: str) -> tuple[str, ...]:
    """Return the sentences of *passage* that can stand alone as a quotation."""
    return tuple(
        sentence
        for sentence in split_sentences(passage)
        if is_complete(sentence) and 5 <= len(_words(sentence)) <= 60 and not sentence.endswith("?")
    )


def ground(sentence: str, passages: Sequence[Passage]) -> Sentence | None:
    """Return *sentence* with the passage and quote that support it, or None when none does.
    A sentence that names its source, [S2], is held to that source first, and less strictly.
    """
    named = [
        int(number)
        for marker in _MARKER.finditer(sentence)
        for number in _NUMBERS_IN_MARKER.findall(marker.group())
    ]
    text = strip_markers(sentence)
    for passage in passages:
        if passage.number in named and support(text, passage.text) >= CITED_SUPPORT:
            quote = find_quote(text, passage.text)
            if quote is not None:
                return Sentence(text=text, source=passage.number, quote=quote)
    best: tuple[float, Passage, str] | None = None
    for passage in passages:
        score = support(text, passage.text)
        quote = find_quote(text, passage.text) if score >= SUPPORT else None
        if quote is None or _denies(text) != _denies(quote):
            continue
        if best is None or score > best[0]:
            best = (score, passage, quote)
    return Sentence(text=text, source=best[1].number, quote=best[2]) if best else None


def _denies(sentence: str) -> bool:
    return _NEGATION.search(sentence) is not None


def names_source(sentence: str) -> bool:
    """Whether a sentence carries a marker such as [S2]."""
    return _MARKER.search(sentence) is not None


def strip_markers(sentence: str) -> str:
    """Return *sentence* without its source markers and without Markdown emphasis round it, in one line."""
    text = " ".join(_MARKER.sub("", sentence).split())
    text = re.sub(r"\s+([.,;:!?])", r"\1", text).strip("*_ ")
    return (
        text.removesuffix('"').removeprefix('"').strip()
        if text.count('"') % 2 or text[:1] == text[-1:] == '"'
        else text
    )


def read_prose(raw: str, passages: Sequence[Passage], *, heading: str, before: Iterable[str] = ()) -> Prose:
    """Return what may stand of a model's text: whole sentences on the topic, none said *before*, each held to its passages.

    A model that names its sources is trusted to write a sentence or two that connect; of one that does not, only supported
    sentences remain.
    """
    removed: Counter[str] = Counter()
    said = [heading, *before]
    cites = names_source(raw)
    paragraphs: list[tuple[Sentence, ...]] = []
    for block in re.split(r"\n\s*\n", raw):
        kept: list[Sentence] = []
        for sentence in _attach_markers(split_sentences(block)):
            reason, grounded = _judge(sentence, passages, said, cites=cites)
            if reason:
                removed[reason] += 1
            else:
                kept.append(grounded)
                said.append(grounded.text)
        if kept:
            paragraphs.append(tuple(kept))
    return Prose(paragraphs=tuple(paragraphs), removed=dict(removed))


def _judge(
    sentence: str, passages: Sequence[Passage], said: Sequence[str], *, cites: bool
) -> tuple[str | None, Sentence]:
    """Return why *sentence* has to go, or None, and what it is when it stays."""
    text = strip_markers(sentence)
    plain = Sentence(text=text)
    if not is_complete(sentence):
        return "cut off", plain
    if is_chatter(text):
        return "about the task", plain
    if goes_round(text) or any(same(text, earlier) for earlier in said):
        return "repeated", plain
    grounded = ground(sentence, passages)
    if grounded is not None:
        return None, grounded
    if cites and not names_source(sentence) and not _NUMBER.search(text):
        return None, plain
    return "not in the sources", plain


def _attach_markers(sentences: Sequence[str]) -> list[str]:
    """Give a marker that stands behind the full stop ("… wet. [S1]") to the sentence it belongs to."""
    attached: list[str] = []
    for sentence in sentences:
        leading = re.match(r"^(?:\s*\[\s*S(?:ource)?\s*\d[^\]]*\][.\s]*)+", sentence, re.IGNORECASE)
        rest = sentence
        if leading and attached:
            attached[-1] += " " + leading.group().strip(" .")
            rest = sentence[leading.end() :].strip()
        if rest:
            attached.append(rest)
    return attached


def pick_quotations(
    query: str, passages: Sequence[Passage], *, count: int, before: Iterable[str] = ()
) -> list[Sentence]:
    """Return up to *count* verbatim sentences of *passages* nearest to *query*, none like one said *before*, in source order.
    A passage that comes earlier counts as nearer: retrieval ranked it.
    """
    said = list(before)
    wanted = content_words(query)
    ranked: list[tuple[float, int, int, Sentence]] = []
    for rank, passage in enumerate(passages):
        for place, candidate in enumerate(quotable(passage.text)):
            words = content_words(candidate)
            likeness = len(words & wanted) / (len(words) ** 0.5 or 1) + 0.3 / (1 + rank) + 0.1 / (1 + place)
            text = strip_markers(candidate)
            if not is_chatter(text):
                sentence = Sentence(text=text, source=passage.number, quote=candidate)
                ranked.append((likeness, rank, place, sentence))
    chosen: list[tuple[float, int, int, Sentence]] = []
    for entry in sorted(ranked, key=lambda entry: -entry[0]):
        if len(chosen) < count and not any(same(entry[3].text, earlier) for earlier in said):
            chosen.append(entry)
            said.append(entry[3].text)
    return [entry[3] for entry in sorted(chosen, key=lambda entry: entry[1:3])]
