"""Redis and PostgreSQL together, as `hub dev` and the tests want them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Self

from hub.embedded.folder import DataFolder
from hub.embedded.postgres_server import PostgresServer
from hub.embedded.redis_server import RedisServer


class EmbeddedServers:
    """Both servers over one data folder. As a context manager they run inside the block; use it in the main thread."""

    def __init__(self, folder: Path | None, *, redis_port: int | None = None) -> None:
        """``folder`` None: temporary, nothing is kept. Raises ``ConfigError`` when another hub uses the folder."""
        self._folder = DataFolder(folder)
        temporary = self._folder.temporary
        sockets = self._folder.sockets
        self.redis = RedisServer(self.path / "redis", port=redis_port, append_only=not temporary, sockets=sockets)
        self.postgres = PostgresServer(self.path / "postgres", durable=not temporary, sockets=sockets)

    @property
    def path(self) -> Path:
        """The data folder."""
        return self._folder.path

    def start(self) -> None:
        """Starts both at the same time and waits until both answer. On failure neither is left running."""
        try:
            self.postgres.launch()
            self.redis.launch()
            self.redis.wait()
            self.postgres.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops both and gives the folder back; this object is used up."""
        with contextlib.ExitStack() as steps:
            steps.callback(self._folder.close)
            steps.callback(self.postgres.stop)
            steps.callback(self.redis.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
