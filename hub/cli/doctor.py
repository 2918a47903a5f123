"""``hub doctor``: is what the hub needs there, and set as it must be? A row per check, with what to do."""

from __future__ import annotations

import typer

from hub.cli.failure import FAILED, reported


@reported
def doctor() -> None:
    """Check Redis, PostgreSQL, clocks, tokens, flags, what services need. Exit code 1 when something must change."""
    import asyncio

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from hub.cli.checks import Verdict
    from hub.cli.checks_database import check_database
    from hub.cli.checks_flags import check_flags
    from hub.cli.checks_redis import check_redis
    from hub.cli.checks_services import check_services
    from hub.cli.checks_tokens import check_tokens
    from hub.cli.environment import partial_settings

    settings = partial_settings()

    async def all_rows() -> list[Verdict]:
        groups = await asyncio.gather(
            check_redis(settings),
            check_database(settings),
            check_tokens(settings),
            check_flags(settings),
            check_services(settings),
        )
        return [row for group in groups for row in group]

    rows = asyncio.run(all_rows())
    table = Table("", "check", "found", "what to do")
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for row in rows:
        table.add_row(Text(row.status, style=colours[row.status]), row.check, Text(row.found), Text(row.remedy))
    console = Console()
    console.print(table)
    failed = sum(row.status == "fail" for row in rows)
    if failed:
        console.print(f"{failed} of {len(rows)} checks failed", style="red")
        raise typer.Exit(FAILED)
