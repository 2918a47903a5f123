"""Headers of HTTP answers that services ask for: those of whole branches of paths, and what pages of others may see.

A route sets its own; here is what errors, preflights and unknown methods have as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.types import Message, Scope


@dataclass(frozen=True, slots=True)
class CommonHeaders:
    """What all services ask for together; ``hub.service.Service`` says what it means."""

    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cors_request: Sequence[str] = ()
    cors_answer: Sequence[str] = ()


class AnswerHeaders:
    """A ``before_send`` hook: gives each answer the headers of the branches that its path is on."""

    def __init__(self, answers: Mapping[str, Mapping[str, str]]) -> None:
        self._branches = [(*_split(branch), dict(headers)) for branch, headers in answers.items()]

    async def __call__(self, message: Message, scope: Scope) -> None:
        """What the route has set itself stays."""
        if message["type"] != "http.response.start" or scope["type"] != ScopeType.HTTP:
            return
        path, asked = scope["path"], scope["method"]
        for method, branch, headers in self._branches:
            if method in ("", asked) and (path == branch or path.startswith(branch + "/")):
                answer = MutableScopeHeaders.from_message(message)
                for name, value in headers.items():
                    answer.setdefault(name, value)


def _split(branch: str) -> tuple[str, str]:
    method, _, path = branch.rpartition(" ")
    return method, path
