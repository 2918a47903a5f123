"""The service ``uploads``: files over the socket or by tus; see docs/uploads.md."""

from __future__ import annotations

from hub.api import Hub, OrgId, Service
from services.uploads.access import Access
from services.uploads.desk import Desk
from services.uploads.endings import Endings
from services.uploads.janitor import Janitor
from services.uploads.kinds import upload_kind
from services.uploads.methods import Intakes, UploadMethods
from services.uploads.metrics import UploadMetrics
from services.uploads.records import Records
from services.uploads.store import open_store
from services.uploads.writers import Writers


def uploads(hub: Hub) -> Service:
    """Wires the parts."""
    metrics = UploadMetrics(hub.registry)
    store = open_store(hub.settings)
    records = Records(hub)
    access = Access(hub, records)
    writers = Writers(hub, records, store, metrics)
    desk = Desk(hub, records, access, writers, store, metrics)
    intakes = Intakes(hub, writers)
    methods = UploadMethods(desk, records, access, intakes)

    def check(org: OrgId, upload: str) -> None:
        """Replaced by the checker."""

    writers.on_received = check
    janitor = Janitor(hub, Endings(hub), store, check, metrics)

    async def start() -> None:
        await store.start()
        intakes.start()
        janitor.start()

    async def stop() -> None:
        await janitor.close()
        await writers.close()
        await intakes.close()
        await desk.close()
        await store.close()

    return Service(
        name="uploads",
        kinds=[upload_kind(access)],
        methods=methods.methods,
        caller_methods=methods.callers,
        start=start,
        stop=stop,
    )
