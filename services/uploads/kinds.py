"""The topic kind of uploads."""

from __future__ import annotations

from typing import Final

from hub.api import History, Principal, SlowPolicy, TopicKind
from services.uploads.access import Access
from services.uploads.names import UPLOAD, is_id

_HISTORY: Final = History(count=100, bytes=1024 * 1024, age_s=86_400)


def upload_kind(access: Access) -> TopicKind:
    """``upload:<id>``: for whoever may see the upload; only this service writes to it."""
    return TopicKind(
        name=UPLOAD,
        history=_HISTORY,
        slow=SlowPolicy.REPLAY,
        exists=is_id,
        may_subscribe=access.may_watch,
        may_publish=_nobody,
        recheck=access.recheck,
    )


async def _nobody(_: Principal, __: str) -> bool:
    return False
