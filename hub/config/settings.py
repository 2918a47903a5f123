"""Every setting, and so every bound of the hub, is a field here or in ``service_settings``.

docs/configuration.md is made from them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from hub.config.service_settings import ServiceSettings, doc

Count = Annotated[int, Meta(ge=1)]
Text = str


class Settings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Units stand in the names; the text of each field is what docs/configuration.md shows."""

    # --- where
    host: Annotated[str, doc("Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, doc("Port to listen on; 0 takes a free one.", ge=0, le=65535)] = 8000
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], doc("Least severe log line that is written.")
    ] = "info"
    redis_url: Annotated[
        str,
        doc(
            "Redis or Valkey >= 7.2: redis://host:6379/0, rediss://…, unix:///path, "
            "redis+cluster://host:port[,host:port…], redis+sentinel://host:port[,host:port…]/master-name."
        ),
    ]
    database_url: Annotated[str, doc("PostgreSQL as the serving role hub_app: postgresql://hub_app:…@host/db.")]
    database_owner_url: Annotated[str, doc("PostgreSQL as the owner, for `hub migrate` and `hub doctor` only.")] = ""
    database_relay_url: Annotated[
        str, doc("PostgreSQL as hub_relay, for the outbox relay. Empty: no relay runs on this node.")
    ] = ""
    services: Annotated[str, doc("Where the list of services is: module:attribute.")] = "services.main:SERVICES"
    node: Annotated[str, doc("Name of this node in logs and metrics; empty: made from host name and process id.")] = ""
    event_services: Annotated[
        tuple[str, ...], doc("Services with a topic events:<service>, beside the ten that ship (comma-separated).")
    ] = ()

    demo_orgs: Annotated[
        tuple[str, ...],
        doc("Organisations for which made-up events are written; `hub dev` sets it (comma-separated)."),
    ] = ()

    # --- who
    jwt_secret: Annotated[str, doc("HS256 secret, at least 32 bytes. Set this or HUB_JWKS_URL.")] = ""
    jwks_url: Annotated[str, doc("Address of a JWKS for RS256, ES256 and EdDSA tokens.")] = ""
    jwt_audience: Annotated[str, doc("Required value of the claim aud.")] = "hub"
    jwt_issuer: Annotated[str, doc("Required value of the claim iss; empty: not checked.")] = ""
    jwt_leeway_s: Annotated[int, doc("Clock difference tolerated when exp and nbf are checked.", ge=0, le=300)] = 5
    jwks_refetch_s: Annotated[int, doc("Least time between two fetches of the JWKS for an unknown key.", ge=1)] = 30
    jwks_max_age_s: Annotated[int, doc("Age at which the JWKS is fetched again.", ge=30)] = 600
    jwks_retry_s: Annotated[float, doc("Pause after a JWKS fetch that failed while there is no key yet.", gt=0)] = 1.0
    jwks_timeout_s: Annotated[float, doc("Time for the whole JWKS to come.", gt=0)] = 5.0
    jwks_max_bytes: Annotated[int, doc("Largest JWKS that is read.", ge=1024)] = 262_144
    jwks_max_keys: Annotated[int, doc("Keys of a JWKS that are looked at.", ge=1)] = 100
    max_token_bytes: Annotated[int, doc("Longest token that is looked at.", ge=512, le=65_536)] = 8192
    max_verified_tokens: Annotated[
        int, doc("Valid tokens whose signature is not computed again when they come again; 0: none.", ge=0)
    ] = 10_000
    default_scope: Annotated[str, doc("Scope of a token that has no scope claim.")] = "subscribe:* call:*"
    allowed_origins: Annotated[
        tuple[str, ...],
        doc("Origins a browser may come from (comma-separated, * for any). Requests without Origin are allowed."),
    ] = ()
    client_ip_header: Annotated[
        str,
        doc(
            "Header in which the proxy in front names the client, for example X-Forwarded-For (of a list the last). "
            "Empty: the socket's peer is the client. Set it only when nobody gets past the proxy."
        ),
    ] = ""
    expiring_notice_s: Annotated[int, doc("`expiring` is sent this long before the token ends.", ge=1)] = 60
    ticket_ttl_s: Annotated[int, doc("Life of a ticket from POST /v1/tickets.", ge=1, le=600)] = 30
    token_max_life_s: Annotated[
        int,
        doc(
            "Longest life that the issuer gives a token. A user who was thrown out is refused for this long; a token "
            "that lives longer would then be good again.",
            ge=60,
        ),
    ] = 604_800

    # --- one connection
    max_message_bytes: Annotated[
        int, doc("Largest message a client may send; also the longest event by HTTP.", ge=1024)
    ] = 1_048_576
    compression: Annotated[bool, doc("permessage-deflate for clients that offer it, without context takeover.")] = True
    max_event_bytes: Annotated[int, doc("Largest `data` of an event.", ge=64)] = 65_536
    max_topics_per_connection: Annotated[int, doc("Subscriptions one connection may hold.", ge=1)] = 1000
    max_pending_frames: Annotated[
        int, doc("Frames of one client that may wait for their turn before its socket is no longer read.", ge=1)
    ] = 64
    max_calls_in_flight: Annotated[int, doc("Calls of one connection that may run at once.", ge=1)] = 16
    max_handles: Annotated[int, doc("Handles for chunks (uploads) that one connection may have open.", ge=1)] = 32
    chunk_free_bytes: Annotated[
        int, doc("Chunks of at least this cost no frame of HUB_MESSAGES_PER_SECOND; smaller ones cost one each.", ge=1)
    ] = 16_384
    max_bad_frames: Annotated[
        int, doc("Bad frames within ten seconds after which a connection is closed (4400).", ge=1)
    ] = 20
    hello_timeout_s: Annotated[float, doc("Time for the hello frame to come (4408).", gt=0)] = 10.0
    idle_timeout_s: Annotated[
        float,
        doc(
            "A connection without a subscription and without a frame from the client is closed after this (4408).", gt=0
        ),
    ] = 600.0
    session_max_s: Annotated[float, doc("Longest life of one connection; it is then drained. 0: no limit.", ge=0)] = (
        86_400.0
    )
    heartbeat_s: Annotated[float, doc("A heartbeat is sent when nothing else was for this long.", gt=0)] = 25.0
    sse_keepalive_s: Annotated[
        float, doc("A stream of server-sent events that is silent gets a comment this often.", gt=0)
    ] = 15.0
    pong_timeout_s: Annotated[
        float, doc("Time for a pong to come (4510); it runs only while nothing is unsent.", gt=0)
    ] = 20.0
    unsent_high_bytes: Annotated[int, doc("Unsent bytes above which a connection leaves the live set.", ge=4096)] = (
        262_144
    )
    send_buffer_bytes: Annotated[
        int,
        doc("SO_SNDBUF of a client's socket, bytes the kernel holds for one that does not read; 0: its choice.", ge=0),
    ] = 262_144
    no_progress_s: Annotated[float, doc("A connection that takes no byte for this long is closed (4508).", gt=0)] = 60.0
    http_head_bytes: Annotated[int, doc("Line and headers of an HTTP request; larger ones get 431.", ge=4096)] = 65_536
    http_head_s: Annotated[
        float, doc("Time for them to come; a connection that sends no request is closed after it, too.", gt=0)
    ] = 20.0
    http_body_s: Annotated[
        float, doc("Time for the body of a request for a stream or a poll to come; then 408.", gt=0)
    ] = 20.0
    http_hello_bytes: Annotated[
        int, doc("Such a body, as long as nobody knows who sends it: its token stands in it.", ge=4096)
    ] = 65_536
    http_linger_s: Annotated[
        float, doc("A client that still sends its request this long after the answer is cut off.", gt=0)
    ] = 10.0
    ack_window: Annotated[
        int, doc("Delivered and unacknowledged events of an ack:true subscription before it pauses.", ge=1)
    ] = 1000
    attentive_s: Annotated[
        float,
        doc(
            "A writer waits for an ack:true subscription of a paced topic until it has acknowledged nothing for this "
            "long, though it could.",
            gt=0,
        ),
    ] = 10.0
    attention_least: Annotated[int, doc("Events that such a subscription may be behind unnoticed.", ge=0)] = 10
    attention_reports: Annotated[
        int, doc("Topics with somebody who lags that a node tells the others of: the worst.", ge=1)
    ] = 500
    position_skip_events: Annotated[
        int, doc("A filtered subscription gets its position after this many skipped events.", ge=1)
    ] = 500
    position_skip_s: Annotated[float, doc("… or after this long.", gt=0)] = 25.0

    # --- sharing between clients
    max_connections: Annotated[int, doc("Connections this process accepts (4503).", ge=1)] = 50_000
    max_connections_per_user: Annotated[int, doc("Connections of one user over all nodes.", ge=1)] = 100
    max_connections_per_org: Annotated[int, doc("Connections of one organisation over all nodes.", ge=1)] = 20_000
    newcomer_steps_per_turn: Annotated[
        int,
        doc(
            "Steps of clients that come in (handshake, hello, what was missed) taken in one turn of the event loop; "
            "further ones wait, and events go out in between.",
            ge=1,
        ),
    ] = 32
    accepts_per_turn: Annotated[int, doc("Connections accepted in one turn of the event loop.", ge=1, le=64)] = 8
    messages_per_second: Annotated[int, doc("Frames per second of one user over all nodes (token bucket).", ge=1)] = 100
    messages_burst: Annotated[int, doc("Frames one user may send at once (size of the bucket).", ge=1)] = 500
    revocation_cache_s: Annotated[
        float, doc("HTTP requests of one user ask this often at most whether a kick refuses his tokens.", ge=0)
    ] = 1.0
    http_events_per_second: Annotated[
        int, doc("Events per second one user may publish by HTTP, over all nodes (token bucket).", ge=1)
    ] = 20_000
    http_events_burst: Annotated[int, doc("Events one user may publish by HTTP at once.", ge=1)] = 40_000
    connection_lease_s: Annotated[
        int, doc("A node that dies gives its connections back to the limits after this long.", ge=5)
    ] = 60
    limits_retry_s: Annotated[
        float, doc("After Redis did not answer, it is not asked about limits and caches for this long.", gt=0)
    ] = 1.0

    # --- sharing between nodes
    duty_lease_s: Annotated[
        float,
        doc("Work that a node has taken on is another's so long after the node has died; renewed four times.", gt=0),
    ] = 4.0
    duty_sweep_batch: Annotated[int, doc("Work of dead nodes that a node takes over at a time.", ge=1, le=1000)] = 100
    max_duties: Annotated[int, doc("Work of one purpose (streams, for example) that a node takes on.", ge=1)] = 20_000

    max_expulsions: Annotated[
        int, doc("Users who may not stay in a topic that are remembered, until joins under way have seen it.", ge=1)
    ] = 10_000

    # --- history and recovery
    replay_page_events: Annotated[int, doc("Events per page of a replay.", ge=1, le=10_000)] = 500
    replay_page_bytes: Annotated[int, doc("Bytes per page of a replay.", ge=65_536)] = 262_144
    replay_batch_bytes: Annotated[int, doc("Bytes of history read at once for one connection.", ge=65_536)] = 4_194_304
    join_tail_bytes: Annotated[int, doc("Live events one topic buffers while clients join it.", ge=65_536)] = 4_194_304
    position_ttl_s: Annotated[
        int, doc("A topic keeps its epoch and count for this long after its last event.", ge=3600)
    ] = 2_592_000
    idempotency_ttl_s: Annotated[int, doc("How long an idempotency key is remembered.", ge=60)] = 86_400
    session_ttl_s: Annotated[int, doc("How long the acknowledged positions of a session are kept.", ge=60)] = 86_400
    session_save_s: Annotated[float, doc("Acknowledged positions are stored this often.", gt=0)] = 1.0
    max_publish_batch: Annotated[int, doc("Events in one POST /v1/publish.", ge=1)] = 1000
    publish_turn_events: Annotated[
        int, doc("Events of one list that are published before others have their turn.", ge=1)
    ] = 25
    publish_turn_ms: Annotated[float, doc("… or as many as are prepared in this time.", ge=0)] = 0.3
    max_publish_bytes: Annotated[int, doc("Largest body of one POST /v1/publish.", ge=1024)] = 8_388_608

    # --- Redis
    join_ms: Annotated[
        float,
        doc(
            "Longest rest of a topic after a turn of delivery. It rests for twice as long as the turn took, and what "
            "arrives meanwhile is joined into one write per subscriber.",
            ge=0,
            le=1000,
        ),
    ] = 8.0
    max_waiting_messages: Annotated[
        int, doc("Messages of topics that rest or wait for their turn; when there are more all go out at once.", ge=1)
    ] = 20_000
    cache_max_bytes: Annotated[int, doc("Largest value that a service may keep in Redis as a cache.", ge=0)] = 1_048_576
    redis_connect_timeout_s: Annotated[float, doc("Time for a connection to Redis to open.", gt=0)] = 3.0
    redis_timeout_s: Annotated[float, doc("Time for an answer from Redis.", gt=0)] = 5.0
    redis_departure_calls: Annotated[
        int, doc("Calls that share one write to a Redis server; a larger batch travels alone.", ge=1)
    ] = 25
    redis_departures: Annotated[
        int, doc("Such writes whose answers are awaited at the same time, for each Redis server.", ge=2)
    ] = 2
    redis_max_connections: Annotated[int, doc("Command connections to each Redis server.", ge=1)] = 32
    probe_interval_s: Annotated[
        float, doc("When the pub/sub link is quiet this long, the hub sends itself a probe.", gt=0)
    ] = 1.0
    probe_timeout_s: Annotated[float, doc("A probe that does not come back in this time ends the link.", gt=0)] = 3.0
    reconnect_max_s: Annotated[float, doc("Longest pause between two attempts to reach Redis.", gt=0)] = 2.0
    subscribe_batch: Annotated[int, doc("Topics per batch when a link is subscribed anew.", ge=1)] = 500
    unsubscribe_delay_s: Annotated[float, doc("A topic nobody listens to any more is kept this long.", ge=0)] = 1.0
    heal_concurrency: Annotated[int, doc("Topics healed at the same time after a lost link.", ge=1)] = 16
    recheck_subscriptions_s: Annotated[
        float, doc("How often it is asked again whether subscribers may still read what has members.", gt=0)
    ] = 60.0

    # --- presence
    presence_lease_s: Annotated[
        float, doc("A node that says nothing for this long is dead, and whoever is present by it alone leaves.", ge=1)
    ] = 8.0
    presence_grace_s: Annotated[
        float, doc("Who loses the connection stays present this long, and comes back without noise.", ge=0)
    ] = 5.0
    presence_away_s: Annotated[float, doc("Who does nothing for this long is away; 0: never by itself.", ge=0)] = 300.0
    presence_max_listed: Annotated[
        int, doc("Members of a topic that are named one by one; with more only their number is told.", ge=1)
    ] = 200
    presence_count_s: Annotated[
        float, doc("How often the number of those who are too many to name is told at most.", gt=0)
    ] = 1.0
    presence_flush_ms: Annotated[float, doc("Changes of presence are collected this long.", ge=0)] = 20.0
    presence_set_s: Annotated[
        float, doc("A connection may say so often how it is (`presence.set`): everybody in its topics is told.", gt=0)
    ] = 1.0
    presence_set_burst: Annotated[int, doc("… or as many times in a row.", ge=1)] = 10
    presence_keep_s: Annotated[
        int, doc("Presence that nobody has changed for this long is forgotten by Redis.", ge=60)
    ] = 86_400

    # --- PostgreSQL
    database_pool: Annotated[int, doc("Connections of the pool.", ge=1)] = 10
    database_timeout_s: Annotated[float, doc("Time for a statement.", gt=0)] = 10.0
    migration_lock_wait_s: Annotated[float, doc("How long `hub migrate` waits while another node migrates.", gt=0)] = (
        300.0
    )
    outbox_batch: Annotated[int, doc("Rows the relay takes at a time.", ge=1)] = 500
    outbox_batch_bytes: Annotated[int, doc("… and at most this many bytes of data.", ge=65_536)] = 4_194_304
    outbox_poll_s: Annotated[float, doc("The relay looks at least this often, notified or not.", gt=0)] = 1.0
    outbox_unknown_s: Annotated[
        float, doc("A row whose topic no service registers waits this long for a node that knows it.", ge=0)
    ] = 600.0
    outbox_keep_s: Annotated[
        int, doc("Relayed rows are kept this long, to be relayed again after a Redis failover.", ge=60)
    ] = 3600
    outbox_keep_failed_s: Annotated[
        int, doc("Rows that could never be published are kept this long, for whoever looks into it.", ge=60)
    ] = 604_800
    outbox_hang_s: Annotated[
        float, doc("A relay that says nothing to PostgreSQL for this long loses its shards to another node.", ge=2)
    ] = 30.0
    outbox_max_blocked_topics: Annotated[
        int, doc("Topics that may wait for their Redis server while the relay goes on with the others.", ge=1)
    ] = 1000

    # --- flags
    flags_file: Annotated[
        str,
        doc("The file of feature flags, read again when it changes. Where the default is not there: what ships."),
    ] = "feature_flags.yaml"
    flags_org: Annotated[
        str,
        doc("Organisation of the operators: changes of flags are events of its topic flags:changes. Empty: no events."),
    ] = ""
    flags_recheck_s: Annotated[
        float, doc("How often a node looks for changes of flags that it was not told of.", gt=0)
    ] = 10.0
    flags_changes_waiting: Annotated[
        int, doc("Requests to change flags that wait in line on a node; further ones get `rate_limited`.", ge=1)
    ] = 1000
    flags_drain_window_s: Annotated[
        float, doc("When realtime_v2 goes off, open sockets are told to leave over this time.", ge=0)
    ] = 10.0
    flags_report_s: Annotated[
        float, doc("How often nodes tell one another what guards of staged flags look at.", gt=0)
    ] = 2.0
    flags_audit_keep_s: Annotated[
        int, doc("How long the record of who changed a flag is kept: 90 days at least.", ge=7_776_000)
    ] = 31_536_000

    # --- server-sent events and polling
    poll_wait_s: Annotated[float, doc("Longest time that a poll waits for something to happen.", gt=0)] = 30.0
    poll_linger_s: Annotated[
        float, doc("A client that polls is gone when its next poll does not come for this long.", gt=0)
    ] = 30.0
    sse_position_ms: Annotated[
        float,
        doc(
            "On a stream of server-sent events positions follow events within this time, at most so often. Long ones "
            "(many topics) wait until they are a tenth of what was written, for three seconds at most.",
            ge=0,
        ),
    ] = 100.0
    max_frames_per_request: Annotated[int, doc("Frames in one POST /v1/frames.", ge=1)] = 100

    # --- leaving
    readiness_timeout_s: Annotated[
        float, doc("GET /health/ready says no when the database has not answered in this time.", gt=0)
    ] = 2.0
    drain_window_s: Annotated[float, doc("SIGTERM: the clients' reconnect slots are spread over this time.", ge=0)] = (
        10.0
    )
    drain_grace_s: Annotated[
        float, doc("A client that has not left this long after its slot is closed (4504).", ge=0)
    ] = 5.0
    drain_answers_s: Annotated[
        float, doc("What is still being answered by HTTP when the sockets are closed has this long.", ge=0)
    ] = 15.0

    def __repr__(self) -> str:
        """Without the values: they hold keys and passwords, and what is printed ends up in logs."""
        return f"<Settings of {self.host} port {self.port}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich."""
        return [("host", self.host), ("port", self.port)]
