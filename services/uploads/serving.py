"""Documents over HTTP: by a token at ``/v1/uploads/{id}/content``, by a signed link without one.

Only what is available is served, and as something to keep: never as a page.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import post, route
from litestar.enums import HttpMethod
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, QueryParameter
from litestar.types import Message, Receive, Scope, Send
from msgspec import Struct
from msgspec.structs import replace

from hub.api import (
    PUBLIC,
    ErrorCode,
    HttpError,
    Hub,
    HubError,
    HubRequest,
    Method,
    Principal,
    Subject,
    bad_request,
    break_off,
    json_body,
    not_found,
    problem_responses,
)
from services.uploads.access import Access
from services.uploads.asked import LinkUpload, asked
from services.uploads.desk import Desk
from services.uploads.links import PATH as LINK_PATH
from services.uploads.links import Links, refused
from services.uploads.names import check_id
from services.uploads.ranges import Conditions, Slice, attachment, has_it, wanted
from services.uploads.records import Records
from services.uploads.scopes import require
from services.uploads.shapes import State, Upload, wrong_state
from services.uploads.store import Store
from services.uploads.tus.headers import Headers

CORS_REQUEST_HEADERS: Final = ("Range", "If-Range", "If-None-Match")
CORS_ANSWER_HEADERS: Final = ("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag")

_AFTER_LINK_S: Final = 3600.0  # an answer that began while the link was good may take so long

_log = structlog.get_logger(__name__)

_METHODS: Final = [HttpMethod.GET, HttpMethod.HEAD]
_CONTENT: Final = ResponseSpec(
    data_container=bytes,
    generate_examples=False,
    description="The document, to be kept as a file. ETag is its sha256; a part of it with status 206.",
    media_type="application/octet-stream",
)
_CONTENT_RESPONSES: Final = {200: _CONTENT, 206: _CONTENT}


class LinkBody(Struct, frozen=True):
    """``expires_s``: how long the link is good."""

    expires_s: Annotated[int, msgspec.Meta(ge=1)] | None = None


_link_body: Final = msgspec.json.Decoder(LinkBody)


@dataclass
class LinkOperation(Operation):
    """Its body may be missing."""

    def __post_init__(self) -> None:
        seconds = Schema(type=OpenAPIType.INTEGER, minimum=1, description="How long the link is good.")
        schema = Schema(type=OpenAPIType.OBJECT, properties={"expires_s": seconds})
        self.request_body = RequestBody(required=False, content={"application/json": OpenAPIMediaType(schema=schema)})


class Answer:
    """An ASGI application that answers one request with ``pieces``, which are closed in any case.

    What the first piece raises becomes an ordinary problem. Later the connection is broken off, so that nobody takes a
    part for the whole: by a fault, when the client takes no byte for ``stalled_s``, and by what ends long answers.
    """

    def __init__(self, hub: Hub, principal: Principal, pieces: AsyncIterator[bytes], head: Message) -> None:
        self._answers = hub.answers
        self._stalled_s = hub.settings.no_progress_s
        self._principal = principal
        self._pieces = pieces
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers. Returns when everything is sent or the client is gone."""
        with self._answers.answering(self._principal) as ending:
            async with aclosing(self._pieces):  # type: ignore[type-var]
                first = await anext(self._pieces, b"")
                sending = asyncio.create_task(self._send(first, send), name="upload-content")
                leaving = asyncio.create_task(_left(receive), name="upload-content-left")
                try:
                    await asyncio.wait((sending, leaving, ending), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    complete = sending.done()
                    for task in (sending, leaving):
                        task.cancel()
                    outcome, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        if not complete or outcome is not None:
            _log.info("upload_content_broken_off", cause=repr(outcome) if complete else "ended")
            if break_off(scope):
                await _left(receive)

    async def _send(self, piece: bytes | None, send: Send) -> None:
        async with asyncio.timeout(None) as patience:
            loop = asyncio.get_running_loop()

            async def put(message: Any) -> None:
                patience.reschedule(loop.time() + self._stalled_s)
                await send(message)
                patience.reschedule(None)

            await put(self._head)
            while piece is not None:
                await put({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(self._pieces, None)
            await put({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Serving:
    """Who gets which document, by which right."""

    def __init__(self, hub: Hub, records: Records, access: Access, desk: Desk, store: Store) -> None:
        """Raises ``ConfigError`` for the secret of links."""
        self._hub = hub
        self._records = records
        self._access = access
        self._desk = desk
        self._store = store
        self._links = Links(hub.settings)
        self._link_reads = hub.limits.bucket(
            "upload-link-reads",
            per_second=hub.settings.uploads_link_reads_per_second,
            burst=hub.settings.uploads_link_reads_burst,
            what="readings of an upload by links",
        )

    @property
    def methods(self) -> Mapping[str, Method]:
        """What can be called over the socket."""
        return {"upload.link": self._method}

    async def link(self, principal: Principal, upload_id: str, expires_s: int | None) -> dict[str, Any]:
        """A link to a document that one may read oneself. Raises ``not_found``, ``conflict``, ``rate_limited``."""
        upload = await self._seen(principal, upload_id)
        _check_available(upload)
        url, expires_at = self._links.make(principal, upload, expires_s)
        return {"url": url, "expires_at": expires_at}

    async def by_token(self, request: HubRequest, upload_id: str) -> Answer:
        """To whoever may see it. Raises ``forbidden``, ``not_found``, ``conflict``, ``rate_limited``."""
        require(request.user, "upload.status")
        return self._answer_with(request, request.user, await self._seen(request.user, upload_id), "same-origin")

    async def by_link(self, request: HubRequest, link: str) -> Answer:
        """To whoever has a link. Raises ``forbidden``, ``not_found``, ``conflict``, ``rate_limited``."""
        grant = self._links.read(link)
        maker = grant.maker
        if not self._hub.flags.on("uploads", Subject(maker.user, str(maker.org))):
            raise HubError(ErrorCode.FEATURE_DISABLED, "uploads are switched off (uploads)")
        await self._link_reads.spend(maker.org, grant.upload)
        # Whoever made the link is thrown out with all that is his.
        await self._check_maker(maker)
        upload = await self._records.get(maker.org, grant.upload)
        if upload is None:
            raise not_found("upload")
        if not grant.sees_all and not await self._access.still_sees(maker, upload):
            raise refused()
        reader = replace(maker, expires_at=max(grant.expires_at, time.time() + _AFTER_LINK_S))
        return self._answer_with(request, reader, upload, "cross-origin")

    async def _check_maker(self, maker: Principal) -> None:
        try:
            await self._hub.check_revoked(maker)
        except HubError as error:
            raise refused() from error

    async def _method(self, principal: Principal, params: dict[str, Any]) -> dict[str, Any]:
        it = asked(LinkUpload, params, "upload.link")
        return await self.link(principal, it.upload, it.expires_s)

    async def _seen(self, principal: Principal, upload_id: str) -> Upload:
        await self._desk.reads.spend(principal.org, principal.user)
        return await self._access.seen(principal, check_id(upload_id))

    def _answer_with(self, request: HubRequest, principal: Principal, upload: Upload, readers: str) -> Answer:
        """The content, a part of it, or that the client has it already. Raises ``conflict`` for what is not available,
        and ``bad_request`` with status 416. ``readers``: which pages may embed it."""
        _check_available(upload)
        headers = {
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "content-disposition": attachment(upload.filename),
            "content-security-policy": "sandbox; default-src 'none'",
            "cross-origin-resource-policy": readers,
            "etag": (etag := f'"{upload.sha256}"'),
            "x-content-type-options": "nosniff",
        }
        conditions = _conditions(request)
        if has_it(conditions, etag):
            return self._answer(principal, 304, headers, None)
        part = wanted(conditions, etag, upload.size)
        if part is None:
            text = f"the document has {upload.size} bytes; the range begins behind its end"
            raise HttpError(bad_request(text, size=upload.size), 416, {"Content-Range": f"bytes */{upload.size}"})
        headers["content-type"] = upload.media_type or "application/octet-stream"
        headers["content-length"] = str(part.end - part.start)
        if not part.whole:
            headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{part.size}"
        pieces = self._pieces(upload, part) if request.method == "GET" else None
        return self._answer(principal, 200 if part.whole else 206, headers, pieces)

    def _answer(
        self, principal: Principal, status: int, headers: Mapping[str, str], pieces: AsyncIterator[bytes] | None
    ) -> Answer:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        start: Any = {"type": "http.response.start", "status": status, "headers": sent}
        return Answer(self._hub, principal, pieces or _nothing(), start)

    def _pieces(self, upload: Upload, part: Slice) -> AsyncIterator[bytes]:
        return self._store.read(upload.org, upload.id, part.start, part.end)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _conditions(request: HubRequest) -> Conditions:
    headers = Headers(request.scope["headers"])
    # RFC 9110 section 14.2: a range is for GET.
    part = headers.all("Range") if request.method == "GET" else []
    if_range, if_none_match = headers.all("If-Range"), headers.all("If-None-Match")
    return Conditions(
        part[0] if len(part) == 1 else None,
        ", ".join(if_range) if if_range else None,
        ", ".join(if_none_match) if if_none_match else None,
    )


def _check_available(upload: Upload) -> None:
    if upload.state is not State.AVAILABLE:
        raise wrong_state(upload.state)


def serving_routes(serving: Serving) -> list[Any]:
    """The routes of this module, for ``Service.routes``."""

    @route(
        "/v1/uploads/{upload:str}/content",
        http_method=_METHODS,
        summary="A document",
        security=[{"bearer": []}],
        responses={**_CONTENT_RESPONSES, **problem_responses(401, 403, 404, 409, 416, 429, 503)},
    )
    async def content(request: HubRequest, upload: FromPath[str]) -> Answer:
        """The bytes of a document that is available, or a part of them (`Range`).

        Needs the scope `call:upload.status`. For whoever may see the upload; in another state it is a conflict.
        """
        return await serving.by_token(request, upload)

    @route(
        LINK_PATH,
        http_method=_METHODS,
        opt={PUBLIC: True},
        summary="A document, by a signed link",
        responses={**_CONTENT_RESPONSES, **problem_responses(403, 404, 409, 416, 429, 503)},
    )
    async def linked(
        request: HubRequest, link: Annotated[str, QueryParameter(description="What was given out; see links.")]
    ) -> Answer:
        """The same without a token, to whoever has a link that is still good."""
        return await serving.by_link(request, link)

    @post(
        "/v1/uploads/{upload:str}/links",
        status_code=200,
        summary="A link to a document",
        security=[{"bearer": []}],
        operation_class=LinkOperation,
        responses=problem_responses(400, 401, 403, 404, 409, 415, 429, 503),
    )
    async def make_link(request: HubRequest, upload: FromPath[str]) -> dict[str, Any]:
        """A URL by which anybody can read the document until it expires.

        Needs the scope `call:upload.link`.
        """
        require(request.user, "upload.link")
        body = await json_body(request, _link_body) if Headers(request.scope["headers"]).has_body() else LinkBody()
        return await serving.link(request.user, upload, body.expires_s)

    return [content, linked, make_link]
