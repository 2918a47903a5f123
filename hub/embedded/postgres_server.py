"""A real PostgreSQL as a child process, over a unix socket only.

It asks for no password (``trust``), which is safe here and nowhere else: it listens on no network address, and its
socket lies in a folder of mode 0700, so whoever can reach it could also read its files.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path
from urllib.parse import quote

from hub.embedded.binaries import PostgresBinaries, find_postgres
from hub.embedded.child import Child
from hub.embedded.home import Home
from hub.errors import ConfigError

OWNER = "hub_owner"
"""Owns the database and migrates it: no superuser, but may create roles and databases, as with managed PostgreSQL."""
SUPERUSER = "postgres"
DATABASE = "hub"

_PORT = 5432  # names the socket; nothing listens on it
_PROTOCOL_3 = 196608
_ANSWER_TIMEOUT_S = 1.0
_FIRST_BUILTIN_LOCALE = 17
_SQL = f"""CREATE ROLE {OWNER} LOGIN CREATEROLE CREATEDB
CREATE DATABASE {DATABASE} OWNER {OWNER}
"""


class PostgresServer:
    """One server in ``folder`` with the database ``hub``. ``start`` it in the main thread; it can be started again.

    ``durable`` False: no fsync; the data survives a crash of the server, but not one of the machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        options: dict[str, str] | None = None,
        sockets: Path | None = None,
    ) -> None:
        self.home = Home(folder, "postgres", sockets)
        self._options = {
            "listen_addresses": "",
            "unix_socket_permissions": "0700",
            "port": str(_PORT),
            # Nobody replicates from it, and compiling never pays for queries as short as ours.
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._binaries: PostgresBinaries | None = None
        self._child: Child | None = None
        self._initdb: Child | None = None

    def url(self, user: str = OWNER, database: str = DATABASE) -> str:
        """Address for asyncpg; known once started."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.home.sockets))}&port={_PORT}"

    @property
    def pid(self) -> int:
        """Process id of the postmaster. Raises ``RuntimeError`` when it was never started."""
        return self._require().pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._child is not None and self._child.running

    def start(self) -> None:
        """Starts it, making the database when there is none, and waits until it answers. Raises ``ConfigError``."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Begins without waiting; ``wait`` must follow, in the main thread too."""
        if self.running:
            return
        self._binaries = find_postgres(self.home.account)
        self.home.prepare()
        if self._made.exists():
            self._launch_server(self._binaries)
        else:
            self._launch_initdb(self._binaries)

    def wait(self) -> None:
        """Waits until it answers. Raises ``ConfigError`` with the end of its log when it does not."""
        if self._initdb is not None and self._binaries is not None:
            self._initdb.wait_for_end()
            self._initdb = None
            self._make_database(self._binaries)
            self._launch_server(self._binaries)
        self._require().wait_until(self._answers)

    def stop(self) -> None:
        """Stops it in order ("fast": open connections are closed); the data stays."""
        for child in (self._initdb, self._child):
            if child is not None:
                child.stop()
        self._initdb = None
        self.home.discard_sockets()

    def kill(self) -> None:
        """SIGKILL to the postmaster, as a crash would be; its backends notice and end."""
        self._require().kill()

    @property
    def _made(self) -> Path:
        """Marks a finished ``initdb``: without it what lies in the folder is the rest of an interrupted one."""
        return self.home.data / "made-by-hub"

    def _launch_initdb(self, binaries: PostgresBinaries) -> None:
        locale = ["--locale=C"]
        if binaries.major >= _FIRST_BUILTIN_LOCALE:
            locale = ["--locale-provider=builtin", "--locale=C.UTF-8"]
        with self.home.locked() as lock:
            for rest in self.home.data.iterdir():
                if rest.is_dir() and not rest.is_symlink():
                    shutil.rmtree(rest)
                else:
                    rest.unlink()
            # Nothing is lost with --no-sync: a crash of the machine before the first checkpoint means to begin anew.
            options = ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--no-sync", "--no-instructions"]
            place = ("-D", self.home.data_argument, f"--username={SUPERUSER}")
            self._initdb = Child(self.home, (binaries.initdb, *place, *options, *locale), signal.SIGTERM, lock)

    def _make_database(self, binaries: PostgresBinaries) -> None:
        with self.home.locked() as lock:
            command = (binaries.postgres, "--single", "-D", self.home.data_argument, "postgres")
            Child(self.home, command, signal.SIGTERM, lock, _SQL.encode()).wait_for_end()
        self._made.touch()

    def _launch_server(self, binaries: PostgresBinaries) -> None:
        settings = {**self._options, "unix_socket_directories": str(self.home.sockets)}
        arguments = [argument for key, value in settings.items() for argument in ("-c", f"{key}={value}")]
        with self.home.locked() as lock:
            self._forget_stale_pid()
            command: list[str | Path] = [binaries.postgres, "-D", self.home.data_argument, *arguments]
            self._child = Child(self.home, command, signal.SIGINT, lock)

    def _forget_stale_pid(self) -> None:
        """Removes the pid files of a server that was killed: its number may belong to another process by now.

        The lock is held, so none that we started is alive. One that somebody started by hand is left alone.
        """
        pid_file = self.home.data / "postmaster.pid"
        if sys.platform != "linux" or not pid_file.exists():
            return  # elsewhere nothing tells whose the number is, and PostgreSQL's own caution has to do
        pid = pid_file.read_text().split("\n", 1)[0].strip()
        try:
            by_hand = os.path.samefile(f"/proc/{int(pid)}/cwd", self.home.data)
        except (OSError, ValueError):
            by_hand = False
        if by_hand:
            raise ConfigError(
                f"a PostgreSQL not started by the hub (pid {pid}) runs in {self.home.data}; stop it first"
            )
        pid_file.unlink()
        (self.home.sockets / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _require(self) -> Child:
        if self._child is None:
            raise RuntimeError("postgres has not been started")
        return self._child

    def _answers(self) -> bool:
        """Whether it lets the owner in to the database: the only question that no other state answers with yes."""
        words = f"user\0{OWNER}\0database\0{DATABASE}\0\0".encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(_ANSWER_TIMEOUT_S)
                link.connect(str(self.home.sockets / f".s.PGSQL.{_PORT}"))
                link.sendall(struct.pack("!ii", 8 + len(words), _PROTOCOL_3) + words)
                admitted = link.recv(1) == b"R"
                link.sendall(b"X\0\0\0\4")
                return admitted
        except OSError:
            return False
