-- Chat: rooms, who is in them, what was said, and what is left to be done about it.
--
-- Everything that a room's watchers are told leaves through the outbox, in the transaction that changes it. So the
-- counter of the room's topic orders the room: a message is named by its number, and events and pages agree on it.

CREATE TABLE hub.chat_rooms (
  org text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  name text NOT NULL,
  public boolean NOT NULL,
  tags jsonb NOT NULL DEFAULT '{}',
  created_by text COLLATE "C" NOT NULL,
  -- The creator's: the same again is the same room.
  key text COLLATE "C",
  created_at timestamptz NOT NULL DEFAULT now(),
  archived_at timestamptz,
  members integer NOT NULL DEFAULT 0,
  -- How many messages there ever were, and the number of the newest. What somebody has not read is a difference.
  messages bigint NOT NULL DEFAULT 0,
  last_number bigint NOT NULL DEFAULT 0,
  last_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org, id),
  CONSTRAINT chat_rooms_key UNIQUE (org, created_by, key)
) WITH (fillfactor = 70);
CREATE INDEX chat_rooms_public ON hub.chat_rooms (org, last_at DESC, id DESC) WHERE public;
CALL hub.isolate('hub.chat_rooms');
GRANT SELECT, INSERT, UPDATE ON hub.chat_rooms TO hub_app;

CREATE TABLE hub.chat_members (
  org text COLLATE "C" NOT NULL,
  room text COLLATE "C" NOT NULL,
  member text COLLATE "C" NOT NULL,
  name text NOT NULL DEFAULT '',
  role text NOT NULL CHECK (role IN ('owner', 'member', 'reader')),
  -- By somebody else; otherwise he came by himself.
  invited boolean NOT NULL DEFAULT false,
  joined_at timestamptz NOT NULL DEFAULT now(),
  muted_until timestamptz,
  -- Up to which message it has been read, and how many messages there were up to there.
  read_number bigint NOT NULL DEFAULT 0,
  read_count bigint NOT NULL DEFAULT 0,
  -- Up to which message the others have been told so.
  told_number bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (org, room, member),
  FOREIGN KEY (org, room) REFERENCES hub.chat_rooms (org, id)
) WITH (fillfactor = 70);
CREATE INDEX chat_members_rooms ON hub.chat_members (org, member, invited, room);
CREATE INDEX chat_members_untold ON hub.chat_members (org, room) WHERE told_number < read_number;
CALL hub.isolate('hub.chat_members');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.chat_members TO hub_app;

-- What is held against those who were members of a public room, and could come back by themselves.
CREATE TABLE hub.chat_former_members (
  org text COLLATE "C" NOT NULL,
  room text COLLATE "C" NOT NULL,
  member text COLLATE "C" NOT NULL,
  removed boolean NOT NULL,
  role text NOT NULL CHECK (role IN ('member', 'reader')),
  muted_until timestamptz,
  PRIMARY KEY (org, room, member),
  FOREIGN KEY (org, room) REFERENCES hub.chat_rooms (org, id)
);
CALL hub.isolate('hub.chat_former_members');
GRANT SELECT, INSERT, DELETE ON hub.chat_former_members TO hub_app;

CREATE TABLE hub.chat_messages (
  org text COLLATE "C" NOT NULL,
  room text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  -- The how-manieth message of its room it is.
  ordinal bigint NOT NULL,
  author text COLLATE "C" NOT NULL,
  author_name text NOT NULL DEFAULT '',
  -- The sender's: the same again is the same message.
  key text COLLATE "C" NOT NULL,
  format text NOT NULL CHECK (format IN ('text', 'markdown')),
  -- Without text it is a tombstone.
  text text,
  html text,
  reply_to bigint,
  mentions text[] NOT NULL DEFAULT '{}',
  attachments text[] NOT NULL DEFAULT '{}',
  -- Number of the event that carries the present text.
  text_number bigint NOT NULL,
  reactions integer NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(),
  edited_at timestamptz,
  deleted_at timestamptz,
  deleted_by text,
  deleted_why text CHECK (deleted_why IN ('author', 'owner', 'retention')),
  words tsvector GENERATED ALWAYS AS (to_tsvector('simple', coalesce(text, ''))) STORED,
  PRIMARY KEY (org, room, number),
  CONSTRAINT chat_messages_key UNIQUE (org, room, author, key),
  CHECK ((text IS NULL) = (deleted_at IS NOT NULL)),
  FOREIGN KEY (org, room) REFERENCES hub.chat_rooms (org, id)
) WITH (fillfactor = 90);
CREATE INDEX chat_messages_ordinal ON hub.chat_messages (org, room, ordinal);
-- Without the list of what is yet to be put in, which every search reads: a message takes 0.05 ms longer.
CREATE INDEX chat_messages_words ON hub.chat_messages USING gin (words) WITH (fastupdate = off);
CREATE INDEX chat_messages_old ON hub.chat_messages (org, created_at) WHERE deleted_at IS NULL;
CALL hub.isolate('hub.chat_messages');
GRANT SELECT, INSERT, UPDATE ON hub.chat_messages TO hub_app;

CREATE TABLE hub.chat_reactions (
  org text COLLATE "C" NOT NULL,
  room text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  emoji text COLLATE "C" NOT NULL,
  member text COLLATE "C" NOT NULL,
  PRIMARY KEY (org, room, number, emoji, member),
  FOREIGN KEY (org, room, number) REFERENCES hub.chat_messages (org, room, number)
);
CALL hub.isolate('hub.chat_reactions');
GRANT SELECT, INSERT, DELETE ON hub.chat_reactions TO hub_app;

CREATE TABLE hub.chat_policies (
  org text COLLATE "C" PRIMARY KEY,
  -- NULL: keep for ever.
  retention_days integer CHECK (retention_days > 0),
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL DEFAULT now()
);
CALL hub.isolate('hub.chat_policies');
GRANT SELECT, INSERT, UPDATE ON hub.chat_policies TO hub_app;

-- Texts that must leave the topic's history in Redis: those of the events `numbers`, once the event `number` (which
-- follows them all) has been relayed.
CREATE TABLE hub.chat_erasures (
  org text COLLATE "C" NOT NULL,
  room text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  numbers bigint[] NOT NULL,
  -- Done once. It is done a second time before it is forgotten: Redis may have failed over to a replica that had not heard
  -- of the first.
  done boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- When some node looks after it, if the one that wrote it has not.
  due_at timestamptz NOT NULL,
  PRIMARY KEY (org, room, number)
);
CREATE INDEX chat_erasures_due ON hub.chat_erasures (due_at);
CALL hub.isolate('hub.chat_erasures');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.chat_erasures TO hub_app;

-- Nodes look after all organisations and search within one by functions of the owner. That search is one of them has
-- another reason too: row-level security keeps the text index from being used, because the match is not leakproof.
DO $policy$
BEGIN
  EXECUTE format('CREATE POLICY searched ON hub.chat_messages FOR SELECT TO %I USING (true)', current_user);
  EXECUTE format('CREATE POLICY all_of_them ON hub.chat_policies FOR SELECT TO %I USING (true)', current_user);
  EXECUTE format('CREATE POLICY left_over ON hub.chat_erasures FOR SELECT TO %I USING (true)', current_user);
  EXECUTE format(
    'CREATE POLICY untold ON hub.chat_members FOR SELECT TO %I USING (told_number < read_number)', current_user);
END
$policy$;

-- The number of a room's newest event, as the statement that asks sees the world.
CREATE FUNCTION hub.chat_number(room text) RETURNS bigint
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  SELECT coalesce(max(number), 0) FROM hub.topic_counters
  WHERE org = current_setting('hub.org', true) AND topic = 'chat:' || room
$body$;
REVOKE ALL ON FUNCTION hub.chat_number(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.chat_number(text) TO hub_app;

-- Messages with these words, the newest first, in the rooms of the organisation that `reader` may read, or in one. The
-- page after a message begins `before` it: by its microseconds since 1970, its room and its number.
CREATE FUNCTION hub.search_chat(
  reader text, wanted text, only_room text, before_us bigint, before_room text, before_number bigint, most integer
)
RETURNS TABLE (room text, number bigint)
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- A frequent word is best looked for among the newest messages, a rare one in the text index. One plan for both, which
-- PostgreSQL turns to after a few calls, takes a hundred times as long for either.
SET plan_cache_mode = force_custom_plan
AS $body$
DECLARE
  organisation text := current_setting('hub.org', true);
  query tsquery := websearch_to_tsquery('simple', wanted);
  rooms text[];
BEGIN
  -- Without a word that must be there ('-this') no index helps, and nobody wants nearly everything.
  IF querytree(query) IN ('', 'T') THEN
    RETURN;
  END IF;
  -- Of whoever may read few rooms those are named, so that PostgreSQL can begin with them; NULL: there are many.
  SELECT CASE WHEN count(*) <= 200 THEN coalesce(array_agg(few.id), '{}') END INTO rooms FROM (
    SELECT w.room AS id FROM hub.chat_members AS w
    WHERE w.org = organisation AND w.member = reader AND (only_room IS NULL OR w.room = only_room)
    UNION ALL
    SELECT r.id FROM hub.chat_rooms AS r
    WHERE r.org = organisation AND r.public AND (only_room IS NULL OR r.id = only_room)
    LIMIT 201
  ) AS few;
  IF only_room IS NOT NULL THEN
    -- In one room the newest has the highest number, so its own index has them in order.
    RETURN QUERY
    SELECT m.room, m.number
    FROM hub.chat_messages AS m
    WHERE m.org = organisation AND m.room = only_room AND only_room = ANY (rooms) AND m.deleted_at IS NULL
      AND m.words @@ query AND (before_number IS NULL OR m.number < before_number)
    ORDER BY m.number DESC
    LIMIT most;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT m.room, m.number
  FROM hub.chat_messages AS m
  WHERE m.org = organisation AND m.deleted_at IS NULL AND m.words @@ query
    AND (rooms IS NULL OR m.room = ANY (rooms))
    AND (
      before_us IS NULL
      OR (m.created_at, m.room, m.number) < (to_timestamp(before_us / 1000000.0), before_room, before_number)
    )
    AND (
      rooms IS NOT NULL
      OR EXISTS (SELECT FROM hub.chat_rooms AS r WHERE r.org = m.org AND r.id = m.room AND r.public)
      OR EXISTS (SELECT FROM hub.chat_members AS w WHERE w.org = m.org AND w.room = m.room AND w.member = reader)
    )
  ORDER BY m.created_at DESC, m.room DESC, m.number DESC
  LIMIT most;
END
$body$;
REVOKE ALL ON FUNCTION hub.search_chat(text, text, text, bigint, text, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.search_chat(text, text, text, bigint, text, bigint, integer) TO hub_app;

-- Messages that are older than their organisation keeps them: at most so many, with the number of the event that has
-- the text. `default_days` is for organisations that have not chosen; 0: for ever.
CREATE FUNCTION hub.outdated_chat(default_days integer, most integer)
RETURNS TABLE (org text, room text, number bigint)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  WITH RECURSIVE organisations AS (
    (SELECT m.org FROM hub.chat_messages AS m WHERE m.deleted_at IS NULL ORDER BY m.org LIMIT 1)
    UNION ALL
    SELECT (SELECT m.org FROM hub.chat_messages AS m WHERE m.deleted_at IS NULL AND m.org > o.org ORDER BY m.org LIMIT 1)
    FROM organisations AS o WHERE o.org IS NOT NULL
  )
  SELECT m.org, m.room, m.number
  FROM organisations AS o
  LEFT JOIN hub.chat_policies AS p ON p.org = o.org
  CROSS JOIN LATERAL (
    SELECT CASE WHEN p.org IS NULL THEN nullif(default_days, 0) ELSE p.retention_days END AS days
  ) AS kept
  CROSS JOIN LATERAL (
    SELECT a.org, a.room, a.number FROM hub.chat_messages AS a
    WHERE a.org = o.org AND a.deleted_at IS NULL AND a.created_at < now() - kept.days * interval '1 day'
    ORDER BY a.created_at LIMIT most
  ) AS m
  WHERE o.org IS NOT NULL AND kept.days IS NOT NULL
  LIMIT most
$body$;
REVOKE ALL ON FUNCTION hub.outdated_chat(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.outdated_chat(integer, integer) TO hub_app;

-- Rooms with notes that are due.
CREATE FUNCTION hub.due_erasures(most integer) RETURNS TABLE (org text, room text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  SELECT DISTINCT e.org, e.room FROM (
    SELECT n.org, n.room FROM hub.chat_erasures AS n WHERE n.due_at < now() ORDER BY n.due_at LIMIT most
  ) AS e
$body$;
REVOKE ALL ON FUNCTION hub.due_erasures(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.due_erasures(integer) TO hub_app;

CREATE FUNCTION hub.untold_reads(most integer) RETURNS TABLE (org text, room text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  SELECT DISTINCT m.org, m.room FROM hub.chat_members AS m WHERE m.told_number < m.read_number LIMIT most
$body$;
REVOKE ALL ON FUNCTION hub.untold_reads(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.untold_reads(integer) TO hub_app;
