"""Organisations: the ``OrgId`` type and every name that is scoped to one.

An ``OrgId`` cannot be made from an arbitrary string: it comes from a verified token's claim, from the database row in
hand, or from a setting of whoever runs the hub. Redis keys, channels and database transactions take an ``OrgId``, so a
cross-organisation mistake does not type check and, where types are not looked at, raises. No other module writes a
Redis name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from hub.errors import ConfigError, ErrorCode, HubError

# Starts with a letter or digit, so no token can bear the reserved organisation below; no braces or slash, because
# Redis hash tags and the names below are cut at them.
_ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PURPOSE = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MOST_SHARED = 4096  # names of which there is one object, however many connections; beyond it some have more


class OrgId(str):
    """A tenant. Only ``from_claim``, ``from_row`` and ``from_operator`` make one."""

    __slots__ = ()

    def __new__(cls, *_: object) -> OrgId:
        raise TypeError(
            "an OrgId comes from a verified token, a database row or a setting: from_claim, from_row, from_operator"
        )

    @classmethod
    def from_claim(cls, claim: object) -> OrgId:
        """The ``org`` claim of a token whose signature has been verified. Raises ``unauthenticated`` when malformed."""
        if not isinstance(claim, str) or not _ORG.fullmatch(claim):
            raise HubError(
                ErrorCode.UNAUTHENTICATED, "the token's claim 'org' must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}"
            )
        return _shared(claim)

    @classmethod
    def from_operator(cls, value: str) -> OrgId:
        """An organisation that whoever runs the hub has named in a setting. Raises ``ConfigError`` when malformed."""
        if not _ORG.fullmatch(value):
            raise ConfigError(f"{value!r} is no organisation; it must match [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}")
        return _shared(value)

    @classmethod
    def from_row(cls, value: str) -> OrgId:
        """The organisation column of a row that background work has in hand. Raises ``ValueError`` when malformed."""
        if not _ORG.fullmatch(value):
            raise ValueError(f"malformed organisation in a row: {value!r}")
        return _shared(value)


@lru_cache(maxsize=_MOST_SHARED)
def _shared(name: str) -> OrgId:
    return str.__new__(OrgId, name)


CONTROL_ORG: Final = _shared("_hub")
"""The hub's own organisation, for control channels and tickets. No token can bear it: claims do not start with `_`."""


class TopicNames(NamedTuple):
    """Redis names of one topic. All share one hash tag, so that one script may touch them in a cluster."""

    channel: str
    position: str
    history: str
    dedupe: str
    """Prefix; the idempotency key is appended."""


def topic_channel(org: OrgId, text: str) -> str:
    """The Redis channel of topic ``text`` (``kind:key``) in ``org``."""
    return f"hub:{{{_checked(org)}/{text}}}"


def topic_names(org: OrgId, text: str) -> TopicNames:
    """All Redis names of topic ``text`` (``kind:key``) in ``org``."""
    channel = topic_channel(org, text)
    return TopicNames(channel, f"{channel}:position", f"{channel}:history", f"{channel}:key:")


def rewriting_key(org: OrgId, text: str) -> str:
    """The Redis key of the history of topic ``text`` in ``org`` while it is written anew, under its hash tag."""
    return f"{topic_channel(org, text)}:rewriting"


def org_key(org: OrgId, *parts: str) -> str:
    """A Redis key of the organisation itself (limits, revocations). All keys of one organisation share a hash tag."""
    return ":".join((f"hub:{{{_checked(org)}}}", *parts))


def limit_key(org: OrgId, purpose: str, who: str) -> str:
    """The Redis key of what one user or address has used up. ``who`` may contain anything, so it stands last."""
    return f"hub:{{{_checked(org)}/limit/{check_purpose(purpose)}/{who}}}"


def cache_key(org: OrgId, purpose: str, name: str) -> str:
    """The Redis key of a cached value. ``name`` may contain anything, so it stands last."""
    return f"hub:{{{_checked(org)}/cache/{check_purpose(purpose)}/{name}}}"


def session_key(org: OrgId, session: str) -> str:
    """The Redis key of one session's acknowledged positions; spread over the cluster by session."""
    return f"hub:{{{_checked(org)}/session/{session}}}"


def ticket_key(ticket: str) -> str:
    """The Redis key of a one-use ticket. It belongs to the hub: the organisation is known only after it was read."""
    return f"hub:{{{CONTROL_ORG}/ticket/{ticket}}}"


def check_purpose(purpose: str) -> str:
    """A word of the program's own that stands in Redis keys. Raises ``ValueError`` when it may not."""
    if not _PURPOSE.fullmatch(purpose):
        raise ValueError(f"{purpose!r} is no purpose; it must match {_PURPOSE.pattern}")
    return purpose


class DutyNames(NamedTuple):
    """Redis names of the duties of one purpose, under one hash tag. They belong to the hub: nodes sweep all of them."""

    ends: str
    holders: str
    clock: str


def duty_names(purpose: str) -> DutyNames:
    """All Redis names of the duties of ``purpose``. Raises ``ValueError`` for what may not stand in a key."""
    prefix = f"hub:{{{CONTROL_ORG}/duties/{check_purpose(purpose)}}}"
    return DutyNames(f"{prefix}:ends", f"{prefix}:holders", f"{prefix}:clock")


def duty_text(org: OrgId, name: str) -> str:
    """How a duty of ``org`` is called among those of all organisations."""
    return f"{_checked(org)}/{name}"


def parse_duty(text: str) -> tuple[OrgId, str]:
    """The organisation (also the hub's own) and name of a duty in hand. Raises ``ValueError`` when malformed."""
    return _parsed(text)


class PresenceNames(NamedTuple):
    """Redis names of who is present in one topic; under the topic's own hash tag."""

    members: str
    users: str
    """Prefix; the instance of a node is appended."""


def presence_names(org: OrgId, text: str) -> PresenceNames:
    """All Redis names of the presence in topic ``text`` (``kind:key``) of ``org``."""
    prefix = f"{topic_channel(org, text)}:present"
    return PresenceNames(prefix, f"{prefix}:")


def presence_node_key(instance: str) -> str:
    """The Redis key of the topics in which an instance of a node has somebody. It belongs to the hub."""
    return f"hub:{{{CONTROL_ORG}/presence/{instance}}}"


def presence_note(org: OrgId, text: str) -> str:
    """How a topic of ``org`` is called among those of all organisations."""
    return f"{_checked(org)}/{text}"


def parse_presence_note(note: str) -> tuple[OrgId, str]:
    """The organisation and text of a noted topic. Raises ``ValueError`` when malformed."""
    return _parsed(note)


def _parsed(text: str) -> tuple[OrgId, str]:
    org, _, rest = text.partition("/")
    return CONTROL_ORG if org == CONTROL_ORG else OrgId.from_row(org), rest


def _checked(org: OrgId) -> OrgId:
    if not isinstance(org, OrgId):
        raise TypeError("an OrgId is needed here; a plain string may not name an organisation")
    return org
