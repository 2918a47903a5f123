"""Text into a tree whose parts know their lines, strictly: YAML without what makes files ambiguous or dangerous.

No duplicate keys, aliases, tags or tabs; numbers as in JSON. What the values mean is ``schema``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast

import yaml

from hub.config.flag_bounds import FLAG_FILE_BYTES, FLAG_FILE_DEPTH, FLAG_FILE_FAULTS, FLAG_FILE_NODES
from hub.errors import ConfigError

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_OCTAL = re.compile(r"[-+]?0o[0-7]+", re.ASCII)
_SWITCH_WORDS: Final = frozenset({"on", "off", "yes", "no"})


@dataclass(slots=True)
class Fault:
    """Something wrong, where, and what to write instead."""

    line: int
    text: str


class FlagFileError(ConfigError):
    """A file of flags that is refused. The text has all faults that were found, one per line, each with its line."""

    def __init__(self, source: str, faults: list[Fault]) -> None:
        shown = sorted(faults, key=lambda fault: fault.line)[:FLAG_FILE_FAULTS]
        more = [f"… and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
        self.faults = tuple(shown)
        self.line = shown[0].line
        self.message = "\n".join([*(f"{source}, line {fault.line}: {fault.text}" for fault in shown), *more])
        super().__init__(self.message)


@dataclass(slots=True, eq=False)
class Node:
    """A part of the tree. ``line`` counts from 1."""

    line: int


@dataclass(slots=True, eq=False)
class Scalar(Node):
    """A value as it was written. ``plain``: without quotes."""

    text: str
    plain: bool

    @property
    def is_switch_word(self) -> bool:
        """An unquoted on, off, yes or no: true or false for some readers of YAML, a text for others."""
        return self.plain and self.text.lower() in _SWITCH_WORDS


@dataclass(slots=True, eq=False)
class Mapping(Node):
    """Keys and values in their order; keys are texts, whatever YAML takes them for (``on:`` is "on")."""

    items: dict[str, tuple[int, Node]] = field(default_factory=dict)
    """Name -> line of the name, value."""


@dataclass(slots=True, eq=False)
class Sequence(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


class Faults:
    """Collects what is wrong with a file, so that all of it can be told at once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: list[Fault] = []

    def add(self, line: int, text: str) -> None:
        """One more; the same is not told twice."""
        fault = Fault(line, text)
        if fault not in self._found[-FLAG_FILE_FAULTS:]:
            self._found.append(fault)

    def give_up(self, line: int, text: str) -> NoReturn:
        """One after which nothing else can be read."""
        self.add(line, text)
        raise FlagFileError(self._source, self._found)

    def raise_any(self) -> None:
        """Raises ``FlagFileError`` when there were any."""
        if self._found:
            raise FlagFileError(self._source, self._found)


def read_document(text: str, faults: Faults) -> Mapping:
    """The tree of a file. Raises ``FlagFileError`` when it cannot be read; lesser faults go to ``faults``."""
    if len(text.encode("utf-8", "replace")) > FLAG_FILE_BYTES:
        faults.give_up(1, f"the file is larger than {FLAG_FILE_BYTES} bytes; remove flags that are done")
    text = text.removeprefix("\ufeff")
    try:
        root = _Composer(faults).compose(_events(text))
    except yaml.MarkedYAMLError as error:
        _tell_syntax(text, error, faults)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        faults.give_up(line, f"the character U+{cast(int, error.character):04X} may not stand in YAML; remove it")
    if root is None or (isinstance(root, Scalar) and not root.text):
        faults.give_up(1, "there is nothing in the file; it begins with `flags:`, and below it one flag per line")
    if not isinstance(root, Mapping):
        faults.give_up(root.line, "the file is not a mapping; it begins with `flags:`, and below it one flag per line")
    return root


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=yaml.SafeLoader)


def _tell_syntax(text: str, error: yaml.MarkedYAMLError, faults: Faults) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    if "'\\t'" in str(error.problem):
        lines = [number for number, one in enumerate(text.split("\n"), 1) if re.match(r" *\t", one)] or [line]
        for number in lines[:-1]:
            faults.add(number, "a tab; indent with spaces")
        faults.give_up(lines[-1], "a tab; indent with spaces")
    begun = error.context
    if error.context_mark:
        begun = f"{begun} that begins in line {error.context_mark.line + 1}:"
    problem = " ".join(str(part) for part in (begun, error.problem) if part)
    faults.give_up(line, f"this is not YAML: {problem}; look at indentation, quotes and brackets")


def _line_of(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Composer:
    """Builds the tree out of the parser's events, without recursion."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._open: list[Mapping | Sequence] = []
        self._key: list[Scalar | None] = []
        self._root: Node | None = None
        self._nodes = 0
        self._documents = 0

    def compose(self, events: Iterator[yaml.Event]) -> Node | None:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    line = _line_of(event)
                    self._faults.give_up(line, "a second document begins here; put all flags below one `flags:`")
            elif isinstance(event, yaml.NodeEvent):
                self._enter(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
                self._key.pop()
        return self._root

    def _enter(self, event: yaml.NodeEvent) -> None:
        line = _line_of(event)
        self._nodes += 1
        if self._nodes > FLAG_FILE_NODES:
            self._faults.give_up(line, f"more than {FLAG_FILE_NODES} values; remove flags that are done")
        if isinstance(event, yaml.AliasEvent):
            text = f"*{event.anchor}: aliases are not read; write it out, or use $evaluators and $ref"
            self._faults.give_up(line, text)
        if (tag := getattr(event, "tag", None)) is not None:
            self._faults.add(line, f"{tag}: tags are not read; write the value alone")
        if isinstance(event, yaml.ScalarEvent):
            self._put(Scalar(line, _joined(event.value), event.style is None))
            return
        opened = Mapping(line) if isinstance(event, yaml.MappingStartEvent) else Sequence(line)
        self._put(opened)
        self._open.append(opened)
        self._key.append(None)
        if len(self._open) > FLAG_FILE_DEPTH:
            self._faults.give_up(line, f"nested deeper than {FLAG_FILE_DEPTH} levels; name parts in $evaluators")

    def _put(self, node: Node) -> None:
        if not self._open:
            self._root = node
            return
        place, key = self._open[-1], self._key[-1]
        if isinstance(place, Sequence):
            place.items.append(node)
        elif key is None:
            if not isinstance(node, Scalar):
                self._faults.give_up(node.line, "a list or mapping as a key; keys are names")
            self._key[-1] = node
        else:
            self._key[-1] = None
            if key.text in place.items:
                first = place.items[key.text][0]
                self._faults.add(
                    key.line, f"{key.text[:80]} stands here twice, first in line {first}; keep one of them"
                )
            else:
                place.items[key.text] = (key.line, node)


def _joined(text: str) -> str:
    """Pairs of surrogates, as JSON writes characters beyond 65 535, into characters; a lone one becomes U+FFFD."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain_value(node: Node, faults: Faults) -> Any:
    """The value in the JSON model. Unquoted on, off, yes and no are refused, and what only looks like a number."""
    if isinstance(node, Mapping):
        return {name: plain_value(value, faults) for name, (_, value) in node.items.items()}
    if isinstance(node, Sequence):
        return [plain_value(item, faults) for item in node.items]
    return scalar_value(cast(Scalar, node), faults)


def scalar_value(node: Scalar, faults: Faults) -> Any:
    """Of one value, in the JSON model."""
    text = node.text
    if not node.plain:
        return text
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("", "~", "null"):
        return None
    if node.is_switch_word:
        meant = "true" if lowered in ("on", "yes") else "false"
        faults.add(node.line, f'{text}: write {meant} for the boolean or "{text}" in quotes for the text')
        return text
    if (number := _NUMBER.fullmatch(text)) is not None:
        return _number(node, whole=number[2] is None and number[3] is None, faults=faults)
    if _is_number_for_others(text):
        faults.add(node.line, f'{text[:40]}: write a number as 1234 or 0.5, or "{text[:40]}" in quotes for the text')
    return text


def _is_number_for_others(text: str) -> bool:
    """Whether readers of YAML take it for a number, by its older or newer rules: 017, 0o17, 0x10, 1:30, 1_000, .inf."""
    resolver = yaml.resolver.Resolver()
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") or _OCTAL.fullmatch(text) is not None


def _number(node: Scalar, *, whole: bool, faults: Faults) -> int | float:
    if len(node.text) > 40:
        faults.add(node.line, f"{node.text[:40]}…: a number with more than 40 characters; write a shorter one")
        return 0
    if whole:
        return int(node.text)
    value = float(node.text)
    if value in (float("inf"), float("-inf")):
        faults.add(node.line, f"{node.text} is too large for a number")
    return value
