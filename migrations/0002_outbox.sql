-- The outbox: what any service publishes in its own transaction, until the relay has brought it to Redis.
--
-- hub_publish raises a counter per topic and thereby locks it until commit. So within a topic the numbers, the ids and
-- the commits have the same order, and a rollback takes its number back.

-- hub_publish is in public, where every application's search path finds it.
DO $rights$
BEGIN
  IF NOT has_schema_privilege('public', 'CREATE') THEN
    RAISE EXCEPTION '"%" may not create hub_publish in the schema public', current_user
      USING ERRCODE = 'insufficient_privilege',
        HINT = format('Run as superuser in this database: GRANT CREATE ON SCHEMA public TO %I;', current_user);
  END IF;
END
$rights$;

CREATE TABLE hub.topic_counters (
  org text COLLATE "C" NOT NULL,
  topic text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  PRIMARY KEY (org, topic)
) WITH (fillfactor = 50);
CALL hub.isolate('hub.topic_counters');

CREATE TABLE hub.outbox (
  -- Drawn while the topic's counter is locked: ordering by it keeps every topic's order and starves no topic.
  id bigint GENERATED ALWAYS AS IDENTITY,
  org text COLLATE "C" NOT NULL,
  topic text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  shard smallint NOT NULL,
  event_id uuid NOT NULL,
  key text COLLATE "C" NOT NULL,
  name text NOT NULL,
  data jsonb NOT NULL,
  tags jsonb,
  by_user text,
  bytes integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'relayed', 'failed')),
  -- When it was first settled, and the run_id of the Redis server that has it.
  settled_at timestamptz,
  server text,
  failure text,
  PRIMARY KEY (org, topic, number),
  CONSTRAINT outbox_key UNIQUE (org, topic, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX outbox_pending ON hub.outbox (id) WHERE state = 'pending';
CREATE INDEX outbox_settled ON hub.outbox (settled_at) WHERE state <> 'pending';
CALL hub.isolate('hub.outbox');

CREATE POLICY relay ON hub.outbox TO hub_relay USING (true) WITH CHECK (true);
GRANT SELECT, DELETE, UPDATE (state, settled_at, server, failure) ON hub.outbox TO hub_relay;

-- Refuses what could never be delivered, while the caller can still do something about it.
CREATE FUNCTION hub.check_event(org text, topic text, name text, data jsonb, key text, tags jsonb, by_user text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  -- Doubles and 64-bit integers are what every client can read.
  unreadable CONSTANT jsonpath :=
    'strict $.** ? (@.type() == "number" && (@ > 18446744073709551615 || @ < -9223372036854775808))';
  problem text;
BEGIN
  problem := CASE
    WHEN org IS NULL OR org !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'
      THEN 'org must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}'
    WHEN topic IS NULL OR topic !~ '^[a-z][a-z0-9_]{0,31}:[A-Za-z0-9._~-]{1,128}$'
      THEN 'topic must be kind:key, kind [a-z][a-z0-9_]{0,31}, key [A-Za-z0-9._~-]{1,128}'
    WHEN topic = 'user:me'
      THEN 'topic user:me exists only towards its user; publish to user:<id>'
    WHEN name IS NULL OR name !~ '^[A-Za-z0-9._:-]{1,128}$'
      THEN 'name must match [A-Za-z0-9._:-]{1,128}'
    WHEN data IS NULL
      THEN 'data must not be NULL (the JSON value null is allowed)'
    WHEN char_length(key) NOT BETWEEN 1 AND 256
      THEN 'key must have 1 to 256 characters'
    WHEN char_length(by_user) NOT BETWEEN 1 AND 256
      THEN 'by must have 1 to 256 characters'
    WHEN jsonb_typeof(tags) <> 'object'
        OR jsonb_path_exists(tags, 'strict $.* ? (@.type() == "object" || @.type() == "array" || @.type() == "null")')
      THEN 'tags must be an object of strings, numbers and booleans'
    WHEN (SELECT count(*) > 32 OR bool_or(char_length(t.key) > 256 OR char_length(t.value) > 256)
          FROM jsonb_each_text(tags) AS t)
      THEN 'tags may have 32 entries, their names and values 256 characters'
  END;
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'hub_publish: %', problem USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF octet_length(data::text) > 65536 THEN
    RAISE EXCEPTION 'hub_publish: data has % bytes, at most 65536 are allowed', octet_length(data::text)
      USING ERRCODE = 'program_limit_exceeded', HINT = 'Store it, and publish where it can be fetched.';
  END IF;
  IF jsonb_path_exists(data, 'strict $.**{65}') THEN
    RAISE EXCEPTION 'hub_publish: data is nested more than 64 deep' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- The pattern is the cheap question: without nineteen digits in a row no number can be too large.
  IF (data::text ~ '[0-9]{19}' AND jsonb_path_exists(data, unreadable))
    OR (tags::text ~ '[0-9]{19}' AND jsonb_path_exists(tags, unreadable)) THEN
    RAISE EXCEPTION 'hub_publish: numbers must fit into 64 bits' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$body$;

-- Numbers the event and writes its row; answers with the number the key already has, if it has one.
CREATE FUNCTION hub.outbox_append(org text, topic text, name text, data jsonb, key text, tags jsonb, by_user text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
  given bigint;
  event_uuid CONSTANT uuid := gen_random_uuid();
BEGIN
  -- A commit that a crash of PostgreSQL could take back may have been relayed by then, and its number be given again.
  PERFORM set_config('synchronous_commit', 'on', true);
  IF outbox_append.key IS NOT NULL THEN
    -- The lock first: only then does the next statement see what a concurrent holder of the same key has committed.
    INSERT INTO hub.topic_counters AS c (org, topic, number)
    VALUES (outbox_append.org, outbox_append.topic, 0)
    ON CONFLICT (org, topic) DO UPDATE SET number = c.number;
    SELECT o.number INTO given FROM hub.outbox o
    WHERE o.org = outbox_append.org AND o.topic = outbox_append.topic AND o.key = outbox_append.key;
    IF FOUND THEN
      RETURN given;
    END IF;
  END IF;

  INSERT INTO hub.topic_counters AS c (org, topic, number)
  VALUES (outbox_append.org, outbox_append.topic, 1)
  ON CONFLICT (org, topic) DO UPDATE SET number = c.number + 1
  RETURNING c.number INTO given;

  INSERT INTO hub.outbox (org, topic, number, shard, event_id, key, name, data, tags, by_user, bytes)
  VALUES (
    outbox_append.org, outbox_append.topic, given,
    -- Sixteen shards, for good: rows of one topic must never stand in two. SHA-256, because PostgreSQL's own hash
    -- functions may change between its versions.
    get_byte(sha256(convert_to(outbox_append.org || '/' || outbox_append.topic, 'UTF8')), 0) & 15,
    event_uuid, coalesce(outbox_append.key, 'outbox:' || event_uuid), outbox_append.name, outbox_append.data,
    outbox_append.tags, outbox_append.by_user, octet_length(outbox_append.data::text)
  );
  PERFORM pg_notify('hub_outbox', '');
  RETURN given;
END
$body$;

CREATE FUNCTION public.hub_publish(
  org text, topic text, name text, data jsonb, key text DEFAULT NULL, tags jsonb DEFAULT NULL, by text DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  bound CONSTANT text := coalesce(current_setting('hub.org', true), '');
  -- current_user is the owner in here. The caller is who logged in, or the role it took on with SET ROLE.
  caller CONSTANT name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
  number bigint;
BEGIN
  PERFORM hub.check_event(org, topic, name, data, key, tags, by);
  IF bound = org THEN
    RETURN hub.outbox_append(org, topic, name, data, key, tags, by);
  END IF;
  IF NOT pg_has_role(caller, 'hub_publish_any', 'USAGE') THEN
    RAISE EXCEPTION 'hub_publish: this transaction is not bound to organisation "%"', org
      USING ERRCODE = 'insufficient_privilege',
        HINT = 'SELECT set_config(''hub.org'', <organisation>, true) binds a transaction; members of hub_publish_any need none.';
  END IF;
  -- Bound for the length of the call, so that the policies hold here too.
  PERFORM set_config('hub.org', org, true);
  number := hub.outbox_append(org, topic, name, data, key, tags, by);
  PERFORM set_config('hub.org', bound, true);
  RETURN number;
END
$body$;

COMMENT ON FUNCTION public.hub_publish(text, text, text, jsonb, text, jsonb, text) IS
  'Publishes an event when this transaction commits; returns its number within the topic. The same key again, while the row is kept, returns the same number and publishes nothing.';

REVOKE ALL ON FUNCTION public.hub_publish(text, text, text, jsonb, text, jsonb, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION hub.outbox_append(text, text, text, jsonb, text, jsonb, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION hub.check_event(text, text, text, jsonb, text, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.hub_publish(text, text, text, jsonb, text, jsonb, text) TO hub_app, hub_publish_any;
