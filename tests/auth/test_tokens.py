"""Tokens: what is accepted, what is refused, and that the refusal says what to do."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from hub.auth.jwks import JwksCache
from hub.auth.principal import Principal
from hub.auth.tokens import TokenVerifier, mint_token
from hub.config import Settings
from hub.errors import ConfigError, ErrorCode, HubError
from tests.auth.issuer import IssuerKey, IssuerServer, base64url, claims

SECRET = "a secret of tests, long enough for HS256"


def settings(**changes: Any) -> Settings:
    usual = {"redis_url": "redis://x", "database_url": "x", "jwt_secret": SECRET, "jwks_timeout_s": 30.0}
    return Settings(**{**usual, **changes})


def signed(payload: dict[str, Any]) -> str:
    return by_hand({"alg": "HS256"}, json.dumps(payload).encode(), SECRET.encode())


def by_hand(header: dict[str, Any], payload: bytes, secret: bytes) -> str:
    """A token put together without pyjwt, which refuses to make the bad ones."""
    signing_input = f"{base64url(json.dumps(header).encode())}.{base64url(payload)}"
    return f"{signing_input}.{base64url(hmac.new(secret, signing_input.encode(), hashlib.sha256).digest())}"


def verify_now(verifier: TokenVerifier, token: str) -> Principal:
    """Runs ``verify`` without an event loop, which only succeeds when it never waits."""
    running = verifier.verify(token)
    try:
        running.send(None)
    except StopIteration as end:
        principal: Principal = end.value
        return principal
    finally:
        running.close()
    raise AssertionError("an HS256 token must be verified without waiting")


def refusal(token: str, **changes: Any) -> HubError:
    with pytest.raises(HubError) as caught:
        verify_now(TokenVerifier(settings(**changes)), token)
    for part in token.split("."):
        assert len(part) < 8 or part not in caught.value.message
    return caught.value


def test_a_minted_token_says_who_it_is() -> None:
    before = time.time()
    token = mint_token(settings(), "acme", "u1", scope="subscribe:events:* admin", ttl_s=60, name="Someone")
    principal = verify_now(TokenVerifier(settings()), token)
    assert (principal.user, principal.org, principal.name) == ("u1", "acme", "Someone")
    assert principal.scope == ("subscribe:events:*", "admin")
    assert before - 0.001 <= principal.issued_at <= time.time()
    assert principal.expires_at == pytest.approx(principal.issued_at + 60)


def test_tokens_minted_in_the_same_second_can_be_told_apart() -> None:
    verifier = TokenVerifier(settings())
    issued = {verify_now(verifier, mint_token(settings(), "acme", "u1")).issued_at for _ in range(3)}
    assert len(issued) == 3


def test_a_token_without_scope_has_the_default_and_an_empty_scope_has_nothing() -> None:
    verifier = TokenVerifier(settings(default_scope="subscribe:a call:b"))
    assert verify_now(verifier, mint_token(settings(), "acme", "u1")).scope == ("subscribe:a", "call:b")
    assert verify_now(verifier, mint_token(settings(), "acme", "u1", scope="")).scope == ()


def test_scope_may_be_a_list_and_aud_too() -> None:
    token = signed(claims(scope=["subscribe:a", "admin"], aud=["else", "hub"]))
    assert verify_now(TokenVerifier(settings()), token).scope == ("subscribe:a", "admin")


def test_a_minted_token_names_the_configured_issuer() -> None:
    own = settings(jwt_issuer="https://issuer.example")
    assert verify_now(TokenVerifier(own), mint_token(own, "acme", "u1")).user == "u1"


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "me"}, "sub"),
        ({"sub": "x" * 257}, "sub"),
        ({"sub": "u\x001"}, "sub"),
        ({"sub": "u1\n"}, "sub"),
        ({"sub": 7}, "sub"),
        ({"org": None}, "org"),
        ({"org": "_hub"}, "org"),
        ({"org": "a}b"}, "org"),
        ({"org": 1}, "org"),
        ({"aud": None}, "aud"),
        ({"aud": "other"}, "aud"),
        ({"aud": ["other"]}, "aud"),
        ({"exp": None}, "exp"),
        ({"exp": "4102444800"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"nbf": 4_102_444_800}, "nbf"),
        ({"nbf": "soon"}, "nbf"),
        ({"iat": 4_102_444_800}, "iat"),
        ({"scope": 5}, "scope"),
        ({"scope": [5]}, "scope"),
        ({"name": 5}, "name"),
    ],
)
def test_a_wrong_claim_is_named(change: dict[str, Any], claim: str) -> None:
    error = refusal(signed(claims(**change)))
    assert error.code is ErrorCode.UNAUTHENTICATED
    assert f"'{claim}'" in error.message


def test_an_expired_token_has_its_own_code() -> None:
    error = refusal(signed(claims(exp=time.time() - 6)))
    assert error.code is ErrorCode.TOKEN_EXPIRED


def test_clocks_may_differ_by_the_leeway() -> None:
    now = time.time()
    token = signed(claims(exp=now - 2, nbf=now + 2, iat=now + 2))
    assert verify_now(TokenVerifier(settings(jwt_leeway_s=5), clock=lambda: now), token).expires_at == now - 2
    assert refusal(signed(claims(exp=now - 2)), jwt_leeway_s=0).code is ErrorCode.TOKEN_EXPIRED


@pytest.mark.parametrize("issuer", ["https://else.example", None, 5])
def test_a_configured_issuer_is_checked(issuer: Any) -> None:
    error = refusal(signed(claims(iss=issuer)), jwt_issuer="https://issuer.example")
    assert "'iss'" in error.message


def test_a_token_of_another_secret_is_refused() -> None:
    token = mint_token(settings(jwt_secret="b" * 32), "acme", "u1")
    assert "signature" in refusal(token).message


def test_changing_one_character_of_any_part_is_noticed() -> None:
    token = mint_token(settings(), "acme", "u1")
    for at in range(0, len(token), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert refusal(changed).code is ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS384", "HS512", "RS256", "PS256"])
def test_no_algorithm_but_the_keys_own(algorithm: str) -> None:
    payload = json.dumps(claims()).encode()
    unsigned = f"{base64url(json.dumps({'alg': algorithm}).encode())}.{base64url(payload)}."
    assert refusal(unsigned).code is ErrorCode.UNAUTHENTICATED
    assert refusal(by_hand({"alg": algorithm}, payload, SECRET.encode())).code is ErrorCode.UNAUTHENTICATED


def test_a_huge_token_is_refused_unread() -> None:
    token = signed(claims(name="x" * 9000))
    assert "8192" in refusal(token).message
    assert verify_now(TokenVerifier(settings(max_token_bytes=65_536)), token).name == "x" * 256


def nested(depth: int) -> bytes:
    return b'{"x":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "ü.ü.ü",
        "\ud800",
        " ",
        f"{base64url(nested(3000))}.e30.",
        by_hand({"alg": "HS256"}, nested(2500), SECRET.encode()),
        by_hand({"alg": "HS256"}, b"[]", SECRET.encode()),
        by_hand({"alg": "HS256"}, b"\xff\xfe", SECRET.encode()),
        by_hand({"alg": "HS256"}, b'{"sub":"\\ud800"}', SECRET.encode()),
        by_hand({"alg": "HS256", "kid": 5}, b"{}", SECRET.encode()),
        by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, json.dumps(claims()).encode(), SECRET.encode()),
        by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}, b"", SECRET.encode()),
    ],
)
def test_garbage_is_refused(token: str) -> None:
    error = refusal(token)
    assert error.code is ErrorCode.UNAUTHENTICATED
    assert error.message


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}")))
def test_nothing_but_a_hub_error_comes_of_any_text(text: str) -> None:
    with pytest.raises(HubError):
        verify_now(TokenVerifier(settings()), text)


JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.text(max_size=3)),
)


@given(st.dictionaries(st.sampled_from(["sub", "org", "exp", "aud", "scope", "iat", "nbf", "name"]), JSON_VALUES))
def test_nothing_but_a_hub_error_comes_of_any_signed_claims(changes: dict[str, Any]) -> None:
    payload = {**claims(), **changes}
    try:
        principal = verify_now(TokenVerifier(settings()), signed(payload))
    except HubError as error:
        assert error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED)  # noqa: PT017 - either may be right
    else:
        assert (principal.user, principal.org, principal.expires_at) == (payload["sub"], payload["org"], payload["exp"])


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="HUB_JWT_SECRET or HUB_JWKS_URL"):
        TokenVerifier(settings(jwt_secret=""))
    with pytest.raises(ConfigError, match="at least 32"):
        TokenVerifier(settings(jwt_secret="short"))
    with pytest.raises(ConfigError, match="HUB_JWT_SECRET is not set"):
        mint_token(settings(jwt_secret=""), "acme", "u1")


@pytest.mark.parametrize(("org", "user"), [("_hub", "u1"), ("acme", ""), ("acme", "me"), ("", "u1"), ("acme", "u\n")])
def test_a_token_that_would_be_refused_is_not_minted(org: str, user: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which text it has is not the point
        mint_token(settings(), org, user)


# --- public keys -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys() -> list[IssuerKey]:
    return [IssuerKey("RS256", "r1"), IssuerKey("ES256", "e1"), IssuerKey("EdDSA", "d1")]


@pytest.fixture
async def issuer(keys: list[IssuerKey]) -> AsyncIterator[IssuerServer]:
    async with IssuerServer(*(key.jwk() for key in keys)) as server:
        yield server


@pytest.fixture
async def both(issuer: IssuerServer) -> AsyncIterator[TokenVerifier]:
    """A verifier with a secret and a key set, where algorithms could be confused."""
    own = settings(jwks_url=issuer.url)
    jwks = JwksCache(own)
    yield TokenVerifier(own, jwks)
    await jwks.close()


async def test_every_key_type_verifies_its_algorithm(both: TokenVerifier, keys: list[IssuerKey]) -> None:
    for key in keys:
        assert (await both.verify(key.sign(sub=key.algorithm))).user == key.algorithm
    assert (await both.verify(mint_token(settings(), "acme", "u1"))).user == "u1"


async def test_hs256_with_a_public_key_as_secret_is_refused(both: TokenVerifier, keys: list[IssuerKey]) -> None:
    payload = json.dumps(claims()).encode()
    for key in keys:
        public = key.private.public_key()
        forms = [
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
            json.dumps(key.jwk()).encode(),
        ]
        for algorithm in ("HS256", key.algorithm):
            for form in forms:
                with pytest.raises(HubError) as caught:
                    await both.verify(by_hand({"alg": algorithm, "kid": key.kid}, payload, form))
                assert caught.value.code is ErrorCode.UNAUTHENTICATED


async def test_a_token_may_not_choose_a_key_of_another_type(both: TokenVerifier, keys: list[IssuerKey]) -> None:
    for key in keys:
        for other in keys:
            if other is not key:
                token = jwt.encode(claims(), key.private, algorithm=key.algorithm, headers={"kid": other.kid})
                with pytest.raises(HubError, match="does not publish"):
                    await both.verify(token)


async def test_a_token_of_a_stranger_with_a_known_kid_is_refused(both: TokenVerifier) -> None:
    with pytest.raises(HubError, match="signature"):
        await both.verify(IssuerKey("ES256", "e1").sign())


async def test_hs256_is_refused_without_a_secret(issuer: IssuerServer) -> None:
    own = settings(jwks_url=issuer.url, jwt_secret="")
    jwks = JwksCache(own)
    with pytest.raises(HubError, match="ES256 or EdDSA or RS256"):
        await TokenVerifier(own, jwks).verify(mint_token(settings(), "acme", "u1"))
    await jwks.close()
    assert issuer.fetches == 0


class CountedChecks:
    """How many signatures a verifier computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        decode = jwt.PyJWS.decode

        def counted(*args: Any, **more: Any) -> Any:
            self.count += 1
            return decode(*args, **more)

        monkeypatch.setattr(jwt.PyJWS, "decode", counted)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> CountedChecks:
    return CountedChecks(monkeypatch)


def test_a_token_that_comes_again_costs_no_signature(checks: CountedChecks) -> None:
    verifier = TokenVerifier(settings())
    token = mint_token(settings(), "acme", "u1")
    first = verify_now(verifier, token)
    assert verify_now(verifier, token) is first
    assert checks.count == 1
    assert verify_now(verifier, mint_token(settings(), "acme", "u2")).user == "u2"
    assert checks.count == 2


def test_a_remembered_token_ends_like_any_other() -> None:
    now = [1e9]
    verifier = TokenVerifier(settings(), clock=lambda: now[0])
    token = signed(claims(iat=1e9, nbf=1e9, exp=1e9 + 60))
    assert verify_now(verifier, token).user == "u1"
    now[0] += 64.9  # the leeway is 5 s
    assert verify_now(verifier, token).user == "u1"
    now[0] += 0.1
    with pytest.raises(HubError) as caught:
        verify_now(verifier, token)
    assert caught.value.code is ErrorCode.TOKEN_EXPIRED
    now[0] = 1e9 - 6  # the clock was set back: not valid yet
    with pytest.raises(HubError, match="nbf"):
        verify_now(verifier, token)


def test_what_was_refused_is_looked_at_again(checks: CountedChecks) -> None:
    now = [1e9]
    verifier = TokenVerifier(settings(), clock=lambda: now[0])
    token = signed(claims(iat=1e9, nbf=1e9 + 60, exp=1e9 + 600))
    for _ in range(2):
        with pytest.raises(HubError, match="nbf"):
            verify_now(verifier, token)
    now[0] += 60
    assert verify_now(verifier, token).user == "u1"
    assert checks.count == 3


def test_a_remembered_token_vouches_for_no_other() -> None:
    verifier = TokenVerifier(settings())
    token = mint_token(settings(), "acme", "u1")
    verify_now(verifier, token)
    for at in range(0, len(token), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(HubError):
            verify_now(verifier, changed)


@pytest.mark.parametrize("most", [0, 2])
def test_what_is_remembered_is_bounded_and_holds_no_token(checks: CountedChecks, most: int) -> None:
    verifier = TokenVerifier(settings(max_verified_tokens=most))
    tokens = [mint_token(settings(), "acme", f"u{number}") for number in range(3)]
    for number in (0, 1, 0, 2, 0, 1):
        verify_now(verifier, tokens[number])
    assert len(verifier._verified) == most
    # The third one took the place of the second, which had not been used for longest.
    assert checks.count == (4 if most else 6)
    kept = repr(verifier._verified)
    assert not any(part in kept for token in tokens for part in token.split(".")[1:])


async def test_a_key_that_is_withdrawn_ends_its_remembered_tokens() -> None:
    now = [0.0]
    old, new = IssuerKey("ES256", "old"), IssuerKey("ES256", "new")
    async with IssuerServer(old.jwk(), new.jwk()) as issuer:
        own = settings(jwt_secret="", jwks_url=issuer.url, jwks_max_age_s=600, jwks_refetch_s=30)
        jwks = JwksCache(own, clock=lambda: now[0])
        verifier = TokenVerifier(own, jwks)
        token = old.sign()
        assert (await verifier.verify(token)).user == "u1"
        issuer.keys = [new.jwk()]
        now[0] = 599
        assert (await verifier.verify(token)).user == "u1", "the key set in hand still has it"
        now[0] = 600
        with pytest.raises(HubError, match="does not publish"):
            await verifier.verify(token)
        issuer.keys = [IssuerKey("ES256", "old").jwk()]
        now[0] = 1300
        with pytest.raises(HubError, match="signature"):
            await verifier.verify(token)
        await jwks.close()


async def test_a_remembered_token_of_a_key_set_costs_no_signature(checks: CountedChecks) -> None:
    key = IssuerKey("ES256", "k")
    async with IssuerServer(key.jwk()) as issuer:
        own = settings(jwt_secret="", jwks_url=issuer.url)
        jwks = JwksCache(own)
        verifier = TokenVerifier(own, jwks)
        token = key.sign()
        assert await verifier.verify(token) is await verifier.verify(token)
        assert (checks.count, issuer.fetches) == (1, 1)
        await jwks.close()
