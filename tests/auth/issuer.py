"""A token issuer for tests: key pairs of every type, and a real HTTP server that publishes them and can be hurt."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

_MAKERS: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_FAMILIES: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


class IssuerKey:
    """A key pair."""

    def __init__(self, algorithm: str, kid: str | None, private: Any = None) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.private = private or _MAKERS[algorithm]()

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The entry of the public key in a key set; ``members`` are added, those that are None left out."""
        entry = json.loads(_FAMILIES[self.algorithm].to_jwk(self.private.public_key()))
        entry = {**entry, "kid": self.kid, "use": "sig", "alg": self.algorithm, **members}
        return {name: value for name, value in entry.items() if value is not None and name != "key_ops"} | {
            name: value for name, value in members.items() if name == "key_ops"
        }

    def sign(self, **changes: Any) -> str:
        """A valid token but for ``changes``."""
        headers = {"kid": self.kid} if self.kid is not None else None
        return jwt.encode(claims(**changes), self.private, algorithm=self.algorithm, headers=headers)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid token; ``changes`` that are None leave a claim out."""
    now = time.time()
    valid = {"sub": "u1", "org": "acme", "aud": "hub", "exp": now + 600, "iat": now}
    return {name: value for name, value in {**valid, **changes}.items() if value is not None}


def base64url(data: bytes) -> str:
    """Without padding, as JWTs have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class IssuerServer:
    """Serves a key set over HTTP on loopback and counts how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fetches = 0
        self.failing = False
        self.body: bytes | None = None
        """Sent instead of the keys."""
        self.extra_headers = ""
        self.hold: asyncio.Event | None = None
        """Answers wait for it."""

    async def __aenter__(self) -> IssuerServer:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/jwks.json"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            if self.hold is not None:
                await self.hold.wait()
            body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
            status = "500 Oops" if self.failing else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{self.extra_headers}\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
