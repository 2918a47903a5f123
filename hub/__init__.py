"""The hub: one authenticated WebSocket per client, many topics, every event in order, once, or announced as a gap.

Map of the package, top to bottom (arrows point down only; ``make check`` enforces it):

    cli        the ``hub`` command
    api        the only module that services import                 serving   a node as a process
    app        wires everything, starts and stops it
    edge       sockets, handshake, one connection, HTTP routes     service   what a feature hands over
    fanout     publish, read, dispatch, catch up, through Redis
    topics     what can be subscribed to, and who is here           client    the Python client
    protocol   frames, codes, codec, session; no I/O                auth      tokens and principals
    database   PostgreSQL    redis   connections and scripts        embedded  servers as child processes
    config     telemetry     orgs                                   markup    what somebody wrote as safe HTML
    errors
"""
