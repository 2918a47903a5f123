"""Whose address a request has."""

from __future__ import annotations

import pytest

from hub.edge.client_ip import client_ip, ip_block

FORWARDED = "X-Forwarded-For"


def address(header: str, *values: str, peer: tuple[str, int] | None = ("203.0.113.7", 5)) -> str:
    headers = [(b"x-other", b"192.0.2.66"), *((b"x-forwarded-for", value.encode("latin-1")) for value in values)]
    return client_ip({"headers": headers, "client": peer}, header)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
        (["198.51.100.9", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:DB8::1]:4711"], "2001:db8::1"),
        (["2001:db8:0::1"], "2001:db8::1"),
        (["fe80::1%eth0"], "fe80::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        # Not what the proxy writes: the peer, which is the proxy, counts for all of them.
        ([], "203.0.113.7"),
        (["unknown"], "203.0.113.7"),
        (["192.0.2.1, "], "203.0.113.7"),
        (["\xff"], "203.0.113.7"),
    ],
)
def test_what_the_proxy_says(values: list[str], found: str) -> None:
    assert address(FORWARDED, *values) == found


def test_without_a_proxy_nobody_can_invent_an_address() -> None:
    assert address("", "192.0.2.1") == "203.0.113.7"


def test_nobody_knows() -> None:
    assert address("", peer=None) == ""
    assert address("", peer=("", 0)) == ""
    assert address(FORWARDED, "192.0.2.1", peer=None) == "192.0.2.1"


def test_blocks() -> None:
    assert ip_block("192.0.2.1") == "192.0.2.1"
    assert ip_block("2001:db8:1:2::1") == ip_block("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert ip_block("2001:db8:1:3::1") != ip_block("2001:db8:1:2::1")
