"""What the services that ship can be set to; the settings of the hub itself are in ``settings``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


def doc(text: str, **limits: Any) -> Any:
    """What docs/configuration.md says of a setting, and what it may be."""
    return Meta(description=text, **limits)


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read like all others, as part of ``Settings``."""

    # --- chat
    chat_max_message_bytes: Annotated[int, doc("Text of one message, in UTF-8.", ge=16, le=16_384)] = 8192
    chat_messages_per_second: Annotated[
        float, doc("Messages, edits, deletions and reactions of one user in one room.", gt=0)
    ] = 5.0
    chat_messages_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 20
    chat_max_members: Annotated[int, doc("Members of one room.", ge=1)] = 1000
    chat_changes_per_minute: Annotated[
        float,
        doc(
            "Changes of rooms and their members by one user (create, invite, leave, mute, …); a new room counts 1, "
            "and 1 more for each other member.",
            gt=0,
        ),
    ] = 60.0
    chat_changes_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 120
    chat_max_rooms: Annotated[int, doc("Rooms of one organisation, archived ones included.", ge=1)] = 10_000
    chat_max_rooms_created: Annotated[int, doc("… and those that one user has made.", ge=1)] = 500
    chat_max_rooms_per_user: Annotated[
        int, doc("Rooms that one user can be in by joining or making them, and as many by invitation.", ge=1)
    ] = 1000
    chat_max_waiting_per_room: Annotated[
        int, doc("Changes of one room that wait for their turn on one node; more are refused.", ge=1)
    ] = 500
    chat_max_mentions: Annotated[int, doc("Users that one message can mention.", ge=0)] = 20
    chat_max_attachments: Annotated[int, doc("Uploads that one message can name.", ge=0)] = 10
    chat_max_reactions: Annotated[int, doc("Different reactions to one message.", ge=1)] = 20
    chat_receipts_max_members: Annotated[
        int, doc("In rooms with more members nobody is told who has read what.", ge=1)
    ] = 100
    chat_read_batch_ms: Annotated[int, doc("Read receipts of a room are collected this long.", ge=0)] = 1000
    chat_typing_pause_s: Annotated[float, doc("One user's typing is told to a room this often at most.", gt=0)] = 3.0
    chat_typing_expires_s: Annotated[float, doc("Typing that is not repeated ends by itself after this.", gt=0)] = 6.0
    chat_page_bytes: Annotated[
        int, doc("A page of messages, search results or rooms ends when it has grown to this, in JSON.", ge=1024)
    ] = 1_048_576
    chat_reads_per_second: Annotated[float, doc("Pages that one user reads, of messages, rooms, members.", gt=0)] = 50.0
    chat_reads_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 500
    chat_searches_per_second: Annotated[float, doc("Searches of one user.", gt=0)] = 2.0
    chat_searches_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 10
    chat_searches_at_once: Annotated[int, doc("Searches that one process asks PostgreSQL for; more wait.", ge=1)] = 2
    chat_searches_waiting: Annotated[int, doc("… so many; whoever comes then is refused.", ge=0)] = 20
    chat_search_timeout_s: Annotated[float, doc("A search that takes longer is given up.", ge=0.01)] = 1.0
    chat_history_count: Annotated[
        int, doc("Events of a room kept in Redis for those who come back; older pages come from PostgreSQL.", ge=10)
    ] = 1000
    chat_history_s: Annotated[int, doc("… and for this long.", ge=60)] = 86_400
    chat_retention_days: Annotated[
        int, doc("Texts are deleted after so many days, where an organisation has not chosen itself; 0: never.", ge=0)
    ] = 0
    chat_janitor_s: Annotated[
        float, doc("How often old texts, and what a dead node left to do, are looked for.", gt=0)
    ] = 60.0

    # --- content
    content_max_bytes: Annotated[int, doc("Content of one request.", ge=16)] = 102_400
    content_max_stream_bytes: Annotated[int, doc("Content of all requests of one stream together.", ge=16)] = 1_048_576
    content_max_chunks: Annotated[int, doc("Chunks of one stream; whoever wants fewer cuts larger.", ge=16)] = 50_000
    content_max_chunk_chars: Annotated[int, doc("Longest html of one chunk.", ge=256, le=16_384)] = 4096
    content_max_depth: Annotated[
        int, doc("How deep elements may nest; what is deeper loses its tags.", ge=8, le=400)
    ] = 100
    content_session_requests: Annotated[
        int, doc("Requests of one user's session, over all nodes. It begins with the first request.", ge=1)
    ] = 100
    content_session_s: Annotated[
        int, doc("A session ends this long after it began; and no part of a stream runs longer at its own pace.", ge=1)
    ] = 3600
    content_session_idle_s: Annotated[
        int, doc("… or this long after its last request. A stream that is paused this long ends.", ge=1)
    ] = 300
    content_running_per_user: Annotated[
        int, doc("Streams of one user that run or are paused at once, over all nodes.", ge=1)
    ] = 20
    content_streams_per_process: Annotated[
        int, doc("Streams that one process drives at once; what it takes over from a dead one comes on top.", ge=1)
    ] = 5000
    content_abandoned_s: Annotated[
        int, doc("A stream that nobody has driven for this long is taken over, whatever Redis says.", ge=10)
    ] = 60
    content_adoptions: Annotated[int, doc("Streams of a dead node that are taken over at the same time.", ge=1)] = 4
    content_check_s: Annotated[
        float, doc("A driver looks this often whether a word of the stream's owner was lost on its way.", gt=0)
    ] = 2.0
    content_cache_s: Annotated[int, doc("Sanitised content is kept in Redis this long; 0: never.", ge=0)] = 3600
    content_replay_s: Annotated[
        int,
        doc(
            "The chunks of a stream can be replayed from its topic this long after its last; later there is its HTML.",
            ge=60,
        ),
    ] = 3600
    content_keep_s: Annotated[
        int, doc("Streams are kept in PostgreSQL this long, to be listed, read and streamed again.", ge=60)
    ] = 2_592_000

    # --- assistant
    assistant_providers: Annotated[
        tuple[str, ...],
        doc(
            "Who writes: openai, anthropic, offline (comma-separated). The first is the default; when one fails, "
            "the next goes on; see assistant.md."
        ),
    ] = ("offline",)
    assistant_openai_base_url: Annotated[str, doc("Where an OpenAI-compatible API is.")] = "https://api.openai.com/v1"
    assistant_openai_key: Annotated[str, doc("Its API key; empty for a server that wants none.")] = ""
    assistant_openai_model: Annotated[str, doc("Its model.")] = ""
    assistant_openai_max_tokens_field: Annotated[
        Literal["max_completion_tokens", "max_tokens"],
        doc("How it calls the most tokens it may write; many servers beside OpenAI's know max_tokens only."),
    ] = "max_completion_tokens"
    assistant_anthropic_base_url: Annotated[str, doc("Where the Anthropic API is.")] = "https://api.anthropic.com"
    assistant_anthropic_key: Annotated[str, doc("Its API key.")] = ""
    assistant_anthropic_model: Annotated[str, doc("Its model.")] = ""
    assistant_offline_words_per_s: Annotated[float, doc("How fast the built-in writer writes.", gt=0)] = 40.0
    assistant_connect_timeout_s: Annotated[float, doc("Time for a connection to a provider to open.", gt=0)] = 5.0
    assistant_first_token_timeout_s: Annotated[
        float, doc("Time for a call's first text to come; a model that thinks first needs more.", gt=0)
    ] = 30.0
    assistant_token_timeout_s: Annotated[float, doc("… and for each that follows.", gt=0)] = 20.0
    assistant_tail_timeout_s: Annotated[
        float, doc("What follows a text's end is read for this long, so that the connection can be used again.", gt=0)
    ] = 0.2
    assistant_total_timeout_s: Annotated[
        float, doc("Time for a whole text, with all attempts and all providers.", gt=0)
    ] = 300.0
    assistant_attempts: Annotated[
        int, doc("Calls to one provider for one text; repeated only while a call has given no text.", ge=1, le=10)
    ] = 3
    assistant_backoff_base_s: Annotated[float, doc("Longest pause before the second call; it doubles.", gt=0)] = 0.5
    assistant_backoff_max_s: Annotated[float, doc("… up to this.", gt=0)] = 8.0
    assistant_retry_after_max_s: Annotated[
        float, doc("A provider that asks for a longer pause (Retry-After) is not called again for this text.", ge=0)
    ] = 20.0
    assistant_max_calls: Annotated[int, doc("Calls to one provider at once, for each process; more wait.", ge=1)] = 500
    assistant_max_duration_s: Annotated[int, doc("Longest script that can be asked for.", ge=5)] = 1800
    assistant_max_event_bytes: Annotated[
        int, doc("Largest single event, or answer that is no stream, that is read from a provider.", ge=4096)
    ] = 1_048_576
    assistant_max_messages: Annotated[int, doc("Messages of a chat that can be sent.", ge=1)] = 100
    assistant_max_output_bytes: Annotated[int, doc("A text that gets longer than this is cut.", ge=16)] = 262_144
    assistant_max_output_tokens: Annotated[int, doc("Tokens that a model is asked for at most.", ge=16)] = 8192
    assistant_max_per_user: Annotated[
        int,
        doc("Texts written for one user at once; each process counts those of POST /v1/chat/stream itself.", ge=1),
    ] = 4
    assistant_max_prompt_bytes: Annotated[int, doc("All messages of a chat together.", ge=16)] = 65_536
    assistant_max_topic_bytes: Annotated[int, doc("The topic of a script.", ge=16)] = 2000
    assistant_requests_per_minute: Annotated[
        int, doc("Texts that one user may ask for in a minute, over all nodes (token bucket).", ge=1)
    ] = 20
    assistant_requests_burst: Annotated[int, doc("… and at once.", ge=1)] = 10
    assistant_ip_requests_per_minute: Annotated[
        int, doc("The same for one IPv4 address, or /64 of IPv6, by POST /v1/chat/stream.", ge=1)
    ] = 60
    assistant_ip_requests_burst: Annotated[int, doc("… and at once.", ge=1)] = 30
    assistant_unread_bytes: Annotated[
        int, doc("Text that waits for a client of POST /v1/chat/stream that reads slowly; with more it ends.", ge=1024)
    ] = 65_536

    # --- uploads
    uploads_store: Annotated[
        str,
        doc(
            "Where uploads are kept: file:<folder> (of several nodes: one folder that all of them see), "
            "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix; see uploads-stores.md."
        ),
    ] = "file:data/uploads"
    uploads_store_options: Annotated[
        tuple[str, ...],
        doc("What an object store needs beside its usual environment variables: name=value (comma-separated)."),
    ] = ()
    uploads_store_timeout_s: Annotated[float, doc("Time for one operation of the store.", gt=0)] = 30.0
    uploads_store_fsync: Annotated[
        bool, doc("A folder: what is acknowledged is on the disk and not only in the kernel's memory.")
    ] = False
    uploads_store_threads: Annotated[
        int, doc("Threads of a process that write, read, copy and hash; what comes beyond waits.", ge=1, le=64)
    ] = 4
    uploads_types_file: Annotated[
        str, doc("TOML file with document types: media types, extensions, sizes; empty: those that ship.")
    ] = ""
    uploads_max_bytes: Annotated[int, doc("Largest upload, whatever its type may have.", ge=1)] = 5_368_709_120
    uploads_chunk_bytes: Annotated[
        int,
        doc("Largest chunk over the socket, as far as HUB_MAX_MESSAGE_BYTES allows; smaller ones are slower.", ge=1024),
    ] = 262_144
    uploads_window_bytes: Annotated[
        int, doc("Bytes of one upload that may be under way: sent, and not yet stored and recorded.", ge=4096)
    ] = 8_388_608
    uploads_memory_bytes: Annotated[
        int, doc("… of all uploads of a process together; with many of them each has a smaller window.", ge=1_048_576)
    ] = 268_435_456
    uploads_block_bytes: Annotated[
        int, doc("An object store gets objects of this size while an upload goes on; at most half the window.", ge=1024)
    ] = 4_194_304
    uploads_flush_s: Annotated[float, doc("What has come is stored and acknowledged at least this often.", gt=0)] = 1.0
    uploads_insist_s: Annotated[
        float, doc("What is stored is tried to be recorded for so long while PostgreSQL is away.", ge=0)
    ] = 15.0
    uploads_credit_s: Annotated[float, doc("Credit is repeated this often while the client may send.", gt=0)] = 1.0
    uploads_release_s: Annotated[
        float, doc("Who goes on with an upload waits this long for its previous writer to finish.", ge=0)
    ] = 2.0
    uploads_idle_s: Annotated[
        float, doc("A handle that no byte comes for is closed after this; the upload can be resumed.", gt=0)
    ] = 60.0
    uploads_expire_s: Annotated[int, doc("Unfinished uploads are removed this long after their last byte.", ge=1)] = (
        86_400
    )
    uploads_clear_s: Annotated[
        float,
        doc("What is left in the store by writers that were late is removed this long after an upload's end.", gt=0),
    ] = 60.0
    uploads_keep_s: Annotated[int, doc("Finished documents are removed after this; 0: never.", ge=0)] = 0
    uploads_keep_records_s: Annotated[
        int, doc("It is known this long what became of uploads that were refused, cancelled or expired.", ge=1)
    ] = 2_592_000
    uploads_open_per_user: Annotated[int, doc("Unfinished uploads of one user.", ge=1)] = 20
    uploads_org_bytes_per_day: Annotated[
        int, doc("Bytes that an organisation may begin to upload in a day (UTC).", ge=1)
    ] = 1_099_511_627_776
    uploads_creates_per_minute: Annotated[float, doc("Uploads that one user may begin.", gt=0)] = 120.0
    uploads_creates_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 60
    uploads_reads_per_second: Annotated[
        float,
        doc("Questions of one user: status, lists, shares, links, contents; small or wrong PATCHes.", gt=0),
    ] = 50.0
    uploads_reads_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 500
    uploads_writers: Annotated[int, doc("Uploads that one process takes bytes of at the same time.", ge=1)] = 500
    uploads_writers_per_org: Annotated[int, doc("… of one organisation.", ge=1)] = 250
    uploads_max_parts: Annotated[
        int, doc("Objects that one unfinished upload may have; of a slow one they get larger.", ge=10)
    ] = 10_000
    uploads_max_shares: Annotated[int, doc("Topics whose readers may see an upload.", ge=0)] = 10
    uploads_progress_s: Annotated[float, doc("Progress of an upload is told this often at most.", gt=0)] = 0.5
    uploads_janitor_s: Annotated[
        float, doc("How often uploads are looked for that a dead node should have checked or removed.", gt=0)
    ] = 5.0
    uploads_checks: Annotated[int, doc("Uploads that one process checks at the same time; more wait.", ge=1)] = 2
    uploads_checks_waiting: Annotated[
        int, doc("… and as many wait in its memory; the others are found in the table.", ge=1)
    ] = 1000
    uploads_check_lease_s: Annotated[
        float, doc("Another node begins a check anew when this one says nothing for so long.", gt=0)
    ] = 15.0
    uploads_check_attempts: Annotated[
        int, doc("Checks of one upload that may fail by a fault of the hub before it is rejected.", ge=1)
    ] = 5
    uploads_check_timeout_s: Annotated[float, doc("Time to look into one document.", gt=0)] = 60.0
    uploads_max_unpacked_bytes: Annotated[
        int, doc("What an archive may unpack to, beside files that are hardly packed.", ge=1024)
    ] = 268_435_456
    uploads_max_unpack_ratio: Annotated[int, doc("… and how many times its size.", ge=2)] = 200
    uploads_max_entries: Annotated[int, doc("Files in an archive or spreadsheet.", ge=1)] = 10_000
    uploads_max_pixels: Annotated[int, doc("Pixels of an image, by its header.", ge=1)] = 200_000_000
    uploads_max_rows: Annotated[int, doc("Rows of a table; counted up to here.", ge=1)] = 5_000_000
    uploads_max_columns: Annotated[int, doc("Columns of a table's header that are told.", ge=1)] = 500
    uploads_scan_url: Annotated[
        str, doc("clamd that looks at every upload: tcp://host:3310 or unix:/path; empty: nobody does.")
    ] = ""
    uploads_scan_timeout_s: Annotated[float, doc("Time for it to look at one upload.", gt=0)] = 120.0
    uploads_link_secret: Annotated[
        str, doc("Secret of signed links, at least 32 bytes; empty: made from HUB_JWT_SECRET.")
    ] = ""
    uploads_link_s: Annotated[int, doc("Life of a signed link, if nothing else is asked for.", ge=1)] = 3600
    uploads_link_max_s: Annotated[int, doc("… and at most, if that is not longer than HUB_TOKEN_MAX_LIFE_S.", ge=1)] = (
        604_800
    )
    uploads_link_reader_s: Annotated[int, doc("… of whoever may see the upload but is not its owner.", ge=1)] = 3600
    uploads_link_reads_per_second: Annotated[
        float, doc("How often one upload may be read by links, whoever has them (token bucket).", gt=0)
    ] = 100.0
    uploads_link_reads_burst: Annotated[int, doc("… and as many at once.", ge=1)] = 500
