"""Carries one file to the hub: what ``hub upload`` does while it is connected. Its id on stdout, the rest on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from hub.cli.chat.clean import clean
from hub.cli.failure import FAILED, INTERRUPTED
from hub.client import HubClient, HubClosed, Upload, UploadFailed, UploadInfo, UploadProgress, UploadState
from hub.protocol.frames import TagValue

_PAUSE_S = 5.0
_STEP_PERCENT = 10
_PROBLEM_CHARACTERS = 60
_BYTES_MOVE = (UploadState.HASHING, UploadState.SENDING)
_WORDS = {UploadState.HASHING: "reading", UploadState.SENDING: "uploading"}


class Job(Struct, frozen=True):
    """What is to be uploaded, and as what. ``resume``: an upload to go on with."""

    file: Path
    resume: str | None
    document_type: str
    name: str | None
    metadata: dict[str, TagValue]
    sha256: bool
    shares: list[str]


async def carry(client: HubClient, job: Job, *, as_json: bool) -> int:
    """Until it is there. Returns the command's exit code; Ctrl-C (once) pauses the upload."""
    async with client:
        with _Bar(job.file.name) if sys.stderr.isatty() else _Lines(job.file.name) as shown:
            upload = _begin(client, job, shown)
            try:
                info = await upload
            except asyncio.CancelledError:
                return await _interrupted(upload, job, shown)
            except UploadFailed as failed:
                shown.say(f"{failed}")
                if failed.retry != "never" and failed.upload and failed.code != "wrong_file":
                    shown.say(_how_to_go_on(failed.upload, job))
                return FAILED
            except HubClosed:
                if upload.id:
                    shown.say(_how_to_go_on(upload.id, job))
                raise
            shown.say(_facts(info))
    print(msgspec.json.encode(info).decode() if as_json else info.upload)
    return 0


def _begin(client: HubClient, job: Job, shown: _Shown) -> Upload:
    if job.resume is not None:
        return client.resume_upload(job.resume, job.file, on_progress=shown.progress)
    return client.upload(
        job.file,
        document_type=job.document_type,
        filename=job.name,
        metadata=job.metadata,
        sha256=job.sha256,
        shares=job.shares,
        on_progress=shown.progress,
    )


async def _interrupted(upload: Upload, job: Job, shown: _Shown) -> int:
    """A second Ctrl-C ends the waiting, so what there is to know is said first."""
    if upload.progress.state is UploadState.CHECKING:
        asked = shlex.quote(f'{{"upload": "{upload.id}"}}')
        shown.say(f"all bytes are in the hub, which checks them; see: hub call upload.status {asked}")
        return INTERRUPTED
    if not upload.id:
        shown.say("nothing was sent yet")
        return INTERRUPTED
    shown.say(_how_to_go_on(upload.id, job))
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    told = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PAUSE_S):
            told = await upload.pause()
    if not told:
        shown.say("the hub could not be told of the pause; it keeps what it has all the same, until the upload expires")
    return INTERRUPTED


def _how_to_go_on(upload: str, job: Job) -> str:
    return f"what the hub has is kept; go on with: hub upload --resume {upload} {shlex.quote(str(job.file))}"


def _facts(info: UploadInfo) -> str:
    return f"{info.state}: {info.media_type or info.document_type}, {decimal(info.size)}, sha256 {info.sha256}"


class _Shown(Protocol):
    """What is on stderr."""

    def progress(self, now: UploadProgress) -> None:
        """Something has changed."""

    def say(self, text: str) -> None:
        """A line that stays."""


class _Lines:
    """For what is no terminal: a line for each new state, and for every tenth."""

    def __init__(self, name: str) -> None:
        self._name = clean(name)
        self._last = ""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def progress(self, now: UploadProgress) -> None:
        if now.state in (UploadState.AVAILABLE, UploadState.FAILED):
            return
        line = _WORDS.get(now.state, str(now.state)) + (f": {now.problem}" if now.problem else "")
        if now.state in _BYTES_MOVE and now.size:
            percent = 100 * now.offset // now.size // _STEP_PERCENT * _STEP_PERCENT
            line = f"{line} {percent} % of {decimal(now.size)}"
        if line != self._last and now.size:
            self._last = line
            self.say(line)

    def say(self, text: str) -> None:
        print(f"hub: {self._name}: {clean(text)}", file=sys.stderr)


class _Bar:
    """For a terminal: how far, how fast, how long still."""

    def __init__(self, name: str) -> None:
        self._name = clean(name)
        self._sending = False
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True, highlight=False),
        )
        self._task = self._bar.add_task(escape(self._name), total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def progress(self, now: UploadProgress) -> None:
        text = _WORDS.get(now.state, str(now.state)) + (f": {now.problem}" if now.problem else "")
        if now.state is UploadState.FAILED:
            text = str(now.state)
        about = escape(f"{self._name} {clean(text)[:_PROBLEM_CHARACTERS]}")
        if (now.state is UploadState.SENDING) is not self._sending:
            # What was done before, here or elsewhere, is not this attempt's speed.
            self._sending = not self._sending
            self._bar.reset(self._task, completed=now.offset, total=now.size or None, description=about)
        else:
            self._bar.update(self._task, completed=now.offset, total=now.size or None, description=about)

    def say(self, text: str) -> None:
        self._bar.console.print(Text(f"hub: {self._name}: {clean(text)}"), soft_wrap=True)
