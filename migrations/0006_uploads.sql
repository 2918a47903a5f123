-- Uploads: what is on its way or has arrived, of which objects in the store it consists, and how much began on a day.

CREATE TABLE hub.uploads (
  org text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  owner text COLLATE "C" NOT NULL,
  owner_name text NOT NULL DEFAULT '',
  -- The owner's: the same again is the same upload.
  key text COLLATE "C",
  state text NOT NULL DEFAULT 'receiving' CHECK (
    state IN ('receiving', 'received', 'checking', 'available', 'rejected', 'cancelled', 'expired', 'joined')),
  filename text NOT NULL,
  document_type text NOT NULL,
  size bigint NOT NULL CHECK (size > 0),
  -- Acknowledged: stored, and recorded as parts.
  received bigint NOT NULL DEFAULT 0 CHECK (received BETWEEN 0 AND size),
  paused boolean NOT NULL DEFAULT false,
  -- To be joined with others to one upload; never a document itself.
  partial boolean NOT NULL DEFAULT false,
  -- Those that it was joined of, in order.
  partials text[] NOT NULL DEFAULT '{}',
  -- Token of the writer that counts: what any other records is refused.
  writer text COLLATE "C",
  metadata jsonb NOT NULL DEFAULT '{}',
  -- Topics: whoever may subscribe to one of them may see this.
  shares text[] NOT NULL DEFAULT '{}',
  sha256_wanted text,
  sha256 text,
  media_type text,
  facts jsonb,
  error_code text,
  error_message text,
  -- Who checks it, and how often it was begun.
  checker text COLLATE "C",
  attempts integer NOT NULL DEFAULT 0,
  -- Nothing is left in the store but what belongs to its state, as far as was looked after a while.
  cleared boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  touched_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  -- When some node has to look at it, if nothing happens before; what for says the state.
  due_at timestamptz,
  -- Who looks holds it for a while, longer with each look that has led to nothing, so that it does not stand in the way
  -- of others; a change of state ends that.
  held_until timestamptz,
  held_in text,
  looks integer NOT NULL DEFAULT 0,
  look_at timestamptz GENERATED ALWAYS AS (
    CASE WHEN due_at IS NOT NULL THEN greatest(due_at, CASE WHEN held_in = state THEN held_until END) END) STORED,
  PRIMARY KEY (org, id),
  CONSTRAINT uploads_key UNIQUE (org, owner, key)
) WITH (fillfactor = 70);
CREATE INDEX uploads_of_owner ON hub.uploads (org, owner, created_at DESC, id DESC);
CREATE INDEX uploads_in_state ON hub.uploads (org, owner, state, created_at DESC, id DESC);
CREATE INDEX uploads_open ON hub.uploads (org, owner) WHERE state = 'receiving' OR (partial AND state = 'received');
CREATE INDEX uploads_unchecked ON hub.uploads (look_at)
  WHERE look_at IS NOT NULL AND state IN ('received', 'checking') AND NOT partial;
CREATE INDEX uploads_due ON hub.uploads (look_at)
  WHERE look_at IS NOT NULL AND (state NOT IN ('received', 'checking') OR partial);
CALL hub.isolate('hub.uploads');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.uploads TO hub_app;

-- An object in the store with `size` bytes of an upload, from its byte `first` on.
CREATE TABLE hub.upload_parts (
  org text COLLATE "C" NOT NULL,
  upload text COLLATE "C" NOT NULL,
  first bigint NOT NULL,
  size bigint NOT NULL,
  object text COLLATE "C" NOT NULL,
  -- The other upload in whose folder the object lies, until the bytes of partial uploads are joined.
  home text COLLATE "C" GENERATED ALWAYS AS (nullif(split_part(object, '/', 2), upload)) STORED,
  PRIMARY KEY (org, upload, first),
  FOREIGN KEY (org, upload) REFERENCES hub.uploads (org, id) ON DELETE CASCADE
) WITH (fillfactor = 70);
CREATE INDEX upload_parts_elsewhere ON hub.upload_parts (org, home) WHERE home IS NOT NULL;
CALL hub.isolate('hub.upload_parts');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.upload_parts TO hub_app;

CREATE TABLE hub.upload_days (
  org text COLLATE "C" NOT NULL,
  day date NOT NULL,
  bytes bigint NOT NULL,
  PRIMARY KEY (org, day)
);
CALL hub.isolate('hub.upload_days');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.upload_days TO hub_app;

-- Nodes look after the uploads of all organisations by a function of the owner, who sees nothing but what is due.
DO $policy$
BEGIN
  EXECUTE format('CREATE POLICY due ON hub.uploads FOR SELECT TO %I USING (due_at < now())', current_user);
END
$policy$;

-- So many that are to be checked, and so many others.
CREATE FUNCTION hub.due_uploads(checks integer, others integer) RETURNS TABLE (org text, id text, state text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  (SELECT u.org, u.id, u.state FROM hub.uploads AS u
   WHERE u.look_at < now() AND u.state IN ('received', 'checking') AND NOT u.partial
   ORDER BY u.look_at LIMIT checks)
  UNION ALL
  (SELECT u.org, u.id, u.state FROM hub.uploads AS u
   WHERE u.look_at < now() AND (u.state NOT IN ('received', 'checking') OR u.partial)
   ORDER BY u.look_at LIMIT others)
$body$;
REVOKE ALL ON FUNCTION hub.due_uploads(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.due_uploads(integer, integer) TO hub_app;

-- The counter of an upload's topic goes with the record; nobody publishes there any more. False: not yet, the outbox has
-- rows with its numbers.
CREATE FUNCTION hub.forget_upload_topic(upload text) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  bound CONSTANT text := current_setting('hub.org', true);
  gone CONSTANT text := 'upload:' || upload;
BEGIN
  IF EXISTS (SELECT FROM hub.outbox AS o WHERE o.org = bound AND o.topic = gone) THEN
    RETURN false;
  END IF;
  DELETE FROM hub.topic_counters AS c WHERE c.org = bound AND c.topic = gone;
  RETURN true;
END
$body$;
REVOKE ALL ON FUNCTION hub.forget_upload_topic(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.forget_upload_topic(text) TO hub_app;
