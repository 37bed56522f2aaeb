from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import diff
from services.diff import Segment

WORDS = st.lists(
    st.sampled_from(["a", "b", "the ", "heap", "\n", " ", ".", "é", "wet,", "\u2028"]), max_size=60
).map("".join)


def old_text(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments if segment.operation != "insert")


def new_text(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments if segment.operation != "delete")


@settings(max_examples=400, deadline=None)
@given(WORDS, WORDS, st.integers(min_value=1, max_value=500))
def test_applying_a_diff_gives_the_new_text_and_undoing_it_the_old_one(
    old: str, new: str, budget: int
) -> None:
    """Also when the budget runs out on the way."""
    found = diff.compare(old, new, budget=budget)

    assert (old_text(found.segments), new_text(found.segments)) == (old, new)
    assert found.changed == (old != new)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_neighbouring_segments_differ_in_kind_and_none_is_empty(old: str, new: str) -> None:
    segments = diff.compare(old, new).segments

    kinds = [segment.operation for segment in segments]
    assert all(segment.text for segment in segments)
    assert all(one != other for one, other in pairwise(kinds))


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS, st.integers(min_value=0, max_value=4))
def test_folding_hides_whole_unchanged_lines_only(old: str, new: str, lines: int) -> None:
    segments = diff.compare(old, new).segments
    folded = diff.fold(segments, lines=lines)

    hidden = sum(count for _, count in folded)
    shown = "".join(segment.text for segment, _ in folded)
    whole = "".join(segment.text for segment in segments)
    assert len(whole.splitlines()) >= hidden
    assert (shown == whole) == (hidden == 0)
    assert [s for s, _ in folded if s.operation != "equal"] == [s for s in segments if s.operation != "equal"]


def test_the_unchanged_part_of_a_changed_line_is_not_hidden() -> None:
    folded = diff.fold(diff.compare("a\naaa\naa", "a\naaa.\naa").segments, lines=0)

    assert folded == [
        (Segment("equal", "a\naaa"), 0),
        (Segment("insert", "."), 0),
        (Segment("equal", "\naa"), 0),
    ]


def test_a_changed_word_is_found_inside_its_line() -> None:
    found = diff.compare("The cat sat on the mat.\nIt slept.\n", "The cat sat on a mat.\nIt slept.\n")

    assert found.segments == (
        Segment("equal", "The cat sat on "),
        Segment("delete", "the"),
        Segment("insert", "a"),
        Segment("equal", " mat.\nIt slept.\n"),
    )
    assert (found.words_added, found.words_removed, found.complete) == (1, 1, True)


def test_a_passage_with_hardly_a_word_in_common_is_shown_as_replaced() -> None:
    found = diff.compare("Air feeds the microbes in it.\n", "Water keeps a heap alive, too.\n")

    assert [segment.operation for segment in found.segments] == ["delete", "insert"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a b " * 5_000, "b a " * 5_000),
        ("word\n" * 20_000, "word\nother\n" * 20_000),
        ("".join(f"w{i} " for i in range(30_000)), "".join(f"v{i} " for i in range(30_000))),
        ("a" * 200_000, "b" * 200_000),
    ],
    ids=["alternating", "repetitive lines", "nothing in common", "one long word"],
)
def test_hostile_texts_take_bounded_time(old: str, new: str) -> None:
    started = time.process_time()
    found = diff.compare(old, new)

    assert time.process_time() - started < 5  # measured 0.2 s; the quadratic way takes minutes
    assert (old_text(found.segments), new_text(found.segments)) == (old, new)
