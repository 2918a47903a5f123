"""A headless Chromium over the DevTools protocol: start one, open a page, call methods, hear events.

Speaks over two pipes, so there is no port, and no browser is left behind when the tests are killed.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "msedge")
HOW_TO_INSTALL = f"browser tests need one of {', '.join(NAMES)} on PATH (Debian: apt-get install chromium)"

_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-popup-blocking",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    # Frames of any origin stay in the page's process, where its hooks reach them.
    "--disable-features=IsolateOrigins,IsolateSandboxedIframes,Translate",
    "--disable-site-isolation-trials",
    # Nothing leaves this machine, whatever a payload tries.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_ANSWER_S = 60
_LEAVE_S = 5
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

Params = dict[str, Any]
Listener = Callable[[Params], None]


class DevToolsError(Exception):
    """The browser refused a call, did not answer in time, or is gone."""


def find_chromium() -> str | None:
    """The path of the first installed one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A running browser. ``call`` and ``on`` without a session are about the browser itself."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Params]] = {}
        self._listeners: dict[tuple[str | None, str], list[Listener]] = {}

    def on(self, event: str, listener: Listener, session: str | None = None) -> None:
        """``listener`` gets the parameters of every such event."""
        self._listeners.setdefault((session, event), []).append(listener)

    def send(self, method: str, params: Params | None = None, session: str | None = None) -> int:
        """Calls a method and does not wait. Returns the call's number."""
        number = next(self._ids)
        message: Params = {"id": number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        return number

    async def call(self, method: str, params: Params | None = None, session: str | None = None) -> Params:
        """Calls a method and returns its result. Raises DevToolsError."""
        answer = asyncio.get_running_loop().create_future()
        number = self.send(method, params, session)
        self._waiting[number] = answer
        try:
            return await asyncio.wait_for(answer, _ANSWER_S)
        except TimeoutError:
            raise DevToolsError(f"{method}: no answer within {_ANSWER_S} s") from None
        finally:
            del self._waiting[number]

    async def page(self) -> Page:
        """A new, empty page."""
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        return Page(self, attached["sessionId"], target["targetId"])

    async def listen(self) -> None:
        """Takes what the browser says until it ends."""
        assert self._process.stdout is not None
        with suppress(asyncio.IncompleteReadError):
            while True:
                self._take(json.loads((await self._process.stdout.readuntil(b"\0"))[:-1]))
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(DevToolsError("the browser has ended"))

    def _take(self, message: Params) -> None:
        if "id" not in message:
            for listener in self._listeners.get((message.get("sessionId"), message["method"]), ()):
                listener(message["params"])
            return
        answer = self._waiting.get(message["id"])
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(DevToolsError(message["error"]["message"]))
        else:
            answer.set_result(message["result"])


class Page:
    """One page. After ``open`` none of its requests leaves the browser: what it names is answered, the rest refused."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self.browser = browser
        self.target = target
        self._session = session
        self._served: dict[str, tuple[str, str]] = {}
        self._loaded: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.on("Fetch.requestPaused", self._answer)
        self.on("Page.lifecycleEvent", self._lives)

    def on(self, event: str, listener: Listener) -> None:
        self.browser.on(event, listener, self._session)

    async def call(self, method: str, params: Params | None = None) -> Params:
        return await self.browser.call(method, params, self._session)

    def send(self, method: str, params: Params | None = None) -> None:
        self.browser.send(method, params, self._session)

    async def open(self, url: str, served: dict[str, tuple[str, str]]) -> None:
        """Goes to ``url``, one of ``served``: addresses with media type and body."""
        self._served = served
        await self.call("Fetch.enable")
        await self.visit(url)

    async def visit(self, url: str) -> None:
        """Goes to ``url``; without ``open`` before, to whoever answers there on 127.0.0.1."""
        for domain in ("Page", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call("Page.setLifecycleEventsEnabled", {"enabled": True})
        # The page that is left may still tell of itself.
        document = (await self.call("Page.navigate", {"url": url}))["loaderId"]
        await asyncio.wait_for(self._loaded[document].wait(), _ANSWER_S)

    async def run(self, function: str, *arguments: object) -> Any:
        """Calls a JavaScript function with JSON arguments; waits for what it promises. Raises DevToolsError."""
        window = await self.call("Runtime.evaluate", {"expression": "globalThis\n//# sourceURL=run"})
        result = await self.call(
            "Runtime.callFunctionOn",
            {
                "functionDeclaration": f"{function}\n//# sourceURL=run\n",
                "objectId": window["result"]["objectId"],
                "arguments": [{"value": argument} for argument in arguments],
                "awaitPromise": True,
                "returnByValue": True,
            },
        )
        if "exceptionDetails" in result:
            raise DevToolsError(result["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return result["result"].get("value")

    async def close(self) -> None:
        await self.browser.call("Target.closeTarget", {"targetId": self.target})

    def _lives(self, event: Params) -> None:
        if event["name"] == "load":
            self._loaded[event["loaderId"]].set()

    def _answer(self, paused: Params) -> None:
        served = self._served.get(paused["request"]["url"])
        if served is None:
            answer = {"requestId": paused["requestId"], "errorReason": "BlockedByClient"}
            self.send("Fetch.failRequest", answer)
            return
        media_type, body = served
        answer = {
            "requestId": paused["requestId"],
            "responseCode": 200,
            "responseHeaders": [{"name": "Content-Type", "value": f"{media_type}; charset=utf-8"}],
            "body": base64.b64encode(body.encode()).decode(),
        }
        self.send("Fetch.fulfillRequest", answer)


@asynccontextmanager
async def running_chromium(binary: str) -> AsyncIterator[Chromium]:
    """Starts the browser with a profile of its own and ends it, with all its processes."""
    with tempfile.TemporaryDirectory(prefix="hub-chromium-", ignore_cleanup_errors=True) as folder:
        # Chromium may not sandbox itself as root. It expects the pipes as descriptors 3 and 4.
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        errors = Path(folder) / "stderr"
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                'exec "$@" 3<&0 4>&1 </dev/null >/dev/null',
                "chromium",
                binary,
                *_FLAGS,
                *root,
                f"--user-data-dir={folder}/profile",
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                limit=_MAX_MESSAGE_BYTES,
            )
        browser = Chromium(process)
        listening = asyncio.create_task(browser.listen())
        try:
            try:
                await browser.call("Browser.getVersion")
            except DevToolsError as error:
                raise DevToolsError(f"{binary}: {error}; it said:\n{errors.read_text()[-2000:]}") from None
            yield browser
        finally:
            await _leave(browser, process)
            await listening


async def _leave(browser: Chromium, process: Process) -> None:
    with suppress(DevToolsError, ConnectionError):
        browser.send("Browser.close")
    try:
        await asyncio.wait_for(process.wait(), _LEAVE_S)
    except TimeoutError:
        process.kill()
        await process.wait()
