"""web/content.js against the reference: the same chunks give the same html, blocks and text, and the same DOM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from hub.client.content import ContentAssembler
from services.content.pipeline import Chunk, ContentType, Unit
from tests.browser.chromium import Chromium, DevToolsError, Page
from tests.browser.corpus import live, whole
from tests.browser.detector import CONTENT_JS
from tests.services.content.shown import as_data

_URL = "http://hub.test/"
_PAGE = """<!doctype html><link rel="icon" href="data:,"><body>
<script type="module">import { ContentAssembler } from "/content.js"; Object.assign(globalThis, { ContentAssembler })
</script>"""

HTML = (
    "<h1>Title &amp; more</h1><p>Two <b>bold <i>and slanted</i></b> words.\n And a <a href='https://ok.example/'>link</a>.</p>"
    "<table><caption>c d</caption><tr><th>a b</th></tr><tr><td>e<p>f g</p></td><td></td></tr></table>"
    "<pre><code class=language-py>\n\nx = 1\n  y\n</code></pre><ul><li>one two<ul><li>three</ul><li>four</ul><hr>"
    "<p>日本語。次の文。 e\u0301 \U0001f469\u200d\U0001f466</p><details><summary>s t</summary>u v</details>bare text"
)
MARKDOWN = (
    "# A *title*\n\nWords **bold\nstill** and `code` [link](https://ok.example/).\n\n- one\n- two\n  - [x] three\n\n"
    "maybe a heading\n---\n\n| a | b |\n|---|---|\n| c | d e |\n\n```py\nx = '<b>'\n```\n\n> quoted\n\n"
    "**open\n\n[gone]: x\n"
)
STREAMS = {
    **{f"html {unit}": whole(HTML, ContentType.HTML, unit) for unit in Unit},
    **{f"markdown {unit}": whole(MARKDOWN, ContentType.MARKDOWN, unit) for unit in Unit},
    **{f"live by {size}": live(MARKDOWN, ContentType.MARKDOWN, Unit.WORD, size) for size in (1, 2, 5, 40)},
    "live text": live(MARKDOWN, ContentType.TEXT, Unit.WORD, 3),
}
# What a live document does when a preview showed what turns out not to be there.
TAKEN_BACK = [
    {"index": 0, "op": "open", "block": 0, "html": "<p>a</p>", "text": "a"},
    {"index": 1, "op": "close", "block": 0, "html": "", "text": "\n"},
    {"index": 2, "op": "open", "block": 1, "html": "<p>b</p>", "text": "b"},
    {"index": 3, "op": "replace_tail", "block": 1, "html": "", "text": ""},
    {"index": 4, "op": "close", "block": 1, "html": "", "text": "\n"},
    {"index": 5, "op": "open", "block": 2, "html": "<p>c</p>", "text": "c"},
    {"index": 6, "op": "append", "block": 2, "html": " d", "text": " d", "depth": 1},
    {"index": 7, "op": "replace_tail", "block": 2, "html": "<h1>e <b>f</b></h1>", "text": "e f"},
    {"index": 8, "op": "append", "block": 2, "html": "g", "text": "g", "depth": 2},
]


@pytest.fixture
async def page(chromium: Chromium) -> Any:
    page = await chromium.page()
    await page.open(
        _URL, {_URL: ("text/html", _PAGE), f"{_URL}content.js": ("text/javascript", CONTENT_JS.read_text())}
    )
    yield page
    await page.close()


def data_of(chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    return [as_data(chunk) for chunk in chunks]


def expected(chunks: list[dict[str, Any]]) -> list[list[Any]]:
    """What the reference has after each chunk."""
    assembler = ContentAssembler()
    states = []
    for chunk in chunks:
        assembler.apply(chunk)
        states.append([assembler.html, assembler.blocks, assembler.text, assembler.html])
    return states


async def shown(page: Page, chunks: list[dict[str, Any]], mounted_at: int) -> list[list[Any]]:
    """What content.js has after each chunk, and what is in the element that it was mounted in before one of them."""
    result: list[list[Any]] = await page.run(
        """(chunks, mountedAt) => {
          const element = document.createElement("div");
          element.textContent = "what was there";
          const assembler = new ContentAssembler();
          return chunks.map((chunk, index) => {
            if (index === mountedAt) assembler.mount(element);
            if (!assembler.apply(chunk)) throw new Error("taken for a repeat");
            const { html, blocks, text } = assembler;
            return [html, blocks, text, index < mountedAt ? html : element.innerHTML];
          });
        }""",
        chunks,
        mounted_at,
    )
    return result


@pytest.mark.parametrize("name", [*STREAMS, "taken back"])
async def test_it_does_what_the_reference_does(page: Page, name: str) -> None:
    chunks = data_of(STREAMS[name]) if name in STREAMS else TAKEN_BACK
    states = expected(chunks)
    for mounted_at in range(0, len(chunks), max(1, len(chunks) // 20)):
        assert await shown(page, chunks, mounted_at) == states


async def test_repeats_and_holes(page: Page) -> None:
    apply = "(chunks) => { const a = new ContentAssembler(); return chunks.map((chunk) => a.apply(chunk)); }"
    assert await page.run(apply, [TAKEN_BACK[0], TAKEN_BACK[0], TAKEN_BACK[1], TAKEN_BACK[0]]) == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(DevToolsError, match="RangeError: chunk 2 came where 1 was expected"):
        await page.run(apply, [TAKEN_BACK[0], TAKEN_BACK[2]])


@pytest.mark.parametrize("mounted", [False, True])
async def test_parts_begin_as_in_the_reference(page: Page, mounted: bool) -> None:
    def chunk(run: str, index: int, op: str, block: int) -> list[Any]:
        html = f"<p>{run}{block}</p>" if op == "open" else ""
        return ["apply", {"run": run, "index": index, "op": op, "block": block, "html": html, "text": html}]

    def part(run: str, index: int, block: int) -> list[list[Any]]:
        start = ["begin", {"run": run, "index": index, "block": block}]
        return [start, chunk(run, index, "open", block), chunk(run, index + 1, "close", block)]

    steps = [*part("b", 8, 3), *part("c", 10, 4), *part("b", 8, 3), *part("d", 10, 4)[:2], *part("e", 0, 0)]
    steps += [*part("f", 2, 1), *part("d", 10, 4)]
    reference, states = ContentAssembler(), []
    for method, data in steps:
        states.append([getattr(reference, method)(data), reference.html, reference.text, reference.html])
    assert [state[0] for state in states].count(True) > 8
    run = """(steps, mounted) => {
          const element = document.createElement("div");
          const a = new ContentAssembler();
          if (mounted) a.mount(element);
          return steps.map(([method, data]) => {
            const done = a[method](data);
            return [done, a.html, a.text, mounted ? element.innerHTML : a.html];
          });
        }"""
    assert await page.run(run, steps, mounted) == states
    with pytest.raises(DevToolsError, match="RangeError: a part began with chunk 4 where 2"):
        await page.run(run, [*part("a", 0, 0), *part("b", 4, 2)], False)


async def test_only_what_a_chunk_changes_is_touched(page: Page) -> None:
    """Nothing outside of the last block, and in it nothing but what is new; closed, its text is in one piece."""
    touched = await page.run(
        """(chunks) => {
          const element = document.createElement("div");
          const assembler = new ContentAssembler().mount(element);
          const observer = new MutationObserver(() => {});
          observer.observe(element, { childList: true, characterData: true, attributes: true, subtree: true });
          const seen = [];
          for (const chunk of chunks) {
            const last = assembler.open ? element.lastElementChild : null;
            assembler.apply(chunk);
            const records = observer.takeRecords();
            seen.push({
              op: chunk.op,
              removed: records.some((record) => record.removedNodes.length > 0),
              outside: records.some(({ target }) => target !== element && !last?.contains(target)),
            });
          }
          const texts = [];
          const nodes = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
          while (nodes.nextNode()) texts.push(nodes.currentNode.nextSibling?.nodeType !== Node.TEXT_NODE);
          return [seen, texts];
        }""",
        data_of(STREAMS["html word"]),
    )
    seen, whole_texts = touched
    assert {step["op"] for step in seen} == {"open", "append", "close"}
    assert not any(step["outside"] for step in seen)
    assert not any(step["removed"] for step in seen if step["op"] != "close")
    assert whole_texts
    assert all(whole_texts)
