"""Uploads on a scripted hub: handles, credit and checks over bytes in memory, and every way to hurt them."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.client.scripted_hub import Frame, Peer, ScriptedHub

Data = dict[str, Any]


class Refused(Exception):
    """An ``error``."""

    def __init__(self, code: str, message: str = "no", retry: str = "never", **more: Any) -> None:
        super().__init__(code)
        self.body = {"code": code, "message": message, "retry": retry, **more}


@dataclass
class Document:
    """One upload. ``content``: what is acknowledged; ``taken``: what came behind it."""

    id: str
    params: Data
    content: bytearray = field(default_factory=bytearray)
    taken: bytearray = field(default_factory=bytearray)
    state: str = "receiving"
    paused: bool = False
    error: Data | None = None
    sha256: str | None = None
    writer: tuple[Peer, int] | None = None
    edge: int = 0
    astray: bool = False

    @property
    def accepted(self) -> int:
        return len(self.content) + len(self.taken)

    def shape(self) -> Data:
        return {
            "upload": self.id, "topic": f"upload:{self.id}", "state": self.state, "filename": self.params["filename"],
            "document_type": self.params["document_type"], "size": self.params["size"], "offset": len(self.content),
            "paused": self.paused, "metadata": self.params["metadata"], "shares": self.params.get("shares", []),
            "owner": "u1", "owner_name": "", "sha256": self.sha256, "media_type": "text/csv", "facts": None,
            "error": self.error, "created_at": 1, "expires_at": None, "finished_at": None, "invented_later": 1,
        }  # fmt: skip


class ScriptedUploads:
    """``faults`` are asked at every chunk; ``refuse`` maps a method to what its next calls are refused with."""

    def __init__(self, hub: ScriptedHub) -> None:
        self.hub = hub
        self.documents: dict[str, Document] = {}
        self.window = 8192
        self.chunk_bytes = 1024
        self.ack_every = 2048
        self.calls: list[tuple[str, Data]] = []
        self.chunks: list[tuple[str, int]] = []
        self.wrongs: list[str] = []
        """What a client must not do."""
        self.refuse: dict[str, list[Refused]] = {}
        self.lose: list[str] = []
        """Methods whose next answer is lost with its connection."""
        self.faults: Callable[[Peer, Document, Data], Awaitable[bool]] | None = None
        """True: the chunk is lost."""
        self.verdict: Data | None = None
        """The error that what has arrived is rejected with; None: it becomes available."""
        self.sums = False
        """Whether a document has its sum."""
        self.tells = True
        """Whether the topic says how it ended."""
        self._handles: dict[tuple[Peer, int], Document] = {}
        self._numbers: dict[Peer, int] = {}
        hub.script = self._script

    def called(self, method: str) -> list[Data]:
        return [params for name, params in self.calls if name == method]

    @property
    def only(self) -> Document:
        (document,) = self.documents.values()
        return document

    async def close(self, document: Document, code: str, message: str = "closed", **more: Any) -> None:
        """The hub closes the handle; what it has taken is acknowledged first."""
        self._acknowledge(document)
        writer, document.writer = document.writer, None
        if writer is not None:
            del self._handles[writer]
            details = {"handle": writer[1], "offset": len(document.content), **more}
            await writer[0].send(
                {"type": "error", "code": code, "message": message, "retry": "later", "details": details}
            )

    async def credit(self, document: Document) -> None:
        if document.writer is not None:
            peer, handle = document.writer
            offset = len(document.content)
            document.edge = max(document.edge, offset + self.window)
            frame = {"type": "credit", "handle": handle, "offset": offset, "window": document.edge - offset}
            await peer.send(frame)

    async def ephemeral(self, topic: str, data: Any) -> None:
        frame = {"type": "event", "topic": topic, "id": "x", "name": "progress", "ts": 1, "data": data}
        for peer in self.hub.peers:
            if topic in peer.live and not peer.gone.is_set():
                await peer.send(frame)

    # --- the protocol

    async def _script(self, peer: Peer, frame: Frame) -> bool:
        if frame["type"] == "chunk":
            await self._chunk(peer, frame)
            return True
        if frame["type"] != "call" or not frame["method"].startswith("upload."):
            return False
        method, params = frame["method"], frame["params"]
        self.calls.append((method, params))
        try:
            if self.refuse.get(method):
                raise self.refuse[method].pop(0)
            result = await getattr(self, "_" + method.removeprefix("upload."))(peer, params)
        except Refused as refused:
            await peer.send({"type": "error", "id": frame["id"], **refused.body})
            return True
        if method in self.lose:
            self.lose.remove(method)
            peer.drop()
            return True
        await peer.send({"type": "reply", "id": frame["id"], "result": result})
        return True

    async def _create(self, peer: Peer, params: Data) -> Data:
        for document in self.documents.values():
            if document.params["key"] == params["key"]:
                if document.state != "receiving":
                    details = {"state": document.state, "upload": document.id}
                    raise Refused("conflict", "it has ended", details=details)
                break
        else:
            document = Document(f"up{len(self.documents)}", params)
            self.documents[document.id] = document
        return await self._open(peer, document)

    async def _resume(self, peer: Peer, params: Data) -> Data:
        return await self._open(peer, self._get(params))

    async def _open(self, peer: Peer, document: Document) -> Data:
        self._check_receiving(document)
        await self.close(document, "conflict", "another connection has gone on with this upload")
        document.paused = document.astray = False
        number = self._numbers[peer] = self._numbers.get(peer, 0) + 1
        document.writer = (peer, number)
        self._handles[document.writer] = document
        document.edge = len(document.content) + self.window
        return {
            "upload": document.id, "topic": f"upload:{document.id}", "handle": number,
            "offset": len(document.content), "chunk_bytes": self.chunk_bytes, "window": self.window,
            "expires_in_ms": 1000, "size": document.params["size"],
        }  # fmt: skip

    async def _pause(self, _: Peer, params: Data) -> Data:
        document = self._get(params)
        self._check_receiving(document)
        await self.close(document, "conflict", "the upload was paused", state="paused")
        document.paused = True
        return document.shape()

    async def _cancel(self, _: Peer, params: Data) -> Data:
        document = self._get(params)
        self._check_receiving(document)
        document.state = "cancelled"
        await self.close(document, "conflict", "the upload is cancelled", state="cancelled")
        return document.shape()

    async def _status(self, _: Peer, params: Data) -> Data:
        return self._get(params).shape()

    def _get(self, params: Data) -> Document:
        document = self.documents.get(params["upload"])
        if document is None:
            raise Refused("not_found", "no such upload")
        return document

    def _check_receiving(self, document: Document) -> None:
        if document.state != "receiving":
            raise Refused("conflict", f"the upload is {document.state}", details={"state": document.state})

    async def _chunk(self, peer: Peer, frame: Frame) -> None:
        offset, data = frame["offset"], frame["data"]
        document = self._handles.get((peer, frame["handle"]))
        if document is None or document.writer is None:
            return  # was under way when it was closed
        self.chunks.append((document.id, len(data)))
        if len(data) > self.chunk_bytes or not data:
            self.wrongs.append(f"a chunk of {len(data)} bytes")
        if self.faults is not None and await self.faults(peer, document, frame):
            return
        if document.writer != (peer, frame["handle"]):
            return
        if offset != document.accepted:
            if not document.astray:
                document.astray = True
                details = {"handle": frame["handle"], "offset": document.accepted}
                error = {"code": "offset_mismatch", "message": "elsewhere", "retry": "now", "details": details}
                await peer.send({"type": "error", **error})
            return
        if offset + len(data) > document.edge:
            self.wrongs.append(f"{offset + len(data)} beyond {document.edge}")
        document.astray = False
        document.taken += data
        if len(document.taken) >= self.ack_every or document.accepted == document.params["size"]:
            await self._acknowledged(document)

    async def _acknowledged(self, document: Document) -> None:
        self._acknowledge(document)
        await self.credit(document)
        if len(document.content) == document.params["size"]:
            await self.settle(document)

    def _acknowledge(self, document: Document) -> None:
        document.content += document.taken
        document.taken.clear()

    async def settle(self, document: Document) -> None:
        """All bytes are there: checked at once."""
        document.writer = None
        document.state = "available" if self.verdict is None else "rejected"
        document.error = self.verdict
        document.sha256 = hashlib.sha256(document.content).hexdigest() if self.sums else None
        if self.tells:
            name = "completed" if self.verdict is None else "failed"
            await self.hub.publish(f"upload:{document.id}", document.shape(), name=name)
