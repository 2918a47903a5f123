"""The numbers of the hub's advisory locks: one space, so that they cannot meet those of another application."""

from __future__ import annotations

from typing import Final

LOCK_SPACE: Final = 0x687562
"""First key of every advisory lock of the hub ("hub" in ASCII)."""

MIGRATION_LOCK: Final = -1
"""Second key of the lock that a migration holds. The outbox's shards are 0 to 15."""
