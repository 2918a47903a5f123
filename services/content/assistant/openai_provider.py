"""Any API that is compatible with OpenAI's chat completions, through the official library (extra ``openai``)."""

from __future__ import annotations

from typing import Any

import openai

from hub.api import Settings
from services.content.assistant.prompt import Prompt
from services.content.assistant.sdk import Reading, SdkProvider
from services.content.assistant.wire import forget_found_headers, http_client


def openai_provider(settings: Settings) -> SdkProvider:
    """The provider ``openai``. Key and address come from the settings alone, whatever the library would find."""
    client = openai.AsyncOpenAI(
        # A server of one's own may want no key, but the header must not be empty.
        api_key=settings.assistant_openai_key or "none",
        base_url=settings.assistant_openai_base_url,
        max_retries=0,  # the writer repeats, and nobody else
        http_client=http_client(settings),
    )
    client.organization = client.project = client.admin_api_key = None
    forget_found_headers(client)

    async def ask(prompt: Prompt) -> Any:
        # What `chat.completions.create` does, but for its objects: one for every token costs more than all the rest.
        return await client.post(
            "/chat/completions",
            body={
                "model": settings.assistant_openai_model,
                "messages": [
                    {"role": "system", "content": prompt.rules},
                    *({"role": turn.role, "content": turn.content} for turn in prompt.turns()),
                ],
                settings.assistant_openai_max_tokens_field: settings.assistant_max_output_tokens,
                "stream": True,
            },
            cast_to=object,
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )

    return SdkProvider("openai", client, ask, read_chunk, settings.assistant_tail_timeout_s)


def read_chunk(chunk: Any) -> Reading:
    """Text and end of a ``chat.completion.chunk``. One without choices reports usage."""
    if not chunk["choices"]:
        return Reading()
    choice = chunk["choices"][0]
    return Reading(choice["delta"].get("content") or "", choice.get("finish_reason"))
