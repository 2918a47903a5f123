"""web/lines.js cuts a stream of server-sent events into blocks, however it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.browser.chromium import Chromium, Page

WHOLE = (
    "\ufeffretry: 1500\n\n"
    'data: {"type":"welcome"}\n\n'
    "id: abc\n\n"
    ": keep-alive\n\n"
    "data: one\r\ndata: two\r\nid:x\r\n\r\n"
    "event: other\rdata:  indented\r\r"
    "data\n\n"
    "id: a\0b\n\n"
    'data: {"text":"äöü 🧺 \\n"}\n\n'
    "data: not complete\n"
)
BLOCKS = [
    {"data": '{"type":"welcome"}'},
    {"data": "", "id": "abc"},
    {"data": "one\ntwo", "id": "x"},
    {"data": " indented"},
    {"data": ""},
    {"data": '{"text":"äöü 🧺 \\n"}'},
]
# Cut at every byte, in two places, and into single bytes.
CUT = """async (whole) => {
  const { EventBlocks } = await import("/lines.js");
  const bytes = new TextEncoder().encode(whole);
  const parse = (...cuts) => {
    const blocks = new EventBlocks();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = [0, ...cuts].map((from, at) => bytes.subarray(from, cuts[at] ?? bytes.length));
    return JSON.stringify(pieces.flatMap((piece) => blocks.push(decoder.decode(piece, { stream: true }))));
  };
  const found = new Set([parse(), parse(...bytes.keys())]);
  for (const cut of bytes.keys()) for (let next = cut; next <= bytes.length; next += 7) found.add(parse(cut, next));
  return [...found].map((one) => JSON.parse(one));
}"""


@pytest.fixture
async def page(chromium: Chromium, address: str) -> AsyncIterator[Page]:
    page = await chromium.page()
    await page.visit(address)
    yield page
    await page.close()


async def test_the_same_blocks_however_the_stream_is_cut(page: Page) -> None:
    assert await page.run(CUT, WHOLE) == [BLOCKS]
