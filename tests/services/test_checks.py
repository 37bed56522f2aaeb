from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from services import checks
from services.checks import Rules
from services.content import NewCitation
from tests.content import BODY

QUOTES = {1: "Turn the heap every week", 2: "wet as a wrung sponge", 3: "heats up to 60 degrees"}
IDS = {marker: uuid4() for marker in QUOTES}
SOURCES = {
    str(IDS[marker]): f"Some say:\n{quote.replace(' ', chr(10), 1)}, and more."
    for marker, quote in QUOTES.items()
}
CITATIONS = [
    NewCitation(
        marker=marker, chunk_id=IDS[marker], document_id=uuid4(), document_title="Compost", quote=quote
    )
    for marker, quote in QUOTES.items()
]
LOOSE = Rules(min_words=20)


def state(name: str, body: str = BODY, **more: Any) -> tuple[str, str]:
    values: dict[str, Any] = {"citations": CITATIONS, "sources": SOURCES, "rules": LOOSE} | more
    found = {check.name: check for check in checks.run(body, **values)}
    return found[name].state, found[name].message


def test_a_sound_text_passes_every_check() -> None:
    found = checks.run(BODY, citations=CITATIONS, sources=SOURCES, rules=LOOSE)

    assert {check.name: check.state for check in found} == dict.fromkeys(
        [
            "length",
            "structure",
            "section_citations",
            "markers",
            "quotes",
            "claims",
            "repetition",
            "banned_terms",
            "leftovers",
            "links",
        ],
        "pass",
    )
    assert checks.worst(found) == "pass"


def test_a_text_that_is_too_short_fails_with_both_numbers() -> None:
    assert state("length", rules=Rules()) == ("fail", "43 words; between 150 and 5,000 are expected")


def test_a_single_top_heading_is_the_title_and_no_section() -> None:
    assert state("structure")[1] == "3 sections with a heading; at least 3 are expected"
    assert state("structure", "# A\n\ntext\n\n## B\n\ntext\n\n## C\n\ntext\n")[0] == "fail"


def test_a_heading_without_text_does_not_count() -> None:
    assert state("structure", BODY + "\n## Empty\n") == (
        "warn",
        "4 sections with a heading; at least 3 are expected; 1 without text",
    )
    assert state("structure", "## A\n\ntext\n\n## B\n\ntext\n\n## C\n")[0] == "fail"


def test_a_section_without_a_citation_is_named() -> None:
    found = checks.run(BODY.replace("[2]", ""), citations=CITATIONS, sources=SOURCES, rules=LOOSE)

    check = next(check for check in found if check.name == "section_citations")
    assert (check.state, check.message, check.details) == (
        "fail",
        "1 of 3 sections cite no source",
        ("Water",),
    )


def test_a_marker_in_code_is_no_citation() -> None:
    body = BODY.replace("sponge. [2]", "sponge `heap[2]`.\n\n    heap[2]")

    assert state("section_citations", body)[0] == "fail"
    assert state("markers", body) == ("warn", "1 source listed but not cited in the text")


def test_a_quote_may_be_wrapped_otherwise_but_must_have_the_same_words() -> None:
    assert state("quotes")[0] == "pass"
    changed = [
        *CITATIONS[:2],
        NewCitation(
            marker=3, chunk_id=IDS[3], document_id=None, document_title="C", quote="heats to 60 degrees"
        ),
    ]
    assert state("quotes", citations=changed) == (
        "fail",
        "1 quote not found word for word in the cited passage",
    )


def test_a_quote_whose_passage_is_gone_is_said_to_be_unchecked() -> None:
    assert state("quotes", sources={}) == (
        "warn",
        "3 quotes could not be compared: the passage is no longer here",
    )


def test_a_text_that_quotes_nothing_does_not_pass() -> None:
    assert state("quotes", citations=[])[0] == "fail"


def test_markers_and_sources_must_match() -> None:
    assert state("markers", BODY + "\nMore. [9]\n") == ("fail", "1 marker without a source behind it")
    assert state("markers", BODY.replace("[3]", "")) == ("warn", "1 source listed but not cited in the text")


def test_a_paragraph_with_a_figure_needs_a_citation() -> None:
    body = BODY + "\n## More\n\nIn 1999 a farmer in Vermont built the largest heap of all.\n"

    assert state("claims", body) == ("warn", "1 paragraph with figures, names or quotations and no citation")
    assert (
        state("claims", BODY + "\n## More\n\nShould we not all have built the largest heap in 1999?\n")[0]
        == "pass"
    )


def test_a_sentence_said_twice_fails_whatever_its_case_and_markers() -> None:
    body = BODY + "\n## Again\n\nTurn the heap every week so that 30 percent of it stays loose [2].\n"

    assert state("repetition", body) == ("fail", "1 sentence said more than once")


def test_a_banned_term_is_found_as_a_whole_word() -> None:
    assert state("banned_terms", rules=Rules(min_words=20, banned_terms=("SPONGE", "ponge")))[0] == "fail"
    assert state("banned_terms", rules=Rules(min_words=20, banned_terms=("ponge",)))[0] == "pass"


@pytest.mark.parametrize(
    "left", ["As an AI language model I like heaps.", "TODO: say more here.", "Written by [Your name] today."]
)
def test_what_a_model_leaves_behind_is_found(left: str) -> None:
    assert state("leftovers", f"{BODY}\n## End\n\n{left}\n")[0] == "fail"


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://example.org/a", "pass"),
        ("/posts/a", "pass"),
        ("#air", "pass"),
        ("", "fail"),
        ("example.org", "fail"),
        ("https://", "fail"),
    ],
)
def test_links_must_lead_somewhere(link: str, expected: str) -> None:
    assert state("links", f"{BODY}\nSee [this]({link}).\n")[0] == expected


def test_open_feedback_is_listed() -> None:
    assert state("feedback", open_feedback=["say more about worms"]) == (
        "warn",
        "1 point of the reviewers not marked as addressed",
    )


def test_long_findings_are_cut_and_say_so() -> None:
    body = "".join(f"## Part {number}\n\nNothing to see in here.\n\n" for number in range(9))
    check = next(c for c in checks.run(body, citations=[], sources={}) if c.name == "section_citations")

    assert check.details == ("Part 0", "Part 1", "Part 2", "Part 3", "Part 4", "and 4 more")


def test_checks_are_kept_as_plain_json() -> None:
    kept = checks.as_json(checks.run(BODY, citations=CITATIONS, sources=SOURCES, rules=LOOSE))

    assert kept[0] == {
        "name": "length",
        "state": "pass",
        "message": "43 words; between 20 and 5,000 are expected",
        "details": [],
    }
