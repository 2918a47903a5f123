"""/v1/flags: what is switched on for whom, changed at run time, and who changed it. For the scope flags:write alone."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import get, patch
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter, SkipValidation
from msgspec import Meta, Struct

from hub.auth.principal import Principal
from hub.edge.authenticate import HubRequest, require_scope
from hub.edge.gateway import Gateway
from hub.edge.http_bodies import json_body
from hub.edge.openapi import ChangeFlagOperation, ChangeFlagsOperation, problem_responses
from hub.errors import HubError, bad_request
from hub.flags import Subject
from hub.nodes.flags.board import no_such_flag
from hub.nodes.flags.listing import FlagShown, FlagsShown, OverrideShown, all_flags, one_flag, override_shown
from hub.nodes.flags.store import AuditRow, Change

SCOPE: Final = "flags:write"
MOST_CHANGES: Final = 100
MOST_WHY_CHARS: Final = 500
MOST_AUDIT: Final = 1000
_STEPS: Final = 1000  # in a percent

_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Why = Annotated[str, Meta(max_length=MOST_WHY_CHARS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]


class _Wanted(Struct, forbid_unknown_fields=True):
    """One of ``state``, ``percent`` and ``clear``."""

    state: Literal["on", "off"] | None = None
    percent: Annotated[float, Meta(ge=0, le=100)] | None = None
    clear: bool = False
    if_version: Annotated[int, Meta(ge=0)] | None = None


class _WantedOf(_Wanted, forbid_unknown_fields=True, kw_only=True):
    flag: _Name


class _WantedWhy(_Wanted, forbid_unknown_fields=True, kw_only=True):
    why: _Why = ""


class _Changes(Struct, forbid_unknown_fields=True):
    changes: Annotated[list[_WantedOf], Meta(min_length=1, max_length=MOST_CHANGES)]
    why: _Why = ""


class FlagChanged(Struct):
    """A flag's run-time change now; null: there is none any more."""

    flag: str
    override: OverrideShown | None


class FlagsChanged(Struct):
    """What was changed; ``version`` is that of all flags of this node, which decides by it already."""

    version: str
    changes: list[FlagChanged]


class Explained(Struct):
    """What a flag is for somebody, and which step decided."""

    flag: FlagShown
    value: Any
    variant: str | None
    reason: str
    rule: str
    version: str
    error: str | None = None
    """What went wrong in its rule."""
    metadata: dict[str, Any] = {}
    """As OpenFeature's clients see it: of the file, and of the flag with owner, description and expiry."""


class AuditPage(Struct):
    """The newest changes first; ``next``: what to ask ``before`` for the ones before, null when there are none."""

    changes: list[AuditRow]
    next: int | None


_changes: Final = msgspec.json.Decoder(_Changes)
_change: Final = msgspec.json.Decoder(_WantedWhy)

_Gateway = NamedDependency[SkipValidation[Gateway]]


@get("/v1/flags", summary="All flags", responses=problem_responses(401, 403))
async def flags(request: HubRequest, gateway: _Gateway) -> FlagsShown:
    """What the file says, what was changed at run time, what counts, and what is wrong with the file.

    As this node knows it. Needs the scope `flags:write`, as all of this does.
    """
    require_scope(request.user, SCOPE)
    return all_flags(gateway.board)


@get("/v1/flags/audit", summary="Who changed which flag", responses=problem_responses(400, 401, 403, 503))
async def flags_audit(
    request: HubRequest,
    gateway: _Gateway,
    flag: Annotated[str | None, QueryParameter(description="Of this flag alone.", max_length=256)] = None,
    limit: Annotated[int, QueryParameter(description="Rows of the answer.", ge=1, le=MOST_AUDIT)] = 100,
    before: Annotated[int | None, QueryParameter(description="Changes before this version.", ge=1, le=2**62)] = None,
) -> AuditPage:
    """The record of changes, kept for HUB_FLAGS_AUDIT_KEEP_S."""
    require_scope(request.user, SCOPE)
    rows = await gateway.board.audit(_storable(flag), limit, before)
    return AuditPage(rows, rows[-1].version if len(rows) == limit else None)


@get("/v1/flags/{name:str}", summary="What a flag is for somebody", responses=problem_responses(400, 401, 403, 404))
async def explain_flag(
    request: HubRequest,
    gateway: _Gateway,
    name: FromPath[str],
    user: Annotated[str, QueryParameter(description="The sub of their tokens.", max_length=256)] = "",
    org: Annotated[str, QueryParameter(description="Their organisation.", max_length=64)] = "",
) -> Explained:
    """The value, and which step decided: kill_switch, override, allow_list, targeting, rollout or default."""
    require_scope(request.user, SCOPE)
    board = gateway.board
    if name not in board.file.flags:
        raise no_such_flag(name, board.file)
    found = board.evaluator.evaluate(name, Subject(user, org))
    return Explained(
        flag=one_flag(board, name),
        value=found.value,
        variant=found.variant,
        reason=found.reason,
        rule=found.rule,
        version=found.version,
        error=found.cause or found.error_message,
        metadata=dict(found.metadata),
    )


@patch(
    "/v1/flags",
    summary="Change flags",
    operation_class=ChangeFlagsOperation,
    responses=problem_responses(400, 401, 403, 404, 409, 413, 415, 429, 503),
)
async def change_flags(request: HubRequest, gateway: _Gateway) -> FlagsChanged:
    """Changes flags on all nodes, within a second: all that the body names, or none.

    409 says in `details.versions` which versions are there where an `if_version` was not met.
    """
    require_scope(request.user, SCOPE)
    asked = await json_body(request, _changes)
    wanted = [_wanted(one.flag, one) for one in asked.changes]
    if len({change.flag for change in wanted}) < len(wanted):
        raise bad_request("'changes' names a flag twice; name each once")
    return await _changed(gateway, request.user, wanted, asked.why)


@patch(
    "/v1/flags/{name:str}",
    summary="Change a flag",
    operation_class=ChangeFlagOperation,
    responses=problem_responses(400, 401, 403, 404, 409, 413, 415, 429, 503),
)
async def change_flag(request: HubRequest, gateway: _Gateway, name: FromPath[str]) -> FlagsChanged:
    """Changes one flag on all nodes, within a second."""
    require_scope(request.user, SCOPE)
    asked = await json_body(request, _change)
    return await _changed(gateway, request.user, [_wanted(name, asked)], asked.why)


async def _changed(gateway: Gateway, principal: Principal, changes: list[Change], why: str) -> FlagsChanged:
    overrides = await gateway.board.change(changes, f"{principal.org}/{principal.user}", why)
    pairs = zip(changes, overrides, strict=True)
    shown = [FlagChanged(change.flag, None if one is None else override_shown(one)) for change, one in pairs]
    return FlagsChanged(gateway.board.version, shown)


def _wanted(flag: str, asked: _Wanted) -> Change:
    if (asked.state is not None) + (asked.percent is not None) + asked.clear != 1:
        raise bad_request(f"{flag[:100]!r} needs one of 'state' (on, off), 'percent' (0 to 100) and 'clear' (true)")
    return Change(flag, asked.state, _thousandths(asked.percent), asked.clear, asked.if_version)


def _thousandths(percent: float | None) -> int | None:
    if percent is None:
        return None
    steps = round(percent * _STEPS)
    if steps / _STEPS != percent:
        raise bad_request("'percent' has more than 3 decimals; steps are 0.001 %")
    return steps


def _storable(flag: str | None) -> str | None:
    if flag is not None and "\x00" in flag:
        raise _no_character()
    return flag


def _no_character() -> HubError:
    return bad_request("'flag' has a character that no flag's name has")


FLAG_ROUTES: Final = (flags, flags_audit, explain_flag, change_flags, change_flag)
