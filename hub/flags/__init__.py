"""What is switched on for whom: flags, how they are decided, and what they cover. No I/O but reading a file's text."""

from hub.flags.changes import WHOLE, Override, StageState
from hub.flags.cost import costly
from hub.flags.definition import Definition, Guards, Stage, parse_percent, percent_text
from hub.flags.evaluator import Evaluator, Outcome
from hub.flags.provider import FlagsProvider
from hub.flags.schema import FlagFile, FlagFileError, expand, load_flags
from hub.flags.switches import COMPRESSION, FALLBACK, HUB_SWITCHES, PRESENCE, REALTIME, SOCKET, Switch, Switches
from hub.flags.words import Evaluation, FixedFlags, Flags, OnFlagChange, Subject, subject_attributes

__all__ = (
    "COMPRESSION",
    "FALLBACK",
    "HUB_SWITCHES",
    "PRESENCE",
    "REALTIME",
    "SOCKET",
    "WHOLE",
    "Definition",
    "Evaluation",
    "Evaluator",
    "FixedFlags",
    "FlagFile",
    "FlagFileError",
    "Flags",
    "FlagsProvider",
    "Guards",
    "OnFlagChange",
    "Outcome",
    "Override",
    "Stage",
    "StageState",
    "Subject",
    "Switch",
    "Switches",
    "costly",
    "expand",
    "load_flags",
    "parse_percent",
    "percent_text",
    "subject_attributes",
)
