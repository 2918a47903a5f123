"""The Anthropic messages API through the official library (extra ``anthropic``)."""

from __future__ import annotations

from typing import Any

import anthropic

from hub.api import Settings
from services.content.assistant.prompt import Prompt
from services.content.assistant.sdk import Reading, SdkProvider
from services.content.assistant.wire import forget_found_headers, http_client


def anthropic_provider(settings: Settings) -> SdkProvider:
    """The provider ``anthropic``. Key and address come from the settings alone, whatever the library would find."""
    client = anthropic.AsyncAnthropic(
        api_key=settings.assistant_anthropic_key,
        base_url=settings.assistant_anthropic_base_url,
        max_retries=0,  # the writer repeats, and nobody else
        open_telemetry=False,
        http_client=http_client(settings),
    )
    forget_found_headers(client)

    async def ask(prompt: Prompt) -> Any:
        return await client.messages.create(
            model=settings.assistant_anthropic_model,
            system=prompt.rules,
            messages=[{"role": turn.role, "content": turn.content} for turn in prompt.turns()],  # type: ignore[misc]
            max_tokens=settings.assistant_max_output_tokens,
            stream=True,
        )

    return SdkProvider("anthropic", client, ask, read_event, settings.assistant_tail_timeout_s)


def read_event(event: Any) -> Reading:
    """Text of a ``content_block_delta``, end of a ``message_delta``; every other event says neither."""
    if event.type == "content_block_delta" and event.delta.type == "text_delta":
        return Reading(event.delta.text)
    if event.type == "message_delta":
        return Reading(end=event.delta.stop_reason)
    return Reading()
