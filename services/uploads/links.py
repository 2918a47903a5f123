"""Signed links: whoever has one may read one document until it expires, without a token.

A link is a short JWT with a key of its own: no token is a link, and no link is a token.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import jwt

from hub.api import ConfigError, ErrorCode, HubError, OrgId, Principal, Settings
from services.uploads.access import READ_ALL
from services.uploads.names import is_id
from services.uploads.shapes import Upload

PATH: Final = "/v1/upload-links/content"
_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "hub:upload-link"
_PURPOSE: Final = b"hub upload links 1"
_LEAST_SECRET_BYTES: Final = 32
_LONGEST_LINK: Final = 2048


class Grant(NamedTuple):
    """What a link allows: to read one upload, as its maker may. Times are seconds since 1970."""

    maker: Principal
    """Without the scope, which only the token has; ``issued_at`` is that of the token."""
    upload: str
    sees_all: bool
    """The maker's token allowed to see every upload."""
    expires_at: int


class Links:
    """Makes links and reads them. ``clock`` is seconds since 1970."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """Raises ``ConfigError`` for a secret that is too short."""
        secret = settings.uploads_link_secret or settings.jwt_secret
        if secret and len(secret.encode()) < _LEAST_SECRET_BYTES:
            raise ConfigError(f"HUB_UPLOADS_LINK_SECRET must have at least {_LEAST_SECRET_BYTES} bytes")
        # Derived: what the secret is otherwise good for, tokens, it is not good for here, and the other way round.
        self._key = hmac.digest(secret.encode(), _PURPOSE, sha256) if secret else None
        self._settings = settings
        self._clock = clock

    def make(self, principal: Principal, upload: Upload, expires_s: int | None) -> tuple[str, int]:
        """A link to an upload that its maker may read: (its URL without the host, when it expires, ms since 1970).

        None: it lives for as long as is usual; for longer than is allowed nobody gets one. Raises ``unavailable``
        where there is no secret to sign with.
        """
        settings = self._settings
        # For as long as it is known who was thrown out.
        most = [settings.uploads_link_max_s, settings.token_max_life_s]
        if upload.owner != principal.user:
            most.append(settings.uploads_link_reader_s)
        life_s = min(expires_s or settings.uploads_link_s, *most)
        expires_at = int(self._clock()) + life_s
        claims: dict[str, Any] = {
            "aud": _AUDIENCE,
            "exp": expires_at,
            "issued": principal.issued_at,
            "org": str(principal.org),
            "sub": principal.user,
            "upload": upload.id,
        }
        if principal.allows(*READ_ALL):
            claims["all"] = True
        link = jwt.encode(claims, self._signing_key(), algorithm=_ALGORITHM)
        return f"{PATH}?link={quote(link)}", expires_at * 1000

    def read(self, link: str) -> Grant:
        """What ``link`` allows. Raises ``forbidden``, with the same text whatever is wrong with it."""
        if len(link) > _LONGEST_LINK:
            raise refused()
        try:
            claims = jwt.decode(
                link,
                self._signing_key(),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                # By our own clock, below.
                options={"require": ["aud", "exp"], "verify_exp": False},
            )
            org, expires_at = OrgId.from_claim(claims["org"]), claims["exp"]
            maker = Principal(claims["sub"], org, (), expires_at, claims["issued"])
            grant = Grant(maker, claims["upload"], "all" in claims, expires_at)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError):
            raise refused() from None
        if grant.expires_at <= self._clock() or not is_id(grant.upload):
            raise refused()
        return grant

    def _signing_key(self) -> bytes:
        if self._key is None:
            text = "there are no links here: HUB_UPLOADS_LINK_SECRET is not set"
            raise HubError(ErrorCode.UNAVAILABLE, text, retry="never")
        return self._key


def refused() -> HubError:
    """A link that is not good."""
    return HubError(ErrorCode.FORBIDDEN, "the link is not valid, or has expired; ask for another one")
