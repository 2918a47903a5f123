"""POST /v1/frames: the way to the hub for clients without a socket (PROTOCOL section 7).

What needs no connection is performed here, on any node, and answered. What belongs to the connection of a session is
handed to it (``relay``), and is answered over that.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
from litestar import Response, post
from litestar.enums import MediaType
from msgspec import UNSET, Struct, UnsetType

from hub.auth.principal import Principal
from hub.edge.authenticate import HubRequest
from hub.edge.flag_gate import check_method, check_publish, subject_of
from hub.edge.gateway import Gateway, Method
from hub.edge.http_bodies import decode_json, is_json, media_type, read_body, refused_type
from hub.edge.http_line import encoded
from hub.edge.openapi import FramesOperation, problem_responses
from hub.edge.presence_methods import PRESENCE_METHODS
from hub.edge.relay import Relay, no_connection
from hub.errors import ErrorCode, HubError, bad_request
from hub.fanout.publisher import NewEvent
from hub.nodes.flags.cohorts import Asked
from hub.protocol.codec import BadFrame, Encoding, check_data, decode_frame
from hub.protocol.frames import Call, ClientFrame, Hello, Ping, Pong, Publish, Reply, ServerFrame
from hub.protocol.session import error_frame

log = structlog.get_logger(__name__)


class _Body(Struct):
    session: str | None = None
    frames: list[msgspec.Raw] | UnsetType = UNSET


_body: Final = msgspec.json.Decoder(_Body)
_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Request:
    """The frames of one request, in order, and what came of each."""

    def __init__(
        self, gateway: Gateway, relay: Relay, principal: Principal, session: str | None, calls: Counter[str]
    ) -> None:
        self._gateway = gateway
        self._relay = relay
        self._principal = principal
        self._session = session
        self._calls = calls
        self._flags = gateway.flags.values(subject_of(principal))
        self._answers: dict[int, msgspec.Raw] = {}
        self._asked: dict[int, Asked | None] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._handed: list[tuple[int, ClientFrame, msgspec.Raw]] = []

    async def perform(self, frames: Sequence[msgspec.Raw]) -> list[msgspec.Raw]:
        """One after the other; calls may overlap."""
        try:
            for number, raw in enumerate(frames):
                await self._take(number, raw)
            await self._hand_over(settle=False)
            if self._running:
                await asyncio.wait(self._running)
        finally:
            for task in self._running:
                task.cancel()
        return [self._answers[number] for number in sorted(self._answers)]

    async def _take(self, number: int, raw: msgspec.Raw) -> None:
        try:
            frame = decode_frame(bytes(raw), Encoding.JSON)
        except BadFrame as error:
            self._refuse(number, error, error.frame_id)
            return
        if _is_of_connection(frame):
            self._handed.append((number, frame, raw))
            return
        await self._hand_over(settle=True)
        try:
            await self._perform(number, frame)
        except HubError as error:
            self._refuse(number, error, getattr(frame, "id", None))

    async def _perform(self, number: int, frame: ClientFrame) -> None:
        if isinstance(frame, Hello):
            raise bad_request("'hello' opens a connection: send it to POST /v1/sse or POST /v1/poll")
        await self._gateway.admission.frames.spend(self._principal, 1)
        if isinstance(frame, Publish):
            self._ask(number)
            check_publish(self._gateway, self._flags, frame.topic)
            event = NewEvent(frame.topic, frame.name, frame.data, frame.key, frame.tags, frame.ephemeral)
            done = await self._gateway.publisher.publish_as(self._principal, event, "frame")
            self._tell(number, Reply(frame.id, {"epoch": done.epoch, "seq": done.seq, "duplicate": done.duplicate}))
            self._gateway.cohorts.answered(self._asked.get(number))
            self._acted()
        elif isinstance(frame, Call):
            self._call(number, frame)
        elif isinstance(frame, Ping):
            self._tell(number, Pong(int(time.time() * 1000), frame.id))

    def _ask(self, number: int) -> None:
        """It counts as a request, whatever comes of it."""
        user = self._principal.org, self._principal.user
        self._asked[number] = self._gateway.cohorts.asked(user, self._flags)

    # --- calls

    def _call(self, number: int, frame: Call) -> None:
        self._ask(number)
        method = self._method(frame.method)
        if not self._principal.allows("call", frame.method):
            raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow call:{frame.method}")
        check_method(self._gateway, self._flags, frame.method)
        check_data(frame.params, "params")
        who, most = f"{self._principal.org}/{self._principal.user}", self._gateway.settings.max_calls_in_flight
        if self._calls[who] >= most:
            text = f"{most} calls of yours are under way by HTTP on this node; wait for one to end"
            raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=1000)
        self._calls[who] += 1
        task = asyncio.create_task(self._answer(number, frame, method), name="call")
        self._running.add(task)
        task.add_done_callback(lambda _: self._called(who))

    def _called(self, who: str) -> None:
        self._calls[who] -= 1
        if not self._calls[who]:
            del self._calls[who]

    def _method(self, name: str) -> Method:
        found = self._gateway.methods.get(name)
        if found is not None:
            return found
        if name in self._gateway.caller_methods:
            text = f"{name} takes chunks over a WebSocket; without one, send files by tus: POST /v1/uploads"
            raise bad_request(text)
        raise HubError(ErrorCode.UNKNOWN_METHOD, "no such method")

    async def _answer(self, number: int, frame: Call, method: Method) -> None:
        try:
            result = await method(self._principal, frame.params)
            self._tell(number, Reply(frame.id, result))
            self._gateway.cohorts.answered(self._asked.get(number))
            self._acted()
        except HubError as error:
            self._refuse(number, error, frame.id)
        except Exception:
            log.exception("method failed", method=frame.method)
            failed = HubError(ErrorCode.INTERNAL, "the method failed; it is in the hub's log")
            self._refuse(number, failed, frame.id)

    # --- what belongs to the connection

    async def _hand_over(self, *, settle: bool) -> None:
        """What has gathered, in one message. ``settle``: it is performed before anything that was sent after it."""
        handed, self._handed = self._handed, []
        if not handed:
            return
        try:
            if not self._session:
                raise no_connection()
            raws = [raw for _, _, raw in handed]
            await self._relay.hand_over(self._principal, self._session, raws, settle=settle)
        except HubError as error:
            for number, frame, _ in handed:
                self._refuse(number, error, getattr(frame, "id", None))

    def _acted(self) -> None:
        """Whoever does something is not idle. As far as this node knows the connection."""
        found = self._gateway.connections.of_session(self._session) if self._session else None
        if found is not None and found.principal is not None:
            who = found.principal
            if (who.org, who.user) == (self._principal.org, self._principal.user):
                found.acted()

    def _tell(self, number: int, frame: ServerFrame) -> None:
        self._answers[number] = msgspec.Raw(encoded(frame))

    def _refuse(self, number: int, error: HubError, frame_id: Any) -> None:
        self._gateway.metrics.error(error.code)
        self._gateway.cohorts.failed(self._asked.get(number), error.code)
        self._tell(number, error_frame(error, frame_id=frame_id))


def _is_of_connection(frame: ClientFrame) -> bool:
    if isinstance(frame, Call):
        return frame.method in PRESENCE_METHODS
    return not isinstance(frame, Publish | Ping | Hello)


def frames_route(gateway: Gateway) -> Any:
    """The route, which counts the calls that are under way."""
    calls: Counter[str] = Counter()  # bounded by the requests that are under way
    relay = Relay(gateway)

    @post(
        "/v1/frames",
        status_code=200,
        summary="Send frames without a socket",
        operation_class=FramesOperation,
        responses=problem_responses(400, 401, 413, 415, 503),
    )
    async def frames(request: HubRequest) -> Response[bytes]:
        """Publishes and calls are performed and answered here. Subscriptions, acknowledgements, fresh tokens and
        presence belong to the connection that the session names; what comes of them comes over it."""
        content_type = media_type(request)
        if content_type and not is_json(content_type):
            raise refused_type(content_type, "send application/json")
        session, raws = _frames_in(await read_body(request), request.query_params.get("session"))
        most = gateway.settings.max_frames_per_request
        if len(raws) > most:
            raise bad_request(f"at most {most} frames in one request; send the others in another")
        answers = await _Request(gateway, relay, request.user, session, calls).perform(raws)
        body = encoded({"frames": answers})
        return Response(body, media_type=MediaType.JSON, headers={"Cache-Control": "no-store"})

    return frames


def _frames_in(body: bytes, session: str | None) -> tuple[str | None, list[msgspec.Raw]]:
    """A list of frames, an object with such a list, or one frame."""
    if body.lstrip(b" \t\r\n").startswith(b"["):
        return session, decode_json(body, _list)
    found = decode_json(body, _body)
    if found.frames is UNSET:
        return found.session or session, [msgspec.Raw(body)]
    return found.session or session, found.frames
