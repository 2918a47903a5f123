"""The key set's cache against a real HTTP server that counts and can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from hub.auth.jwks import JwksCache
from hub.config import Settings
from hub.errors import ConfigError, ErrorCode, HubError
from tests.auth.issuer import IssuerKey, IssuerServer
from tests.support.clock import Clock
from tests.support.waiting import until


def settings(url: str, **changes: Any) -> Settings:
    return Settings(redis_url="redis://x", database_url="x", jwks_url=url, **({"jwks_timeout_s": 30.0} | changes))


@pytest.fixture
def key() -> IssuerKey:
    return IssuerKey("ES256", "k1")


@pytest.fixture
async def issuer(key: IssuerKey) -> AsyncIterator[IssuerServer]:
    async with IssuerServer(key.jwk()) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def cache_of(issuer: IssuerServer, clock: Clock, **changes: Any) -> AsyncIterator[JwksCache]:
    cache = JwksCache(settings(issuer.url, **changes), clock=clock)
    try:
        yield cache
    finally:
        await cache.close()


async def knows(cache: JwksCache, kid: str | None = "k1") -> bool:
    return await cache.key_for("ES256", kid) is not None


async def test_it_is_fetched_when_first_needed_and_then_kept(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert issuer.fetches == 0
        for _ in range(3):
            assert await knows(cache)
        assert issuer.fetches == 1


async def test_it_is_fetched_again_when_old(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        clock.now += 599
        assert await knows(cache)
        assert issuer.fetches == 1
        issuer.keys = [IssuerKey("ES256", "k2").jwk()]
        clock.now += 1
        assert not await knows(cache)
        assert await knows(cache, "k2")
        assert issuer.fetches == 2


async def test_a_new_key_is_found_before_that(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        issuer.keys.append(IssuerKey("ES256", "k2").jwk())
        assert not await knows(cache, "k2")
        clock.now += 30
        assert await knows(cache, "k2")
        assert issuer.fetches == 2


async def test_a_storm_of_unknown_keys_is_one_fetch(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        clock.now += 30
        assert not any(await asyncio.gather(*(knows(cache, f"unknown{number}") for number in range(10))))
        assert issuer.fetches == 2
        assert not any([await knows(cache, f"again{number}") for number in range(10)])
        assert issuer.fetches == 2


async def test_all_wait_for_the_first_fetch_and_one_giving_up_does_not_end_it(
    issuer: IssuerServer, clock: Clock
) -> None:
    issuer.hold = asyncio.Event()
    async with cache_of(issuer, clock) as cache:
        waiting = [asyncio.create_task(knows(cache)) for _ in range(10)]
        await until(lambda: issuer.fetches == 1)
        waiting[0].cancel()
        issuer.hold.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert outcomes[1:] == [True] * 9
        assert issuer.fetches == 1


async def test_a_known_key_does_not_wait_for_a_fetch_of_unknown_ones(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        clock.now += 30
        issuer.hold = asyncio.Event()
        unknown = asyncio.create_task(knows(cache, "unknown"))
        await until(lambda: issuer.fetches == 2)
        assert await asyncio.wait_for(knows(cache), 30)
        issuer.hold.set()
        assert not await unknown


async def test_a_failing_fetch_keeps_the_keys_and_is_not_repeated_at_once(issuer: IssuerServer, clock: Clock) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        issuer.failing = True
        clock.now += 100_000
        assert await knows(cache)
        assert await knows(cache)
        assert issuer.fetches == 2
        clock.now += 30
        assert await knows(cache)
        assert issuer.fetches == 3


async def test_without_any_key_it_is_unavailable_and_soon_tried_again(issuer: IssuerServer, clock: Clock) -> None:
    issuer.failing = True
    async with cache_of(issuer, clock) as cache:
        for _ in range(3):
            with pytest.raises(HubError) as caught:
                await knows(cache)
            assert caught.value.code is ErrorCode.UNAVAILABLE
        assert issuer.fetches == 1
        issuer.failing = False
        clock.now += 1
        assert await knows(cache)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[1,null,{}]}', b"\xff", b"[" * 9000, b"x" * 300_000],
)
async def test_an_answer_that_is_no_key_set_keeps_the_keys(issuer: IssuerServer, clock: Clock, body: bytes) -> None:
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)
        issuer.body = body
        clock.now += 600
        assert await knows(cache)
        assert issuer.fetches == 2


async def test_a_key_set_is_read_up_to_its_limits(issuer: IssuerServer, clock: Clock, key: IssuerKey) -> None:
    others = [IssuerKey("ES256", f"other{number}", key.private).jwk() for number in range(5)]
    issuer.keys = [*others, key.jwk()]
    async with cache_of(issuer, clock, jwks_max_keys=5) as cache:
        assert await knows(cache, "other4")
        assert not await knows(cache)
    issuer.body = json.dumps({"keys": [key.jwk()], "padding": "x" * 1024}).encode()
    async with cache_of(issuer, clock, jwks_max_bytes=1024) as cache:
        with pytest.raises(HubError):
            await knows(cache)
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache)


async def test_a_compressed_answer_is_refused(issuer: IssuerServer, clock: Clock) -> None:
    issuer.extra_headers = "Content-Encoding: gzip\r\n"
    async with cache_of(issuer, clock) as cache:
        with pytest.raises(HubError):
            await knows(cache)


async def test_an_answer_that_does_not_come_is_given_up(issuer: IssuerServer, clock: Clock) -> None:
    issuer.hold = asyncio.Event()
    async with cache_of(issuer, clock, jwks_timeout_s=0.05) as cache:
        with pytest.raises(HubError):
            await knows(cache)
    issuer.hold.set()


async def test_a_redirection_is_not_followed(issuer: IssuerServer, clock: Clock, key: IssuerKey) -> None:
    async with IssuerServer(key.jwk()) as elsewhere:
        issuer.failing = True
        issuer.extra_headers = f"Location: {elsewhere.url}\r\n"
        async with cache_of(issuer, clock) as cache:
            with pytest.raises(HubError):
                await knows(cache)
        assert elsewhere.fetches == 0


async def test_closing_ends_a_fetch_under_way(issuer: IssuerServer, clock: Clock) -> None:
    issuer.hold = asyncio.Event()
    async with cache_of(issuer, clock) as cache:
        waiting = asyncio.create_task(knows(cache))
        await until(lambda: issuer.fetches == 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    issuer.hold.set()


async def test_keys_that_may_not_sign_here_are_skipped(issuer: IssuerServer, clock: Clock, key: IssuerKey) -> None:
    short = IssuerKey("RS256", "short", rsa.generate_private_key(public_exponent=65537, key_size=1024))
    issuer.keys = [
        key.jwk(kid="encryption", use="enc"),
        key.jwk(kid="other algorithm", alg="ES384"),
        key.jwk(kid="other type", kty="RSA"),
        key.jwk(kid="other curve", crv="P-384"),
        key.jwk(kid="broken", x="!!"),
        key.jwk(kid="may only sign", key_ops=["sign"]),
        key.jwk(kid=5),
        key.jwk(kty=None, kid="no type"),
        {"kty": "oct", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg", "kid": "secret", "alg": "HS256"},
        short.jwk(),
        key.jwk(),
    ]
    async with cache_of(issuer, clock) as cache:
        for entry in issuer.keys[:-1]:
            for algorithm in ("ES256", "RS256", "EdDSA", "HS256"):
                assert await cache.key_for(algorithm, str(entry["kid"])) is None
        # Without a name it is found only because it is the only one.
        assert await knows(cache, None)


async def test_an_entry_with_only_what_is_needed_works(issuer: IssuerServer, clock: Clock, key: IssuerKey) -> None:
    issuer.keys = [key.jwk(use=None, alg=None, kid=None)]
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache, None)


async def test_a_published_private_key_is_taken_as_the_public_one(issuer: IssuerServer, clock: Clock) -> None:
    curve, edwards = IssuerKey("ES256", "k1"), IssuerKey("EdDSA", "k1")
    issuer.keys = [
        {**json.loads(ECAlgorithm.to_jwk(curve.private)), "kid": "k1", "key_ops": ["sign", "verify"]},
        {**json.loads(OKPAlgorithm.to_jwk(edwards.private)), "kid": "k1", "key_ops": ["sign", "verify"]},
    ]
    async with cache_of(issuer, clock) as cache:
        for algorithm in ("ES256", "EdDSA"):
            found = await cache.key_for(algorithm, "k1")
            assert found is not None
            assert hasattr(found.key, "verify")


async def test_a_token_without_kid_needs_a_set_with_one_such_key(
    issuer: IssuerServer, clock: Clock, key: IssuerKey
) -> None:
    issuer.keys.append(IssuerKey("EdDSA", "d1").jwk())
    async with cache_of(issuer, clock) as cache:
        assert await knows(cache, None)
    issuer.keys.append(IssuerKey("ES256", "k2").jwk())
    async with cache_of(issuer, clock) as cache:
        assert not await knows(cache, None)


@pytest.mark.parametrize(
    "url", ["http://issuer.example/jwks", "file:///etc/passwd", "https://", "ftp://127.0.0.1/", ""]
)
def test_only_https_or_loopback(url: str) -> None:
    with pytest.raises(ConfigError, match="HUB_JWKS_URL"):
        JwksCache(settings(url))
