"""Language models that are none: a local server which speaks the streaming APIs of OpenAI and Anthropic, well or badly.

For trying out and for tests; `hub fake-llm` runs it. The real client libraries talk to it over real sockets.
"""

from hub.fake_llm.application import FakeLlm
from hub.fake_llm.behaviour import Behaviour
from hub.fake_llm.server import FakeLlmServer, fake_llm_server
from hub.fake_llm.text import fake_text

__all__ = ("Behaviour", "FakeLlm", "FakeLlmServer", "fake_llm_server", "fake_text")
