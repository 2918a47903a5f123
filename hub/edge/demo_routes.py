"""The page of ``hub dev``: files of ``web/``, for a hub that has demo organisations. It holds no secret."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any, Final

from litestar import Response, get
from litestar.params import FromPath

from hub.errors import not_found

_TYPES: Final = {".html": "text/html", ".js": "text/javascript"}
_PAGE: Final = "demo.html"
_FILES: Final = (
    *("demo.js", "demo_chat.js", "demo_flags.js", "demo_upload.js"),
    *("hub.js", "lines.js", "ladder.js", "requests.js", "subscription.js", "trial.js"),
    *("chat.js", "content.js", "upload.js", "tus.js"),
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src https:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def demo_routes() -> list[Any]:
    """``GET /demo`` and the scripts that it loads."""
    folder = _web_folder()

    def file(name: str) -> Response[bytes]:
        path = folder / name
        if not path.is_file():
            raise not_found("file")
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=_HEADERS)

    @get("/demo", include_in_schema=False, sync_to_thread=True)
    def page() -> Response[bytes]:
        """The page."""
        return file(_PAGE)

    @get("/demo/{name:str}", include_in_schema=False, sync_to_thread=True)
    def script(name: FromPath[str]) -> Response[bytes]:
        """A script of the page."""
        if name not in _FILES:
            raise not_found("file")
        return file(name)

    return [page, script]


def _web_folder() -> Path:
    """``web/`` beside the package in a checkout, else where the wheel put it."""
    checkout = Path(__file__).resolve().parents[2] / "web"
    installed = Path(sysconfig.get_path("data")) / "share" / "hub" / "web"
    return checkout if checkout.is_dir() else installed
