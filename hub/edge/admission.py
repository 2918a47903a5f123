"""Who is let in: revocations, and connections per user and organisation over all nodes, in one round trip to Redis.

Verifying the token comes before, the process's own ``max_connections`` is the handshake's. Frames per second are
counted in ``hub.edge.frame_budget``.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import structlog

from hub.auth.principal import Principal
from hub.config import Settings
from hub.edge.frame_budget import AskingBudget, FrameBudget, PublishBudget
from hub.errors import ErrorCode, HubError
from hub.nodes.limits import SharedLimits
from hub.orgs import OrgId, org_key
from hub.redis import Arg, Command, Redis, ScriptCall, load_script

# One script call renews this many leases, and so many calls go in one batch: Redis is busy for well under a millisecond
# at a time, so publications of others pass in between.
_LEASES_PER_CALL: Final = 100
_CALLS_PER_BATCH: Final = 10
_RENEWALS_PER_LEASE: Final = 3
_LEAST_WAIT_MS: Final = 1000

Item = TypeVar("Item")

_log = structlog.get_logger(__name__)


class Admission:
    """Lets connections in and keeps their leases.

    Fails open: while Redis is not reachable, holders of valid tokens come in uncounted, and revocations are not seen.
    A token is proof enough by itself; the hub that shuts every client out whenever Redis pauses would turn a pause into
    an outage, with all of them returning at once. What Redis alone can vouch for, a ticket, fails closed
    (``hub.auth.tickets``). A kicked user who gets in this way is caught when the token is next looked at or ends.

    A connection that was let in uncounted is counted from the next renewal on. A node that dies gives its connections
    back after ``connection_lease_s``.
    """

    def __init__(
        self, redis: Redis, settings: Settings, limits: SharedLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = redis
        self._settings = settings
        self._lease_ms = settings.connection_lease_s * 1000
        self._admit = load_script("hub.edge", "admit.lua")
        self._renew = load_script("hub.edge", "renew.lua")
        self._revoke = load_script("hub.edge", "revoke.lua")
        redis.register(self._admit, self._renew, self._revoke)
        self.fail_open: Final = limits.fail_open
        self._frames = limits.bucket(
            "frames", per_second=settings.messages_per_second, burst=settings.messages_burst, what="frames"
        )
        publications = limits.bucket(
            "publications", per_second=settings.http_events_per_second, burst=settings.http_events_burst, what="events"
        )
        self.publications: Final = PublishBudget(publications, settings.max_connections)
        """What users may publish by HTTP."""
        self.frames: Final = PublishBudget(self._frames, settings.max_connections)
        """Frames that users send by HTTP; the same bucket as on connections."""
        self.askings: Final = AskingBudget(
            settings.messages_per_second, settings.messages_burst, settings.max_connections
        )
        """What users may ask for by streams and polls."""
        # Bounded by max_connections, which the handshake keeps.
        self._held: dict[str, Principal] = {}
        self._given_back: dict[str, Principal] = {}
        self._clock = clock
        # (asked at, cutoff or -1) by user. Bounded by max_connections; the one asked longest ago goes first.
        self._cutoffs: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._wake = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Connections whose leases this node keeps."""
        return len(self._held)

    def start(self) -> None:
        """Starts renewing leases. ``close`` must follow."""
        self._keeper = asyncio.create_task(self._keep(), name="admission-leases")

    async def close(self) -> None:
        """Ends the renewals and gives every lease back, as far as Redis answers."""
        self._closing = True
        if self._keeper is not None:
            self._wake.set()
            # Not cancelled: what it is giving back at the moment would be lost. Its waits end by the timeout of Redis.
            await self._keeper
            self._keeper = None
        self._given_back |= self._held
        self._held.clear()
        await self._flush()

    async def admit(self, principal: Principal, connection: str) -> None:
        """Lets a connection in and takes a lease for it; the caller must ``release`` it.

        ``connection`` is unique among all nodes. Raises ``unauthenticated`` when the user was thrown out after the
        token was issued, and ``quota_exceeded`` with ``retry_after_ms``.
        """
        if self.fail_open.pausing:
            self.fail_open.let_through("connection")
            self._hold(principal, connection)
            return
        limits = (self._settings.max_connections_per_user, self._settings.max_connections_per_org)
        keys = [*_lease_keys(principal), _cutoff_key(principal.org, principal.user)]
        args: list[Arg] = [connection, self._lease_ms, *limits, repr(principal.issued_at)]
        try:
            answer = await self._redis.run(self._admit, keys, args)
        except HubError as error:
            self.fail_open.let_through("connection", error)
            answer = [b"ok"]
        except asyncio.CancelledError:
            # The client has left meanwhile, but the lease may have been taken.
            self._give_back(principal, connection)
            raise
        outcome = bytes(answer[0])
        if outcome == b"revoked":
            raise _revoked()
        if outcome != b"ok":
            raise self._full(outcome.decode(), int(answer[1]))
        self._hold(principal, connection)

    def release(self, connection: str) -> None:
        """Gives a lease back, shortly; many at once cost one batch. Unknown and released ones are ignored."""
        principal = self._held.pop(connection, None)
        if principal is not None:
            self._give_back(principal, connection)

    async def check_revoked(self, principal: Principal) -> None:
        """For requests without a connection. Raises ``unauthenticated`` when the user was thrown out; fails open.

        The answer is remembered for ``revocation_cache_s``; a kick that this node hears of takes effect at once.
        """
        if self.fail_open.pausing:
            self.fail_open.let_through("revocation")
            return
        user = (str(principal.org), principal.user)
        known = self._cutoffs.get(user)
        if known is None or self._clock() - known[0] >= self._settings.revocation_cache_s:
            try:
                known = await self._ask_cutoff(principal, user)
            except HubError as error:
                self.fail_open.let_through("revocation", error)
                return
        if principal.issued_at <= known[1]:
            raise _revoked()

    async def _ask_cutoff(self, principal: Principal, user: tuple[str, str]) -> tuple[float, float]:
        key = _cutoff_key(principal.org, principal.user)
        asked_at = self._clock()
        cutoff = await self._redis.command(key, "GET", key)
        known = (asked_at, -1.0 if cutoff is None else float(cutoff))
        self._cutoffs[user] = known
        self._cutoffs.move_to_end(user)
        if len(self._cutoffs) > self._settings.max_connections:
            self._cutoffs.popitem(last=False)
        return known

    def forget_cutoff(self, org: str, user: str) -> None:
        """The user was thrown out: what is remembered of him is asked anew."""
        self._cutoffs.pop((org, user), None)

    async def revoke(self, org: OrgId, user: str, ttl_s: float) -> float:
        """Refuses all tokens of a user that were issued until now, for ``ttl_s``; returns that cutoff.

        ``ttl_s`` should be the longest life of a token. Now is by the clock of Redis. A token without ``iat`` is
        refused as long as the cutoff stands. Connections that are open are not closed by this. Raises ``unavailable``:
        then nobody was thrown out.
        """
        return float(await self._redis.run(self._revoke, [_cutoff_key(org, user)], [max(1, int(ttl_s * 1000))]))

    def frame_budget(self, principal: Principal) -> FrameBudget:
        """The budget of a new connection's frames."""
        return FrameBudget(self._frames, principal)

    async def renew_all(self) -> None:
        """Renews all leases of this node, in batches. The keeper does this; failures are left to the next time."""
        by_org: dict[OrgId, list[str]] = {}
        for connection, principal in self._held.items():
            by_org.setdefault(principal.org, []).append(connection)
        # When one server of a cluster fails, it should not always be the same organisations that miss their turn.
        orgs = random.sample(list(by_org), len(by_org))
        chunks = (chunk for org in orgs for chunk in _cut(by_org[org], _LEASES_PER_CALL))
        for batch in _cut(chunks, _CALLS_PER_BATCH):
            # Looked up again: some may have been released while earlier batches were under way.
            calls = [call for chunk in batch if (call := self._renewal(chunk)) is not None]
            failures = [outcome for outcome in await self._redis.batch(calls) if isinstance(outcome, HubError)]
            for failure in failures:
                self.fail_open.let_through("renewal of leases", failure)
            if failures and len(failures) == len(calls):
                # Redis is gone; every further batch would wait for its timeout, and the releases with it.
                return

    def _give_back(self, principal: Principal, connection: str) -> None:
        # While Redis is gone, what does not fit runs out by itself.
        if len(self._given_back) < self._settings.max_connections:
            self._given_back[connection] = principal
            self._wake.set()

    def _hold(self, principal: Principal, connection: str) -> None:
        self._given_back.pop(connection, None)
        self._held[connection] = principal

    def _renewal(self, connections: list[str]) -> ScriptCall | None:
        still_held = {connection: self._held[connection] for connection in connections if connection in self._held}
        if not still_held:
            return None
        keys = [_org_connections(next(iter(still_held.values())).org)]
        keys += [_user_connections(principal) for principal in still_held.values()]
        return ScriptCall(self._renew, tuple(keys), (self._lease_ms, *still_held))

    async def _keep(self) -> None:
        """Gives leases back and renews the others. One task does both, so that no renewal overtakes a release."""
        pause = self._settings.connection_lease_s / _RENEWALS_PER_LEASE
        due = time.monotonic() + pause
        while not self._closing:
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._flush()
                if time.monotonic() >= due:
                    due = time.monotonic() + pause
                    await self.renew_all()
            except Exception:
                # Without its keeper a node would lose every lease; whatever it was, the next turn may do better.
                _log.exception("lease_renewal_failed")

    async def _flush(self) -> None:
        """What cannot be given back now runs out by itself."""
        given_back, self._given_back = self._given_back, {}
        for some in _cut(given_back.items(), _LEASES_PER_CALL * _CALLS_PER_BATCH):
            outcomes = await self._redis.batch(
                [Command(key, ("ZREM", key, connection)) for connection, who in some for key in _lease_keys(who)]
            )
            for outcome in outcomes:
                if isinstance(outcome, HubError):
                    self.fail_open.let_through("release of leases", outcome)

    def _full(self, whose: str, wait_ms: int) -> HubError:
        limit = {
            "user": self._settings.max_connections_per_user,
            "organisation": self._settings.max_connections_per_org,
        }[whose]
        return HubError(
            ErrorCode.QUOTA_EXCEEDED,
            f"this {whose} already has {limit} connections; close one, or try again later",
            retry_after_ms=max(_LEAST_WAIT_MS, min(wait_ms, self._lease_ms)),
            details={"limit": limit},
        )


def _org_connections(org: OrgId) -> str:
    return org_key(org, "connections")


def _user_connections(principal: Principal) -> str:
    # The user stands last in every key, so that none can be read as another: a `sub` may contain anything.
    return org_key(principal.org, "user-connections", principal.user)


def _lease_keys(principal: Principal) -> tuple[str, str]:
    return _org_connections(principal.org), _user_connections(principal)


def _cutoff_key(org: OrgId, user: str) -> str:
    return org_key(org, "cutoff", user)


def _revoked() -> HubError:
    return HubError(ErrorCode.UNAUTHENTICATED, "this user's access was withdrawn; sign in again to get a fresh token")


def _cut(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some
