"""The load generators in C: compiled on first use, started with what a row wants, their JSON read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from loadtest.machine import prefer

FOLDER = Path(__file__).parent
_MARGIN_S = 30.0

Figures = dict[str, Any]


class NoCompiler(Exception):
    """There is no C compiler, and so no generator that keeps up."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the compiled programs are."""

    wsload: Path
    paced: Path
    upload: Path
    httpload: Path


def compile_programs(folder: Path) -> Programs:
    """Compiles them into ``folder``. Raises ``NoCompiler``."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler (cc, gcc, clang) on PATH: install one, e.g. apt-get install gcc libc6-dev")
    programs = Programs(*(folder / name for name in Programs.__slots__))
    for name in Programs.__slots__:
        subprocess.run([compiler, "-O2", "-o", folder / name, FOLDER / f"{name}.c"], check=True)
    return programs


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """What the clients of one run say. ``headers`` and ``hellos``: one per connection, begun anew when they run out."""

    port: int
    path: str = "/ws"
    headers: Sequence[str] = ()
    hellos: Sequence[str] = ()
    hexadecimal: bool = False
    welcome: str = '"type":"welcome"'


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpClients:
    """What clients without a socket ask: ``first``, and (polls) ``next`` again and again.

    In both ~~~~~ stands for the connection's number; in ``next`` CURSOR for what the answer before has as its cursor.
    """

    way: Literal["poll", "sse"]
    port: int
    first: str
    next: str = ""
    headers: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is written to a server again and again: see paced.c for what is replaced in ``message``."""

    to: str
    message: bytes
    preamble: bytes = b""
    answer: str = ""


@dataclass(slots=True)
class Generator:
    """A running generator. ``phase`` waits for its next line."""

    process: subprocess.Popen[str]
    folder: tempfile.TemporaryDirectory[str] = field(repr=False)

    def phase(self) -> Figures:
        """The next JSON line. Raises ``RuntimeError`` when the generator has ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the generator ended with status {self.process.wait()}")
        figures: Figures = json.loads(line)
        return figures

    def finish(self) -> Figures:
        """Asks it to end now; its last line."""
        self.process.terminate()
        return self.phase()

    def end(self) -> None:
        """Ends it, done or not."""
        self.process.terminate()
        self.process.wait(_MARGIN_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def connect(programs: Programs, clients: Clients, **options: Any) -> Generator:
    """Starts clients; ``options`` are those of wsload.c (``connections=5, warmup=1``).

    It says three lines: open, measuring, done.
    """
    folder = tempfile.TemporaryDirectory(prefix="hub-load-")
    command = [str(programs.wsload), "--port", str(clients.port), "--path", clients.path, "--welcome", clients.welcome]
    for option, lines in (("header", clients.headers), ("hello", clients.hellos)):
        if lines:
            path = Path(folder.name) / option
            path.write_text("\n".join(lines))
            command += [f"--{option}", f"@{path}"]
    if clients.hexadecimal:
        command.append("--hex")
    return _start([*command, *flags(options)], folder)


def ask(programs: Programs, clients: HttpClients, **options: Any) -> Generator:
    """Starts clients without a socket; ``options`` are those of httpload.c. It says the same three lines."""
    folder = tempfile.TemporaryDirectory(prefix="hub-load-")
    command = [str(programs.httpload), "--way", clients.way, "--port", str(clients.port), "--first", clients.first]
    if clients.next:
        command += ["--next", clients.next]
    if clients.headers:
        path = Path(folder.name) / "header"
        path.write_text("\n".join(clients.headers))
        command += ["--header", f"@{path}"]
    return _start([*command, *flags(options)], folder)


def publish(programs: Programs, publication: Publication, **options: Any) -> Generator:
    """Starts a publisher; ``options`` are those of paced.c (``rate=100, duration=5``, ``count=9``: no longer
    than until so many are answered). It says one line at its end.
    """
    folder = tempfile.TemporaryDirectory(prefix="hub-load-")
    command = [str(programs.paced), "--to", publication.to]
    for option, data in (("message", publication.message), ("preamble", publication.preamble)):
        if data:
            path = Path(folder.name) / option
            path.write_bytes(data)
            command += [f"--{option}", str(path)]
    if publication.answer:
        command += ["--answer", publication.answer]
    # One that waits for answers needs no precedence, and would keep those from running who answer.
    return _start([*command, *flags(options)], folder, prompt=bool(options.get("rate")))


def upload(programs: Programs, way: str, port: int, size: int, **options: Any) -> Generator:
    """Starts an upload; ``options`` are those of upload.c (``seed=1``). It says one line at its end."""
    folder = tempfile.TemporaryDirectory(prefix="hub-load-")
    command = [str(programs.upload), "--way", way, "--port", str(port), "--size", str(size)]
    return _start([*command, *flags(options)], folder)


def flags(options: dict[str, Any]) -> list[str]:
    """``{"at_once": 5, "until_kth": True}`` as a command line; what is None or False is left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def _start(command: list[str], folder: tempfile.TemporaryDirectory[str], *, prompt: bool = False) -> Generator:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if prompt:
        prefer(process.pid)
    return Generator(process, folder)
