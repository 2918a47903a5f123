"""Language models as a source of text: providers behind one interface, and the writer that survives their failures.

``parse_prompt`` checks what a client asks for, ``AssistantLimits`` how often, ``build_providers`` makes what the
settings name, ``Writer`` gives the text as it is written and ``AssistantMetrics`` counts it. What becomes of the text
(Markdown, blocks, topics) is not known here.
"""

from services.content.assistant.limits import AssistantLimits
from services.content.assistant.metrics import AssistantMetrics
from services.content.assistant.prompt import Message, Prompt, chat_prompt, parse_prompt
from services.content.assistant.provider import Provider
from services.content.assistant.providers import build_providers
from services.content.assistant.writer import Outcome, Writer

__all__ = (
    "AssistantLimits",
    "AssistantMetrics",
    "Message",
    "Outcome",
    "Prompt",
    "Provider",
    "Writer",
    "build_providers",
    "chat_prompt",
    "parse_prompt",
)
