"""The service ``content``: documents and what language models write, streamed into topics; see docs/content.md."""

from __future__ import annotations

from hub.api import Hub, Service, Switch
from services.content.assistant import AssistantLimits, AssistantMetrics, Writer, build_providers
from services.content.chat import chat_routes
from services.content.kinds import content_kinds
from services.content.making import Maker
from services.content.methods import ContentMethods
from services.content.metrics import ContentMetrics
from services.content.pipeline import Limits, Pipeline
from services.content.preparing import Preparer
from services.content.store import Store
from services.content.streams import Streams


def content(hub: Hub) -> Service:
    """Wires the parts. Raises ``ConfigError`` when a provider that the settings name cannot be used."""
    settings = hub.settings
    pipeline = Pipeline(
        Limits(
            max_bytes=settings.content_max_bytes,
            max_live_bytes=settings.content_max_stream_bytes,
            max_depth=settings.content_max_depth,
            max_chunk_chars=settings.content_max_chunk_chars,
        )
    )
    writer = Writer(build_providers(settings), settings, metrics=AssistantMetrics(hub.registry))
    limits = AssistantLimits(hub.limits, settings)
    metrics = ContentMetrics(hub.registry)
    preparer = Preparer(pipeline)
    maker = Maker(hub, preparer, metrics)
    store = Store(hub.database, settings)
    streams = Streams(hub, store, preparer, writer, metrics)

    async def start() -> None:
        streams.start()

    async def stop() -> None:
        await streams.close()
        await writer.close()

    return Service(
        name="content",
        kinds=content_kinds(settings),
        methods=ContentMethods(hub, store, streams, maker, writer, limits).methods,
        routes=chat_routes(hub, writer, pipeline, limits),
        switches=[
            Switch("content_streaming", ("content:", "content.")),
            Switch("assistant", ("assistant.", "/v1/chat/stream")),
        ],
        start=start,
        stop=stop,
    )
