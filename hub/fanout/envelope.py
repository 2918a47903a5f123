"""A publication as it travels on a channel: ``<epoch> <seq> <ts>`` and a newline, then the event body as it is. Pure.

``publish.lua`` writes the same; an ephemeral event has ``-`` for its epoch.
"""

from __future__ import annotations

from hub.fanout.broker import Publication

_EPHEMERAL = b"-"


def make_envelope(publication: Publication) -> bytes:
    """The envelope of ``publication``."""
    epoch = publication.epoch.encode() or _EPHEMERAL
    return b"%b %d %d\n%b" % (epoch, publication.seq, publication.ts, publication.body)


def parse_envelope(data: bytes) -> Publication:
    """The publication in ``data``. Raises ``ValueError`` when it is no envelope."""
    end = data.index(b"\n")
    epoch, seq, ts = data[:end].split(b" ")
    return Publication("" if epoch == _EPHEMERAL else epoch.decode("ascii"), int(seq), int(ts), data[end + 1 :])
