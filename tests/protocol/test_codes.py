"""The catalogue of errors and close codes is whole; docs/protocol.md is compared with it in test_architecture."""

from __future__ import annotations

import pytest

from hub.errors import ERROR_SPECS, ErrorCode, HubError, not_found, unavailable
from hub.protocol.codes import CLOSE_SPECS, CloseCode


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_has_an_answer(code: ErrorCode) -> None:
    spec = ERROR_SPECS[code]
    assert 400 <= spec.http_status < 600
    assert spec.meaning
    error = HubError(code, "text")
    assert (error.retry, error.http_status) == (spec.retry, spec.http_status)


def test_the_hub_s_own_faults_may_be_tried_again() -> None:
    assert {
        code: spec.retry for code, spec in ERROR_SPECS.items() if spec.http_status >= 500 and spec.retry != "later"
    } == {}


@pytest.mark.parametrize("code", list(CloseCode))
def test_every_close_code_has_a_reason_that_fits_a_close_frame(code: CloseCode) -> None:
    spec = CLOSE_SPECS[code]
    assert 0 < len(spec.reason.encode()) <= 123
    assert code < 1016 or 4000 <= code < 5000


def test_what_the_client_does_after_a_close_is_what_the_protocol_says() -> None:
    """PROTOCOL section 11."""
    by_answer = {
        answer: {int(code) for code, spec in CLOSE_SPECS.items() if code >= 4000 and spec.reconnect == answer}
        for answer in ("never", "later", "now")
    }
    assert by_answer == {
        "never": {4400, 4401, 4403, 4405, 4409, 4413},
        "later": {4408, 4429, 4500, 4503},
        "now": {4504, 4508, 4510},
    }


def test_missing_and_foreign_give_one_answer() -> None:
    assert str(not_found()) == str(not_found("topic"))
    assert unavailable("redis").retry_after_ms


def test_an_error_may_say_more_than_its_code() -> None:
    error = HubError(ErrorCode.CONFLICT, "text", retry="now", retry_after_ms=5, details={"a": 1})
    assert (error.retry, error.retry_after_ms, error.details) == ("now", 5, {"a": 1})
