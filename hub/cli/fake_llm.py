"""``hub fake-llm``: language models that are none, for trying out the assistant and how it copes."""

from __future__ import annotations

from typing import Annotated

import typer

from hub.cli.failure import reported


@reported
def fake_llm(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8010,
    tokens: Annotated[int, typer.Option(min=0, help="Length of an answer.")] = 200,
    tokens_per_s: Annotated[float, typer.Option(min=0, help="How fast it comes; 0: at once.")] = 40.0,
    first_token_s: Annotated[float, typer.Option(min=0, help="Pause before it.")] = 0.3,
    status: Annotated[int, typer.Option(min=200, max=599, help="Answer with this status: 429, 500, 401 …")] = 200,
    retry_after: Annotated[str, typer.Option(help="Retry-After beside it: seconds or a date.")] = "",
    end: Annotated[str, typer.Option(help="How an answer ends: finish, cut, stall, error … (see below).")] = "finish",
    after: Annotated[int, typer.Option(min=0, help="Tokens before that end.")] = 20,
    times: Annotated[int, typer.Option(min=0, help="Only so often, then in order; 0: always.")] = 0,
) -> None:
    """Serve fake language models: OpenAI's chat completions and Anthropic's messages.

    Ends: finish, length, withheld, linger, cut, reset, stall, error, unfinished, bad_json, bad_event, bad_text,
    bad_type, no_stream, endless_line, endless_event, huge. A model's name may ask for its own:
    fake?end=cut&after=5.
    """
    import asyncio

    import msgspec

    from hub.cli.entry import listen_on
    from hub.fake_llm import Behaviour, FakeLlmServer

    knobs = {
        "tokens": tokens,
        "tokens_per_s": tokens_per_s,
        "first_token_s": first_token_s,
        "status": status,
        "retry_after": retry_after,
        "end": end,
        "after": after,
        "times": times,
    }
    try:
        behaviour = msgspec.convert(knobs, Behaviour)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from error
    with listen_on(host, port, "--host or --port") as listener:
        server = FakeLlmServer(listener, behaviour)
        print(welcome(server.url), flush=True)
        asyncio.run(server.serve())


def welcome(url: str) -> str:
    """What stands on the screen."""
    return "\n".join(
        (
            f"fake language models at {url}   (Ctrl-C stops them)",
            "",
            "settings of a hub that uses them:",
            "  HUB_ASSISTANT_PROVIDERS=openai,anthropic",
            f"  HUB_ASSISTANT_OPENAI_BASE_URL={url}/v1 HUB_ASSISTANT_OPENAI_MODEL=fake",
            f"  HUB_ASSISTANT_ANTHROPIC_BASE_URL={url} HUB_ASSISTANT_ANTHROPIC_MODEL=fake",
            "  HUB_ASSISTANT_ANTHROPIC_KEY=any",
            "",
            "while it runs:",
            f"  curl {url}/fake/stats",
            f"""  curl -X PUT {url}/fake/behaviour -d '{{"end": "cut", "after": 5, "tokens_per_s": 20}}'""",
        )
    )
