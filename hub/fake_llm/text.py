"""What the fake writes: the same Markdown always, for as many tokens as are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice, repeat

_MARKDOWN = """\
## A fake answer

This is **written** by nobody, *word by word*, with `code`, “quotes” and a [link](https://example.org/a?b=1&c=2).

- Zürich, 東京, Αθήνα
- an emoji 🎉, a family 👩‍👩‍👧 and a flag 🇨🇭
- 3 < 5 && 7 > 2

| name | size |
|---|---|
| one | **1** |
| two | 2 |

```python
def add(a: int, b: int) -> int:
    return a + b
```

> A quotation, and ~~nothing~~ more.

"""
_TOKENS = re.findall(r"\s*\S{1,6}|\s+\Z", _MARKDOWN)


def tokens(count: int) -> Iterator[str]:
    """The first ``count`` tokens."""
    return islice(chain.from_iterable(repeat(_TOKENS)), count)


def fake_text(count: int) -> str:
    """What ``count`` tokens say."""
    return "".join(tokens(count))


def halves(token: str) -> Iterator[str]:
    """The token as one piece, or cut between the halves of its first character beyond U+FFFF."""
    at = next((index for index, character in enumerate(token) if ord(character) > 0xFFFF), None)
    if at is None:
        yield token
        return
    both = token[at].encode("utf-16-be")
    first, second = (both[start : start + 2].decode("utf-16-be", "surrogatepass") for start in (0, 2))
    yield token[:at] + first
    yield second + token[at + 1 :]
