"""From a source to safe chunks that an editor can apply one by one. Pure: no clock, no I/O, no log.

``pipeline`` is the door. A source that is known whole becomes a ``document``, one that is being written a ``live`` one.
``detect`` says what a source is. Both convert and sanitise by the hub's markup, here called ``safe``, heal what is
unfinished (``heal``) and cut (``cutting``, ``units``).
"""

from hub.api import markup as safe
from services.content.pipeline.chunks import Chunk, Op
from services.content.pipeline.detect import ContentType, content_type, one_of
from services.content.pipeline.document import Document
from services.content.pipeline.live import LiveDocument
from services.content.pipeline.pace import (
    INTERVAL_MS,
    MAX_INTERVAL_MS,
    Complexity,
    Speed,
    complexity,
    interval_ms,
    slowed_ms,
)
from services.content.pipeline.pipeline import Limits, Pipeline, Prepared
from services.content.pipeline.units import Unit

Findings = safe.Findings
clean_characters = safe.clean_characters

__all__ = (
    "INTERVAL_MS",
    "MAX_INTERVAL_MS",
    "Chunk",
    "Complexity",
    "ContentType",
    "Document",
    "Findings",
    "Limits",
    "LiveDocument",
    "Op",
    "Pipeline",
    "Prepared",
    "Speed",
    "Unit",
    "clean_characters",
    "complexity",
    "content_type",
    "interval_ms",
    "one_of",
    "slowed_ms",
)
