"""Chunks: whole for the model, verbatim for the reader."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from services import chunking, demo_corpus, parsing, wordpiece
from services.chunking import Chunk, chunk

SENTENCE = "The compositor sets type by hand, letter by letter, in a stick. "


def cut(source: str, mime: str = "text/markdown", title: str = "A title", **more: int) -> list[Chunk]:
    return chunk(parsing.parse(source, mime), title=title, **more)


def test_a_short_document_is_one_chunk_with_its_title_above_it() -> None:
    assert cut("Just *this* text.", title="Wood type") == [
        Chunk(
            ordinal=0, start=0, end=17, headings=(), text="Just *this* text.",
            search_text="Wood type\nJust this text.", pieces=8,
        )
    ]  # fmt: skip


def test_a_chunk_never_crosses_a_heading_and_carries_those_above_it() -> None:
    chunks = cut("# Press\n\nIron.\n\n## Care\n\nOil it.\n\n## Safety\n\nKeep off.", title="Press")

    assert [(one.headings, one.text) for one in chunks] == [
        ((), "Iron."),
        (("Care",), "Oil it."),
        (("Safety",), "Keep off."),
    ]
    assert chunks[1].search_text == "Press: Care\nOil it."


def test_a_long_section_is_divided_evenly_at_the_ends_of_sentences() -> None:
    chunks = cut(SENTENCE * 60)

    sizes = [one.pieces for one in chunks]
    assert max(sizes) <= 256
    assert max(sizes) - min(sizes) < 40
    assert all(one.text.endswith("stick.") and one.text.startswith("The ") for one in chunks)


def test_text_without_any_border_is_cut_all_the_same() -> None:
    chunks = cut("x" * 10_000, mime="text/plain")

    assert "".join(one.text for one in chunks) == "x" * 10_000
    assert max(len(one.text) for one in chunks) <= 256 * chunking.CHARACTERS_PER_PIECE


def test_a_title_of_any_length_leaves_room_for_the_text() -> None:
    chunks = cut(SENTENCE * 20, title="endless title " * 200)

    assert all(one.pieces <= 256 for one in chunks)
    assert len(chunks) < 4


def test_the_demo_corpus_is_cut_into_pieces_worth_reading() -> None:
    for new in demo_corpus.read():
        chunks = cut(new.text, title=new.title)

        assert 5 <= len(chunks) <= 12
        assert all(one.pieces <= 256 for one in chunks)
        assert all(one.text in new.text for one in chunks)


words = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=40)
sources = st.lists(
    st.one_of(words, st.sampled_from(["\n\n", "\n# Head\n\n", "\n- ", " ", "。", SENTENCE])), max_size=60
).map("".join)


@settings(max_examples=150, deadline=None)
@given(
    source=sources, title=words, mime=st.sampled_from(sorted(parsing.FORMATS)), budget=st.integers(80, 256)
)
def test_chunks_lie_in_the_text_in_order_and_within_their_budget(
    source: str, title: str, mime: str, budget: int
) -> None:
    try:
        parsed = parsing.parse(source, mime)
    except parsing.Invalid:
        return
    chunks = chunk(parsed, title=title, budget=budget)

    assert [one.ordinal for one in chunks] == list(range(len(chunks)))
    assert all(one.text == parsed.text[one.start : one.end] and one.text.strip() for one in chunks)
    assert all(before.end <= after.start for before, after in pairwise(chunks))
    assert all(one.pieces == wordpiece.minilm().count(one.search_text) + 2 <= budget for one in chunks)
    in_blocks = "".join(parsed.text[block.start : block.end] for block in parsed.blocks)
    in_chunks = "".join(one.text for one in chunks)
    assert "".join(in_chunks.split()) == "".join(in_blocks.split())
