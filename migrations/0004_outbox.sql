-- What a service may do with the outbox beside publishing: ask which number its event will get, so that the event can
-- carry it; take back what an event said, while the row is kept; and wake the relays itself.

-- Relayed and failed rows are kept for different times. With one index for both, whether a row's time is over was no
-- condition of the index: every look for such rows read all that are kept.
CREATE INDEX outbox_relayed ON hub.outbox (settled_at) WHERE state = 'relayed';
CREATE INDEX outbox_failed ON hub.outbox (settled_at) WHERE state = 'failed';
DROP INDEX hub.outbox_settled;

-- As in 0002, but for the notification at its end.
CREATE OR REPLACE FUNCTION hub.outbox_append(
  org text, topic text, name text, data jsonb, key text, tags jsonb, by_user text
)
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
  -- hub.wakes: the caller notifies after its commit. PostgreSQL has one lock for all of NOTIFY and holds it until the
  -- commit is on disk, so commits that notify cannot share a write. Set without need it only delays the event until the
  -- relay's next look.
  IF current_setting('hub.wakes', true) IS DISTINCT FROM 'on' THEN
    PERFORM pg_notify('hub_outbox', '');
  END IF;
  RETURN given;
END
$body$;

CREATE FUNCTION hub.check_bound(org text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
  IF org IS NULL OR org <> coalesce(current_setting('hub.org', true), '') THEN
    RAISE EXCEPTION 'this transaction is not bound to organisation "%"', org
      USING ERRCODE = 'insufficient_privilege',
        HINT = 'SELECT set_config(''hub.org'', <organisation>, true) binds a transaction.';
  END IF;
END
$body$;
REVOKE ALL ON FUNCTION hub.check_bound(text) FROM PUBLIC;

-- Locks the topic's counter until commit, as hub_publish does: the number stays true.
CREATE FUNCTION hub.next_number(org text, topic text) RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
  last bigint;
BEGIN
  PERFORM hub.check_bound(next_number.org);
  SELECT c.number INTO last FROM hub.topic_counters AS c
  WHERE c.org = next_number.org AND c.topic = next_number.topic FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    -- Nobody has published here yet; somebody may at this moment.
    INSERT INTO hub.topic_counters AS c (org, topic, number) VALUES (next_number.org, next_number.topic, 0)
    ON CONFLICT (org, topic) DO UPDATE SET number = c.number
    RETURNING c.number INTO last;
  END IF;
  RETURN last + 1;
END
$body$;

COMMENT ON FUNCTION hub.next_number(text, text) IS
  'The number that the next hub_publish of this transaction to this topic gets, unless its key is known already. Locks the topic until commit.';

-- Failed rows too: they are kept for somebody to read.
CREATE FUNCTION hub.outbox_erase(org text, topic text, numbers bigint[], data jsonb) RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
  changed bigint;
BEGIN
  PERFORM hub.check_bound(outbox_erase.org);
  PERFORM hub.check_event(outbox_erase.org, outbox_erase.topic, 'erased', outbox_erase.data, NULL, NULL, NULL);
  -- In the order of the ids, as the relay settles rows: the two wait for one another and do not deadlock.
  WITH found AS MATERIALIZED (
    SELECT o.number FROM hub.outbox AS o
    WHERE o.org = outbox_erase.org AND o.topic = outbox_erase.topic AND o.number = ANY (outbox_erase.numbers)
    ORDER BY o.number FOR NO KEY UPDATE
  )
  UPDATE hub.outbox AS o SET data = outbox_erase.data, bytes = octet_length(outbox_erase.data::text)
  FROM found WHERE o.org = outbox_erase.org AND o.topic = outbox_erase.topic AND o.number = found.number;
  GET DIAGNOSTICS changed = ROW_COUNT;
  RETURN changed;
END
$body$;

COMMENT ON FUNCTION hub.outbox_erase(text, text, bigint[], jsonb) IS
  'Gives kept rows of the outbox other data; answers with how many. What the relay has published stays in Redis as it was.';

REVOKE ALL ON FUNCTION hub.next_number(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION hub.outbox_erase(text, text, bigint[], jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.next_number(text, text) TO hub_app;
GRANT EXECUTE ON FUNCTION hub.outbox_erase(text, text, bigint[], jsonb) TO hub_app;
