"""The public keys of the token issuer: fetched lazily, again when old, and when a token names an unknown one.

Which key verifies a token, and by which algorithm, is decided by the key's own type. Claims are left to
``hub.auth.tokens``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

from hub.config import Settings
from hub.errors import ConfigError, unavailable

ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""(kty, crv) of a key -> the only algorithm that it verifies. No symmetric type is here, and none may be."""

# A private member in a published key is the issuer's accident; only these are looked at.
_PUBLIC_MEMBERS: Final = ("kty", "crv", "n", "e", "x", "y")
# NIST SP 800-131A: shorter RSA keys are no longer acceptable for signatures.
_MINIMUM_RSA_BITS: Final = 2048

_log = structlog.get_logger(__name__)


class _FetchError(Exception):
    """The key set could not be had; the text says why, for the log."""


class JwksCache:
    """The key set behind one address.

    At most one fetch runs at a time and everybody who needs it waits for the same one. A fetch that fails keeps the
    keys there are, however old: an issuer that is down must not lock out the holders of valid tokens.
    ``clock`` is monotonic seconds.
    """

    def __init__(
        self, settings: Settings, client: httpx.AsyncClient | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises ``ConfigError`` unless the address is https, or http on the loopback interface."""
        _check_address(settings.jwks_url)
        self._settings = settings
        self._client = client or httpx.AsyncClient(follow_redirects=False)
        self._clock = clock
        self._keys: dict[tuple[str, str | None], list[PyJWK]] = {}
        self._fetched_at: float | None = None
        """When the keys in hand came."""
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key_for(self, algorithm: str, kid: str | None) -> PyJWK | None:
        """The key that a token with this header needs; None: the issuer has no such key.

        Without ``kid`` the set must hold exactly one key of the algorithm. Raises ``unavailable`` while no key set was
        ever had.
        """
        if self._stale():
            await self._fetch_once()
        if self._fetched_at is None:
            raise unavailable("the token issuer's key set", int(self._settings.jwks_retry_s * 1000))
        key = self._find(algorithm, kid)
        if key is None and kid is not None and self._may_look_again():
            await self._fetch_once()
            key = self._find(algorithm, kid)
        return key

    async def close(self) -> None:
        """Ends a fetch under way and closes the client."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        await self._client.aclose()

    def _find(self, algorithm: str, kid: str | None) -> PyJWK | None:
        keys = self._keys.get((algorithm, kid), [])
        if kid is None:
            keys = [key for (name, _), several in self._keys.items() if name == algorithm for key in several]
        return keys[0] if len(keys) == 1 else None

    def _stale(self) -> bool:
        """Whether a fetch is due by age. After a failure it is due again only after a pause."""
        now = self._clock()
        if self._fetching is not None:
            return self._fetched_at is None or now - self._fetched_at >= self._settings.jwks_max_age_s
        if self._fetched_at is None:
            return self._tried_at is None or now - self._tried_at >= self._settings.jwks_retry_s
        return now - self._fetched_at >= self._settings.jwks_max_age_s and self._may_look_again()

    def _may_look_again(self) -> bool:
        # A fetch under way is joined, not repeated: its answer may hold the key.
        if self._fetching is not None or self._tried_at is None:
            return True
        return self._clock() - self._tried_at >= self._settings.jwks_refetch_s

    async def _fetch_once(self) -> None:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks-fetch")
        # The fetch belongs to all who wait: one of them giving up must not end it for the others.
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._settings.jwks_timeout_s):
                body = await self._download()
            self._keys = self._usable(body)
            self._fetched_at = self._clock()
        except (TimeoutError, httpx.HTTPError, _FetchError) as error:
            _log.warning("jwks_fetch_failed", error=f"{type(error).__name__}: {error}", keys_kept=len(self._keys))
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        # Uncompressed and counted as it comes, so that the limit holds whatever the headers say.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self._client.stream("GET", self._settings.jwks_url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise _FetchError(f"HTTP status {response.status_code}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _FetchError("the answer is compressed, though this was not asked for")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._settings.jwks_max_bytes:
                    raise _FetchError(f"more than {self._settings.jwks_max_bytes} bytes (HUB_JWKS_MAX_BYTES)")
            return bytes(body)

    def _usable(self, body: bytes) -> dict[tuple[str, str | None], list[PyJWK]]:
        try:
            listed: Any = msgspec.json.decode(body, type=dict[str, Any]).get("keys")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _FetchError(f"not a JSON object: {error}") from error
        if not isinstance(listed, list):
            raise _FetchError("no list 'keys'")
        if len(listed) > self._settings.jwks_max_keys:
            _log.warning("jwks_too_many_keys", listed=len(listed), looked_at=self._settings.jwks_max_keys)
        keys: dict[tuple[str, str | None], list[PyJWK]] = {}
        for entry in listed[: self._settings.jwks_max_keys]:
            key = _usable_key(entry)
            if key is not None:
                keys.setdefault((key.algorithm_name, entry.get("kid")), []).append(key)
        if not keys:
            # An empty set is taken for the issuer's fault: believing it would lock everybody out at once.
            raise _FetchError("no usable signing key")
        return keys


def _usable_key(entry: Any) -> PyJWK | None:
    """The key of one JWKS entry, if it is a public signing key of a type that the hub takes."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
        return None
    kty, crv = entry.get("kty"), entry.get("crv")
    if not isinstance(kty, str) or not isinstance(crv, str | None):
        return None
    algorithm = ALGORITHMS.get((kty, crv))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = PyJWK({name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}, algorithm=algorithm)
    except PyJWTError:
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _MINIMUM_RSA_BITS:
        return None
    return key


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
        return
    raise ConfigError("HUB_JWKS_URL must be an https address (http only on the loopback interface)")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
