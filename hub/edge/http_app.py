"""All HTTP routes in one Litestar application: the hub's own, those of the services, and whatever else is mounted.

It decides what goes for every route: the gate under ``/v1``, problems, body limits, CORS, logs, documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec
from litestar import Litestar, MediaType, Response, Router, get
from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.di import Provide
from litestar.types import ControllerRouterHandler, Message, Scope

from hub.config import Settings
from hub.edge.access_log import Stopwatch, log_answer
from hub.edge.access_routes import issue_ticket, kick
from hub.edge.answer_headers import AnswerHeaders, CommonHeaders
from hub.edge.asyncapi import asyncapi_document
from hub.edge.authenticate import Gate
from hub.edge.demo_routes import demo_routes
from hub.edge.flag_routes import FLAG_ROUTES
from hub.edge.frames_route import frames_route
from hub.edge.gateway import Gateway
from hub.edge.health_routes import Readiness, about, live, metrics, ready, stats
from hub.edge.history_route import events
from hub.edge.ofrep_routes import ofrep_router
from hub.edge.openapi import openapi_config
from hub.edge.problems import problem_handlers, refused_preflight
from hub.edge.publish_route import publish

_REQUEST_HEADERS: Final = ["Authorization", "Cache-Control", "Content-Type", "If-None-Match", "Last-Event-ID"]
_CLOUD_EVENT_HEADERS: Final = ["ce-id", "ce-source", "ce-specversion", "ce-subject", "ce-time", "ce-type"]
# Without these a page of another origin could not read them.
_ANSWER_HEADERS: Final = ["ETag", "Retry-After", "WWW-Authenticate"]

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]


def http_app(
    gateway: Gateway,
    extra_handlers: Sequence[ControllerRouterHandler] = (),
    lifespan: Sequence[Lifespan] = (),
    headers: CommonHeaders | None = None,
) -> Litestar:
    """The application of one node.

    ``extra_handlers`` may take the dependency ``gateway``; under ``/v1`` they get ``request.user`` unless they declare
    ``opt={PUBLIC: True}``. Their bodies are bounded by ``max_message_bytes`` unless they say otherwise. ``headers`` are
    those that they need.
    """
    headers = headers or CommonHeaders()
    settings = gateway.settings
    readiness = Readiness(gateway)
    return Litestar(
        route_handlers=[
            *(about, live, ready, metrics, _asyncapi_route(gateway.version)),
            Router(
                "/",
                route_handlers=[events, issue_ticket, kick, stats, frames_route(gateway)],
                security=[{"bearer": []}],
            ),
            Router(
                "/",
                route_handlers=[publish],
                security=[{"bearer": []}],
                request_max_body_size=settings.max_publish_bytes,
            ),
            Router("/", route_handlers=FLAG_ROUTES, security=[{"bearer": []}]),
            ofrep_router(gateway.metrics),
            *(demo_routes() if settings.demo_orgs else ()),
            *extra_handlers,
        ],
        dependencies={
            "gateway": Provide(lambda: gateway, sync_to_thread=False),
            "readiness": Provide(lambda: readiness, sync_to_thread=False),
        },
        middleware=[Stopwatch(), Gate(gateway)],
        exception_handlers=problem_handlers(gateway.metrics),
        before_send=[refused_preflight, log_answer, AnswerHeaders(headers.answers), _goodbye(gateway)],
        request_max_body_size=settings.max_message_bytes,
        cors_config=_cors(settings, headers),
        openapi_config=openapi_config(gateway.version),
        lifespan=list(lifespan),
        # structlog is configured by whoever starts the process; the framework would also log tracebacks to clients.
        logging_config=None,
        debug=False,
    )


def _goodbye(gateway: Gateway) -> Any:
    async def goodbye(message: Message, scope: Scope) -> None:
        """A node that leaves keeps no connection: whoever asks again asks another one."""
        if gateway.connections.draining and message["type"] == "http.response.start":
            MutableScopeHeaders.from_message(message)["Connection"] = "close"

    return goodbye


def _cors(settings: Settings, headers: CommonHeaders) -> CORSConfig | None:
    if not settings.allowed_origins:
        return None
    return CORSConfig(
        allow_origins=[origin.lower().rstrip("/") for origin in settings.allowed_origins],
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"],
        allow_headers=[*_REQUEST_HEADERS, *_CLOUD_EVENT_HEADERS, *headers.cors_request],
        expose_headers=[*_ANSWER_HEADERS, *headers.cors_answer],
        # Tokens come in a header that the page sets itself. With cookies, any page could act for its visitor.
        allow_credentials=False,
    )


def _asyncapi_route(version: str) -> Any:
    document = msgspec.json.encode(asyncapi_document(version))

    @get("/asyncapi.json", summary="What goes over the socket, as AsyncAPI 3", include_in_schema=False)
    async def asyncapi() -> Response[bytes]:
        return Response(document, media_type=MediaType.JSON)

    return asyncapi
