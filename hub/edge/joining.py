"""From wishes to subscriptions: permission for each topic, one concurrent join for all, a verdict for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hub.auth.principal import Principal
from hub.edge.flag_gate import refusal_of
from hub.edge.gateway import Gateway
from hub.errors import HubError
from hub.fanout.membership import Joined, JoinRequest
from hub.protocol.frames import Position, Verdict
from hub.protocol.session import Wanted, refusal
from hub.topics.filters import TagFilter
from hub.topics.splice import Asked

if TYPE_CHECKING:
    from hub.edge.connection import Connection


async def join(
    gateway: Gateway,
    connection: Connection,
    items: Sequence[Wanted | Verdict],
    positions: Mapping[str, Position],
) -> tuple[list[Verdict], list[Joined]]:
    """Verdicts in the order asked, and what ``activate`` must be given once they have been sent.

    ``positions``: the resumed session's, for what was asked without a position of its own. Everything that was joined
    belongs to the connection when this returns, or has been left when the connection is gone.
    """
    # From here on a permission that is given may be taken away again before the topic is joined.
    expelled_before = gateway.expulsions.count
    verdicts: list[Verdict] = []
    allowed: list[tuple[int, Wanted, JoinRequest]] = []
    for index, item in enumerate(items):
        if isinstance(item, Verdict):
            verdicts.append(item)
            continue
        try:
            request = await _request(gateway, connection.principal, item, positions)
            if off := refusal_of(gateway, connection, item.topic):
                raise off
            allowed.append((index, item, request))
            verdicts.append(Verdict(item.topic, ok=True))
        except HubError as error:
            verdicts.append(refusal(item.topic, error))
    outcomes = await gateway.membership.join(connection, [request for _, _, request in allowed]) if allowed else []
    joined: list[Joined] = []
    for (index, item, request), outcome in zip(allowed, outcomes, strict=True):
        if isinstance(outcome, HubError):
            verdicts[index] = refusal(item.topic, outcome)
        elif connection.gone:
            gateway.membership.leave(outcome.subscription)
        elif off := refusal_of(gateway, connection, item.topic):
            # Switched off while history was read.
            gateway.membership.leave(outcome.subscription)
            verdicts[index] = refusal(item.topic, off)
        elif expelled := gateway.expulsions.refusal(request.topic, connection.user, expelled_before):
            gateway.membership.leave(outcome.subscription)
            verdicts[index] = refusal(item.topic, expelled)
        else:
            connection.take_subscription(outcome.subscription)
            joined.append(outcome)
            verdicts[index] = Verdict(item.topic, True, outcome.epoch, outcome.seq, outcome.recovered)
    return verdicts, joined


def activate(gateway: Gateway, connection: Connection, joined: Sequence[Joined]) -> None:
    """Lets events flow. Right after the verdicts were sent: they come before every event and gap of their topics."""
    for item in joined:
        gateway.membership.activate(item)
    gateway.keeper.watch(connection)


async def _request(
    gateway: Gateway, principal: Principal | None, item: Wanted, positions: Mapping[str, Position]
) -> JoinRequest:
    assert principal is not None  # noqa: S101 - the session lets nobody subscribe before the hello
    topic = await gateway.kinds.for_subscriber(principal, item.topic)
    asked: Asked = positions.get(item.topic, "now") if item.asked is None else item.asked
    return JoinRequest(
        topic=topic,
        kind=gateway.kinds.kind_of(topic),
        asked=asked,
        filter=None if item.filter is None else TagFilter(item.filter),
        ack=item.ack,
        first_permitted=await gateway.kinds.first_permitted(principal, topic),
    )
