"""``hub serve``: the hub for production, in this process or in several workers on one socket."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub.cli.failure import reported

if TYPE_CHECKING:
    from hub.config import Settings

# Beyond the drain: sessions are stored, the pools closed.
STOP_MARGIN_S = 10.0

_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


@reported
def serve(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else HUB_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; else PORT.")] = None,
) -> None:
    """Serve. Settings come from the environment (docs/configuration.md); SIGTERM drains and ends."""
    from hub.cli.entry import listen, run_hub
    from hub.cli.environment import server_settings

    settings = server_settings(**given(host=host, port=port))
    with listen(settings) as listener:
        if workers == 1:
            run_hub(settings, listener)
        else:
            raise typer.Exit(supervise(settings, listener, workers))


@reported
def serve_worker(
    fd: Annotated[int, typer.Option(help="The listening socket.")],
    parent: Annotated[int, typer.Option(help="Process id of the supervisor.")],
) -> None:
    """One worker of `hub serve`."""
    from hub.cli.entry import run_hub
    from hub.cli.environment import server_settings
    from hub.cli.supervisor import die_with_parent

    die_with_parent(parent)
    settings = server_settings()
    with socket.socket(fileno=fd) as listener:
        run_hub(settings, listener)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def supervise(settings: Settings, listener: socket.socket, workers: int) -> int:
    """Runs ``workers`` processes on ``listener``; returns the exit code."""
    import asyncio

    from prometheus_client.multiprocess import mark_process_dead

    from hub.cli.environment import server_environ
    from hub.cli.supervisor import Supervisor

    own_metrics = None if os.environ.get(_MULTIPROCESS) else tempfile.mkdtemp(prefix="hub-metrics-")
    metrics = own_metrics or os.environ[_MULTIPROCESS]
    fd = listener.fileno()
    supervisor = Supervisor(
        (sys.executable, "-m", "hub.cli", "serve-worker", "--fd", str(fd), "--parent", str(os.getpid())),
        workers,
        fd=fd,
        environ={**server_environ(), "HUB_HOST": settings.host, "PORT": str(settings.port), _MULTIPROCESS: metrics},
        stop_s=settings.drain_window_s + settings.drain_grace_s + settings.drain_answers_s + STOP_MARGIN_S,
    )
    # Else the gauges of the dead would be counted with those of the living.
    supervisor.on_exit = lambda pid: mark_process_dead(pid, metrics)  # type: ignore[no-untyped-call]
    try:
        return asyncio.run(supervisor.run())
    finally:
        if own_metrics is not None:
            shutil.rmtree(own_metrics, ignore_errors=True)
