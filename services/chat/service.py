"""The service ``chat``: rooms in which people talk; see docs/chat.md."""

from __future__ import annotations

from hub.api import Hub, Service, Switch
from services.chat.erasing import Eraser
from services.chat.gate import Gate
from services.chat.history import HistoryPages
from services.chat.kinds import chat_kind
from services.chat.messages import Messages
from services.chat.methods import chat_methods
from services.chat.metrics import ChatMetrics
from services.chat.readers import Readers
from services.chat.receipts import Receipts
from services.chat.retention import Janitor
from services.chat.rooms import Rooms
from services.chat.typing_notices import TypingNotices


def chat(hub: Hub) -> Service:
    """Wires the parts."""
    readers = Readers(hub.database)
    gate = Gate(hub)
    metrics = ChatMetrics(hub.registry)
    eraser = Eraser(hub, metrics)
    receipts = Receipts(hub, gate)
    janitor = Janitor(hub, eraser, receipts, metrics)
    rooms = Rooms(hub, gate)
    pages = HistoryPages(hub, gate)

    async def start() -> None:
        janitor.start()

    async def stop() -> None:
        await rooms.close()
        await janitor.close()
        await receipts.close()
        await eraser.close()
        await readers.close()

    return Service(
        name="chat",
        kinds=[chat_kind(hub.settings, readers)],
        methods=chat_methods(
            rooms, Messages(hub, gate, eraser, metrics), pages, receipts, TypingNotices(hub, gate), janitor
        ),
        switches=[Switch("chat", ("chat:", "chat."))],
        start=start,
        stop=stop,
    )
