"""Document types: which files may be sent as what. Those that ship, or those of the operator's TOML file."""

from __future__ import annotations

import mimetypes
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hub.api import ConfigError, Settings, bad_request
from services.uploads.checking import formats
from services.uploads.checking.facts import unsupported
from services.uploads.checking.filenames import extension_of
from services.uploads.checking.formats import FORMATS, label

MIB = 1_048_576

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]*")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,16}")
_VARIABLE = "HUB_UPLOADS_TYPES_FILE"


class DocumentType(Struct, frozen=True):
    """What may be sent under this name: extensions are in lower case, with their dot."""

    name: str
    media_types: tuple[str, ...]
    extensions: tuple[str, ...]
    max_bytes: int

    def check_extension(self, filename: str) -> None:
        """Raises ``Rejected`` when the name says that it is something else: known before a byte has come."""
        if extension_of(filename) in self.extensions:
            return
        found = extension_of(filename) or "no extension"
        raise unsupported(f'"{filename}" has {found}; {self.name} takes {", ".join(self.extensions)}')


class _Row(Struct, forbid_unknown_fields=True):
    """One table of the file."""

    media_types: Annotated[list[str], Meta(min_length=1)]
    extensions: Annotated[list[str], Meta(min_length=1)]
    max_bytes: Annotated[int, Meta(ge=1)]


def _type(name: str, max_bytes: int, *media_types: str) -> DocumentType:
    extensions = [extension for each in media_types for extension in FORMATS[each].extensions]
    return DocumentType(name, media_types, tuple(dict.fromkeys(extensions)), max_bytes)


_SCANS = (formats.PDF, formats.JPEG, formats.PNG, formats.WEBP, formats.HEIC, formats.HEIF)
_IMAGES = (*_SCANS[1:], formats.GIF, formats.TIFF, formats.BMP, formats.AVIF)
_TABLES = (formats.CSV, formats.TSV)
_WORKBOOKS = (formats.XLSX, formats.XLS)
_OFFICE = (formats.DOCX, formats.PPTX, formats.ODT, formats.ODS, formats.ODP, formats.DOC, formats.PPT)
_ANY = (formats.PDF, *_OFFICE, *_WORKBOOKS, *_IMAGES, *_TABLES, formats.TEXT, formats.MARKDOWN, formats.ZIP)

SHIPPED: tuple[DocumentType, ...] = (
    *(_type(name, 25 * MIB, *_SCANS) for name in ("passport", "driving_licence", "tax_card", "election_card", "visa")),
    _type("image", 100 * MIB, *_IMAGES),
    _type("csv", 1024 * MIB, *_TABLES),
    _type("excel", 100 * MIB, *_WORKBOOKS),
    _type("document", 5120 * MIB, *_ANY),
)


class DocumentTypes:
    """The types by name."""

    def __init__(self, types: tuple[DocumentType, ...]) -> None:
        self._types = {each.name: each for each in types}

    @classmethod
    def load(cls, settings: Settings) -> DocumentTypes:
        """Those that ship, each at most ``uploads_max_bytes``, or those of ``uploads_types_file`` instead of them.

        Raises ``ConfigError`` with one line for each thing that is wrong in the file.
        """
        if settings.uploads_types_file:
            return cls(_read(Path(settings.uploads_types_file), settings.uploads_max_bytes))
        limit = settings.uploads_max_bytes
        return cls(tuple(msgspec.structs.replace(each, max_bytes=min(each.max_bytes, limit)) for each in SHIPPED))

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self._types)

    def get(self, name: str) -> DocumentType:
        """Raises ``bad_request`` that names those there are."""
        try:
            return self._types[name]
        except KeyError:
            raise bad_request(f"'document_type' is one of {', '.join(self._types)}") from None


def _read(path: Path, limit: int) -> tuple[DocumentType, ...]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{_VARIABLE}: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_VARIABLE}: {path} is not TOML: {error}") from error
    if not tables:
        raise ConfigError(f"{_VARIABLE}: {path} has no document type; write one table for each, as [passport]")
    types, problems = [], []
    for name, table in tables.items():
        try:
            row = msgspec.convert(table, _Row)
        except msgspec.ValidationError as error:
            problems.append(f"[{name}]: {error}")
            continue
        problems += [f"[{name}]: {problem}" for problem in _problems(name, row, limit)]
        extensions = dict.fromkeys(row.extensions)
        types.append(DocumentType(name, tuple(row.media_types), tuple(extensions), row.max_bytes))
    if problems:
        raise ConfigError("\n".join(f"{_VARIABLE}: {path} {problem}" for problem in problems))
    return tuple(types)


def _problems(name: str, row: _Row, limit: int) -> list[str]:
    problems = []
    if not _NAME.fullmatch(name):
        problems.append("a name is of a-z, 0-9, _ and -, and begins with a letter")
    if row.max_bytes > limit:
        problems.append(f"max_bytes is more than HUB_UPLOADS_MAX_BYTES ({limit})")
    for each in row.media_types:
        if not _MEDIA_TYPE.fullmatch(each):
            problems.append(f"{each!r} is not a media type in lower case, as image/jpeg")
    for each in row.extensions:
        if not _EXTENSION.fullmatch(each):
            problems.append(f"{each!r} is not an extension in lower case with its dot, as .jpg")
        elif not any(names(media_type, each) for media_type in row.media_types):
            known = ", ".join(label(media_type) for media_type in row.media_types)
            problems.append(f"{each} is no extension of {known}")
    return problems


def names(media_type: str, extension: str) -> bool:
    """Whether files of that media type are named so."""
    known = FORMATS.get(media_type)
    if known is not None:
        return extension in known.extensions
    return mimetypes.guess_type(f"a{extension}", strict=False)[0] == media_type
