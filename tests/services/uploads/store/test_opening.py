"""HUB_UPLOADS_STORE."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.config import load_settings
from hub.errors import ConfigError
from hub.orgs import OrgId
from services.uploads.store import FolderStore, open_store
from tests.services.uploads.store.shelf import Shelf

ENVIRON = {"HUB_JWT_SECRET": "s" * 32, "HUB_REDIS_URL": "redis://x", "HUB_DATABASE_URL": "postgresql://x/x"}


@pytest.mark.parametrize("prefix", ["file:", "file://"])
async def test_a_folder(tmp_path: Path, prefix: str) -> None:
    store = open_store(load_settings(ENVIRON, uploads_store=f"{prefix}{tmp_path}/new/uploads"))
    assert isinstance(store, FolderStore)
    assert not (tmp_path / "new").exists()
    await store.start()
    await Shelf(store, OrgId.from_operator("acme")).put("u1", "w1", b"here")
    await store.close()
    assert (tmp_path / "new/uploads/acme/u1/parts/w1").read_bytes() == b"here"


@pytest.mark.parametrize("address", ["file:", "file://", "ftp://host/folder", "uploads"])
def test_what_is_no_store(address: str) -> None:
    with pytest.raises(ConfigError, match="HUB_UPLOADS_STORE"):
        open_store(load_settings(ENVIRON, uploads_store=address))
