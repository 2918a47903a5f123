"""Document types: those that ship, and files of operators with their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.api import ConfigError, ErrorCode, HubError
from services.uploads.checking import DocumentTypes, Rejected
from services.uploads.checking.types import SHIPPED, names
from tests.services.uploads.checking.samples import kind, settings


def test_those_that_ship() -> None:
    types = DocumentTypes.load(settings(uploads_max_bytes=50_000_000))
    assert types.names[:5] == ("passport", "driving_licence", "tax_card", "election_card", "visa")
    assert types.get("passport").max_bytes == 25 * 1_048_576
    assert types.get("document").max_bytes == 50_000_000, "never more than the largest upload"
    for each in SHIPPED:
        assert all(
            any(names(media_type, extension) for media_type in each.media_types) for extension in each.extensions
        )


def test_an_unknown_type_names_the_known_ones() -> None:
    with pytest.raises(HubError, match=r"passport.*document") as refused:
        DocumentTypes.load(settings()).get("pasport")
    assert refused.value.code is ErrorCode.BAD_REQUEST


def test_an_extension_is_refused_before_a_byte_has_come() -> None:
    kind("passport").check_extension("Passport.JPG")
    with pytest.raises(Rejected, match=r"\.exe; passport takes \.pdf") as refused:
        kind("passport").check_extension("passport.exe")
    assert refused.value.code is ErrorCode.UNSUPPORTED_MEDIA
    with pytest.raises(Rejected, match="no extension"):
        kind("passport").check_extension("passport")


def test_a_file_replaces_them(tmp_path: Path) -> None:
    path = tmp_path / "types.toml"
    path.write_text(
        '[clip]\nmedia_types = ["video/mp4", "audio/ogg"]\nextensions = [".mp4", ".ogg"]\nmax_bytes = 1000\n'
    )
    types = DocumentTypes.load(settings(uploads_types_file=str(path)))
    assert types.names == ("clip",)
    assert types.get("clip").media_types == ("video/mp4", "audio/ogg")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a", "not TOML"),
        ("", "no document type"),
        ("a = 1", r"\[a\]: Expected `object`"),
        ('[a]\nmedia_types = []\nextensions = [".pdf"]\nmax_bytes = 1', "media_types"),
        ('[a]\nmedia_types = ["application/pdf"]\nextensions = [".pdf"]', "max_bytes"),
        ('[a]\nmedia_types = ["application/pdf"]\nextensions = [".pdf"]\nmax_bytes = 0', "max_bytes"),
        (
            '[a]\nmedia_types = ["application/pdf"]\nextensions = [".pdf"]\nmax_bytes = 9\nmax = 1',
            "unknown field `max`",
        ),
        (
            '[a]\nmedia_types = ["application/pdf"]\nextensions = [".pdf"]\nmax_bytes = 99999999999',
            "HUB_UPLOADS_MAX_BYTES",
        ),
        ('[A]\nmedia_types = ["application/pdf"]\nextensions = [".pdf"]\nmax_bytes = 9', "a name is"),
        ('[a]\nmedia_types = ["PDF"]\nextensions = [".pdf"]\nmax_bytes = 9', "'PDF' is not a media type"),
        ('[a]\nmedia_types = ["application/pdf"]\nextensions = ["pdf"]\nmax_bytes = 9', "'pdf' is not an extension"),
        (
            '[a]\nmedia_types = ["application/pdf"]\nextensions = [".jpg"]\nmax_bytes = 9',
            r"\.jpg is no extension of a PDF",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "types.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as refused:
        DocumentTypes.load(settings(uploads_types_file=str(path)))
    assert all(line.startswith(f"HUB_UPLOADS_TYPES_FILE: {path}") for line in str(refused.value).splitlines())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        DocumentTypes.load(settings(uploads_types_file=str(tmp_path / "none.toml")))
