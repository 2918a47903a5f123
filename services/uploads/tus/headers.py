"""The headers of tus 1.0.0: read strictly, and written. No I/O.

What a header may be is the specification's; whatever is malformed or sent twice is an error that names it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Any, Final

from msgspec import Struct

from hub.api import ErrorCode, HttpError, HubError, bad_request

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,expiration,checksum,termination,concatenation"
CHECKSUMS: Final = ("sha256", "sha1", "md5")
BODY_TYPE: Final = "application/offset+octet-stream"

REQUEST_HEADERS: Final = (
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Checksum",
    "Upload-Concat",
    "Upload-Defer-Length",
    "X-HTTP-Method-Override",
    "X-Requested-With",
    "X-Request-ID",
)
"""Those that pages of other origins may send; tus-js-client sends the last two when it is told to."""
ANSWER_HEADERS: Final = (
    "Location",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Concat",
    "Upload-Expires",
)

_MOST_PARTIALS: Final = 100
_NUMBER: Final = re.compile(r"[0-9]{1,16}")
_NAME_OF_UPLOAD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METADATA_KEY: Final = re.compile(r"[!-+\--~]{1,256}")  # visible ASCII but for the comma


class Checksum(Struct, frozen=True):
    """What the body of one request must come to."""

    algorithm: str
    digest: bytes

    def hasher(self) -> hashlib._Hash:
        """An empty hash of its algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=False)


class Concat(Struct, frozen=True):
    """``Upload-Concat``: a partial upload, or the one that is made of those in ``partials``, in this order."""

    partials: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether it is made of others."""
        return bool(self.partials)


class Headers:
    """Those of one request, by name."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in headers:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def one(self, name: str) -> str | None:
        """The value, without the white space around it. Raises ``bad_request`` when it comes more than once."""
        values = self.all(name)
        if len(values) > 1:
            raise bad_request(f"the header {name} comes {len(values)} times; send it once")
        return values[0].strip(" \t") if values else None

    def all(self, name: str) -> list[str]:
        """Every value, as it came."""
        return self._values.get(name.lower(), [])

    def number(self, name: str) -> int | None:
        """The value as a whole number that is not negative. Raises ``bad_request``."""
        text = self.one(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            raise bad_request(f"the header {name} must be a whole number, 0 or more")
        return int(text)

    def check_version(self) -> None:
        """Raises ``bad_request`` with status 412 unless the request speaks the version that is spoken here."""
        if self.one("Tus-Resumable") != VERSION:
            text = f"tus {VERSION} is spoken here; send the header 'Tus-Resumable: {VERSION}'"
            raise HttpError(bad_request(text), 412, {"Tus-Version": VERSION})

    def checksum(self) -> Checksum | None:
        """``Upload-Checksum``. Raises ``bad_request``."""
        text = self.one("Upload-Checksum")
        return None if text is None else parse_checksum(text)

    def concat(self) -> Concat | None:
        """``Upload-Concat``. Raises ``bad_request``."""
        text = self.one("Upload-Concat")
        return None if text is None else parse_concat(text)

    def metadata(self) -> dict[str, str]:
        """``Upload-Metadata``. Raises ``bad_request``."""
        return parse_metadata(self.one("Upload-Metadata") or "")

    def has_body(self) -> bool:
        """Whether something follows the head."""
        return bool(self.number("Content-Length")) or "transfer-encoding" in self._values

    def check_body_type(self) -> None:
        """Raises ``content_type`` unless the body is what tus calls one."""
        if (self.one("Content-Type") or "").lower() != BODY_TYPE:
            raise HubError(ErrorCode.CONTENT_TYPE, f"the bytes of an upload have the content type {BODY_TYPE}")


def parse_checksum(text: str) -> Checksum:
    """``sha1 <base64>``. Raises ``bad_request``; also for an algorithm that is not known here, as tus wants it."""
    algorithm, _, encoded = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise bad_request(f"the header Upload-Checksum names no known algorithm; known are {', '.join(CHECKSUMS)}")
    digest = _from_base64(encoded)
    if digest is None or len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise bad_request(f"the header Upload-Checksum must be '{algorithm} ' and the checksum in base64")
    return Checksum(algorithm, digest)


def parse_concat(text: str) -> Concat:
    """``partial``, or ``final;`` and the URLs of the partial uploads, with or without a host.

    Raises ``bad_request``. Only the last step of each path is looked at: whether there is such an upload is asked for
    like any other.
    """
    if text == "partial":
        return Concat()
    word, _, urls = text.partition(";")
    names = tuple(url.rpartition("/")[2] for url in urls.split())
    if word != "final" or not names or not all(map(_NAME_OF_UPLOAD.fullmatch, names)):
        raise bad_request("the header Upload-Concat must be 'partial', or 'final;' and the uploads' URLs")
    if len(set(names)) < len(names):
        raise bad_request("the header Upload-Concat names an upload twice")
    if len(names) > _MOST_PARTIALS:
        raise bad_request(f"the header Upload-Concat may name {_MOST_PARTIALS} uploads")
    return Concat(names)


def parse_metadata(text: str) -> dict[str, str]:
    """``key <base64>,key <base64>,key``: each key once, each value text in UTF-8. Raises ``bad_request``."""
    metadata: dict[str, str] = {}
    for pair in text.split(",") if text else ():
        key, _, encoded = pair.strip(" \t").partition(" ")
        if not _METADATA_KEY.fullmatch(key):
            raise bad_request("the header Upload-Metadata must be pairs of a key and a value in base64, with commas")
        if key in metadata:
            raise bad_request(f"the header Upload-Metadata has the key {key!r} twice")
        value = _from_base64(encoded)
        try:
            metadata[key] = "" if value is None else value.decode()
        except UnicodeDecodeError:
            value = None
        if value is None:
            raise bad_request(f"the value of {key!r} in the header Upload-Metadata must be UTF-8 in base64")
    return metadata


def format_concat(partials: Iterable[str]) -> str:
    """``Upload-Concat`` of an upload that was made of these, by their URLs."""
    return "final;" + " ".join(partials)


def format_metadata(metadata: Mapping[str, Any]) -> str:
    """The header for what is known of an upload; what is no text is written as JSON."""
    pairs = []
    for key, value in metadata.items():
        if _METADATA_KEY.fullmatch(key):
            text = value if isinstance(value, str) else json.dumps(value)
            pairs.append(f"{key} {base64.b64encode(text.encode()).decode()}".rstrip(" "))
    return ",".join(pairs)


def format_time(at_ms: int) -> str:
    """For ``Upload-Expires``: an instant (ms since 1970) as HTTP writes it."""
    return formatdate(at_ms / 1000, usegmt=True)


def creation_params(metadata: Mapping[str, str], *, partial: bool) -> dict[str, Any]:
    """The params of ``upload.create`` that are in the metadata; without the size.

    ``shares`` has topics with white space or commas in between. A partial upload may be without a name.
    """
    rest = dict(metadata)
    filename = rest.pop("filename", None)
    # Uppy sends both, tus-js-client one of them.
    if filename is None or rest.get("name") == filename:
        filename = rest.pop("name", filename)
    if filename is None:
        if not partial:
            raise bad_request("the header Upload-Metadata must have a filename")
        filename = "partial"
    params: dict[str, Any] = {"filename": filename, "document_type": rest.pop("document_type", "document")}
    if sha256 := rest.pop("sha256", ""):
        params["sha256"] = sha256
    if shares := re.split(r"[\s,]+", rest.pop("shares", "").strip(" ,\t\r\n")):
        params["shares"] = [topic for topic in shares if topic]
    return {**params, "metadata": rest}


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
