"""A publication as it travels on a channel: ``<epoch> <seq> <ts>`` and a newline, then the event body as it is. Pure.

``publish.lua`` writes the same; an ephemeral event has ``-`` for its epoch, or ``!`` when it does not go to its author
(whoever does not know that delivers it to everybody).
"""

from __future__ import annotations

from hub.fanout.broker import Publication

EPHEMERAL = "-"
UNECHOED = "!"
_UNECHOED = UNECHOED.encode()


def make_envelope(publication: Publication) -> bytes:
    """The envelope of ``publication``."""
    epoch = (publication.epoch or (EPHEMERAL if publication.echo else UNECHOED)).encode()
    return b"%b %d %d\n%b" % (epoch, publication.seq, publication.ts, publication.body)


def parse_envelope(data: bytes) -> Publication:
    """The publication in ``data``. Raises ``ValueError`` when it is no envelope."""
    end = data.index(b"\n")
    epoch, seq, ts = data[:end].split(b" ")
    if seq == b"0":
        return Publication("", 0, int(ts), data[end + 1 :], epoch != _UNECHOED)
    return Publication(epoch.decode("ascii"), int(seq), int(ts), data[end + 1 :])
