"""Shows documents in a real browser and tells what they did there, other than to be seen.

Whatever a payload does, it must be compiled, and the debugger hears of everything that is compiled. Hooks, dialogs,
requests, navigations, frames and windows are listened to beside that, each on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from tests.browser.chromium import Chromium, Page, Params
from tests.markup.safety import ATTRIBUTES, TAGS

HERE = Path(__file__).parent
CONTENT_JS = HERE.parent.parent / "web" / "content.js"
_URL = "http://hub.test/"
# No icon: it would be asked for. No policy: it would hide what ran.
_PAGE = """<!doctype html><link rel="icon" href="data:,"><title>stage</title>
<style>iframe { position: absolute; inset: 0; width: 200px; height: 100px; border: 0 }</style>
<body><script type="module">import { show } from "/stage.js"; globalThis.show = show</script>"""
# In every document of every frame, before anything else.
_HOOKS = """
{
  const report = globalThis.report;
  for (const name of ["alert", "confirm", "prompt", "print", "open", "eval", "fetch", "msgbox"]) {
    globalThis[name] = () => report(`${name}()`);
  }
  Object.defineProperty(globalThis, "pwned", { set: () => report("pwned =") });
  for (const name of ["title", "cookie", "domain"]) {
    Object.defineProperty(Document.prototype, name, { set: () => report(`document.${name} =`), get: () => "" });
  }
}
//# sourceURL=hooks
"""
_OURS = {"hooks", "run", f"{_URL}stage.js", f"{_URL}content.js"}
_SHOW = "(acts, allowed) => show(acts, allowed)"
_ACTS_AT_ONCE = 200


class Stream(TypedDict):
    chunks: list[Any]
    shows: list[int]


class Act(TypedDict, total=False):
    """What one frame shows; stage.js says how."""

    documents: list[str]
    streams: list[Stream]
    page: str


class Verdict(NamedTuple):
    """Of one act."""

    did: list[str]
    """What happened that was not to happen; empty: nothing."""
    images: set[str]
    """The https images in it that it asked for; they were refused."""
    rendered: int


class Detector:
    """One page; a frame in it for each act."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._main = ""
        self._acts: dict[str, int] = {}  # by frame
        self._frames: dict[int, str] = {}  # by execution context
        self._begun = 0
        self._did: dict[int, list[str]] = {}
        self._images: dict[int, set[str]] = {}
        self.strays: list[str] = []
        """What happened outside of all acts."""

    async def start(self) -> None:
        page = self._page
        await page.call("Runtime.addBinding", {"name": "report"})
        await page.call("Page.addScriptToEvaluateOnNewDocument", {"source": _HOOKS})
        page.on("Runtime.executionContextCreated", self._context_created)
        await page.open(
            _URL,
            {
                _URL: ("text/html", _PAGE),
                f"{_URL}stage.js": ("text/javascript", (HERE / "stage.js").read_text()),
                f"{_URL}content.js": ("text/javascript", CONTENT_JS.read_text()),
            },
        )
        self._main = (await page.call("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        for domain in ("Debugger", "Network"):
            await page.call(f"{domain}.enable")
        await page.call("Debugger.setSkipAllPauses", {"skip": True})
        await page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        for event, listener in {
            "Page.frameAttached": self._frame_attached,
            "Page.frameRequestedNavigation": self._navigation,
            "Page.javascriptDialogOpening": self._dialog,
            "Network.requestWillBeSent": self._request,
            "Network.webSocketCreated": lambda event: self._note(None, f"socket to {event['url']}"),
            "Debugger.scriptParsed": self._compiled,
            "Debugger.scriptFailedToParse": self._compiled,
            "Runtime.bindingCalled": lambda event: self._note_in(event["executionContextId"], event["payload"]),
            "Runtime.consoleAPICalled": lambda event: self._note_in(event["executionContextId"], "console"),
            "Runtime.exceptionThrown": self._exception,
        }.items():
            page.on(event, listener)
        await page.browser.call("Target.setDiscoverTargets", {"discover": True})  # tells of those that are there
        page.browser.on("Target.targetCreated", self._window)

    async def show(self, acts: Sequence[Act], *, judge: bool = True) -> list[Verdict]:
        """Shows each act, then activates what is in it. ``judge``: also that only allowed nodes are in the DOM."""
        allowed = {"tags": sorted(TAGS), "attributes": sorted(ATTRIBUTES)} if judge else None
        verdicts: list[Verdict] = []
        for begin in range(0, len(acts), _ACTS_AT_ONCE):
            self._acts.clear()
            self._did.clear()
            self._images.clear()
            self._begun = 0
            results = await self._page.run(_SHOW, acts[begin : begin + _ACTS_AT_ONCE], allowed)
            for number, result in enumerate(results):
                images = self._images.get(number, set())
                unknown = [f"request of Image {url}" for url in images.difference(result["images"])]
                did = self._did.get(number, []) + unknown + result["wrong"]
                verdicts.append(Verdict(did, images, result["rendered"]))
        return verdicts

    def _note(self, frame: str | None, what: str) -> None:
        act = self._acts.get(frame or "")
        if act is None:
            self.strays.append(what)
        else:
            self._did.setdefault(act, []).append(what)

    def _note_in(self, context: int, what: str) -> None:
        self._note(self._frames.get(context), what)

    def _context_created(self, event: Params) -> None:
        context = event["context"]
        self._frames[context["id"]] = context["auxData"]["frameId"]

    def _frame_attached(self, event: Params) -> None:
        frame, parent = event["frameId"], event["parentFrameId"]
        if parent == self._main:
            self._acts[frame] = self._begun
            self._begun += 1
            return
        self._note(parent, "a frame")
        if parent in self._acts:
            self._acts[frame] = self._acts[parent]

    def _navigation(self, event: Params) -> None:
        if event["reason"] != "initialFrameNavigation":
            self._note(event["frameId"], f"navigation to {event['url']}")

    def _dialog(self, event: Params) -> None:
        self._note(event.get("frameId"), f"dialog {event['type']}")
        self._page.send("Page.handleJavaScriptDialog", {"accept": False})

    def _request(self, event: Params) -> None:
        frame, url = event.get("frameId"), event["request"]["url"]
        act = self._acts.get(frame or "")
        if act is not None and event.get("type") == "Image" and url.startswith("https://"):
            self._images.setdefault(act, set()).add(url)
        else:
            self._note(frame, f"request of {event.get('type')} {url}")

    def _compiled(self, event: Params) -> None:
        if event["url"] not in _OURS:
            self._note_in(event["executionContextId"], "a script")

    def _exception(self, event: Params) -> None:
        self._note_in(event["exceptionDetails"].get("executionContextId", 0), "an exception")

    def _window(self, event: Params) -> None:
        target = event["targetInfo"]
        if not target["url"].startswith("chrome://"):  # the browser's own
            self._note(target.get("openerFrameId"), f"a window: {target['url']}")
            self._page.browser.send("Target.closeTarget", {"targetId": target["targetId"]})


async def start_detector(browser: Chromium) -> Detector:
    """A detector on a page of its own."""
    started = Detector(await browser.page())
    await started.start()
    return started
