-- Content streams: what is to be streamed, what somebody wants of it, and what has been streamed, until it expires.
--
-- Who drives a stream, and how far it has come, is in Redis (a duty, and the topic itself).

CREATE TABLE hub.content_streams (
  org text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  owner text NOT NULL,
  state text NOT NULL CHECK (state IN ('running', 'paused', 'complete', 'cancelled', 'failed')),
  speed text NOT NULL,
  -- Raised by every change of state or speed, so that a late message is known as one.
  version bigint NOT NULL DEFAULT 1,
  -- Several requests may follow one another in a stream; each is a part.
  part integer NOT NULL DEFAULT 1,
  -- Of one part: tells its events from those of another one, or of an earlier stream of the same name. Milliseconds, in
  -- hexadecimal: what began later has the higher one.
  run text COLLATE "C" NOT NULL,
  bytes bigint NOT NULL,
  -- The present part: how it is made into chunks, and of what. A source may hold what no text of PostgreSQL can.
  plan jsonb NOT NULL,
  source bytea NOT NULL,
  -- What the complete parts came to.
  html text NOT NULL DEFAULT '',
  chunks integer NOT NULL DEFAULT 0,
  blocks integer NOT NULL DEFAULT 0,
  result jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  started_at timestamptz NOT NULL DEFAULT now(),
  -- When a driver last said that it drives this.
  driven_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (org, id)
) WITH (fillfactor = 70);
-- A hundred kilobytes that are written once and read once: compressing them costs more than it saves.
ALTER TABLE hub.content_streams ALTER COLUMN source SET STORAGE EXTERNAL;
CREATE INDEX content_streams_of_owner ON hub.content_streams (org, owner, created_at DESC, id DESC);
CREATE INDEX content_streams_running ON hub.content_streams (org, owner) WHERE finished_at IS NULL;
CREATE INDEX content_streams_expiring ON hub.content_streams (expires_at);
CALL hub.isolate('hub.content_streams');
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.content_streams TO hub_app;

-- Nodes look after the rows of all organisations, but see none of them: the owner's functions do, and the owner sees
-- nothing but what has expired or nobody drives.
DO $policy$
BEGIN
  EXECUTE format(
    'CREATE POLICY expired ON hub.content_streams TO %I USING (expires_at < now()) WITH CHECK (false)', current_user);
  EXECUTE format(
    'CREATE POLICY unfinished ON hub.content_streams FOR SELECT TO %I USING (finished_at IS NULL)', current_user);
END
$policy$;

-- Streams that have not ended and that nobody has driven for so long.
CREATE FUNCTION hub.abandoned_content(age_s integer, most integer) RETURNS TABLE (org text, id text)
LANGUAGE sql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  SELECT s.org, s.id FROM hub.content_streams AS s
  WHERE s.finished_at IS NULL AND s.driven_at < now() - age_s * interval '1 second'
  ORDER BY s.driven_at LIMIT most
$body$;
REVOKE ALL ON FUNCTION hub.abandoned_content(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.abandoned_content(integer, integer) TO hub_app;

CREATE FUNCTION hub.expire_content(most integer) RETURNS bigint
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
  WITH gone AS (
    DELETE FROM hub.content_streams AS s USING (
      SELECT org, id FROM hub.content_streams WHERE expires_at < now()
      ORDER BY expires_at LIMIT most FOR UPDATE SKIP LOCKED
    ) AS old
    WHERE s.org = old.org AND s.id = old.id
    RETURNING 1
  )
  SELECT count(*) FROM gone
$body$;
REVOKE ALL ON FUNCTION hub.expire_content(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.expire_content(integer) TO hub_app;
