"""The verdict on uploads: rows, events, contents and the store, held against the files and what their owners wanted."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from hub.embedded import RedisServer
from hub.orgs import OrgId
from hub.topics.topic import Topic
from tests.support.servers import client
from tests.system.chat_world import ORG
from tests.system.upload_journey import Fate, Upload
from tests.system.upload_world import UploadWorld

Rows = Mapping[str, Mapping[str, Any]]
Told = Mapping[str, Counter[str]]
"""By upload: how often an event of that name was published."""

_STATES: dict[Fate, str] = {
    "finished": "available",
    "cancelled": "cancelled",
    "abandoned": "expired",
    "lied": "rejected",
}
_EVENTS: dict[str, dict[str, int]] = {
    "available": {"created": 1, "completed": 1},
    "cancelled": {"created": 1, "cancelled": 1},
    "expired": {"created": 1, "cancelled": 1},
    "rejected": {"created": 1, "failed": 1},
}


async def read_rows(world: UploadWorld) -> Rows:
    """Everything that the database has, by id."""
    async with world.database.connect("postgres") as link:
        rows = await link.fetch("SELECT * FROM hub.uploads WHERE org = $1", ORG)
    return {row["id"]: dict(row) for row in rows}


def read_told(redis: RedisServer, rows: Rows) -> tuple[Told, Counter[str]]:
    """What Redis keeps of the topics of uploads, and how often each upload was told to the guest service."""
    with client(redis) as link:

        def events(kind: str, key: str) -> list[Any]:
            entries = link.xrange(Topic(OrgId.from_claim(ORG), kind, key).names.history)
            return [json.loads(fields["body"]) for _, fields in entries]

        told = {name: Counter(event["name"] for event in events("upload", name)) for name in rows}
        documents = Counter(event["data"]["upload"] for event in events("events", "guest"))
    return told, documents


def of_states(uploads: Sequence[Upload], rows: Rows) -> list[str]:
    """What differs between what their owners wanted and what the database says."""
    faults = []
    ours = {upload.upload: upload for upload in uploads}
    for upload in uploads:
        row = rows.get(upload.upload)
        if row is None:
            faults.append(f"{upload.filename}: there is no upload {upload.upload!r}")
            continue
        state = _STATES[upload.fate]
        if row["state"] != state:
            faults.append(f"{upload.filename} {upload.upload}: {row['state']} {row['error_code']}, should be {state}")
        elif state == "available" and (row["sha256"] != upload.sha256 or row["received"] != len(upload.content)):
            faults.append(f"{upload.filename} {upload.upload}: stored as {row['received']} bytes, {row['sha256']}")
    begun = Counter(row["filename"] for row in rows.values())
    for upload in uploads:
        # The answer to a POST may be lost, and that upload with it; create over the socket has a key.
        most = upload.deeds["tus: POST"] + min(1, upload.deeds["create"])
        if begun[upload.filename] > most:
            faults.append(f"{upload.filename}: is there {begun[upload.filename]} times, of {most} attempts")
    for name, row in rows.items():
        if name not in ours and row["state"] != "expired":
            faults.append(f"{row['filename']} {name}: nobody knows of it, and it is {row['state']}")
    return faults


def of_events(rows: Rows, told: Told, documents: Counter[str]) -> list[str]:
    """Everything was told, and nothing twice."""
    faults = []
    for name, row in rows.items():
        events = dict(told.get(name, {}))
        if events != _EVENTS.get(row["state"]):
            faults.append(f"{row['filename']} {name}: {row['state']}, and was told {events}")
        if documents[name] != (row["state"] == "available"):
            faults.append(f"{row['filename']} {name}: {row['state']}, document.uploaded {documents[name]} times")
    return faults


def of_store(uploads: Sequence[Upload], world: UploadWorld) -> list[str]:
    """The contents of finished uploads are there, and nothing else."""
    faults = []
    files = world.stored()
    wanted = {upload.upload: upload for upload in uploads if upload.fate == "finished"}
    for name in files.keys() | wanted.keys():
        found = files.get(name, [])
        if name not in wanted:
            faults.append(f"{name}: left in the store: {[path.name for path in found]}")
        elif [path.name for path in found] != ["content"]:
            faults.append(f"{wanted[name].filename} {name}: in the store are {[path.name for path in found]}")
        elif difference := _difference(found[0].read_bytes(), wanted[name].content):
            faults.append(f"{wanted[name].filename} {name}: {difference}; {wanted[name].story}")
    return faults


def _difference(stored: bytes, content: bytes) -> str:
    """Where they begin to differ."""
    if stored == content:
        return ""
    first = next((n for n, (one, other) in enumerate(zip(stored, content, strict=False)) if one != other), len(stored))
    return f"{len(stored)} bytes are stored for {len(content)}; from {first} on: {stored[first : first + 20]!r}"


async def of_contents(uploads: Sequence[Upload], address: str, token: str) -> list[str]:
    """Whoever asks for what is finished gets the file, and of everything else nothing."""
    faults = []
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=20) as http:
        for upload in uploads:
            answer = await http.get(f"/v1/uploads/{upload.upload}/content")
            if upload.fate != "finished":
                if answer.status_code not in (404, 409, 410):
                    faults.append(f"{upload.filename}: {upload.fate}, and is served with {answer.status_code}")
            elif answer.status_code != 200 or hashlib.sha256(answer.content).hexdigest() != upload.sha256:
                faults.append(f"{upload.filename}: served with {answer.status_code}, {len(answer.content)} bytes")
    return faults
