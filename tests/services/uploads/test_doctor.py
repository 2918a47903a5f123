"""``hub doctor`` on the store."""

from __future__ import annotations

from pathlib import Path

from services.uploads.doctor import check_store
from tests.services.uploads.store.conftest import settings_with


async def test_a_store_that_works(tmp_path: Path) -> None:
    (row,) = await check_store(settings_with(f"file:{tmp_path}/uploads"))
    assert (row.well, row.found) == (True, f"file:{tmp_path}/uploads")
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_stores_that_do_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    nobody = ("endpoint=http://127.0.0.1:9", "allow_http=true", "access_key_id=a", "secret_access_key=secret")
    for settings, said in (
        (settings_with(f"file:{tmp_path}/file/uploads"), "Not a directory"),
        (settings_with("s3://bucket", *nobody, timeout_s=30), "s3://bucket: Generic S3 error"),
        (settings_with("nonsense"), "HUB_UPLOADS_STORE must be"),
    ):
        (row,) = await check_store(settings)
        assert not row.well
        assert said in row.found
        assert "HUB_UPLOADS_STORE" in row.remedy
        assert "secret" not in row.found
