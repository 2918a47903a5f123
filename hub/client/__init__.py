"""The Python client of the hub: many topics over one connection, kept alive. Needs no server library.

async with HubClient("ws://127.0.0.1:8000/ws", get_token=lambda: token) as client:
    async for event in client.subscribe("events:finance", last=10):
        print(event.seq, event.name, event.data)
"""

from hub.client.chat import RoomView
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
    UploadFailed,
)
from hub.client.messages import Member, Message
from hub.client.options import ClientOptions
from hub.client.presence import PresenceView, Present
from hub.client.room import Change, Room
from hub.client.subscription import Subscription
from hub.client.upload import Upload
from hub.client.upload_words import UploadInfo, UploadProgress, UploadState
from hub.client.wire import Event, Gap, Published, Verdict
from hub.protocol.frames import Position

__all__ = [
    "Change",
    "ClientError",
    "ClientOptions",
    "ConnectionLost",
    "Event",
    "Gap",
    "GapError",
    "HubClient",
    "HubClosed",
    "Member",
    "Message",
    "Position",
    "PresenceView",
    "Present",
    "ProtocolViolation",
    "Published",
    "RequestRefused",
    "RequestTimeout",
    "Room",
    "RoomView",
    "Subscription",
    "SubscriptionEnded",
    "Upload",
    "UploadFailed",
    "UploadInfo",
    "UploadProgress",
    "UploadState",
    "Verdict",
]
