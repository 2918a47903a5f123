"""The routes at ``/v1/uploads``: their paths, methods and documentation. What they do is in ``requests``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from litestar import Response, delete, get, head, patch, post
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.params import FromPath

from hub.api import HubRequest, Settings, problem_responses
from services.uploads.access import Access
from services.uploads.desk import Desk
from services.uploads.names import check_id
from services.uploads.scopes import require
from services.uploads.shapes import shape
from services.uploads.tus.headers import BODY_TYPE, CHECKSUMS, EXTENSIONS, VERSION
from services.uploads.tus.requests import PATH, Tus

_ONE: Final = PATH + "/{upload:str}"
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
_TEXTS: Final = {
    "Tus-Resumable": "The version of tus: 1.0.0. Every request has it.",
    "Upload-Length": "Bytes of the whole file. Not for a final upload.",
    "Upload-Offset": "Where the body begins, which is how far the upload has come.",
    "Upload-Metadata": "Pairs of a key and a value in base64: filename, document_type, sha256, shares; others are "
    "metadata, and so tags of the upload's events.",
    "Upload-Checksum": "sha256, sha1 or md5, a space, and the checksum of this body in base64.",
    "Upload-Concat": "'partial', or 'final;' and the URLs of partial uploads of one's own.",
    "X-HTTP-Method-Override": "PATCH, DELETE or HEAD, for clients that can send POST only.",
}
_REQUIRED: Final = {"Tus-Resumable"}


def tus_answer_headers(settings: Settings) -> dict[str, dict[str, str]]:
    """For ``Service.answer_headers``: what every answer has, errors and preflights too."""
    return {
        PATH: {"Tus-Resumable": VERSION},
        f"OPTIONS {PATH}": {
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(settings.uploads_max_bytes),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        },
    }


def _headers(*names: str) -> list[Parameter]:
    return [
        Parameter(
            name=name,
            param_in="header",
            required=name in _REQUIRED,
            description=_TEXTS[name],
            schema=Schema(type=OpenAPIType.STRING),
        )
        for name in ("Tus-Resumable", *names)
    ]


_BYTES: Final = RequestBody(
    required=False,
    content={BODY_TYPE: OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))},
)


@dataclass
class CreateOperation(Operation):
    """Everything it takes is in headers."""

    def __post_init__(self) -> None:
        self.request_body = _BYTES
        names = ("Upload-Length", "Upload-Metadata", "Upload-Concat", "Upload-Checksum")
        self.parameters = [*(self.parameters or []), *_headers(*names)]


@dataclass
class AppendOperation(Operation):
    """Its body is the file's bytes."""

    def __post_init__(self) -> None:
        self.request_body = _BYTES
        self.parameters = [*(self.parameters or []), *_headers("Upload-Offset", "Upload-Checksum")]


@dataclass
class OtherOperation(Operation):
    """HEAD and DELETE."""

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), *_headers()]


@dataclass
class OverrideOperation(Operation):
    """POST to an upload."""

    def __post_init__(self) -> None:
        self.request_body = _BYTES
        names = ("X-HTTP-Method-Override", "Upload-Offset", "Upload-Checksum")
        self.parameters = [*(self.parameters or []), *_headers(*names)]


def tus_routes(tus: Tus, access: Access, desk: Desk) -> list[Any]:
    """The routes of this package, for ``Service.routes``. ``Upload-Length`` bounds their bodies."""

    @post(
        PATH,
        status_code=201,
        summary="Begin an upload (tus)",
        security=_SECURITY,
        operation_class=CreateOperation,
        request_max_body_size=None,
        responses=problem_responses(400, 401, 403, 404, 409, 412, 413, 415, 429, 460, 503),
    )
    async def create(request: HubRequest) -> Response[None]:
        """tus: creation, creation-with-upload, concatenation. `Location` is the upload's URL.

        Needs the scope `call:upload.create`.
        """
        return await tus.of_all(request)

    @head(_ONE, summary="How far an upload is (tus)", security=_SECURITY, operation_class=OtherOperation)
    async def look(request: HubRequest, upload: FromPath[str]) -> Response[None]:
        """`Upload-Offset` is what is stored; the client goes on from there. Needs the scope `call:upload.status`."""
        return await tus.of_one(request, upload)

    @patch(
        _ONE,
        status_code=204,
        summary="Bytes of an upload (tus)",
        security=_SECURITY,
        operation_class=AppendOperation,
        request_max_body_size=None,
        responses=problem_responses(400, 401, 403, 404, 409, 410, 412, 413, 415, 460, 503),
    )
    async def append(request: HubRequest, upload: FromPath[str]) -> Response[None]:
        """Whatever ends the request, what has come of its body is kept; with a checksum all of it, or nothing.

        Needs the scope `call:upload.resume`. Whoever still sends bytes of the upload is asked to stop (400).
        """
        return await tus.of_one(request, upload)

    @delete(
        _ONE,
        status_code=204,
        summary="Cancel an upload (tus)",
        security=_SECURITY,
        operation_class=OtherOperation,
        responses=problem_responses(401, 403, 404, 409, 410, 412, 429, 503),
    )
    async def end(request: HubRequest, upload: FromPath[str]) -> Response[None]:
        """Nothing of it is kept; also a document that is available. Needs the scope `call:upload.cancel`."""
        return await tus.of_one(request, upload)

    return [create, look, append, end, _override(tus), _status(access, desk)]


def _override(tus: Tus) -> Any:
    @post(
        _ONE,
        status_code=204,
        summary="PATCH, DELETE or HEAD by another name (tus)",
        security=_SECURITY,
        operation_class=OverrideOperation,
        request_max_body_size=None,
        responses=problem_responses(400, 401, 403, 404, 409, 410, 412, 413, 415, 460, 503),
    )
    async def override(request: HubRequest, upload: FromPath[str]) -> Response[None]:
        """For clients that can send POST only."""
        return await tus.of_one(request, upload)

    return override


def _status(access: Access, desk: Desk) -> Any:
    @get(
        _ONE,
        summary="An upload",
        security=_SECURITY,
        responses=problem_responses(401, 403, 404, 429, 503),
    )
    async def status(request: HubRequest, upload: FromPath[str]) -> dict[str, Any]:
        """As `upload.status` over the socket. Needs the scope `call:upload.status`."""
        principal = request.user
        require(principal, "upload.status")
        await desk.reads.spend(principal.org, principal.user)
        return shape(await access.seen(principal, check_id(upload)), principal.user)

    return status
