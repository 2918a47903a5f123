"""Where an HTTP request comes from: the socket's peer, or what a trusted proxy in front says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

# What one customer has of IPv6: who counts single addresses counts nothing.
_IPV6_PREFIX: Final = 64


def client_ip(scope: Mapping[str, Any], header: str) -> str:
    """The client's address of an ASGI ``scope``; "" when nobody knows, as behind a unix socket.

    ``header`` is ``Settings.client_ip_header``. The last element of the last such header counts: that one the proxy
    wrote, all before it may be the client's invention. Without it, or with none that reads, it is the socket's peer.
    """
    told = _last(scope["headers"], header.lower().encode()) if header else ""
    peer = scope.get("client")
    return _address(told) or (_address(peer[0]) if peer else "")


def ip_block(address: str) -> str:
    """What to count ``address`` with: itself, or the /64 of IPv6 that it is in."""
    if ":" not in address:
        return address
    return str(ip_network((address, _IPV6_PREFIX), strict=False))


def _last(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    found = [value for key, value in headers if key.lower() == name]
    return found[-1].decode("latin-1").rpartition(",")[2].strip() if found else ""


def _address(text: str) -> str:
    """``text`` in one form, without port and zone; "" when it is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)
