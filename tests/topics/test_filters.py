"""Filters on tags: equality as JSON has it, not as Python has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.errors import ErrorCode, HubError
from hub.fanout.bodies import encode_body
from hub.topics.filters import TagFilter, tags_of

values = st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5]) | st.sampled_from(["", "1", "true"])


@pytest.mark.parametrize(
    ("spec", "tags", "matches"),
    [
        ({}, {}, True),
        ({}, {"a": 1}, True),
        ({"a": 1}, {}, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": 2}, True),
        ({"a": []}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": [True]}, {"a": True}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": False}, {}, False),
        ({"a": ""}, {"a": ""}, True),
    ],
)
def test_matching(spec: Any, tags: Any, matches: bool) -> None:
    assert TagFilter(spec).matches(tags) is matches


def _as_json(value: Any) -> tuple[str, Any]:
    kind = "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
    return kind, value


@given(
    spec=st.dictionaries(st.sampled_from("ab"), values | st.lists(values, max_size=3)),
    tags=st.dictionaries(st.sampled_from("ab"), values),
)
def test_all_tags_and_any_value(spec: dict[str, Any], tags: dict[str, Any]) -> None:
    expected = all(
        name in tags
        and _as_json(tags[name]) in [_as_json(v) for v in (wanted if isinstance(wanted, list) else [wanted])]
        for name, wanted in spec.items()
    )
    assert TagFilter(spec).matches(tags) is expected


@pytest.mark.parametrize("spec", [{f"t{n}": 1 for n in range(33)}, {"a": list(range(257))}])
def test_a_filter_is_bounded(spec: Any) -> None:
    with pytest.raises(HubError) as caught:
        TagFilter(spec)
    assert caught.value.code == ErrorCode.BAD_REQUEST


@given(tags=st.none() | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values, max_size=3))
def test_tags_are_found_in_a_body(tags: dict[str, Any] | None) -> None:
    found = tags_of(encode_body("id", "name", {"tags": {"not": "these"}}, tags, None))
    assert {k: _as_json(v) for k, v in found.items()} == {k: _as_json(v) for k, v in (tags or {}).items()}
