"""What somebody may do in a room: a table. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from hub.api import ErrorCode, HubError, not_found


class Role(StrEnum):
    """Of a member."""

    OWNER = "owner"
    MEMBER = "member"
    READER = "reader"


class Action(StrEnum):
    """What somebody wants to do; the value stands in messages."""

    LOOK = "see this room"
    MARK = "mark what you have read"
    SPEAK = "write in this room"
    TYPE = "be shown as typing"
    MANAGE = "change this room"


class Rule(NamedTuple):
    """Who may."""

    roles: frozenset[Role]
    joins: bool = False
    """In a public room whoever does it becomes a member by it."""
    archived: bool = True
    """Also in an archived room."""
    muted: bool = True
    """Also while muted."""


_ALL: Final = frozenset(Role)
_WRITERS: Final = frozenset((Role.OWNER, Role.MEMBER))

RULES: Final[dict[Action, Rule]] = {
    Action.LOOK: Rule(_ALL),
    Action.MARK: Rule(_ALL, joins=True),
    Action.SPEAK: Rule(_WRITERS, joins=True, archived=False, muted=False),
    Action.TYPE: Rule(_WRITERS, archived=False, muted=False),
    Action.MANAGE: Rule(frozenset((Role.OWNER,))),
}


class Access(Struct, frozen=True):
    """A room as somebody stands to it."""

    room: str
    name: str
    public: bool
    archived: bool
    members: int
    messages: int
    last_number: int
    role: Role | None
    muted_until: int | None
    """Milliseconds since 1970, and still to come; None: not muted."""


def check(access: Access | None, action: Action) -> Access:
    """``access``, if it allows ``action``.

    Raises ``not_found`` for a room that is not there or not to be seen, ``forbidden`` for what the role does not allow
    and for whoever is muted (``details.muted_until``), ``conflict`` for an archived room.
    """
    if access is None or (access.role is None and not access.public):
        raise not_found("room")
    rule = RULES[action]
    if access.archived and not rule.archived:
        raise HubError(ErrorCode.CONFLICT, "the room is archived; an owner can unarchive it")
    if access.role is None:
        if rule.joins or action is Action.LOOK:
            return access
        raise HubError(ErrorCode.FORBIDDEN, f"join the room first to {action}")
    if access.role not in rule.roles:
        allowed = " or ".join(sorted(rule.roles))
        raise HubError(ErrorCode.FORBIDDEN, f"it takes the role {allowed} to {action}; yours is {access.role}")
    if access.muted_until is not None and not rule.muted:
        raise HubError(
            ErrorCode.FORBIDDEN, "you are muted in this room for now", details={"muted_until": access.muted_until}
        )
    return access
