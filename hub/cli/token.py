"""``hub token``: a token for development and tests, on stdout and alone there."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.failure import reported


@reported
def token(
    org: Annotated[str, typer.Option(help="Organisation.")],
    user: Annotated[str, typer.Option(help="User (claim sub).")],
    scope: Annotated[
        list[str] | None, typer.Option(help="Scope word, several times or several in one; none: the hub's default.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid: 90s, 30m, 1h, 7d.")] = "1h",
    name: Annotated[str, typer.Option(help="The user's name as others see it.")] = "",
) -> None:
    """Print a token. The secret is HUB_JWT_SECRET, else that of `hub dev` in this folder (.hub/secret)."""
    from hub.cli.environment import mint
    from hub.cli.values import duration_s

    print(mint(org, user, scope=" ".join(scope) if scope else None, ttl_s=duration_s(ttl), name=name))
