"""XML of strangers as events: no declarations of types or entities, bounded in depth and in the length of a token.

Expat itself bounds neither, and reads a token anew with every piece until it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from xml.parsers import expat

from services.uploads.checking.facts import damaged, too_large, unsupported
from services.uploads.checking.source import Budget

_MAX_DEPTH = 64
_MAX_TOKEN = 262_144
# What it is given at once: about a millisecond of it.
_STEP = 8192
# Expat keeps every name that it has seen.
_MAX_NAMES = 20_000
_SEPARATOR = " "


class Handler:
    """What is told of the document: local names of elements, without their namespaces' addresses."""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def text(self, data: str) -> None:
        """A piece of text."""

    def done(self) -> bool:
        """Nothing more of the document is needed."""
        return False


def read_xml(pieces: Iterator[bytes], handler: Handler, budget: Budget) -> None:
    """Feeds the document to the handler. Raises ``Rejected``: not well-formed, a DTD, too deep, too long a token."""
    names: dict[str, str] = {}
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR, intern=names)
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise too_large(f"its XML is nested deeper than {_MAX_DEPTH} levels")
        if len(names) > _MAX_NAMES:
            raise too_large(f"its XML has more than {_MAX_NAMES} different names")
        handler.start(_local(name), attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        handler.end(_local(name))

    def doctype(*_: object) -> None:
        raise unsupported("its XML declares a document type, which such files do not; save it again")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = handler.text
    # Prefixes are names as well, if somebody asks for them.
    parser.StartNamespaceDeclHandler = lambda *_: None
    parser.StartDoctypeDeclHandler = doctype
    _feed(parser.Parse, lambda: parser.CurrentByteIndex, pieces, handler, budget)


def _feed(
    parse: Callable[[bytes, bool], object],
    reached: Callable[[], int],
    pieces: Iterator[bytes],
    handler: Handler,
    budget: Budget,
) -> None:
    fed = 0
    try:
        for step in (piece[at : at + _STEP] for piece in pieces for at in range(0, len(piece), _STEP)):
            budget.tick()
            fed += len(step)
            parse(step, False)
            if fed - max(0, reached()) > _MAX_TOKEN:
                raise too_large(f"its XML has a tag of more than {_MAX_TOKEN} bytes")
            if handler.done():
                return
        parse(b"", True)
    except expat.ExpatError:
        raise damaged("its XML is not well-formed") from None


def _local(name: str) -> str:
    return name.rpartition(_SEPARATOR)[2]
