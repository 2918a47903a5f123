"""Stores of each kind, empty."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.orgs import OrgId
from services.uploads.store import FolderStore, Store
from tests.services.uploads.store.shelf import Shelf


@pytest.fixture(params=["folder"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """One of each kind."""
    built: Store = request.getfixturevalue(f"{request.param}_store")
    await built.start()
    yield built
    await built.close()


@pytest.fixture
def folder_store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "uploads", durable=False, threads=2, timeout_s=5)


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store, OrgId.from_operator("acme"))
