"""Documents that are available."""

from __future__ import annotations

from tests.services.uploads.tus_client import GUESTS, TusClient
from tests.support.waiting import until


async def available(client: TusClient, data: bytes, filename: str = "guests.csv") -> str:
    """The URL of a new document of this content."""
    url = await client.create(len(data), GUESTS | {"filename": filename})
    assert (await client.patch(url, 0, data)).status_code == 204
    await checked(client, url)
    return url


async def checked(client: TusClient, url: str) -> None:
    """Waits until an upload that has arrived is available."""

    async def is_there() -> bool:
        state = (await client.http.get(url)).json()
        assert state["state"] != "rejected", state
        return bool(state["state"] == "available")

    await until(is_there, 30, what="the document to be available")
