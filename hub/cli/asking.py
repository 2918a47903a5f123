"""How commands ask a running hub over HTTP: its address, a token, one request, and what a refusal says."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import typer

from hub.cli.environment import URL_VARIABLE, default_url, mint
from hub.cli.failure import fail

HTTP_TIMEOUT_S = 10.0


def hub_url(given: str) -> str:
    """The hub's WebSocket: what was given, else the hub on this machine."""
    url = given or default_url()
    if urlsplit(url).scheme not in ("ws", "wss") or not urlsplit(url).netloc:
        raise typer.BadParameter(f"{url!r} is no WebSocket address; write ws://host:port/ws ({URL_VARIABLE})")
    return url


def http_address(url: str, path: str) -> str:
    """The HTTP address beside a WebSocket's."""
    parts = urlsplit(url)
    return urlunsplit(("https" if parts.scheme in ("wss", "https") else "http", parts.netloc, path, "", ""))


def operator_token(given: str, scope: str, org: str = "acme") -> str:
    """The token given, else one that is made for this with the secret of ``hub dev``."""
    return given or mint(org, "cli", scope=scope, ttl_s=60)


def ask(method: str, path: str, url: str, token: str, **how: Any) -> Any:
    """The JSON of the answer, None where it has no content. Ends the command when there is no hub, or it refuses."""
    import httpx

    address = http_address(hub_url(url), path)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx.request(method, address, headers=headers, timeout=HTTP_TIMEOUT_S, **how)
    except httpx.HTTPError as error:
        fail(f"no hub answers at {address} ({error}); start one, or give --url or {URL_VARIABLE}")
    if answer.is_error:
        fail(f"{answer.status_code} {_problem(answer)}")
    try:
        return answer.json() if answer.content else None
    except ValueError:
        fail(f"what answers at {address} is no hub; give --url or {URL_VARIABLE}")


def _problem(answer: Any) -> str:
    """What a problem+json says; else nothing but the reason of the status."""
    try:
        problem = answer.json()
        return str(problem.get("detail") or problem.get("title") or answer.reason_phrase)
    except (ValueError, AttributeError):
        return str(answer.reason_phrase)
