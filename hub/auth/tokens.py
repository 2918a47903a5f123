"""JWTs: verified into a ``Principal``, and minted with the hub's own secret for development and tests.

Signatures are pyjwt's, public keys come from ``hub.auth.jwks``; the claims are judged here. Nobody else makes a
Principal from a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from jwt import PyJWK, PyJWS, PyJWTError
from msgspec import UNSET, Meta, Struct, UnsetType

from hub.auth.jwks import ALGORITHMS, JwksCache
from hub.auth.principal import Principal
from hub.config import MINIMUM_SECRET_BYTES, Settings
from hub.errors import ConfigError, ErrorCode, HubError
from hub.orgs import OrgId

HMAC: Final = "HS256"
_PUBLIC_KEY: Final = frozenset(ALGORITHMS.values())
MAX_NAME_CHARS: Final = 256

# Up to the year 9999: beyond it, numbers of milliseconds no longer fit everywhere.
_Instant = Annotated[float, Meta(ge=0, le=253_402_300_799)]
# Control characters are refused: PostgreSQL cannot store NUL, and logs should stay readable. \Z, because `$` would let
# a trailing newline through.
_Subject = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class _Header(Struct, gc=False):
    alg: str
    kid: str | None = None


class _Claims(Struct):
    sub: _Subject
    org: str
    exp: _Instant
    aud: str | list[str]
    iss: str | UnsetType = UNSET
    nbf: _Instant = 0.0
    iat: _Instant = 0.0
    scope: str | list[str] | UnsetType = UNSET
    name: str | None = None


class _Verified(Struct, frozen=True, gc=False):
    """What signature and claims came to. Good while the header leads to ``key``; the times are checked each time."""

    header: _Header
    key: bytes | PyJWK
    not_before: float
    principal: Principal


_decode_header: Final = msgspec.json.Decoder(_Header).decode
_decode_claims: Final = msgspec.json.Decoder(_Claims).decode
# "Object missing required field `exp`", "Expected `str`, got `int` - at `$.sub`"
# Deeply nested text ends msgspec with RecursionError, which is no MsgspecError.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_CLAIM_IN_ERROR: Final = re.compile(r"field `(\w+)`|`\$\.(\w+)")


class TokenVerifier:
    """Verifies tokens against the secret, the issuer's key set, or both.

    The algorithm is the key's: the secret verifies HS256 and nothing else, a public key the one algorithm of its type.
    The token's header only chooses which of them is tried, so neither ``none`` nor HS256 with a public key as the
    secret can succeed. An HS256 token is verified without waiting for anything. ``clock`` is seconds since 1970.

    What was found valid is remembered, so that whoever sends the same token with every request, or reconnects, costs
    no signature. Kept is a digest and never the token.
    """

    def __init__(
        self, settings: Settings, jwks: JwksCache | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """``jwks`` is needed when public keys are to be accepted; its owner closes it.

        Raises ``ConfigError`` when there is neither a secret nor a key set, or when the secret is too short.
        """
        self._settings = settings
        self._jwks = jwks
        self._clock = clock
        self._secret = _secret_of(settings) if settings.jwt_secret else None
        if self._secret is None and jwks is None:
            raise ConfigError("HUB_JWT_SECRET or HUB_JWKS_URL must be set")
        # Instances of our own: what is registered on pyjwt's global one does not matter here.
        self._hmac = PyJWS(algorithms=[HMAC])
        self._public_key = PyJWS(algorithms=sorted(_PUBLIC_KEY))
        # By the token's SHA-256. Bounded by max_verified_tokens; the one unused for longest goes first.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of a valid token.

        Raises ``unauthenticated`` or ``token_expired``; the message names what is wrong and what to do, and never holds
        any part of the token. Raises ``unavailable`` while the issuer's keys cannot be had.
        """
        if not token or not token.isascii():
            raise _malformed()
        if len(token) > self._settings.max_token_bytes:
            limit = self._settings.max_token_bytes
            raise _refused(f"the token is longer than {limit} bytes; ask for one with fewer claims")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        header = _header_of(token) if known is None else known.header
        key = await self._key_for(header)
        # Keys fetched anew are other objects: a key that its issuer has withdrawn or replaced vouches for nothing.
        if known is None or known.key is not key:
            known = self._read(token, header, key)
        self._check_times(known)
        self._remember(digest, known)
        return known.principal

    async def _key_for(self, header: _Header) -> bytes | PyJWK:
        if header.alg == HMAC and self._secret is not None:
            return self._secret
        if header.alg in _PUBLIC_KEY and self._jwks is not None:
            key = await self._jwks.key_for(header.alg, header.kid)
            if key is None:
                raise _refused("the token is signed with a key that its issuer does not publish; get a fresh token")
            return key
        raise _refused(f"the token's algorithm is not accepted here; use {' or '.join(self._accepted())}")

    def _accepted(self) -> list[str]:
        return [HMAC] * (self._secret is not None) + sorted(_PUBLIC_KEY) * (self._jwks is not None)

    def _read(self, token: str, header: _Header, key: bytes | PyJWK) -> _Verified:
        if isinstance(key, PyJWK):
            payload = _payload(self._public_key, token, key, key.algorithm_name)
        else:
            payload = _payload(self._hmac, token, key, HMAC)
        claims = _parse_claims(payload)
        self._check_audience(claims)
        if claims.sub == "me":
            raise _refused("the token's claim 'sub' may not be \"me\", which stands for the user themselves")
        principal = Principal(
            user=claims.sub,
            org=OrgId.from_claim(claims.org),
            scope=_scope_of(self._settings.default_scope if claims.scope is UNSET else claims.scope),
            expires_at=claims.exp,
            issued_at=claims.iat,
            name=(claims.name or "")[:MAX_NAME_CHARS],
        )
        return _Verified(header, key, claims.nbf, principal)

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._verified[digest] = verified
        self._verified.move_to_end(digest)
        if len(self._verified) > self._settings.max_verified_tokens:
            self._verified.popitem(last=False)

    def _check_audience(self, claims: _Claims) -> None:
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._settings.jwt_audience not in audiences:
            raise _refused("the token's claim 'aud' is for another audience; ask for a token for this hub")
        if self._settings.jwt_issuer and claims.iss != self._settings.jwt_issuer:
            raise _refused("the token's claim 'iss' names another issuer; use a token of the issuer this hub trusts")

    def _check_times(self, verified: _Verified) -> None:
        now, leeway = self._clock(), self._settings.jwt_leeway_s
        if verified.principal.expires_at <= now - leeway:
            raise HubError(ErrorCode.TOKEN_EXPIRED, "the token has expired (claim 'exp'); get a fresh one")
        if verified.not_before > now + leeway:
            raise _refused("the token is not valid yet (claim 'nbf'); wait, or check the issuer's clock")
        # A token from the future would outlive every revocation.
        if verified.principal.issued_at > now + leeway:
            raise _refused("the token's claim 'iat' lies in the future; check the issuer's clock")


def mint_token(
    settings: Settings, org: str, user: str, *, scope: str | None = None, ttl_s: float = 3600.0, name: str = ""
) -> str:
    """A token of the hub's own secret, valid for ``ttl_s`` seconds. ``scope`` None: the deployment's default applies.

    ``iat`` is fractional, so that a revocation can tell tokens of the same second apart. Raises ``ConfigError`` without
    a secret and ``ValueError`` for an organisation or user that no token may bear.
    """
    if not settings.jwt_secret:
        raise ConfigError("HUB_JWT_SECRET is not set; without it the hub cannot mint tokens")
    if user == "me":
        raise ValueError("a user may not be called 'me'")
    now = round(time.time(), 6)
    claims: dict[str, Any] = {"sub": user, "org": str(OrgId.from_row(org)), "aud": settings.jwt_audience, "iat": now}
    claims["exp"] = round(now + ttl_s, 6)
    optional = {"iss": settings.jwt_issuer or None, "name": name or None, "scope": scope}
    claims |= {claim: value for claim, value in optional.items() if value is not None}
    try:
        msgspec.convert(claims, _Claims)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
    payload = msgspec.json.encode(claims)
    return PyJWS(algorithms=[HMAC]).encode(payload, _secret_of(settings), algorithm=HMAC)


def _secret_of(settings: Settings) -> bytes:
    secret = settings.jwt_secret.encode()
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ConfigError(f"HUB_JWT_SECRET has {len(secret)} bytes; at least {MINIMUM_SECRET_BYTES} are needed")
    return secret


def _header_of(token: str) -> _Header:
    """The header, unverified: it may only be used to choose among our own keys."""
    segment = token.partition(".")[0]
    try:
        return _decode_header(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, *_UNREADABLE):
        raise _malformed() from None


def _payload(verifier: PyJWS, token: str, key: bytes | PyJWK, algorithm: str) -> bytes:
    try:
        payload: bytes = verifier.decode(token, key, algorithms=[algorithm])
    except PyJWTError:
        # pyjwt's text is dropped, and so is the chain: it can quote from the token's header.
        raise _refused(
            "the token's signature does not fit; get a fresh token from the issuer this hub trusts"
        ) from None
    return payload


def _parse_claims(payload: bytes) -> _Claims:
    try:
        return _decode_claims(payload)
    except _UNREADABLE as error:
        found = _CLAIM_IN_ERROR.search(str(error))
        if found is None:
            raise _refused("the token's payload is not a JSON object of claims; get a fresh token") from None
        claim = found[1] or found[2]
        what = "is missing" if found[1] else f"is malformed ({str(error).split(' - at ')[0]})"
        raise _refused(f"the token's claim '{claim}' {what}; ask its issuer for a corrected token") from None


def _scope_of(scope: str | list[str]) -> tuple[str, ...]:
    return _scope_words(scope if isinstance(scope, str) else " ".join(scope))


@lru_cache(maxsize=4096)  # clients of one kind have the same scope, and share its words
def _scope_words(scope: str) -> tuple[str, ...]:
    return tuple(scope.split())


def _malformed() -> HubError:
    return _refused("the token is not a JWT (header.payload.signature); send it exactly as its issuer gave it")


def _refused(message: str) -> HubError:
    return HubError(ErrorCode.UNAUTHENTICATED, message)
