"""The Python client of the hub: many topics over one connection, kept alive. Needs no server library.

async with HubClient("ws://127.0.0.1:8000/ws", get_token=lambda: token) as client:
    async for event in client.subscribe("events:finance", last=10):
        print(event.seq, event.name, event.data)
"""

from hub.client.client import HubClient
from hub.client.errors import (
    ClientError,
    ConnectionLost,
    GapError,
    HubClosed,
    ProtocolViolation,
    RequestRefused,
    RequestTimeout,
    SubscriptionEnded,
)
from hub.client.options import ClientOptions
from hub.client.subscription import Subscription
from hub.client.wire import Event, Gap, Published, Verdict
from hub.protocol.frames import Position

__all__ = [
    "ClientError",
    "ClientOptions",
    "ConnectionLost",
    "Event",
    "Gap",
    "GapError",
    "HubClient",
    "HubClosed",
    "Position",
    "ProtocolViolation",
    "Published",
    "RequestRefused",
    "RequestTimeout",
    "Subscription",
    "SubscriptionEnded",
    "Verdict",
]
