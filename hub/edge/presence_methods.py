"""``presence.set`` and ``presence.get``: methods of the hub itself, which know the connection that calls them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from hub.edge.gateway import Gateway
from hub.errors import bad_request
from hub.nodes.presence.mirror import snapshot_fields
from hub.nodes.presence.table import Status

if TYPE_CHECKING:
    from hub.edge.connection import Connection

OwnMethod = Callable[[Gateway, "Connection", dict[str, Any]], Awaitable[Any]]


async def _set(gateway: Gateway, connection: Connection, params: dict[str, Any]) -> dict[str, Any]:
    """What this connection makes of its user, until it says otherwise."""
    try:
        status = Status(params.get("status", ""))
    except ValueError:
        raise bad_request(f"'status' must be one of {', '.join(Status)}") from None
    if not connection.gone:
        gateway.presence.say(connection.attending(), status)
        gateway.keeper.watch(connection)
        await gateway.saver.save_at_once(connection)
    return {"status": status.value}


async def _get(gateway: Gateway, connection: Connection, params: dict[str, Any]) -> dict[str, Any]:
    """Who is present in a topic that the client may subscribe to."""
    text = params.get("topic")
    if not isinstance(text, str):
        raise bad_request("'topic' must be the name of a topic")
    topic = await gateway.kinds.for_subscriber(connection.verified, text)
    if not gateway.kinds.kind_of(topic).presence:
        raise bad_request(f"nobody is told who is present in topics of the kind {topic.kind}")
    return snapshot_fields(await gateway.presence.get(topic))


PRESENCE_METHODS: Final[dict[str, OwnMethod]] = {"presence.set": _set, "presence.get": _get}
