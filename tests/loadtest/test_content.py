"""What the rows of content streams are made of: pages of the size that is said, words that are counted, histograms."""

from __future__ import annotations

import pytest

from loadtest.content import WORDS_A_PARAGRAPH, page, script
from loadtest.hub_server import HubServer
from loadtest.rows.content_streams import quantile
from services.content.pipeline import Pipeline, Unit

INFINITE = float("inf")


def test_a_page_is_as_large_as_it_may_be_and_another_one_for_another_seed() -> None:
    first, second = page(100_000, 1), page(100_000, 2)
    assert 97_000 < len(first.encode()) <= 100_000
    assert first == page(100_000, 1) != second


def test_a_page_has_nothing_that_is_taken_out() -> None:
    text = page(10_000, 1)
    assert not Pipeline().document(text, "html", Unit.SENTENCE).findings


def test_every_word_of_a_script_is_a_chunk_and_every_paragraph_ends_with_a_close() -> None:
    words = 4 * WORDS_A_PARAGRAPH
    chunks = list(Pipeline().document(script(words), "html", Unit.WORD).document.chunks())
    assert sum(chunk.op == "close" for chunk in chunks) == 4
    assert sum(chunk.op != "close" for chunk in chunks) == words


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (0.99, 3.0)],
)
def test_a_quantile_lies_within_its_bucket(share: float, expected: float) -> None:
    assert quantile({1.0: 50.0, 3.0: 100.0, INFINITE: 100.0}, share) == pytest.approx(expected, abs=0.05)


def test_what_is_above_all_limits_counts_as_the_last_one() -> None:
    assert quantile({1.0: 1.0, 3.0: 1.0, INFINITE: 100.0}, 0.5) == 3.0


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile({1.0: 0.0, INFINITE: 0.0}, 0.5) == 0.0


def test_buckets_of_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['late_bucket{le="0.001"} 3.0', 'late_bucket{le="+Inf"} 5.0']
    monkeypatch.setattr(HubServer, "_metrics", lambda _, name: lines if name == "late_bucket" else [])
    assert HubServer.__new__(HubServer).buckets("late") == {0.001: 3.0, INFINITE: 5.0}
