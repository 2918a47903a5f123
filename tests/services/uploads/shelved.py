"""Documents that are available, whoever checks them."""

from __future__ import annotations

from hub.api import OrgId
from services.uploads.endings import Endings, Verdict
from services.uploads.records import Records
from services.uploads.store import open_store
from tests.services.uploads.depot import Depot, sha256
from tests.services.uploads.tus_client import GUESTS, TusClient
from tests.support.waiting import until


async def available(house: Depot, client: TusClient, data: bytes, filename: str = "guests.csv") -> str:
    """The URL of a new document of this content."""
    url = await client.create(len(data), GUESTS | {"filename": filename})
    assert (await client.patch(url, 0, data)).status_code == 204
    await checked(house, client, url, data)
    return url


async def checked(house: Depot, client: TusClient, url: str, data: bytes) -> None:
    """Waits until an upload that has arrived is available."""
    upload = url.rpartition("/")[2]
    await house.nodes[0].within(lambda: _check(house, upload, data))

    async def is_there() -> bool:
        return bool((await client.http.get(url)).json()["state"] == "available")

    await until(is_there, what="the document to be available")


async def _check(house: Depot, upload: str, data: bytes) -> None:
    """What the checker does, if it has not begun."""
    hub = house.hubs[0]
    org = OrgId.from_claim("acme")
    claimed = await Endings(hub).claim(org, upload, "test")
    if claimed is None:
        return
    store = open_store(hub.settings)
    await store.start()
    await store.join(org, upload, await Records(hub).parts(org, upload), None)
    await store.close()
    await Endings(hub).settle(claimed, "test", Verdict(sha256(data), "text/csv"))
