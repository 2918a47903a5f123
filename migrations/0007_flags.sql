-- Flags: what was changed at run time, how far stages have come, and who did it. They are the deployment's and have no
-- organisation; the hub lets nobody read or write them whose token does not say flags:write.

-- Every change locks this row until it is committed, so versions become visible in their order, and what a node reads
-- with a version holds every change up to it.
CREATE TABLE hub.flag_version (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version bigint NOT NULL
);
INSERT INTO hub.flag_version (version) VALUES (0);
GRANT SELECT, UPDATE ON hub.flag_version TO hub_app;

-- Percentages are in thousandths of a percent.
CREATE TABLE hub.flag_overrides (
  flag text COLLATE "C" PRIMARY KEY,
  state text CHECK (state IN ('on', 'off')),
  percent integer CHECK (percent BETWEEN 0 AND 100000),
  version bigint NOT NULL,
  who text NOT NULL,
  why text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  CHECK ((state IS NULL) <> (percent IS NULL))
);
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.flag_overrides TO hub_app;

-- Where the schedule of a flag stands; the node that leads writes it.
CREATE TABLE hub.flag_stages (
  flag text COLLATE "C" PRIMARY KEY,
  percent integer NOT NULL CHECK (percent BETWEEN 0 AND 100000),
  -- Digest of the schedule that is followed; another one is, once the files of all nodes have it.
  schedule text NOT NULL,
  -- Counted from 0; -1 is before the first.
  stage integer NOT NULL CHECK (stage >= -1),
  started_at timestamptz NOT NULL,
  -- Why it does not go on: the guard that tripped. Whoever changes the flag ends that, and the schedule begins anew.
  stopped text,
  version bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.flag_stages TO hub_app;

-- Nobody who serves can change or delete what stands here.
CREATE TABLE hub.flag_audit (
  version bigint PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  flag text COLLATE "C" NOT NULL,
  kind text NOT NULL CHECK (kind IN ('override', 'clear', 'stage', 'rollback')),
  was jsonb,
  became jsonb,
  who text NOT NULL,
  why text NOT NULL
);
CREATE INDEX flag_audit_of_flag ON hub.flag_audit (flag, version DESC);
CREATE INDEX flag_audit_age ON hub.flag_audit (at);
GRANT SELECT, INSERT ON hub.flag_audit TO hub_app;

-- Takes away what is older than it has to be kept, at least 90 days: who serves cannot ask for less; answers with how much.
CREATE FUNCTION hub.expire_flag_audit(keep_s double precision) RETURNS integer
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
  gone integer;
BEGIN
  DELETE FROM hub.flag_audit WHERE at < now() - greatest(keep_s, 90 * 86400) * interval '1 second';
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END
$body$;
REVOKE ALL ON FUNCTION hub.expire_flag_audit(double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION hub.expire_flag_audit(double precision) TO hub_app;
