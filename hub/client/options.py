"""Every wait, bound and retry of the client, as one frozen struct. Read by all of ``hub.client``, changed by nobody."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

TransportName = Literal["websocket", "sse", "poll"]
"""Ways to the hub, the best first."""

TRANSPORTS: tuple[TransportName, ...] = get_args(TransportName)


class ClientOptions(Struct, frozen=True, kw_only=True):
    """Settings of one ``HubClient``. The unit of each stands in its name."""

    # --- opening and closing
    open_timeout_s: float = 10.0
    """From the first packet to the end of the WebSocket handshake."""
    welcome_timeout_s: float = 10.0
    """From ``hello`` to ``welcome``."""
    first_connect_timeout_s: float = 30.0
    """How long entering the client may take, retries included."""
    token_timeout_s: float = 10.0
    """For ``get_token``."""
    close_timeout_s: float = 2.0
    """For the last acknowledgements and the closing handshake."""

    # --- transports
    transports: tuple[TransportName, ...] = TRANSPORTS
    """Which may be used, the one to try first in front: ``websocket``, ``sse``, ``poll``."""
    try_next_after_s: float = 5.0
    """With another transport to go to: each step of an attempt may take this long, then the next one has its turn."""
    attempts_of_proven: int = 2
    """A transport that has worked before may fail so often in a row before the next one has its turn."""
    short_life_s: float = 60.0
    """A connection that breaks off, or falls silent, so soon after its welcome was cut by something on the way,
    perhaps …"""
    cuts_to_leave: int = 3
    """… and so many in a row over one transport say that another one may last longer."""
    settle_s: float = 0.3
    """During an attempt to come up the connection that there is holds its requests back for at most so long."""
    upgrade_after_s: float = 30.0
    """On a fallback: pause before the first attempt to come up again; twice as long after every one in vain …"""
    upgrade_max_s: float = 600.0
    """… up to this."""
    move_jitter_s: float = 0.5
    """Before a move that a flag asks for, so that not all clients move in the same instant."""
    contested_s: float = 10.0
    """After a move, or an attempt: so long a takeover of the session may be a late request of this client's own."""
    poll_wait_s: float = 25.0
    """How long the hub may keep a poll that it has nothing for."""
    poll_least_wait_s: float = 1.0
    """A poll that a proxy gave up (502, 504) after at least this time is asked again with half of it, and so are those
    after it; never with less than this."""
    poll_attempts: int = 3
    """A poll is asked again this often before the connection counts as lost."""
    posted_answer_s: float = 2.0
    """What is asked of a connection that polls has this long to be answered. Where each request comes to another node
    it may get lost; then, and from then on, the connection is begun anew for it."""
    max_posts: int = 8
    """Requests to the hub under way at once, beside the one that brings events."""
    longest_call_s: float = 300.0
    """So long the request of a call is kept open, if the call has not been given up before."""
    max_waiting_frames: int = 256
    """Frames that wait to be posted; a further one waits within its own timeout."""
    max_post_frames: int = 50
    """Frames of one moment in one request …"""
    max_post_bytes: int = 60_000
    """… if they are not larger than this: nodes hand no more on to one another."""
    http_idle_s: float = 2.0
    """An idle connection is kept this long for the next request: shorter than servers and proxies do."""

    # --- requests
    request_timeout_s: float = 30.0
    """From asking to the answer, reconnects and refusals with ``retry_after_ms`` included."""
    max_requests_in_flight: int = 64
    """Publications and calls under way at once; a further one waits within its own timeout."""
    insist_s: float = 60.0
    """What may be repeated (``Room.send``, for example) is asked until it is answered, for this long."""
    attempt_timeout_s: float = 5.0
    """… and asked again when an answer does not come for this long."""
    max_frame_bytes: int = 16 * 1024 * 1024
    """Largest frame taken from the hub."""

    # --- staying connected
    silence_heartbeats: float = 2.0
    """A connection that is silent for this many ``heartbeat_ms`` is lost."""
    backoff_base_s: float = 0.5
    backoff_max_s: float = 20.0
    backoff_floor_s: float = 0.05
    """Full jitter: uniform(0, min(max, base * 2^n)), but at least the floor."""
    now_jitter_s: float = 0.2
    """Before a reconnect that need not wait, so that a node's clients do not return in the same instant."""
    stable_after_s: float = 5.0
    """A connection that lived this long starts the backoff anew."""
    move_patience_s: float = 4.0
    """A planned move away from a socket waits so long for answers that are under way on it: a little less than the hub
    keeps it after its slot (HUB_DRAIN_GRACE_S, 5 s). Calls by POST are answered whatever becomes of the connection."""
    drain_linger_s: float = 1.0
    """After a planned move: how long answers are still awaited on the connection that was left."""
    compression: bool = False
    """Negotiate permessage-deflate: saves traffic, costs time on both sides."""
    use_system_proxy: bool = True

    # --- uploads
    max_uploads: int = 8
    """Uploads that send at once; a further one waits."""
    upload_chunk_s: float = 0.1
    """A chunk is about what goes out in this time, at most what the hub allows …"""
    upload_least_chunk_bytes: int = 16_384
    """… and at least this."""
    unsent_bytes: int = 131_072
    """What the kernel takes of what cannot leave yet: everything else that is sent waits behind it."""
    tus_chunk_bytes: int = 1_048_576
    """Without a WebSocket: a request has so many bytes, which many proxies let through without being told."""
    upload_stall_s: float = 20.0
    """A handle is opened anew when bytes are under way, or credit is due, and nothing is heard for this long."""
    upload_patience_s: float = 300.0
    """Refusals that pass (a full store, for example) are borne this long without a byte acknowledged. Time without a
    connection does not count."""
    upload_ask_s: float = 5.0
    """While an upload is checked: its status is asked for when its topic says nothing for this long."""

    # --- presence
    presence_patience_s: float = 2.0
    """``Room`` asks who is there when a snapshot that is due does not come for this long."""

    # --- subscriptions
    max_subscriptions: int = 1000
    buffer_events: int = 1000
    """Events per subscription that wait for their consumer; best not below the hub's ack window (1000)."""
    ack_interval_s: float = 1.0
    ack_every_events: int = 100
    """Acknowledgements go out once per interval, or sooner when this many events were processed."""

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for transports that there are not."""
        names = self.transports
        if not names or len(set(names)) != len(names) or not set(names) <= set(TRANSPORTS):
            raise ValueError(f"transports={names!r}: name some of {', '.join(TRANSPORTS)}, each once")
