"""What may be asked of a stream in each state: the whole table."""

from __future__ import annotations

import pytest

from hub.api import HubError
from services.content.states import FINISHED, State, Verb, after

ALLOWED = {
    (State.RUNNING, Verb.PAUSE): State.PAUSED,
    (State.RUNNING, Verb.RESUME): State.RUNNING,
    (State.RUNNING, Verb.CANCEL): State.CANCELLED,
    (State.RUNNING, Verb.SPEED): State.RUNNING,
    (State.PAUSED, Verb.PAUSE): State.PAUSED,
    (State.PAUSED, Verb.RESUME): State.RUNNING,
    (State.PAUSED, Verb.CANCEL): State.CANCELLED,
    (State.PAUSED, Verb.SPEED): State.PAUSED,
    (State.CANCELLED, Verb.CANCEL): State.CANCELLED,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", Verb)
def test_every_verb_in_every_state(state: State, verb: Verb) -> None:
    if (state, verb) in ALLOWED:
        assert after(state, verb) is ALLOWED[state, verb]
        return
    with pytest.raises(HubError) as refused:
        after(state, verb)
    assert refused.value.code == "conflict"
    assert refused.value.details == {"state": str(state)}


def test_what_has_ended_stays_so() -> None:
    for state in FINISHED:
        for verb in Verb:
            assert ALLOWED.get((state, verb), state) is state
