"""A topic: ``kind:key`` within one organisation."""

from __future__ import annotations

import base64
import hashlib
import re

from hub.errors import not_found
from hub.orgs import OrgId, TopicNames, topic_channel, topic_names

# PROTOCOL section 1. fullmatch, because `$` would let a trailing newline through.
_TOPIC = re.compile(r"([a-z][a-z0-9_]{0,31}):([A-Za-z0-9._~-]{1,128})")
_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class Topic:
    """One topic of one organisation, with its Redis names. Equal by organisation, kind and key.

    There is one for every topic with a listener on this node: what is seldom asked for is made when it is.
    """

    __slots__ = ("channel", "org", "text", "wire")

    def __init__(self, org: OrgId, kind: str, key: str) -> None:
        self.org = org
        self.text = f"{kind}:{key}"
        # Towards its user an inbox is always written `user:me`, and nobody else may subscribe to it. So the text on
        # the wire is a property of the topic, and all its subscribers can share the same bytes.
        self.wire = "user:me" if kind == "user" else self.text
        self.channel = topic_channel(org, self.text).encode()
        """The Redis channel, as Redis says it; whoever maps topics uses this very object as the key."""

    @property
    def kind(self) -> str:
        """What comes before the colon."""
        return self.text.partition(":")[0]

    @property
    def key(self) -> str:
        """What comes after it."""
        return self.text.partition(":")[2]

    @property
    def names(self) -> TopicNames:
        """The Redis names: channel, position, history, idempotency prefix."""
        return topic_names(self.org, self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and other.text == self.text and other.org == self.org

    def __hash__(self) -> int:
        return hash(self.channel)

    def __repr__(self) -> str:
        return f"Topic({self.org}/{self.text})"


def parse_topic(org: OrgId, text: str) -> Topic:
    """The topic that ``text`` names in ``org``. Raises ``not_found`` when it is malformed: no such topic can exist."""
    match = _TOPIC.fullmatch(text) if len(text) <= 161 else None
    if match is None:
        raise not_found()
    return Topic(org, match[1], match[2])


def user_key(sub: str) -> str:
    """The key of a user's inbox: ``sub`` if it fits the key alphabet, else ``~`` + base64url(SHA-256(sub)).

    A ``sub`` that begins with ``~`` is hashed too, or a user named like another's hash would read that one's inbox.
    """
    if _KEY.fullmatch(sub) and not sub.startswith("~"):
        return sub
    digest = hashlib.sha256(sub.encode()).digest()
    return "~" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
