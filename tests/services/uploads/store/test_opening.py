"""HUB_UPLOADS_STORE and its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.errors import ConfigError
from hub.orgs import OrgId
from services.uploads.store import FolderStore, ObjectStore, open_store
from tests.services.uploads.store.conftest import settings_with
from tests.services.uploads.store.shelf import Shelf


@pytest.mark.parametrize("prefix", ["file:", "file://"])
async def test_a_folder(tmp_path: Path, prefix: str) -> None:
    store = open_store(settings_with(f"{prefix}{tmp_path}/new/uploads"))
    assert isinstance(store, FolderStore)
    assert not (tmp_path / "new").exists()
    await store.start()
    await Shelf(store, OrgId.from_operator("acme")).put("u1", "w1", b"here")
    await store.close()
    assert (tmp_path / "new/uploads/acme/u1/parts/w1").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("s3://bucket", ("region=eu-central-1", "access_key_id=a", "secret_access_key=b", "allow_http=true")),
        ("s3://bucket/a/prefix/", ("aws_region=eu-central-1", "endpoint=https://host/x=y")),
        ("gs://bucket/prefix", ("skip_signature=true",)),
        ("az://container/prefix", ("account_name=me", "access_key=c2VjcmV0")),
    ],
)
async def test_buckets(address: str, options: tuple[str, ...]) -> None:
    store = open_store(settings_with(address, *options))
    assert isinstance(store, ObjectStore)
    assert store.prefix == address.partition("://")[2].partition("/")[2].rstrip("/")
    await store.close()


@pytest.mark.parametrize(
    "address",
    [
        "file:",
        "file://",
        "ftp://host/folder",
        "uploads",
        "s3://",
        "s3:///prefix",
        "s3://bucket/../other",
        "s3://b/a//b",
    ],
)
def test_what_is_no_store(address: str) -> None:
    with pytest.raises(ConfigError, match="HUB_UPLOADS_STORE"):
        open_store(settings_with(address))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("region", "name=value"),
        ("=x", "name=value"),
        ("nonsense=secret", "nonsense"),
        ("timeout=5s", "HUB_UPLOADS_STORE_TIMEOUT_S"),
        ("bucket=other", "HUB_UPLOADS_STORE"),
        ("allow_http=maybe", "maybe"),
    ],
)
def test_what_is_no_option(option: str, named: str) -> None:
    with pytest.raises(ConfigError, match="HUB_UPLOADS_STORE_OPTIONS") as problem:
        open_store(settings_with("s3://bucket", option))
    assert named in str(problem.value)
    assert "secret" not in str(problem.value)
