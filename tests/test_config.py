"""Settings against one another."""

from __future__ import annotations

from typing import Any

import pytest

from hub.config import load_settings
from hub.errors import ConfigError

BASE = {"redis_url": "redis://127.0.0.1:1", "database_url": "postgresql://x/x", "jwt_secret": "x" * 32}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"content_replay_s": 3599}, ("HUB_CONTENT_REPLAY_S", "HUB_CONTENT_SESSION_S")),
        ({"content_keep_s": 3599}, ("HUB_CONTENT_KEEP_S", "HUB_CONTENT_REPLAY_S")),
        ({"content_max_chunk_chars": 8192}, ("HUB_MAX_EVENT_BYTES", "HUB_CONTENT_MAX_CHUNK_CHARS", "81920")),
        ({"content_max_bytes": 1_048_575, "content_max_stream_bytes": 1_048_574}, ("HUB_CONTENT_MAX_STREAM_BYTES",)),
        (
            {"content_max_bytes": 1_048_576, "content_max_stream_bytes": 1_048_576},
            ("HUB_CONTENT_MAX_BYTES", "HUB_MAX_MESSAGE_BYTES"),
        ),
    ],
)
def test_settings_of_content_that_contradict_each_other_are_refused(
    changes: dict[str, Any], named: tuple[str, ...]
) -> None:
    load_settings({}, **BASE)
    with pytest.raises(ConfigError) as refused:
        load_settings({}, **BASE, **changes)
    (line,) = str(refused.value).splitlines()
    for name in named:
        assert name in line
