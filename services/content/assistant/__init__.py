"""Language models as a source of text: providers behind one interface, and the writer that survives their failures.

``parse_prompt`` checks what a client asks for, ``build_providers`` makes what the settings name, ``Writer`` gives the
text as it is written. What becomes of the text (Markdown, blocks, topics) is not known here.
"""

from services.content.assistant.prompt import Prompt, parse_prompt
from services.content.assistant.provider import Provider
from services.content.assistant.providers import build_providers
from services.content.assistant.writer import Outcome, Writer

__all__ = ("Outcome", "Prompt", "Provider", "Writer", "build_providers", "parse_prompt")
