"""Where the commands enter the hub itself, and the socket that it listens on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any

from hub.config import Settings
from hub.errors import ConfigError

BACKLOG = 4096  # a node that comes back is called by everybody at once; the kernel cuts this to its own limit


def listen(settings: Settings) -> socket.socket:
    """The hub's listening socket. Raises ``ConfigError`` when the address cannot be had."""
    return listen_on(settings.host, settings.port, "PORT or HUB_HOST")


def listen_on(host: str, port: int, knobs: str) -> socket.socket:
    """A listening socket. Raises ``ConfigError`` when the address cannot be had; ``knobs`` choose another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port} ({error.strerror or error}); set {knobs}") from error


def run_hub(
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[], None] | None = None,
    chore: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serves on ``listener`` until SIGTERM or SIGINT, drains, returns. ``ready`` is called when the hub is ready.

    ``chore`` runs beside it, in the same thread, and is cancelled when the hub has stopped.
    ``hub.serving`` is imported late, because it loads everything.
    """
    from hub.serving import run

    run(settings, listener, ready, chore)


def address_of(listener: socket.socket) -> str:
    """``host:port`` as a client on this machine writes it."""
    host, port = listener.getsockname()[:2]
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{local}:{port}"
