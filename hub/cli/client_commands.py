"""``hub publish``, ``tail``, ``call``, ``chat``, ``stream``, ``upload``, ``kick``: clients of a running hub."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from hub.cli.asking import ask, hub_url, operator_token
from hub.cli.environment import TOKEN_VARIABLE, TRANSPORT_VARIABLE, URL_VARIABLE
from hub.cli.failure import fail, reported

Url = Annotated[
    str, typer.Option(envvar=URL_VARIABLE, show_default="ws://127.0.0.1:$PORT/ws", help="The hub's WebSocket.")
]
Token = Annotated[
    str, typer.Option(envvar=TOKEN_VARIABLE, show_default="made with the secret of hub dev", help="A token.")
]
Org = Annotated[str, typer.Option(help="Organisation of the token that is made when none is given.")]
User = Annotated[str, typer.Option(help="User of the token that is made when none is given.")]

Transport = Annotated[
    Literal["websocket", "sse", "poll"] | None,
    typer.Option(envvar=TRANSPORT_VARIABLE, show_default="the best that gets through", help="The way to the hub."),
]

Result = TypeVar("Result")

REACH_TIMEOUT_S = 5.0


@reported
def publish(
    topic: Annotated[str, typer.Argument(help="For example events:finance.")],
    name: Annotated[str, typer.Argument(help="For example invoice.paid.")],
    data: Annotated[str, typer.Argument(help="JSON; - reads it from stdin.")],
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag k=v; several times.")] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Not kept, not numbered.")] = False,
    transport: Transport = None,
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Publish one event; prints its position as epoch:seq."""
    from hub.cli.values import json_value, tags
    from hub.client import HubClient, Published

    body, labels = json_value(data), tags(tag or [])

    async def run() -> Published:
        async with HubClient(hub_url(url), _tokens(token, org, user), options=_options(transport)) as client:
            return await client.publish(topic, name, body, key=key, tags=labels or None, ephemeral=ephemeral)

    published = _talk(run())
    position = f"{published.epoch}:{published.seq}" if published.seq else "ephemeral"
    print(position + (" duplicate" if published.duplicate else ""))


@reported
def tail(
    topics: Annotated[list[str], typer.Argument(help="One or more topics.")],
    since: Annotated[str | None, typer.Option(help="start, now or epoch:seq.")] = None,
    last: Annotated[int | None, typer.Option(min=0, help="The last N events first.")] = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="Tag k=v that must match; a key given twice means either.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    transport: Transport = None,
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Show events as they come, until Ctrl-C (exit code 130). Gaps are shown; lost connections are made good."""
    from hub.cli.printer import Printer
    from hub.cli.tailing import Wanted, follow
    from hub.cli.values import position, wanted_tags
    from hub.client import HubClient

    if since is not None and last is not None:
        raise typer.BadParameter("give --since or --last, not both")
    start = position(since)
    if since not in (None, "start", "now") and len(topics) > 1:
        raise typer.BadParameter("--since epoch:seq belongs to one topic; tail the others beside it")
    wanted = Wanted(tuple(dict.fromkeys(topics)), start, last, wanted_tags(filters or []) or None)
    client = HubClient(hub_url(url), _tokens(token, org, user), options=_options(transport))
    if not _talk(follow(client, wanted, Printer(as_json=as_json))):
        raise typer.Exit(1)


@reported
def call(
    method: Annotated[str, typer.Argument(help="For example assistant.generate.")],
    params: Annotated[str, typer.Argument(help="A JSON object; - reads it from stdin.")] = "{}",
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Call a method of a service; prints its result as JSON."""
    import msgspec

    from hub.cli.values import json_value
    from hub.client import HubClient

    given = json_value(params, "PARAMS")
    if not isinstance(given, dict):
        raise typer.BadParameter('PARAMS is a JSON object: \'{"name": "value"}\'')

    async def run() -> Any:
        async with HubClient(hub_url(url), _tokens(token, org, user), options=_options()) as client:
            return await client.call(method, given)

    print(msgspec.json.encode(_talk(run())).decode())


@reported
def chat(
    room: Annotated[str, typer.Argument(help="The room's id, for example lobby.")],
    last: Annotated[int, typer.Option(min=1, max=200, help="So many messages first.")] = 20,
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Talk in a room, which is made when it is not there. /help says what else can be typed; Ctrl-D leaves."""
    from hub.cli.chat.conversation import converse
    from hub.cli.values import room_id
    from hub.client import HubClient

    name = room_id(room)
    if not _talk(converse(HubClient(hub_url(url), _tokens(token, org, user), options=_options()), name, last=last)):
        raise typer.Exit(1)


@reported
def stream(
    file: Annotated[str | None, typer.Argument(help="Text, HTML or Markdown; - reads it from stdin.")] = None,
    script: Annotated[str | None, typer.Option(help="Let the assistant write a script about this instead.")] = None,
    chat: Annotated[str | None, typer.Option(help="… or answer this.")] = None,
    speed: Annotated[str, typer.Option(help="slow, normal, fast, superfast or adaptive.")] = "fast",
    chunk_by: Annotated[str, typer.Option(help="auto, word, sentence or paragraph.")] = "auto",
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Stream a file, or what the assistant writes, into a topic of its own; shows its text as watchers get it."""
    from hub.cli.unfolding import unfold
    from hub.cli.values import text_of
    from hub.client import HubClient

    if sum(given is not None for given in (file, script, chat)) != 1:
        raise typer.BadParameter("give FILE, --script or --chat, and one of them only")
    how: dict[str, Any] = {"speed": speed, "chunk_by": chunk_by}
    method = "content.start" if file is not None else "assistant.generate"
    if file is not None:
        how |= {"content": text_of(file)}
    elif script is not None:
        how |= {"kind": "script", "topic": script}
    else:
        how |= {"kind": "chat", "messages": [{"role": "user", "content": chat}]}
    if not _talk(unfold(HubClient(hub_url(url), _tokens(token, org, user), options=_options()), method, how)):
        raise typer.Exit(1)


@reported
def upload(
    file: Annotated[Path, typer.Argument(help="What to upload.")],
    document_type: Annotated[
        str | None, typer.Option("--type", show_default="document", help="passport, image, csv, …")
    ] = None,
    meta: Annotated[list[str] | None, typer.Option(help="Metadata k=v, for example guest_id=7; several times.")] = None,
    name: Annotated[str | None, typer.Option(show_default="the file's", help="What it is to be called.")] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="A topic whose readers may read it; be one yourself: chat:lobby after hub chat lobby. Several times."
        ),
    ] = None,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Read the file before, so that the hub can compare.")
    ] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with this upload instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the hub knows of it as JSON.")] = False,
    url: Url = "",
    token: Token = "",
    org: Org = "acme",
    user: User = "cli",
) -> None:
    """Upload a file and wait until it was checked; prints its id. Ctrl-C pauses, and says how to go on."""
    from hub.cli.uploading import Job, carry
    from hub.cli.values import check_file, metadata
    from hub.client import HubClient

    check_file(file)
    if resume is not None and (document_type or meta or name or share or sha256):
        raise typer.BadParameter("--resume goes on with what was begun: its type, name and metadata stay")
    job = Job(file, resume, document_type or "document", name, metadata(meta or []), sha256, share or [])
    code = _talk(carry(HubClient(hub_url(url), _tokens(token, org, user), options=_options()), job, as_json=as_json))
    if code:
        raise typer.Exit(code)


@reported
def kick(
    user: Annotated[
        str, typer.Argument(help="Whose connections are closed, and whose tokens of until now are refused.")
    ],
    org: Annotated[str, typer.Option(help="The organisation; of the token that is made when none is given.")],
    url: Url = "",
    token: Token = "",
) -> None:
    """Throw a user out, on every node. Needs a token with the scope `admin`."""
    ask("POST", "/v1/admin/kick", url, operator_token(token, "admin", org), json={"user": user})
    print(f"kicked {user}")


def _talk(conversation: Coroutine[Any, Any, Result]) -> Result:
    """Runs it; what can be helped by an option or a variable says so."""
    import asyncio

    from hub.client import ConnectionLost, HubClosed
    from hub.protocol.codes import CloseCode

    try:
        return asyncio.run(conversation)
    except ConnectionLost as error:
        fail(f"{error}; start a hub, or give --url or {URL_VARIABLE}")
    except HubClosed as error:
        fail(f"{error}" + (f"; give --token or {TOKEN_VARIABLE}" if error.code == CloseCode.UNAUTHENTICATED else ""))


def _tokens(given: str, org: str, user: str) -> Callable[[], str]:
    """The token given, else a fresh one each time. A missing secret is reported now and not while connecting."""
    from hub.cli.environment import DEV_SCOPE, mint

    if given:
        return lambda: given
    mint(org, user)
    return lambda: mint(org, user, scope=DEV_SCOPE)


def _options(transport: Literal["websocket", "sse", "poll"] | None = None) -> Any:
    from hub.client import ClientOptions

    patience: dict[str, Any] = {
        "first_connect_timeout_s": REACH_TIMEOUT_S,
        "try_next_after_s": REACH_TIMEOUT_S / 4,  # a socket that vanishes must leave time for the others
    }
    return ClientOptions(**patience, transports=(transport,)) if transport else ClientOptions(**patience)
