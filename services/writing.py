"""Sentences: cut a text into them, compare them, tell the usable from the unusable. Everything here is a pure function."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

NEAR = 0.8  # of the content words shared: two sentences say the same

_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
# "one" alone is rarely a number.
_NUMBER_WORDS = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_UNITS[1:10])}))?|({'|'.join(_UNITS[2:])}))\b", re.IGNORECASE
)
_MARKS = r"(?:\s*\[\s*(?:S(?:ource)?\s*)?\d{1,3}(?:\s*[,;&]\s*(?:S(?:ource)?\s*)?\d{1,3})*\s*\])"
_MARKER = re.compile(_MARKS, re.IGNORECASE)
_LEADING_MARKER = re.compile(r"^(?:\s*\[\s*S?\s*\d[^\]]*\][.\s]*)+", re.IGNORECASE)
_DIGITS = re.compile(r"\d{1,3}")
_END = re.compile(rf"[.!?…]+[\"'”’)\]]*(?:{_MARKS}+[.]?)?(?=\s|$)", re.IGNORECASE)
# A full stop behind these ends no sentence; behind the second kind it does not when a figure follows.
_ABBREVIATION = re.compile(r"(?:^|[\s(\"“])(?:e\.g|i\.e|cf|vs|[Dd]r|Mr|Mrs|Ms|Prof|St|[A-Z])\.$")
_NUMBERED = re.compile(r"(?:^|[\s(])(?:[Nn]os?|[Ff]ig|[Vv]ol|ca|approx|pp?)\.$")
_SKIPPED_LINE = re.compile(r"^\s*(?:#{1,6}\s|\||```|~~~|---|===|\*\*\*|!\[|<)")
_LIST_MARK = re.compile(r"^\s*(?:[-*+•]|\d{1,2}[.)])\s+")
_NEGATION = re.compile(
    r"\b(?:not|never|no|none|nor|neither|without|cannot|avoid|avoids|unless|except|\w+n['’]t)\b",
    re.IGNORECASE,
)
_LEANING = re.compile(
    r"(?:it|its|they|their|them|he|she|his|her|this|these|that|those|such|both|another|then|also|but|and|so|or|yet|however|instead"
    r"|therefore|thus|otherwise|the (?:former|latter|other|second|third|same)|here|there"
    r"|(?:at|in|for|with|by|of|on|from|to|after|before|until) (?:this|these|that|those|them|it|then))\b",
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


def split_sentences(text: str) -> list[str]:
    """Return the sentences of *text* as verbatim slices of it. A line that is empty, a heading, a table row or a list item ends
    the sentence before it; headings, tables and fences hold none. Text without an end mark is a sentence of its own.
    """
    found: list[str] = []
    for block in _blocks(text):
        start = 0
        for match in _END.finditer(block):
            if _goes_on(block[start : match.end()], block[match.end() :].lstrip()[:1]):
                continue
            found.append(block[start : match.end()].strip())
            start = match.end()
        found.append(block[start:].strip())
    return [sentence for sentence in found if sentence]


def _goes_on(sentence: str, following: str) -> bool:
    """Whether the end mark of *sentence* ends nothing, seen from the first character that follows."""
    if following.islower():
        return True
    return _ABBREVIATION.search(sentence) is not None or (
        following.isdigit() and _NUMBERED.search(sentence) is not None
    )


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
        and len(words_of(bare)) >= 4
    )


@lru_cache(maxsize=4096)
def content_words(text: str) -> frozenset[str]:
    """Return the words that carry meaning, lower-cased and cut to a rough stem."""
    return frozenset(
        _stem(word)
        for word in words_of(text)
        if word not in _STOP_WORDS and (len(word) > 1 or word.isdigit())
    )


@lru_cache(maxsize=4096)
def words_of(text: str) -> tuple[str, ...]:
    """Return all words in order, lower-cased, without a possessive 's."""
    return tuple(word.lower().replace("’", "'").removesuffix("'s") for word in _WORD.findall(text))


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that 'composting' meets 'composts'. Other languages merely match less."""
    for ending in ("ingly", "edly", "ing", "ied", "ies", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)] + ("y" if ending in {"ied", "ies"} else "")
            doubled = len(stem) > 4 and stem[-1] == stem[-2] and stem[-1] not in "ls"
            return stem[:-1] if doubled else stem.removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def same(one: str, other: str) -> bool:
    """Whether two sentences say nearly the same in nearly the same words."""
    if words_of(one) == words_of(other):
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
    words = words_of(sentence)
    fours = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    few_words = len(words) > 14 and len(set(words)) < len(words) * 0.5
    return few_words or any(count > 1 for count in fours.values())


def support(sentence: str, passage: str) -> float:
    """Return how much of *sentence* the *passage* says: 0 to 1. 0 when one of its numbers is not in the passage."""
    words = content_words(sentence)
    if not words or not numbers(sentence) <= numbers(passage):
        return 0.0
    return len(words & content_words(passage)) / len(words)


@lru_cache(maxsize=4096)
def numbers(text: str) -> frozenset[str]:
    """Return the numbers in *text* as digits, whether they are written in digits or in English words: "forty-two" is 42."""
    found = {match.replace(",", "").removesuffix(".") for match in _NUMBER.findall(text)}
    for match in _NUMBER_WORDS.finditer(text):
        found.add(str(sum(_VALUES[part.lower()] for part in match.groups() if part)))
    return frozenset(found)


def denies(sentence: str) -> bool:
    """Whether a sentence holds a no: "should not", "never", "without"."""
    return _NEGATION.search(sentence) is not None


def leans_back(sentence: str) -> bool:
    """Whether a sentence needs the one before it, as "It improves the soil" does."""
    return _LEANING.match(sentence) is not None


def named_sources(sentence: str) -> list[int]:
    """Return the numbers of the sources a sentence names: [S2] or [S2, S4]."""
    return [
        int(number) for marker in _MARKER.finditer(sentence) for number in _DIGITS.findall(marker.group())
    ]


def strip_markers(sentence: str) -> str:
    """Return *sentence* in one line, without its markers and without emphasis or quotation marks round the whole."""
    text = re.sub(r"\s+([.,;:!?])", r"\1", " ".join(_MARKER.sub("", sentence).split())).strip("*_ ")
    if text.count('"') % 2 or text[:1] == text[-1:] == '"':
        text = text.removesuffix('"').removeprefix('"').strip()
    return text


def attach_markers(sentences: Sequence[str]) -> list[str]:
    """Give a marker that stands behind the full stop ("… wet. [S1]") to the sentence it belongs to."""
    attached: list[str] = []
    for sentence in sentences:
        leading = _LEADING_MARKER.match(sentence)
        rest = sentence
        if leading and attached:
            attached[-1] += " " + leading.group().strip(" .")
            rest = sentence[leading.end() :].strip()
        if rest:
            attached.append(rest)
    return attached
