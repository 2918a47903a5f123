"""An S3 server of its own process (moto), with one bucket; it keeps everything in memory.

Run as a module it is that process: it prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import httpx

BUCKET = "uploads"


class S3Server:
    """Where it is, and what it has that no list of objects shows."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    @property
    def options(self) -> tuple[str, ...]:
        """HUB_UPLOADS_STORE_OPTIONS for it."""
        return (
            f"endpoint={self.address}",
            "allow_http=true",
            "region=us-east-1",
            "access_key_id=nobody",
            "secret_access_key=nothing",
        )

    def unfinished(self) -> int:
        """Contents that somebody has begun to send, and neither finished nor taken back."""
        return httpx.get(f"{self.address}/{BUCKET}?uploads", timeout=30).text.count("<Upload>")


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """One with an empty bucket."""
    command = [sys.executable, "-W", "ignore", "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        server = S3Server(int(process.stdout.readline()))
        try:
            httpx.put(f"{server.address}/{BUCKET}", timeout=30).raise_for_status()
            yield server
        finally:
            process.stdin.close()
            process.wait(60)


def _serve() -> None:
    import logging

    from moto.server import ThreadedMotoServer  # type: ignore[import-untyped]

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)  # noqa: T201
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve()
