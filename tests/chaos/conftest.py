"""A place for each experiment of the suite: a database of its own, and processes forked from one warm parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.processes import Nursery, Pace, Place, own_place, place
from tests.conftest import Cluster

MakePlace = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The parent of every server process of this run."""
    started = Nursery()
    yield started
    started.close()


@pytest.fixture
def make_place(cluster: Cluster, database_name: str, nursery: Nursery, tmp_path: Path) -> MakePlace:
    """Return what opens a place on this test's database."""

    def make(**more: Any) -> AbstractAsyncContextManager[Place]:
        return place(
            nursery=nursery,
            admin_dsn=cluster.admin(database_name),
            web_dsn=cluster.web(database_name),
            folder=tmp_path / "place",
            **more,
        )

    return make


@pytest.fixture
def make_own_place(nursery: Nursery, tmp_path: Path) -> MakePlace:
    """Return what opens a place on a durable PostgreSQL that is nobody else's, so that it may be killed."""

    def make(pace: Pace | None = None) -> AbstractAsyncContextManager[Place]:
        return own_place(nursery=nursery, folder=tmp_path, pace=pace)

    return make
