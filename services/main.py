"""The services of this deployment. A new one is one entry more; ``HUB_SERVICES`` may name another list."""

from __future__ import annotations

from collections.abc import Sequence

from hub.api import Check, ServiceFactory
from services.chat.service import chat
from services.content.service import content
from services.events.service import events
from services.uploads.doctor import check_store
from services.uploads.service import uploads

SERVICES: Sequence[ServiceFactory] = (events, chat, content, uploads)
CHECKS: Sequence[Check] = (check_store,)
