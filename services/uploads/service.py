"""The service ``uploads``: files over the socket or by tus; see docs/uploads.md."""

from __future__ import annotations

from hub.api import Hub, Service, Switch
from services.uploads.access import Access
from services.uploads.checker import Checker, Tools
from services.uploads.checking import open_scanner
from services.uploads.desk import Desk
from services.uploads.endings import Endings
from services.uploads.janitor import Janitor
from services.uploads.kinds import upload_kind
from services.uploads.methods import Intakes, UploadMethods
from services.uploads.metrics import UploadMetrics
from services.uploads.records import Records
from services.uploads.serving import CORS_ANSWER_HEADERS, CORS_REQUEST_HEADERS, Serving, serving_routes
from services.uploads.store import open_store
from services.uploads.tus.headers import ANSWER_HEADERS, REQUEST_HEADERS
from services.uploads.tus.requests import Tus
from services.uploads.tus.routes import tus_answer_headers, tus_routes
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
    serving = Serving(hub, records, access, desk, store)
    tus = Tus(hub, access, desk, writers)

    endings = Endings(hub)
    scanner = open_scanner(hub.settings)
    checker = Checker(hub, Tools(records, endings, store, desk.types, scanner, metrics))
    writers.on_received = checker.begin
    janitor = Janitor(hub, records, endings, store, checker, metrics)

    async def start() -> None:
        await store.start()
        intakes.start()
        janitor.start()

    async def stop() -> None:
        await janitor.close()
        await writers.close()
        await intakes.close()
        await checker.close()
        await desk.close()
        await store.close()

    return Service(
        name="uploads",
        kinds=[upload_kind(access)],
        methods={**methods.methods, **serving.methods},
        caller_methods=methods.callers,
        routes=[*tus_routes(tus, access, desk), *serving_routes(serving)],
        answer_headers=tus_answer_headers(hub.settings),
        cors_request_headers=[*REQUEST_HEADERS, *CORS_REQUEST_HEADERS],
        cors_answer_headers=[*ANSWER_HEADERS, *CORS_ANSWER_HEADERS],
        switches=[Switch("uploads", ("upload:", "upload.", "/v1/uploads"))],
        start=start,
        stop=stop,
    )
