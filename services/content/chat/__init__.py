"""The assistant over plain HTTP: one request, one answer that is streamed while it is written.

``route`` is the door: it reads the ``bodies``, and ``answer`` makes the stream out of the writer and the pipeline, in
the words of ``sse`` or ``ai_sdk``. ``event_stream`` sends it and ends it when the client goes.
"""

from services.content.chat.route import chat_routes

__all__ = ("chat_routes",)
