"""Stores of each kind, empty."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hub.config import Settings, load_settings
from hub.orgs import OrgId
from services.uploads.store import FolderStore, Store, open_store
from tests.services.uploads.store.shelf import Shelf
from tests.support.s3_server import BUCKET, S3Server, running_s3

_ENVIRON = {"HUB_JWT_SECRET": "s" * 32, "HUB_REDIS_URL": "redis://x", "HUB_DATABASE_URL": "postgresql://x/x"}
_prefixes = itertools.count()


def settings_with(uploads_store: str, *options: str, timeout_s: float = 30) -> Settings:
    return load_settings(
        _ENVIRON, uploads_store=uploads_store, uploads_store_options=options, uploads_store_timeout_s=timeout_s
    )


@pytest.fixture(params=["folder", "memory", "s3"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """One of each kind."""
    built: Store = request.getfixturevalue(f"{request.param}_store")
    await built.start()
    yield built
    await built.close()


@pytest.fixture
def folder_store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "uploads", durable=False, threads=2, timeout_s=30)


@pytest.fixture
def memory_store() -> Store:
    return open_store(settings_with("memory:///in/here"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server) -> Store:
    return open_store(settings_with(f"s3://{BUCKET}/test-{next(_prefixes)}/here", *s3_server.options))


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return Shelf(store, OrgId.from_operator("acme"))
