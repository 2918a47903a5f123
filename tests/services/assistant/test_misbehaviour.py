"""Every way in which a provider goes wrong, with both official libraries over real sockets: how the text ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from typing import NamedTuple

import pytest

from hub.errors import ErrorCode
from hub.fake_llm import Behaviour, FakeLlmServer, fake_llm_server, fake_text
from hub.fake_llm.application import HUGE_CHARACTERS
from services.content.assistant import Outcome
from services.content.assistant.provider import Fault
from tests.services.assistant.conftest import (
    KEY,
    LIBRARIES,
    QUESTION,
    assistant_settings,
    chat,
    collected,
    fake_settings,
    writing,
    written,
)
from tests.support.log_catcher import caught_logs
from tests.support.waiting import until

TOKENS = 40
WRITTEN = fake_text(3)  # what the fake writes before it misbehaves


class Case(NamedTuple):
    """What the fake does, and how the text must end."""

    knobs: str
    fault: Fault
    code: ErrorCode
    text: str
    calls: int


MISBEHAVIOURS = [
    # in the middle: what is written is kept, and the call is not made again
    Case("end=cut", Fault.UNREACHABLE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=error", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=unfinished", Fault.UNFINISHED, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=bad_json", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=bad_event", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=bad_text", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=endless_line", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=endless_event", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    Case("end=length", Fault.TOO_LONG, ErrorCode.TOO_LARGE, WRITTEN, 1),
    Case("end=withheld", Fault.WITHHELD, ErrorCode.UPSTREAM_FAILED, WRITTEN, 1),
    # before any text: again where that may help
    Case("end=cut&after=0", Fault.UNREACHABLE, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("end=error&after=0", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("end=unfinished&after=0", Fault.UNFINISHED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("end=no_stream", Fault.UNFINISHED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=500", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=503", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=529", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=408", Fault.OVERLOADED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=429", Fault.RATE_LIMITED, ErrorCode.UPSTREAM_FAILED, "", 3),
    Case("status=429&retry_after=0", Fault.RATE_LIMITED, ErrorCode.UPSTREAM_FAILED, "", 3),
    # … and once where it may not
    Case("status=429&retry_after=3600", Fault.RATE_LIMITED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=429&retry_after=Fri, 31 Dec 2199 23:59:59 GMT", Fault.RATE_LIMITED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=429&error=insufficient_quota", Fault.DENIED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=400", Fault.REJECTED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=401", Fault.DENIED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=403", Fault.DENIED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=404", Fault.REJECTED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("status=307", Fault.REJECTED, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("end=bad_type", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("end=bad_json&after=0", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("end=huge&after=0", Fault.GARBAGE, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("tokens=0", Fault.EMPTY, ErrorCode.UPSTREAM_FAILED, "", 1),
    Case("end=withheld&after=0", Fault.WITHHELD, ErrorCode.UPSTREAM_FAILED, "", 1),
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", MISBEHAVIOURS, ids=lambda case: case.knobs)
async def test_each_misbehaviour_has_its_end(fake: FakeLlmServer, library: str, case: Case) -> None:
    text, outcome = await written(fake_settings(fake, library, model=f"fake?{case.knobs}"))
    check_end(library, case, text, outcome)
    assert fake.llm.stats["requests"] == case.calls


def check_end(library: str, case: Case, text: str, outcome: Outcome) -> None:
    assert text == case.text
    assert outcome.failures == ((library, case.fault),) * case.calls
    assert outcome.error is not None
    assert outcome.error.code == case.code
    assert outcome.error.details == {"provider": library, "fault": case.fault}


SILENCES = [
    Case("end=stall", Fault.STALLED, ErrorCode.TIMEOUT, WRITTEN, 1),
    Case("end=stall&after=0", Fault.NO_FIRST_TOKEN, ErrorCode.TIMEOUT, "", 3),
    Case("first_token_s=600", Fault.NO_FIRST_TOKEN, ErrorCode.TIMEOUT, "", 3),
]


class LeapingLoop(asyncio.SelectorEventLoop):
    """Its clock can be put forward: what waits for a time that is passed over does not wait any more."""

    leapt_s = 0.0

    def time(self) -> float:
        return super().time() + self.leapt_s


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", SILENCES, ids=lambda case: case.knobs)
def test_each_silence_has_its_end(library: str, case: Case) -> None:
    """The time-outs are over when the fake is silent, and not while something is still on its way."""
    loop = LeapingLoop()

    async def play() -> None:
        async with fake_llm_server() as fake:
            patience = {"first_token_timeout_s": 30.0, "token_timeout_s": 30.0}
            settings = fake_settings(fake, library, model=f"fake?{case.knobs}", **patience)
            async with writing(settings) as writer:
                heard: list[str | Outcome] = []
                writes = asyncio.ensure_future(listen(writer.write(chat()), heard))
                for call in range(1, case.calls + 1):
                    await until(lambda call=call: fake.llm.stats["requests"] == call, what="the call")
                    await until(lambda: "".join(map(str, heard)) == case.text, what="the text before the silence")
                    loop.leapt_s += 31.0
                await writes
                *pieces, outcome = heard
                assert isinstance(outcome, Outcome)
                check_end(library, case, "".join(map(str, pieces)), outcome)
                # The fake would go on for ever: it saw every call being ended.
                await until(lambda: fake.llm.stats["gone"] == case.calls, what="the calls to be ended")
                assert fake.llm.stats["requests"] == case.calls

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(play())


async def listen(items: AsyncGenerator[str | Outcome, None], heard: list[str | Outcome]) -> None:
    async for item in items:
        heard.append(item)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_reset_keeps_what_arrived(fake: FakeLlmServer, library: str) -> None:
    # What was not yet read when the reset comes is lost: at this pace that is nothing or the last tokens.
    text, outcome = await written(fake_settings(fake, library, model="fake?end=reset&tokens_per_s=50&after=5"))
    assert WRITTEN in text
    assert fake_text(5).startswith(text)
    assert outcome.failures == ((library, Fault.UNREACHABLE),)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_good_answer(fake: FakeLlmServer, library: str) -> None:
    text, outcome = await written(fake_settings(fake, library))
    assert text == fake_text(TOKENS)
    assert (outcome.provider, outcome.error, outcome.failures) == (library, None, ())
    await until(lambda: fake.llm.stats == {"requests": 1, "finished": 1}, what="the answer to end")


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_complete_text_does_not_wait_for_the_end_of_the_answer(fake: FakeLlmServer, library: str) -> None:
    text, outcome = await written(fake_settings(fake, library, model="fake?end=linger", tail_timeout_s=0.01))
    assert (text, outcome.error) == (WRITTEN, None)
    await until(lambda: fake.llm.stats["gone"] == 1)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "knobs", ["status=500", "status=429&retry_after_ms=10", "end=cut&after=0", "end=unfinished&after=0"]
)
async def test_trouble_that_passes_is_not_seen(fake: FakeLlmServer, library: str, knobs: str) -> None:
    text, outcome = await written(fake_settings(fake, library, model=f"fake?times=2&{knobs}"))
    assert text == fake_text(TOKENS)
    assert outcome.error is None
    assert len(outcome.failures) == 2


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_pause_that_is_too_long_is_passed_on(fake: FakeLlmServer, library: str) -> None:
    _, outcome = await written(fake_settings(fake, library, model="fake?status=429&retry_after=3600"))
    assert outcome.error is not None
    assert (outcome.error.retry, outcome.error.retry_after_ms) == ("later", 3_600_000)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_huge_piece_is_cut_at_the_limit(fake: FakeLlmServer, library: str) -> None:
    limit = 10_001  # in the middle of a character
    settings = fake_settings(
        fake, library, model="fake?end=huge&after=0", max_event_bytes=16 * HUGE_CHARACTERS, max_output_bytes=limit
    )
    text, outcome = await written(settings)
    assert text == "é" * 5000
    assert outcome.failures == ((library, Fault.TOO_LONG),)
    assert outcome.error is not None
    assert outcome.error.code == ErrorCode.TOO_LARGE


@pytest.mark.parametrize("library", LIBRARIES)
async def test_characters_in_two_halves_are_put_together(fake: FakeLlmServer, library: str) -> None:
    text, outcome = await written(fake_settings(fake, library, model="fake?halves=1"))
    assert text == fake_text(TOKENS)
    assert "👩‍👩‍👧" in text
    assert outcome.error is None


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_key_does_not_go_where_a_redirect_leads(fake: FakeLlmServer, library: str) -> None:
    async with fake_llm_server() as other:
        paths = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
        fake.llm.behave(Behaviour(status=307, location=other.url + paths[library]))
        _, outcome = await written(fake_settings(fake, library))
    assert outcome.failures == ((library, Fault.REJECTED),)
    assert not other.llm.requests


@pytest.mark.parametrize("library", LIBRARIES)
async def test_nobody_listens(library: str) -> None:
    known = {"openai_model": "m", "anthropic_model": "m", "anthropic_key": KEY}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody else listens there meanwhile
        port = closed.getsockname()[1]
        there = {"openai_base_url": f"http://127.0.0.1:{port}/v1", "anthropic_base_url": f"http://127.0.0.1:{port}"}
        text, outcome = await written(assistant_settings(providers=(library,), **there, **known))
    assert text == ""
    assert outcome.failures == ((library, Fault.UNREACHABLE),) * 3


# --- cancelling


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("knobs", ["tokens=100000&tokens_per_s=100", "end=stall"])
async def test_closing_the_text_ends_the_call(fake: FakeLlmServer, library: str, knobs: str) -> None:
    async with writing(fake_settings(fake, library, model=f"fake?{knobs}")) as writer:
        items = writer.write(chat())
        assert await anext(items)
        assert fake.llm.stats["gone"] == 0
        await items.aclose()
        # While the writer is still open: it is the call that ended, not the client.
        await until(lambda: fake.llm.stats["gone"] == 1)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("knobs", ["first_token_s=600", "end=stall&after=0", "end=stall"])
async def test_cancelling_whoever_waits_ends_the_call(fake: FakeLlmServer, library: str, knobs: str) -> None:
    async with writing(fake_settings(fake, library, model=f"fake?{knobs}")) as writer:
        waiting = asyncio.ensure_future(collected(writer.write(chat())))
        await until(lambda: fake.llm.stats["requests"] == 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await until(lambda: fake.llm.stats["gone"] == 1)


# --- another provider goes on


@pytest.mark.parametrize(("first", "second"), [("openai", "anthropic"), ("anthropic", "openai")])
async def test_the_next_provider_goes_on_after_what_is_written(fake: FakeLlmServer, first: str, second: str) -> None:
    settings = fake_settings(fake, first, second, **{f"{first}_model": "fake?end=cut&after=10"})
    text, outcome = await written(settings)
    assert text == fake_text(10) + fake_text(TOKENS)
    assert (outcome.provider, outcome.error, outcome.failures) == (second, None, ((first, Fault.UNREACHABLE),))
    asked = fake.llm.requests[-1].body["messages"][-3:]
    assert [(turn["role"], turn["content"]) for turn in asked[:2]] == [("user", QUESTION), ("assistant", fake_text(10))]
    assert asked[2]["role"] == "user"
    assert "exactly where it stops" in asked[2]["content"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("knobs", ["status=401", "status=500", "end=bad_type", "tokens=0"])
async def test_one_that_wrote_nothing_leaves_no_trace(fake: FakeLlmServer, library: str, knobs: str) -> None:
    broken, sound = library, "anthropic" if library == "openai" else "openai"
    text, outcome = await written(fake_settings(fake, broken, sound, **{f"{broken}_model": f"fake?{knobs}"}))
    assert text == fake_text(TOKENS)
    assert (outcome.provider, outcome.error) == (sound, None)
    assert [turn["role"] for turn in fake.llm.requests[-1].body["messages"]][-1:] == ["user"]
    assert fake.llm.requests[-1].body["messages"][-1]["content"] == QUESTION


async def test_the_built_in_writer_ends_what_others_began(fake: FakeLlmServer) -> None:
    text, outcome = await written(fake_settings(fake, "openai", "offline", model="fake?end=cut&after=10"))
    assert text.startswith(fake_text(10) + "\n\n---")
    assert (outcome.provider, outcome.error) == ("offline", None)


# --- what goes over the wire


@pytest.mark.parametrize("library", LIBRARIES)
async def test_connections_are_used_again(fake: FakeLlmServer, library: str) -> None:
    async with writing(fake_settings(fake, library, tail_timeout_s=30.0)) as writer:
        for _ in range(3):
            await collected(writer.write(chat()))
    assert len({request.peer for request in fake.llm.requests}) == 1


@pytest.mark.parametrize("library", LIBRARIES)
async def test_what_is_asked_for(fake: FakeLlmServer, library: str) -> None:
    await written(fake_settings(fake, library, max_output_tokens=77))
    seen = fake.llm.requests[0]
    assert seen.dialect == library
    assert KEY in seen.headers.get("x-api-key", seen.headers.get("authorization"))
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body["stream"] is True
    assert 77 in (seen.body.get("max_tokens"), seen.body.get("max_completion_tokens"))
    assert seen.body["messages"][-1] == {"role": "user", "content": QUESTION}
    rules = seen.body["messages"][0]["content"] if library == "openai" else seen.body["system"]
    assert "Markdown" in rules


@pytest.mark.parametrize("library", LIBRARIES)
async def test_nothing_is_taken_from_the_libraries_own_variables(
    fake: FakeLlmServer, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(fake_settings(fake, library))
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "ADMIN_KEY", "AUTH_TOKEN", "BASE_URL", "ORGANIZATION_ID"):
        monkeypatch.setenv(f"{library.upper()}_{name}", "from-the-environment")
    monkeypatch.setenv(
        f"{library.upper()}_CUSTOM_HEADERS", "x-more: from-the-environment\nauthorization: from-the-environment"
    )
    await written(fake_settings(fake, library))
    usual, seen = fake.llm.requests
    assert seen.headers == usual.headers
    assert "from-the-environment" not in repr(seen)


@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
async def test_the_bound_on_tokens_has_the_name_that_the_server_knows(fake: FakeLlmServer, field: str) -> None:
    await written(fake_settings(fake, "openai", max_output_tokens=77, openai_max_tokens_field=field))
    body = fake.llm.requests[0].body
    assert {name: body[name] for name in body if "tokens" in name} == {field: 77}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("knobs", ["end=finish", "status=401", "end=bad_json", "end=cut"])
async def test_neither_key_nor_contents_are_logged_or_told(
    fake: FakeLlmServer, library: str, knobs: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = fake_settings(fake, library, model=f"fake?{knobs}")
    with caught_logs() as logs:
        async with writing(settings) as writer:
            _, outcome = await collected(writer.write(chat()))
            shown = [repr(value) for value in (settings, writer, outcome, chat(), *writer._providers.values())]
    shown += [record.getMessage() for record in caplog.records] + [repr(entry) for entry in logs.entries]
    shown.append(str(outcome.error))
    assert fake.llm.stats["requests"] == 1
    assert bool(logs.named("assistant call failed")) == (knobs != "end=finish")
    for secret in (KEY, QUESTION, "Incorrect API key", "x-api-key", "fake answer"):
        assert not [text for text in shown if secret in text]


async def test_a_behaviour_for_all_can_be_set_meanwhile(fake: FakeLlmServer) -> None:
    fake.llm.behave(Behaviour(status=500, times=1, tokens=5))
    text, outcome = await written(fake_settings(fake, "openai"))
    assert (text, len(outcome.failures)) == (fake_text(5), 1)
