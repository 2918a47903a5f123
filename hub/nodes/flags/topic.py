"""The topic ``flags:changes`` of the operators' organisation: every change of a flag, by people, stages and guards."""

from __future__ import annotations

from hub.auth.principal import Principal
from hub.config import Settings
from hub.nodes.flags.store import TOPIC
from hub.topics.kinds import History, TopicKind

_KIND, _, _KEY = TOPIC.partition(":")


def changes_kind(settings: Settings) -> TopicKind:
    """Its kind. For whoever may change flags, in ``flags_org``; for everybody else there is no such topic."""

    async def may_subscribe(principal: Principal, _: str) -> bool:
        return bool(settings.flags_org) and principal.org == settings.flags_org and principal.allows("flags", "write")

    return TopicKind(
        name=_KIND,
        history=History(count=1000, bytes=1024 * 1024, age_s=7 * 24 * 3600),
        exists=lambda key: key == _KEY,
        may_subscribe=may_subscribe,
        may_publish=_nobody,
    )


async def _nobody(_: Principal, __: str) -> bool:
    return False
