"""Settings: read from the environment once, validated once, handed down."""

from hub.config.embedded import EMBEDDED_LOG_BYTES, EMBEDDED_START_S, EMBEDDED_STOP_S
from hub.config.loading import FIELDS, MINIMUM_SECRET_BYTES, load_settings, variable
from hub.config.settings import Settings

__all__ = (
    "EMBEDDED_LOG_BYTES",
    "EMBEDDED_START_S",
    "EMBEDDED_STOP_S",
    "FIELDS",
    "MINIMUM_SECRET_BYTES",
    "Settings",
    "load_settings",
    "variable",
)
