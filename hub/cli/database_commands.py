"""``hub migrate`` and ``hub sql``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hub.cli.failure import fail, reported


@reported
def migrate() -> None:
    """Bring the database up to date, as its owner (HUB_DATABASE_OWNER_URL)."""
    import asyncio

    from hub.cli.environment import partial_settings
    from hub.database.migrate import migrate as run

    asyncio.run(run(partial_settings(), print))


@reported
def sql(
    statement: Annotated[str, typer.Argument(help="One statement.")],
    org: Annotated[str, typer.Option(help="The organisation whose rows it sees.")] = "acme",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
) -> None:
    """Run one statement as hub_app in a transaction of one organisation, as a service would.

    The database is HUB_DATABASE_URL, else that of the `hub dev` which runs in this folder.
    """
    import asyncio

    from hub.cli.environment import is_unset, partial_settings
    from hub.errors import ConfigError

    settings = partial_settings()
    if is_unset(settings.database_url):
        raise ConfigError("HUB_DATABASE_URL is not set, and no hub dev runs in this folder")
    _print_rows(asyncio.run(_run(settings.database_url, org, statement, settings.database_timeout_s)), as_json)


async def _run(url: str, org: str, statement: str, timeout_s: float) -> list[dict[str, Any]]:
    import asyncpg

    from hub.database.failures import translated

    with translated():
        connection = await asyncpg.connect(url, timeout=timeout_s, command_timeout=timeout_s)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('hub.org', $1, true)", org)
            return [dict(row) for row in await connection.fetch(statement)]
    except asyncpg.PostgresError as error:
        fail(f"{error}{f' ({error.hint})' if getattr(error, 'hint', None) else ''}")
    finally:
        await connection.close()


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    import msgspec

    if as_json:
        for row in rows:
            print(msgspec.json.encode(row, enc_hook=str).decode())
    elif rows:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
        Console().print(table)
