"""Whatever the bytes are: facts or a refusal, never another exception."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.uploads.checking import Facts, Rejected
from tests.services.uploads.checking.samples import look
from tests.services.uploads.checking.test_polyglots import exif_jpeg, mpo
from tests.services.uploads.checking.test_sniffing import FILES

SAMPLES = {name: data for name, (data, _) in FILES.items()} | {"exif.jpg": exif_jpeg(), "mpo.jpg": mpo()}
HURRY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(data: bytes, name: str) -> Facts | Rejected | None:
    if not data:
        return None
    try:
        return look(data, name)
    except Rejected as refused:
        return refused


@HURRY
@given(st.sampled_from(sorted(SAMPLES)), st.binary(min_size=1, max_size=2000))
def test_random_bytes(name: str, data: bytes) -> None:
    outcome(data, name)
    outcome(SAMPLES[name][:12] + data, name)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_changed_bytes(name: str) -> None:
    """Each file with bytes changed, taken out, doubled and cut off."""
    good = SAMPLES[name]

    @settings(HURRY, max_examples=40)
    @given(st.data())
    def change(draw: st.DataObject) -> None:
        data = bytearray(good)
        for _ in range(draw.draw(st.integers(1, 4))):
            at = draw.draw(st.integers(0, len(data)))
            how = draw.draw(st.sampled_from(("change", "delete", "repeat", "cut", "huge")))
            if how == "change":
                data[at : at + 1] = draw.draw(st.binary(max_size=4))
            elif how == "delete":
                del data[at : at + draw.draw(st.integers(1, 40))]
            elif how == "repeat":
                data[at:at] = data[max(0, at - 60) : at]
            elif how == "huge":
                data[at : at + 4] = b"\xff\xff\xff\x7f"
            else:
                del data[max(1, at) :]
        outcome(bytes(data), name)

    change()
