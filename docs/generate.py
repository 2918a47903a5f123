"""Writes what the documentation shares with the code. ``make docs``; a test says when a page is stale."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from hub.config import FIELDS, variable
from hub.errors import ERROR_SPECS
from hub.fake_llm.behaviour import ENDS
from hub.protocol.codes import CLOSE_SPECS
from hub.protocol.session import TRANSITIONS, State
from services.content.assistant.plan import RULES

FOLDER = Path(__file__).parent
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings() -> str:
    """A row per setting."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in FIELDS.items():
        rows.append(f"| `{variable(name)}` | {_default(field)} | {_description(field.type)} |")
    return "\n".join(rows)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be set"
    if field.default in ("", ()):
        return "–"
    return f"`{','.join(field.default) if isinstance(field.default, tuple) else field.default}`"


def _description(kind: Any) -> str:
    if get_origin(kind) is not None or hasattr(kind, "__metadata__"):
        for meta in getattr(kind, "__metadata__", ()):
            if meta.description:
                return str(meta.description).replace("|", "\\|")
        return " ".join(filter(None, (_description(part) for part in get_args(kind))))
    return ""


def errors() -> str:
    """A row per error code."""
    rows = ["| code | retry | HTTP | meaning |", "|---|---|---|---|"]
    rows += [f"| `{code}` | {spec.retry} | {spec.http_status} | {spec.meaning} |" for code, spec in ERROR_SPECS.items()]
    return "\n".join(rows)


def closes() -> str:
    """A row per close code."""
    rows = ["| close | meaning | reconnect |", "|---|---|---|"]
    rows += [f"| {int(code)} | {spec.reason} | {spec.reconnect} |" for code, spec in CLOSE_SPECS.items()]
    return "\n".join(rows)


def states() -> str:
    """A row per state."""
    rows = ["| state | frames | next state |", "|---|---|---|"]
    for state in State:
        frames: dict[State, list[str]] = {}
        for (before, frame), after in TRANSITIONS.items():
            if before is state:
                frames.setdefault(after, []).append(f"`{frame.__struct_config__.tag}`")
        for after, names in frames.items():
            rows.append(f"| {_words(state)} | {', '.join(names)} | {_words(after)} |")
        if not frames:
            rows.append(f"| {_words(state)} | – | – |")
    rows.append("")
    rows.append("*opening* becomes *open* when the hello has been answered, every state *closed* with the socket.")
    return "\n".join(rows)


def faults() -> str:
    """A row per way in which a provider of text fails."""
    rows = ["| fault | what it is | before any text | in the middle |", "|---|---|---|---|"]
    for fault, rule in RULES.items():
        rows.append(f"| `{fault}` | {rule.meaning} | {rule.silent.name.lower()} | {rule.spoken.name.lower()} |")
    return "\n".join(rows)


def ends() -> str:
    """A row per way in which the fake ends an answer."""
    rows = ["| end | what happens after `after` tokens |", "|---|---|"]
    rows += [f"| `{end}` | {meaning} |" for end, meaning in ENDS.items()]
    return "\n".join(rows)


def _words(state: State) -> str:
    return state.name.lower().replace("_", " ")


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "errors": errors,
    "closes": closes,
    "states": states,
    "faults": faults,
    "ends": ends,
}


def rendered(text: str) -> str:
    """``text`` with every generated block written anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}", text)


def main() -> int:
    """Rewrites the pages; with ``--check`` only says whether that would change anything."""
    stale = [page for page in sorted(FOLDER.glob("*.md")) if rendered(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.name} is stale; run: make docs")
        return 1 if stale else 0
    for page in stale:
        page.write_text(rendered(page.read_text()))
        print(f"wrote {page.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
