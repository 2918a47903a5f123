"""A file of flags into definitions: flagd's schema and the short form, one ``Definition`` for both.

All faults of a file are told at once, each with its line and what to write instead. Nothing of a file with a fault is
used. What is switched on for whom is ``evaluator``'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from hub.flags.changes import Override, StageState
from hub.flags.definition import Definition
from hub.flags.document import Faults, FlagFileError, Mapping, Node, read_document
from hub.flags.fields import FlagReader, read_metadata
from hub.flags.flagd import effective, flag_document
from hub.flags.rules import Rules, nearest

__all__ = ("FlagFile", "FlagFileError", "expand", "load_flags")

_TOP: Final = ("flags", "$evaluators", "metadata", "$schema", "$comment")


@dataclass(frozen=True)
class FlagFile:
    """The flags of a file. ``digest`` is another when any byte of it is."""

    flags: ReadOnly[str, Definition] = field(default_factory=dict)
    digest: str = ""
    metadata: ReadOnly[str, Any] = field(default_factory=dict)
    source: str = ""

    def expired(self, today: date) -> tuple[str, ...]:
        """A sentence for every flag that has outlived its purpose: a warning, never a fault."""
        return tuple(
            f"{flag.name} expired on {flag.expires.isoformat()}{f', ask {flag.owner}' if flag.owner else ''}: "
            "take it out of the code and the file, or give it another date"
            for flag in self.flags.values()
            if flag.expires is not None and flag.expires < today
        )


def load_flags(text: str, source: str) -> FlagFile:
    """The flags of a file. Raises ``FlagFileError`` (a ``ConfigError``) with line, reason and what to write instead.

    Takes up to about a second for the largest file that is read; call it in a thread where others wait.
    """
    faults = Faults(source)
    root = read_document(text, faults)
    for name, (line, _) in root.items.items():
        if name not in _TOP:
            faults.add(line, f"there is no field {name[:80]} at the top; {nearest(name, _TOP)}")
    metadata = read_metadata(root.items["metadata"][1], faults) if "metadata" in root.items else {}
    evaluators = _section(root, "$evaluators", faults)
    rules = Rules({name: node for name, (_, node) in evaluators.items()}, faults)
    for name, (_, node) in evaluators.items():
        rules.rule(node, None, name)
    if "flags" not in root.items:
        faults.add(root.line, "there are no flags; write `flags:`, and below it one flag per line, as `chat: 25%`")
    flags: dict[str, Definition] = {}
    for name, (line, node) in _section(root, "flags", faults).items():
        definition = FlagReader(name, line, faults, rules).read(node)
        if definition is not None:
            flags[name] = definition
    faults.raise_any()
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return FlagFile(flags, digest, metadata, source)


def _section(root: Mapping, name: str, faults: Faults) -> dict[str, tuple[int, Node]]:
    if name not in root.items:
        return {}
    line, node = root.items[name]
    if not isinstance(node, Mapping):
        faults.add(line, f"{name} is a mapping of names; write each below it, as `chat: 25%`, or {name}: {{}}")
        return {}
    return node.items


def expand(
    file: FlagFile,
    overrides: ReadOnly[str, Override] | None = None,
    stages: ReadOnly[str, StageState] | None = None,
) -> dict[str, Any]:
    """A document of flagd that decides as this file does, with what is over it at run time. Without schedules and
    guards, of which flagd has no notion. Can be written as JSON."""
    over, reached = overrides or {}, stages or {}
    flags = {
        name: flag_document(flag, effective(flag, over.get(name), reached.get(name)))
        for name, flag in file.flags.items()
    }
    document: dict[str, Any] = {"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": flags}
    if file.metadata:
        document["metadata"] = dict(file.metadata)
    return document
