"""The local embedding model and its tokenizer."""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from typing import Any
from uuid import UUID

import pytest

from server.database import Database
from services import embeddings, wordpiece
from services.embeddings import Embedder, embed_cached
from services.errors import Unavailable
from tests.knowledge import RememberingEmbedder


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def pieces(text: str) -> list[str]:
    tokenizer = wordpiece.minilm()
    names = {number: piece for piece, number in tokenizer._ids.items()}
    return [names[number] for number in tokenizer.ids(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hot-metal typesetting!", ["hot", "-", "metal", "types", "##etti", "##ng", "!"]),
        ("naïve CAFÉ", ["naive", "cafe"]),
        ("don't", ["don", "'", "t"]),
        ("x\u200by\x07z", ["x", "##y", "##z"]),  # what has no width or shape is not there at all
        ("a\u00a0b\tc", ["a", "b", "c"]),
        ("漢字 Привет", ["漢", "[UNK]", "п", "##р", "##и", "##в", "##е", "##т"]),
        ("q" * 101, ["[UNK]"]),
        ("", []),
    ],
)
def test_text_is_cut_into_the_pieces_the_model_was_trained_on(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_counting_pieces_is_the_same_as_listing_them() -> None:
    text = "The compositor’s stick – 12 pt, set solid; 漢字!\nNext line."

    assert wordpiece.minilm().count(text) == len(wordpiece.minilm().ids(text))


async def test_vectors_have_unit_length_and_tell_what_is_alike() -> None:
    press, printing, soup = await RememberingEmbedder().embed(
        ["A press prints on paper.", "Paper is printed by a machine.", "Soup is cooked with leeks."]
    )

    assert len(press) == 384
    assert math.isclose(cosine(press, press), 1.0, abs_tol=1e-5)
    assert cosine(press, printing) > 0.6
    assert cosine(press, soup) < 0.3


async def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    embedder = Embedder()
    alone = (await embedder.embed(["short"]))[0]

    together = await embedder.embed(["a much longer text about the setting of type by hand", "short"])

    assert together[1] == alone


async def test_what_lies_beyond_256_pieces_is_not_read() -> None:
    start = "type " * 254
    whole, cut = await RememberingEmbedder().embed([start + "and a sting in the tail", start])

    assert whole == cut


async def test_the_loop_goes_on_while_the_model_works() -> None:
    embedder = Embedder()
    await embedder.embed(["load"])
    longest = []
    for _ in range(10):  # a busy machine may hold up the loop as well, but not each time
        gaps: list[float] = []

        async def watch(gaps: list[float]) -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - before)

        watching = asyncio.create_task(watch(gaps))
        await embedder.embed(["a text of some length about printing " * 20] * 8)
        watching.cancel()
        longest.append(max(gaps) if len(gaps) > 5 else math.inf)
        if longest[-1] < 0.25:
            break

    assert min(longest) < 0.25


async def test_without_the_optional_packages_it_says_which_one_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)

    with pytest.raises(Unavailable, match=r"'onnxruntime'.*requirements-embedded"):
        await Embedder().embed(["anything"])


async def test_a_text_is_embedded_once_per_tenant(
    database: Database, tenant: UUID, other_tenant: UUID
) -> None:
    embedder = RememberingEmbedder()
    texts = ["one text", "another text", "one text"]

    computed = [
        await embed_cached(database, embedder, tenant_id=who, actor="test", texts=texts)
        for who in (tenant, tenant, other_tenant)
    ]

    assert computed == [2, 0, 2]
    assert embedder.asked == ["one text", "another text"] * 2


async def test_the_cache_keeps_each_vector_under_its_own_text(database: Database, tenant: UUID) -> None:
    embedder = RememberingEmbedder()
    texts = [f"text number {number}" for number in range(5)]
    await embed_cached(database, embedder, tenant_id=tenant, actor="test", texts=texts)

    async with database.tenant(tenant, "test") as db:
        rows = await db.fetch("SELECT text_sha256, embedding::real[] AS vector FROM embedding_cache")
    kept = {bytes(row["text_sha256"]): row["vector"] for row in rows}

    for text, vector in zip(texts, await embedder.embed(texts), strict=True):
        assert kept[embeddings.text_hash(text)] == pytest.approx(vector, abs=1e-6)
