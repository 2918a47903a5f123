"""The floor of uploads: a bare ASGI application on uvicorn that takes messages (or a body) and throws them away.

``/ws?<bytes>`` says "done" when so many have come; a request is answered when its body has. No tokens, no checks, no
store.
``python -m loadtest.reference_upload PORT``
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "websocket":
        await _messages(int(scope["query_string"]), receive, send)
    elif scope["type"] == "http":
        await _body(scope["method"], receive, send)


async def _messages(left: int, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while left > 0:
        message = await receive()
        if message["type"] != "websocket.receive":
            return
        left -= len(message["bytes"])
    await send({"type": "websocket.send", "text": "done"})


async def _body(method: str, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    status = 201 if method == "POST" else 204
    headers = [(b"location", b"/uploads/x"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body"})


if __name__ == "__main__":
    uvicorn.run(
        application,
        port=int(sys.argv[1]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="warning",
    )
