"""Where the token of a request stands, which subprotocol is chosen, and which origins may come in."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.auth.credentials import (
    BEARER_SUBPROTOCOL,
    Credentials,
    CredentialsError,
    Place,
    Subprotocol,
    choose_subprotocol,
    find_credentials,
    origin_allowed,
)
from hub.errors import ErrorCode

TOKEN = "aaa.bbb.ccc"


def headers(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()]


def bearer(token: str) -> str:
    return BEARER_SUBPROTOCOL + base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


def test_the_first_place_that_holds_something_wins() -> None:
    given_headers = headers(authorization=f"Bearer {TOKEN}", sec_websocket_protocol=f"hub.v1.json, {bearer('second')}")
    assert find_credentials(given_headers, b"ticket=third") == Credentials(Place.HEADER, TOKEN)
    assert find_credentials(given_headers[1:], b"ticket=third") == Credentials(Place.SUBPROTOCOL, "second")
    assert find_credentials([], b"x=1&ticket=third&y") == Credentials(Place.TICKET, "third")
    assert find_credentials([], b"") == Credentials(Place.HELLO)


def test_only_a_bad_token_in_the_header_is_answered_by_status() -> None:
    assert [place for place in Place if place.answers_by_status] == [Place.HEADER]


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}  "])
def test_the_scheme_is_read_in_any_case(value: str) -> None:
    assert find_credentials([(b"Authorization", value.encode())], b"").secret == TOKEN


def test_another_scheme_is_not_the_hubs_business() -> None:
    assert find_credentials(headers(authorization="Basic dTpw"), b"ticket=t").place is Place.TICKET


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b", "Bearer t\xe9"])
def test_a_malformed_header(value: str) -> None:
    with pytest.raises(CredentialsError, match="Authorization") as caught:
        find_credentials(headers(authorization=value), b"ticket=good")
    assert caught.value.place is Place.HEADER
    assert caught.value.code is ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize("encoded", ["", "YQ==", "Y Q", "a+b/", "A", "w6k"])
def test_a_malformed_subprotocol(encoded: str) -> None:
    with pytest.raises(CredentialsError, match="padding") as caught:
        find_credentials(headers(sec_websocket_protocol=f"hub.v1.json,{BEARER_SUBPROTOCOL}{encoded}"), b"")
    assert caught.value.place is Place.SUBPROTOCOL


@pytest.mark.parametrize("query", [b"ticket=", b"ticket", b"ticket=a&ticket=b", b"ticket=a%20b", b"ticket=%C3%A9"])
def test_a_malformed_ticket(query: bytes) -> None:
    with pytest.raises(CredentialsError, match=r"\?ticket=") as caught:
        find_credentials([], query)
    assert caught.value.place is Place.TICKET


def test_two_tokens_in_one_place_are_refused() -> None:
    with pytest.raises(CredentialsError, match="2 times"):
        find_credentials([*headers(authorization="Bearer a"), *headers(authorization="Bearer b")], b"")
    with pytest.raises(CredentialsError, match="2 times"):
        find_credentials(headers(sec_websocket_protocol=f"{bearer('a')}, {bearer('b')}"), b"")


def test_the_repr_hides_the_token() -> None:
    assert TOKEN not in repr(Credentials(Place.HEADER, TOKEN))


tokens = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(tokens)
def test_every_token_comes_out_of_every_place_as_it_went_in(token: str) -> None:
    assert find_credentials(headers(authorization=f"Bearer {token}"), b"").secret == token
    assert find_credentials(headers(sec_websocket_protocol=f"hub.v1.json, {bearer(token)}"), b"").secret == token
    assert find_credentials([], f"ticket={quote(token, safe='')}".encode()).secret == token


@given(st.binary(), st.binary(), st.binary())
@example(b"Bearer \xff", b"", b"")
def test_any_bytes_give_credentials_or_their_error(authorization: bytes, subprotocol: bytes, query: bytes) -> None:
    given_headers = [(b"authorization", authorization), (b"sec-websocket-protocol", subprotocol)]
    choose_subprotocol(given_headers)
    try:
        found = find_credentials(given_headers, query)
    except CredentialsError as error:
        assert error.place is not Place.HELLO  # noqa: PT017 - either outcome is right
    else:
        assert found.secret.isascii()
        assert bool(found.secret) is (found.place is not Place.HELLO)


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (None, Subprotocol("json")),
        ("", Subprotocol("json")),
        ("hub.v1.json", Subprotocol("json", "hub.v1.json")),
        ("hub.v1.msgpack", Subprotocol("msgpack", "hub.v1.msgpack")),
        ("hub.v1.msgpack, hub.v1.json", Subprotocol("msgpack", "hub.v1.msgpack")),
        ("hub.v2.json,hub.v1.json", Subprotocol("json", "hub.v1.json")),
        ("hub.v2.json", Subprotocol("json", None, spoken=False)),
        (f"hub.v2.json, {bearer(TOKEN)}", Subprotocol("json", None, spoken=False)),
        ("hub.v1.cbor", Subprotocol("json", None, spoken=False)),
        (bearer(TOKEN), Subprotocol("json")),
        (f"{bearer(TOKEN)}, hub.v1.msgpack", Subprotocol("msgpack", "hub.v1.msgpack")),
        ("graphql-ws", Subprotocol("json")),
        ("HUB.V1.JSON", Subprotocol("json")),
    ],
)
def test_the_subprotocol(offer: str | None, expected: Subprotocol) -> None:
    assert choose_subprotocol([] if offer is None else headers(sec_websocket_protocol=offer)) == expected


def test_an_offer_in_several_headers_is_one_offer() -> None:
    several = [*headers(sec_websocket_protocol="hub.v9.x"), *headers(sec_websocket_protocol="hub.v1.msgpack")]
    assert choose_subprotocol(several).echo == "hub.v1.msgpack"


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "expected"),
    [
        (None, "hub.example", (), True),
        ("https://hub.example", "hub.example", (), True),
        ("https://HUB.example", "hub.EXAMPLE:443", (), True),
        ("http://hub.example:80", "hub.example", (), True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", (), True),
        ("http://[::1]:8000", "[::1]:8000", (), True),
        ("http://127.0.0.1:9000", "127.0.0.1:8000", (), False),
        ("http://hub.example", "hub.example:443", (), False),
        ("https://evil.example", "hub.example", (), False),
        ("https://hub.example.evil.example", "hub.example", (), False),
        ("https://evil.example/hub.example", "hub.example", ("https://hub.example",), False),
        ("https://hub.example@evil.example", "hub.example", (), False),
        ("null", "null", (), False),
        ("", "", (), False),
        ("file://hub.example", "hub.example", (), False),
        ("https://app.example", "hub.example", ("https://app.example",), True),
        ("https://app.example", "hub.example", ("https://APP.example/",), True),
        ("http://app.example", "hub.example", ("https://app.example",), False),
        ("https://app.example:444", "hub.example", ("https://app.example",), False),
        ("capacitor://localhost", "hub.example", ("capacitor://localhost",), True),
        ("null", "hub.example", ("*",), True),
        ("https://evil.example", "hub.example", ("*",), True),
    ],
)
def test_origins(origin: str | None, host: str, allowed: tuple[str, ...], expected: bool) -> None:
    given_headers = headers(host=host) + ([] if origin is None else headers(origin=origin))
    assert origin_allowed(given_headers, allowed) is expected


def test_repeated_headers_are_foreign() -> None:
    origin, host = headers(origin="https://hub.example"), headers(host="hub.example")
    assert not origin_allowed([*origin, *origin, *host], ())
    assert not origin_allowed([*origin, *host, *headers(host="other.example")], ())
    assert not origin_allowed(origin, ())
