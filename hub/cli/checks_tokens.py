"""``hub doctor`` on tokens: the secret, and the address of the public keys."""

from __future__ import annotations

import httpx

from hub.cli.checks import Verdict, bad, ok
from hub.config import MINIMUM_SECRET_BYTES, Settings


async def check_tokens(settings: Settings) -> list[Verdict]:
    """All rows about tokens."""
    rows = []
    if settings.jwt_secret:
        # A shorter one is refused before any check runs.
        length = len(settings.jwt_secret.encode())
        rows.append(ok("secret", f"{length} bytes, at least {MINIMUM_SECRET_BYTES} are needed"))
    if settings.jwks_url:
        rows.append(await _check_jwks(settings))
    if not rows:
        rows.append(bad("tokens", "nothing to verify them with", "set HUB_JWT_SECRET (32 bytes) or HUB_JWKS_URL"))
    return rows


async def _check_jwks(settings: Settings) -> Verdict:
    try:
        async with httpx.AsyncClient(timeout=settings.jwks_timeout_s) as client:
            answer = await client.get(settings.jwks_url)
        keys = answer.raise_for_status().json()["keys"]
        return ok("JWKS", f"{len(keys)} keys") if keys else bad("JWKS", "no key in it", "correct HUB_JWKS_URL")
    except httpx.HTTPError as error:
        return bad("JWKS", f"{type(error).__name__}: {error}", "correct HUB_JWKS_URL, or let this machine reach it")
    except (ValueError, KeyError, TypeError):
        return bad("JWKS", "the answer is not a key set", "correct HUB_JWKS_URL")
