"""``hub flags``: what is switched on for whom, changed on a running hub, over HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hub.cli.asking import ask, operator_token
from hub.cli.environment import TOKEN_VARIABLE, URL_VARIABLE
from hub.cli.failure import fail, reported

app = typer.Typer(
    help="What is switched on for whom; changes count on all nodes within a second.", no_args_is_help=True
)

SCOPE = "flags:write"

Name = Annotated[str, typer.Argument(help="The flag, for example chat.")]
Why = Annotated[str, typer.Option(help="For the record that `hub flags log` shows.")]
IfVersion = Annotated[
    int | None, typer.Option(min=0, help="Only if its change has this version (`explain` shows it); 0: has none.")
]
Json = Annotated[bool, typer.Option("--json", help="The answer of the hub as JSON.")]
Url = Annotated[
    str, typer.Option(envvar=URL_VARIABLE, show_default="ws://127.0.0.1:$PORT/ws", help="The hub's WebSocket.")
]
Token = Annotated[
    str,
    typer.Option(
        envvar=TOKEN_VARIABLE,
        show_default="made with the secret of hub dev",
        help=f"A token with the scope {SCOPE}.",
    ),
]

_RULES = {
    "kill_switch": "the file switches it off (state)",
    "override": "it was changed at run time",
    "allow_list": "the file lists whoever asks among those who have it in any case (allow)",
    "targeting": "a targeting rule of the file decides",
    "rollout": "the percentage decides",
    "default": "nothing else decides: the default of the file",
}


@app.command("list")
@reported
def list_flags(as_json: Json = False, url: Url = "", token: Token = "") -> None:
    """All flags: what counts now, whose they are, and what was changed at run time."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    answer = ask("GET", "/v1/flags", url, operator_token(token, SCOPE))
    if as_json:
        _print_json(answer)
        return
    table = Table(Column("flag", no_wrap=True, overflow="fold"), "now", "owner", "expires", "changed at run time")
    for flag in answer["flags"]:
        expires = f"{flag['expires']} (over)" if flag.get("expired") else flag.get("expires", "")
        table.add_row(*(Text(cell) for cell in (flag["flag"], _now(flag), flag["owner"], expires, _change_of(flag))))
    console = Console()
    console.print(table)
    for orphan in answer["orphans"]:
        name = orphan["flag"]
        console.print(Text(f"{name}: changed at run time, but not in the file; `hub flags clear {name}` forgets it"))
    if problem := answer["file"].get("problem"):
        console.print(Text(f"the file was refused, what it said before counts:\n{problem}", style="red"))
    if away := answer.get("away"):
        console.print(Text(f"changes cannot be read just now, the last known ones count: {away}", style="red"))


@app.command()
@reported
def explain(
    name: Name,
    user: Annotated[str, typer.Option(help="The sub of somebody's tokens.")] = "",
    org: Annotated[str, typer.Option(help="Their organisation.")] = "",
    as_json: Json = False,
    url: Url = "",
    token: Token = "",
) -> None:
    """What a flag is for somebody, and why."""
    given = {"user": user, "org": org}
    answer = ask("GET", f"/v1/flags/{_in_path(name)}", url, operator_token(token, SCOPE), params=given)
    if as_json:
        _print_json(answer)
        return
    flag, value = answer["flag"], answer["value"]
    shown = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    whom = " of ".join(part for part in (user, org) if part) or "nobody in particular"
    print(f"{name} is {shown} for {whom}: {_RULES.get(answer['rule'], answer['reason'])}")
    print(f"  now: {_now(flag)}")
    if changed := _change_of(flag):
        print(f"  changed at run time: {changed} (version {flag['override']['version']})")
    if stage := _stage(flag):
        print(f"  {stage}")
    if error := answer.get("error"):
        print(f"  {error}")


@app.command("set", context_settings={"ignore_unknown_options": True})
@reported
def set_flag(
    name: Name,
    value: Annotated[str, typer.Argument(help="on, off, or a percentage: 10%, 0.125%")],
    why: Why = "",
    if_version: IfVersion = None,
    url: Url = "",
    token: Token = "",
) -> None:
    """Change a flag on all nodes: on or off for everybody, or another percentage."""
    from hub.cli.values import percentage

    wanted: dict[str, Any] = {"state": value} if value in ("on", "off") else {"percent": percentage(value)}
    _change(name, wanted, why, if_version, (url, token))


@app.command()
@reported
def on(name: Name, why: Why = "", if_version: IfVersion = None, url: Url = "", token: Token = "") -> None:
    """Switch a flag on for everybody."""
    _change(name, {"state": "on"}, why, if_version, (url, token))


@app.command()
@reported
def off(name: Name, why: Why = "", if_version: IfVersion = None, url: Url = "", token: Token = "") -> None:
    """Switch a flag off for everybody, within a second on every open connection."""
    _change(name, {"state": "off"}, why, if_version, (url, token))


@app.command()
@reported
def clear(name: Name, why: Why = "", if_version: IfVersion = None, url: Url = "", token: Token = "") -> None:
    """Forget what was changed at run time: the file decides again."""
    _change(name, {"clear": True}, why, if_version, (url, token))


@app.command()
@reported
def log(
    name: Annotated[str | None, typer.Argument(help="One flag; else all.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many.")] = 20,
    as_json: Json = False,
    url: Url = "",
    token: Token = "",
) -> None:
    """Who changed what, when and why; the newest first."""
    given = {"limit": limit} | ({"flag": name} if name else {})
    answer = ask("GET", "/v1/flags/audit", url, operator_token(token, SCOPE), params=given)
    if as_json:
        _print_json(answer)
        return
    for row in answer["changes"]:
        kind = "" if row["kind"] in ("override", "clear") else f" ({row['kind']})"
        why = f": {row['why']}" if row["why"] else ""
        moved = f"{_value(row['from'])} → {_value(row['to'])}"
        print(_plain(f"{row['version']:>5}  {_when(row['at'])}  {row['flag']}  {moved}{kind}  by {row['who']}{why}"))


@app.command()
@reported
def check(
    file: Annotated[Path, typer.Argument(help="A file of flags.")] = Path("feature_flags.yaml"),
    flagd: Annotated[bool, typer.Option("--flagd", help="Print it as flagd reads it, short forms expanded.")] = False,
) -> None:
    """Read a file as the hub would. Exit code 1 when it would be refused."""
    import datetime

    from hub.flags import FlagFileError, costly, expand, load_flags

    try:
        found = load_flags(file.read_text(encoding="utf-8"), str(file))
    except FlagFileError as error:
        fail(str(error))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}")
    if flagd:
        _print_json(expand(found))
        return
    print(f"{file}: {len(found.flags)} flags, all is well")
    for sentence in found.expired(datetime.datetime.now(datetime.UTC).date()):
        print(f"  {sentence}")
    for sentence in costly(found.flags):
        print(f"  {sentence}")


def _change(name: str, wanted: dict[str, Any], why: str, if_version: int | None, where: tuple[str, str]) -> None:
    url, token = where
    body = {**wanted, "why": why} | ({} if if_version is None else {"if_version": if_version})
    answer = ask("PATCH", f"/v1/flags/{_in_path(name)}", url, operator_token(token, SCOPE), json=body)
    override = answer["changes"][0]["override"]
    if override is None:
        print(f"{name}: as the file says")
    else:
        print(f"{name}: {_value(override)} (version {override['version']})")


def _now(flag: dict[str, Any]) -> str:
    """What counts of a flag, in a few words."""
    now = flag["now"]
    percent = now.get("percent")
    if "state" in now:
        return f"{now['state']} (state in the file)" if now["by"] == "kill_switch" else str(now["state"])
    if percent is None:
        words = f"default {flag['default']}"
    else:
        words = {0: "off", 100: "on"}.get(percent, f"{percent:g}% by {flag['by']}")
    words += f", {_stage(flag)}" if now["by"] == "stage" else ""
    words += f", {flag['allowed']} allowed" if flag.get("allowed") and percent != 100 else ""
    return words + (", rules" if flag.get("rules") else "")


def _stage(flag: dict[str, Any]) -> str:
    """Where its schedule stands."""
    stage = flag.get("stage")
    if stage is None or not flag.get("stages"):
        return ""
    place = f"stage {stage['stage'] + 1} of" if stage["stage"] >= 0 else "before the first of"
    words = f"{place} {len(flag['stages'])}, {stage['percent']:g}% since {_when(stage['started_at'])}"
    if stopped := stage.get("stopped"):
        return f"{words}, held" if stopped == "held" else f"{words}, stopped by {stopped}"
    return f"{words}, next {_when(stage['next_at'])}" if stage.get("next_at") else words


def _change_of(flag: dict[str, Any]) -> str:
    change = flag.get("override")
    if change is None:
        return ""
    why = f": {change['why']}" if change["why"] else ""
    return _plain(f"{_value(change)} by {change['who']}, {_when(change['at'])}{why}")


def _plain(text: str) -> str:
    """What others wrote, so that it says nothing to the terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _value(change: dict[str, Any] | None) -> str:
    if change is None:
        return "file"
    if "stopped" in change:
        return f"stopped by {change['stopped']}"
    return str(change["state"]) if change.get("state") else f"{change['percent']:g}%"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _in_path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _print_json(value: Any) -> None:
    import msgspec

    print(msgspec.json.encode(value).decode())
