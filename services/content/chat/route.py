"""POST /v1/chat/stream: a conversation in, an answer that is streamed while it is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

import msgspec
from litestar import post
from litestar.params import QueryParameter

from hub.api import ErrorCode, Hub, HubError, HubRequest, client_ip, json_body, problem_responses
from services.content.assistant import AssistantLimits, Message, Writer, chat_prompt
from services.content.chat.ai_sdk import UiMessageStream
from services.content.chat.answer import Bounds, answer
from services.content.chat.bodies import ChatBody, UiBody
from services.content.chat.event_stream import EventStream
from services.content.chat.openapi import ANSWER, ChatOperation
from services.content.chat.sse import ServerSentEvents
from services.content.pipeline import Pipeline

_SCOPE: Final = ("call", "assistant.generate")

_ours: Final = msgspec.json.Decoder(ChatBody)
_theirs: Final = msgspec.json.Decoder(UiBody)


def chat_routes(hub: Hub, writer: Writer, pipeline: Pipeline, limits: AssistantLimits) -> list[Any]:
    """The routes of this package, for ``Service.routes``. ``limits`` are shared with whoever else asks the writer."""
    settings = hub.settings
    bounds = Bounds(settings.sse_keepalive_s, settings.assistant_unread_bytes)

    @post(
        "/v1/chat/stream",
        status_code=200,
        summary="Ask the assistant and watch it write",
        security=[{"bearer": []}],
        operation_class=ChatOperation,
        responses={200: ANSWER, **problem_responses(400, 401, 403, 413, 415, 429, 503)},
    )
    async def chat_stream(
        request: HubRequest,
        format: Annotated[
            Literal["hub", "ai-sdk"],
            QueryParameter(description="ai-sdk: body and answer are those of the AI SDK's useChat."),
        ] = "hub",
        chunks: Annotated[
            bool, QueryParameter(description="With ai-sdk: the pipeline's chunks come too, as data-chunk parts.")
        ] = False,
    ) -> EventStream:
        """An answer to a conversation, as server-sent events while it is written.

        Needs the scope `call:assistant.generate`. What is wrong before the first byte is a problem; after it the stream
        ends with `stream_error`. Closing the connection ends the writing.
        """
        principal = request.user
        if not principal.allows(*_SCOPE):
            raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow {':'.join(_SCOPE)}")
        ai_sdk = format == "ai-sdk"
        messages, provider = await _asked(request, ai_sdk=ai_sdk)
        pieces = writer.write(chat_prompt(messages, settings), provider)
        await limits.spend(principal, client_ip(request.scope, settings.client_ip_header))
        words = UiMessageStream(with_chunks=chunks) if ai_sdk else ServerSentEvents()

        async def counted() -> AsyncGenerator[bytes, None]:
            with limits.writing(principal), hub.answers.answering(principal) as ending:
                telling = answer(uuid4().hex, pieces, pipeline.live(), words, bounds, ending)
                async with aclosing(telling):
                    async for news in telling:
                        yield news

        return EventStream(counted(), words.headers, settings.no_progress_s)

    return [chat_stream]


async def _asked(request: HubRequest, *, ai_sdk: bool) -> tuple[Sequence[Message], str | None]:
    """The conversation, and who shall write."""
    if ai_sdk:
        theirs = await json_body(request, _theirs)
        return theirs.conversation(), theirs.provider
    ours = await json_body(request, _ours)
    return ours.messages, ours.provider
