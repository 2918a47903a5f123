"""What each request of tus does: begins an upload, says how far it is, takes bytes, ends it.

The method that counts is that of ``X-HTTP-Method-Override``, where a client cannot send others than GET and POST.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from litestar import MediaType, Response
from litestar.exceptions import MethodNotAllowedException

from hub.api import ErrorCode, HttpError, Hub, HubError, HubRequest, Principal, Subject, bad_request
from services.uploads.access import Access
from services.uploads.asked import Create, asked
from services.uploads.desk import Desk, Wanted
from services.uploads.names import check_id
from services.uploads.scopes import require
from services.uploads.shapes import GONE, State, Upload, wrong_state
from services.uploads.tus.body import Body, too_long, wrong_offset
from services.uploads.tus.headers import Checksum, Headers, creation_params, format_concat, format_metadata, format_time
from services.uploads.tus.statuses import as_tus
from services.uploads.writer import Writer
from services.uploads.writers import Writers

PATH: Final = "/v1/uploads"

_OF_THE_BODY: Final = frozenset({ErrorCode.CHECKSUM_MISMATCH, ErrorCode.TOO_LARGE})

Handler = Callable[["Asked", str], Awaitable[Response[None]]]


class Asked(NamedTuple):
    """A request, with its headers."""

    request: HubRequest
    headers: Headers

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.request.user


class Tus:
    """All of them. Errors have the statuses that clients of tus know."""

    def __init__(self, hub: Hub, access: Access, desk: Desk, writers: Writers) -> None:
        self._hub = hub
        self._settings = hub.settings
        self._access = access
        self._desk = desk
        self._writers = writers
        self._of_one: Mapping[str, Handler] = {"HEAD": self._look, "PATCH": self._append, "DELETE": self._end}

    async def of_all(self, request: HubRequest) -> Response[None]:
        """A request to the path where uploads are begun."""

        async def create(it: Asked, _: str) -> Response[None]:
            return await self._create(it)

        return await self._serve(request, {"POST": create}, "")

    async def of_one(self, request: HubRequest, upload_id: str) -> Response[None]:
        """A request to the path of an upload."""
        return await self._serve(request, self._of_one, upload_id)

    async def _serve(self, request: HubRequest, handlers: Mapping[str, Handler], upload_id: str) -> Response[None]:
        headers = Headers(request.scope["headers"])
        headers.check_version()
        handler = handlers.get(headers.one("X-HTTP-Method-Override") or request.method)
        if handler is None:
            raise MethodNotAllowedException(headers={"allow": ", ".join(handlers)})
        try:
            return await handler(Asked(request, headers), upload_id)
        except HubError as error:
            raise as_tus(error) from error.__cause__

    # --- creation

    async def _create(self, it: Asked) -> Response[None]:
        require(it.principal, "upload.create")
        if it.headers.one("Upload-Defer-Length") is not None:
            raise bad_request("the size must be known: send the header Upload-Length")
        concat = it.headers.concat()
        params = creation_params(it.headers.metadata(), partial=concat is not None and not concat.final)
        size = it.headers.number("Upload-Length")
        if concat is not None and concat.final:
            if size is not None or it.headers.has_body():
                raise bad_request("a final upload has no Upload-Length and no body: it is made of the others")
            upload = await self._desk.concatenate(it.principal, _wanted(params, 0, partial=False), concat.partials)
            return _answer(201, {"Location": f"{PATH}/{upload.id}"})
        if size is None:
            raise bad_request("the header Upload-Length is missing: the size in bytes")
        checksum = self._check_body(it, size)
        wanted = _wanted(params, size, partial=concat is not None)
        upload, _ = await self._desk.begin(it.principal, wanted)
        offset = await self._first_bytes(it, upload, checksum) if it.headers.has_body() else upload.offset
        headers = {"Location": f"{PATH}/{upload.id}", "Upload-Offset": str(offset)}
        return _answer(201, headers | self._expiry(upload, offset))

    def _check_body(self, it: Asked, size: int) -> Checksum | None:
        """Before anything is begun."""
        if not it.headers.has_body():
            return None
        it.headers.check_body_type()
        if (it.headers.number("Content-Length") or 0) > size:
            raise too_long(size)
        return it.headers.checksum()

    async def _first_bytes(self, it: Asked, upload: Upload, checksum: Checksum | None) -> int:
        """Creation with upload: how far it has come. A client that is told of an error does not learn the upload's
        name, so a fault in the body ends the upload; after anything else it gets the name, and goes on."""
        try:
            return await self._write(it, upload, 0, checksum)
        except HubError as error:
            if error.code in _OF_THE_BODY:
                with contextlib.suppress(HubError):
                    await self._desk.cancel(it.principal, upload.id)
                raise
            return (await self._access.own(it.principal, upload.id)).offset

    # --- one upload

    async def _look(self, it: Asked, upload_id: str) -> Response[None]:
        principal = it.principal
        require(principal, "upload.status")
        await self._desk.reads.spend(principal.org, principal.user)
        upload = await self._access.seen(principal, check_id(upload_id))
        if upload.writer is not None and upload.owner == principal.user:
            # Its owner is about to go on: whoever still writes, on a connection that is dead, is asked to finish.
            await self._writers.finish(principal.org, upload.id, _gone_on())
            upload = await self._access.own(principal, upload.id)
        if upload.state in GONE and upload.state is not State.JOINED:
            raise wrong_state(upload.state)
        headers = {
            "Cache-Control": "no-store",
            "Upload-Length": str(upload.size),
            "Upload-Offset": str(upload.offset),
            "Upload-Metadata": format_metadata(_known(upload, principal.user)),
        }
        if upload.partial:
            headers["Upload-Concat"] = "partial"
        elif upload.partials:
            headers["Upload-Concat"] = format_concat(f"{PATH}/{name}" for name in upload.partials)
        if upload.expires_at is not None:
            headers["Upload-Expires"] = format_time(upload.expires_at)
        return _answer(200, headers)

    async def _append(self, it: Asked, upload_id: str) -> Response[None]:
        require(it.principal, "upload.resume")
        it.headers.check_body_type()
        offset = it.headers.number("Upload-Offset")
        if offset is None:
            raise bad_request("the header Upload-Offset is missing: where the bytes begin")
        checksum = it.headers.checksum()
        length = it.headers.number("Content-Length")
        is_small = length is None or length < self._settings.uploads_chunk_bytes
        if is_small:  # Else the bytes themselves take their time, if they may come.
            await self._desk.reads.spend(it.principal.org, it.principal.user)
        try:
            upload = await self._to_be_continued(it, upload_id, offset, length or 0)
        except HubError:
            if not is_small:
                await self._desk.reads.spend(it.principal.org, it.principal.user)
            raise
        if it.headers.has_body():
            offset = await self._write(it, upload, offset, checksum)
        return _answer(204, {"Upload-Offset": str(offset)} | self._expiry(upload, offset))

    async def _to_be_continued(self, it: Asked, upload_id: str, offset: int, length: int) -> Upload:
        """The upload, if it goes on at ``offset`` with so many bytes at least."""
        upload = await self._access.own(it.principal, check_id(upload_id))
        if upload.state in GONE:
            raise wrong_state(upload.state)
        if upload.partials:
            raise HttpError(_is_final(upload), 403)
        # It never goes back; but what a writer has taken may not be acknowledged yet.
        may_be_ahead = upload.writer is not None and it.headers.has_body()
        if offset < upload.offset or (offset > upload.offset and not may_be_ahead):
            raise wrong_offset(upload.offset)
        if it.headers.has_body():
            if upload.state is not State.RECEIVING:
                raise HttpError(wrong_state(upload.state), 403)
            if offset + length > upload.size:
                raise too_long(upload.size)
        return upload

    async def _end(self, it: Asked, upload_id: str) -> Response[None]:
        require(it.principal, "upload.cancel")
        await self._desk.reads.spend(it.principal.org, it.principal.user)
        upload = await self._access.own(it.principal, check_id(upload_id))
        if upload.state in GONE:
            raise wrong_state(upload.state)
        await self._desk.cancel(it.principal, upload.id, finished=True)
        return _answer(204, {})

    async def _write(self, it: Asked, upload: Upload, offset: int, checksum: Checksum | None) -> int:
        receive, length = it.request.receive, it.headers.number("Content-Length")
        body = Body(receive, length, checksum, self._settings.uploads_idle_s, partial(self._check_on, it.principal))

        async def opener(on_end: Callable[[HubError | None], None], *, hold: bool) -> Writer:
            return await self._writers.open(upload.org, upload.id, on_ack=_nothing, on_end=on_end, hold=hold)

        with self._hub.answers.answering(it.principal) as ending:
            return await body.write(opener, offset, ending)

    def _check_on(self, principal: Principal) -> None:
        """A body takes its time; whoever switches uploads off means its bytes, too."""
        if not self._hub.flags.on("uploads", Subject(principal.user, str(principal.org))):
            text = "uploads were switched off (uploads); what had come is kept, go on from there when they are on again"
            raise HubError(ErrorCode.FEATURE_DISABLED, text, details={"flag": "uploads"})

    def _expiry(self, upload: Upload, offset: int) -> dict[str, str]:
        if upload.expires_at is None or (offset == upload.size and not upload.partial):
            return {}
        moved = offset > upload.offset
        expires_at = int((time.time() + self._settings.uploads_expire_s) * 1000) if moved else upload.expires_at
        return {"Upload-Expires": format_time(expires_at)}


def _wanted(params: Mapping[str, Any], size: int, *, partial: bool) -> Wanted:
    it = asked(Create, {**params, "size": 0}, "Upload-Metadata")
    return Wanted(it.filename, size, it.document_type, it.metadata, it.sha256, it.key, it.shares, partial)


def _known(upload: Upload, reader: str) -> dict[str, Any]:
    known: dict[str, Any] = {"filename": upload.filename, "document_type": upload.document_type}
    if upload.sha256_wanted is not None:
        known["sha256"] = upload.sha256_wanted
    if upload.shares and upload.owner == reader:
        known["shares"] = " ".join(upload.shares)
    return known | upload.metadata


def _answer(status: int, headers: dict[str, str]) -> Response[None]:
    # As text, nothing is nothing; as JSON it would be `null`.
    return Response(None, status_code=status, headers=headers, media_type=MediaType.TEXT)


def _nothing(_: int) -> None:
    """The client learns how far it has come when its request is answered."""


def _is_final(upload: Upload) -> HubError:
    text = "the upload is made of others, and takes no bytes itself"
    return HubError(ErrorCode.CONFLICT, text, details={"state": upload.state.value})


def _gone_on() -> HubError:
    return HubError(ErrorCode.CONFLICT, "another connection has gone on with this upload")
