"""/ofrep: the OpenFeature Remote Evaluation Protocol. What a flag is for whoever asks, and for nobody else.

User and organisation are the token's, whatever the context says; of the context, rules may look at the rest. Each
request counts as a frame of its user. Errors have the protocol's form and not that of a problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.enums import MediaType
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath, SkipValidation
from msgspec import UNSET, Struct, UnsetType

from hub.auth.principal import Principal
from hub.edge.authenticate import HubRequest
from hub.edge.gateway import Gateway
from hub.edge.http_bodies import decode_json, media_type, read_body
from hub.edge.openapi import EvaluateOperation
from hub.edge.problems import problem_handlers
from hub.errors import ErrorCode, HubError
from hub.flags import Evaluation, Subject
from hub.telemetry import Metrics

MOST_BYTES: Final = 16_384
MOST_ATTRIBUTES: Final = 100
_HEADERS: Final = {"Cache-Control": "no-store"}


class Evaluated(Struct, omit_defaults=True):
    """What a flag is. Without ``value``: the default of whoever asks."""

    key: str
    reason: str
    metadata: dict[str, str | int | float | bool]
    variant: str | None = None
    value: Any = UNSET


class Failed(Struct, omit_defaults=True):
    """Why there is no value."""

    errorCode: str  # noqa: N815 - the protocol's name
    key: str | UnsetType = UNSET
    errorDetails: str = ""  # noqa: N815


class BulkEvaluated(Struct):
    """What all flags are."""

    flags: list[Evaluated | Failed]
    metadata: dict[str, str]


class OfrepError(HubError):
    """``code_there``: one of the protocol's own."""

    def __init__(self, code_there: str, code: ErrorCode, message: str) -> None:
        super().__init__(code, message)
        self.code_there = code_there


_EXAMPLES: Final = {
    400: ("PARSE_ERROR", "the body is not valid JSON in UTF-8"),
    401: ("GENERAL", "no token; send it as 'Authorization: Bearer <token>'"),
    404: ("FLAG_NOT_FOUND", "no such flag"),
    429: ("GENERAL", "at most 100 frames a second"),
    503: ("GENERAL", "Redis is not reachable; try again"),
}


def _responses(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            data_container=Failed,
            generate_examples=False,
            description=_EXAMPLES[status][1],
            examples=[Example(value=dict(zip(("errorCode", "errorDetails"), _EXAMPLES[status], strict=True)))],
        )
        for status in statuses
    }


_anything: Final = msgspec.json.Decoder()
_Gateway = NamedDependency[SkipValidation[Gateway]]


@post(
    "/ofrep/v1/evaluate/flags/{key:str}",
    status_code=200,
    summary="Evaluate a flag (OFREP)",
    operation_class=EvaluateOperation,
    responses=_responses(400, 401, 404, 429, 503),
)
async def evaluate_flag(request: HubRequest, gateway: _Gateway, key: FromPath[str]) -> Response[Evaluated]:
    """The value for the caller."""
    subject = await _subject(request, gateway)
    if key not in gateway.board.file.flags:
        raise OfrepError("FLAG_NOT_FOUND", ErrorCode.NOT_FOUND, "no such flag")
    found = _told(gateway.board.evaluate(key, subject))
    if isinstance(found, Failed):
        raise OfrepError(found.errorCode, ErrorCode.BAD_REQUEST, found.errorDetails)
    return Response(found, headers=_HEADERS)


@post(
    "/ofrep/v1/evaluate/flags",
    status_code=200,
    summary="Evaluate all flags (OFREP)",
    operation_class=EvaluateOperation,
    responses=_responses(400, 401, 429, 503),
)
async def evaluate_flags(request: HubRequest, gateway: _Gateway) -> Response[bytes]:
    """The values of all flags for the caller. 304 when they are those of `If-None-Match`."""
    subject = await _subject(request, gateway)
    board = gateway.board
    told = [_told(board.evaluate(name, subject)) for name in sorted(board.file.flags)]
    body = msgspec.json.encode(BulkEvaluated(told, {"version": board.version}))
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(b"", status_code=304, headers=headers, media_type=MediaType.JSON)
    return Response(body, headers=headers, media_type=MediaType.JSON)


def ofrep_router(metrics: Metrics) -> Router:
    """Both routes, with errors as the protocol has them."""
    return Router(
        "/",
        route_handlers=[evaluate_flag, evaluate_flags],
        security=[{"bearer": []}],
        exception_handlers=problem_handlers(metrics, _failure),
        request_max_body_size=MOST_BYTES,
    )


async def _subject(request: Request[Principal, Any, Any], gateway: Gateway) -> Subject:
    await gateway.admission.frames.spend(request.user, 1)
    try:
        media_type(request)
        data = await read_body(request)
        given = decode_json(data, _anything) if data else {}
    except HubError as error:
        raise OfrepError("PARSE_ERROR", error.code, error.message) from None
    context = given.get("context", {}) if isinstance(given, dict) else None
    if not isinstance(context, dict):
        text = "the body is an object, and 'context' in it is one, too"
        raise OfrepError("INVALID_CONTEXT", ErrorCode.BAD_REQUEST, text)
    if len(context) > MOST_ATTRIBUTES:
        text = f"the context has more than {MOST_ATTRIBUTES} attributes; send those that rules look at"
        raise OfrepError("INVALID_CONTEXT", ErrorCode.BAD_REQUEST, text)
    return Subject(request.user.user, str(request.user.org), _attributes(context))


def _attributes(context: Mapping[str, Any]) -> dict[str, Any]:
    """Texts, numbers and booleans: no rule looks into anything else."""
    return {name: value for name, value in context.items() if value is None or isinstance(value, str | int | float)}


def _told(found: Evaluation) -> Evaluated | Failed:
    if found.error_code is not None:
        return Failed(found.error_code, found.flag, found.error_message or "")
    value = UNSET if found.value is None else found.value
    return Evaluated(found.flag, found.reason, {**found.metadata, "version": found.version}, found.variant, value)


def _known(header: str, tag: str) -> bool:
    """``If-None-Match``, by RFC 9110: any of a list, compared weakly."""
    return any(one.strip().removeprefix("W/") in (tag, "*") for one in header.split(","))


def _failure(request: Request[Any, Any, Any], error: HubError, status: int) -> tuple[Any, str]:
    code = error.code_there if isinstance(error, OfrepError) else "GENERAL"
    key = request.path_params.get("key", UNSET)
    return Failed(code, key, error.message), MediaType.JSON
