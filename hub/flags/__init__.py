"""What is switched on for whom: flags, how they are decided, and what they cover. No I/O but reading a file's text."""

from hub.flags.changes import Override, StageState
from hub.flags.switches import COMPRESSION, FALLBACK, HUB_SWITCHES, PRESENCE, REALTIME, SOCKET, Switch, Switches
from hub.flags.words import Evaluation, FixedFlags, Flags, Subject

__all__ = (
    "COMPRESSION",
    "FALLBACK",
    "HUB_SWITCHES",
    "PRESENCE",
    "REALTIME",
    "SOCKET",
    "Evaluation",
    "FixedFlags",
    "Flags",
    "Override",
    "StageState",
    "Subject",
    "Switch",
    "Switches",
)
