"""Bounds of the servers that `hub dev` and the tests start. No settings: they run before any are read."""

EMBEDDED_START_S = 30.0  # a slow laptop replays its append-only file and its WAL in a fraction of this
EMBEDDED_LOG_BYTES = 10_000_000  # a log longer than this is begun anew at the next start
EMBEDDED_STOP_S = 10.0  # then SIGKILL; both servers survive that, it only makes the next start slower
