"""What clients ask for: params of the methods, checked and with their defaults. No I/O."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from hub.api import bad_request
from services.content.kinds import stream_name
from services.content.pipeline import Speed, Unit, one_of

T = TypeVar("T")

PAGE = 50


class Start(Struct, frozen=True):
    """``content.start``."""

    content: str
    content_type: str | None = None
    chunk_by: str = Unit.AUTO
    speed: str = Speed.NORMAL
    stream: str | None = None

    @property
    def unit(self) -> Unit:
        """What to cut into. Raises ``bad_request``."""
        return one_of(Unit, self.chunk_by, "'chunk_by'")


class OneStream(Struct, frozen=True):
    """``content.pause``, ``resume``, ``cancel``, ``get``."""

    stream: str


class ChangeSpeed(Struct, frozen=True):
    """``content.speed``."""

    stream: str
    speed: str


class Replay(Struct, frozen=True):
    """``content.replay``."""

    stream: str
    speed: str = Speed.NORMAL
    chunk_by: str = Unit.AUTO


class ListStreams(Struct, frozen=True):
    """``content.list``: one's own streams, the newest first; ``before``: the ``next`` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=200)] = PAGE
    before: str | None = None


def asked(kind: type[T], params: dict[str, Any], method: str) -> T:
    """``params`` as ``kind``; unknown fields are ignored. Raises ``bad_request`` that names the field."""
    try:
        wanted = msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{method}: {error}") from error
    for field in ("stream", "before"):
        name = getattr(wanted, field, None)
        if name is not None:
            stream_name(name, field)
    return wanted


def speed_of(value: str) -> Speed:
    """The speed of that name. Raises ``bad_request`` that says which there are."""
    return one_of(Speed, value, "'speed'")
