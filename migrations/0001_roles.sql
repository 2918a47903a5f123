-- The roles that make row-level security real, and the one way in which tables become organisation-scoped.
--
--   the owner        runs these files; never serves
--   hub_app          serves; every table with an organisation is seen through its policy
--   hub_relay        carries the outbox to Redis; sees the outbox alone
--   hub_publish_any  group: members may call hub_publish for any organisation
--
-- No password is set here: ALTER ROLE hub_app PASSWORD '…' is the administrator's to run.

DO $roles$
DECLARE
  wanted record;
  missing text[] := '{}';
BEGIN
  FOR wanted IN
    SELECT * FROM (VALUES
      ('hub_app', 'CREATE ROLE hub_app LOGIN NOBYPASSRLS;'),
      ('hub_relay', 'CREATE ROLE hub_relay LOGIN NOBYPASSRLS;'),
      ('hub_publish_any', 'CREATE ROLE hub_publish_any NOLOGIN;')
    ) AS role (name, statement)
  LOOP
    CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted.name);
    BEGIN
      EXECUTE wanted.statement;
    EXCEPTION
      WHEN insufficient_privilege THEN missing := missing || wanted.statement;
      -- Roles belong to the whole server: another database of it may be migrated at this moment.
      WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
  IF missing <> '{}' THEN
    RAISE EXCEPTION 'roles are missing and "%" may not create them', current_user
      USING ERRCODE = 'insufficient_privilege', HINT = 'Run as superuser: ' || array_to_string(missing, ' ');
  END IF;

  FOR wanted IN
    SELECT rolname AS name FROM pg_catalog.pg_roles
    WHERE rolname IN ('hub_app', 'hub_relay') AND (rolsuper OR rolbypassrls)
  LOOP
    RAISE EXCEPTION 'role % bypasses row-level security', wanted.name
      USING HINT = format('Run as superuser: ALTER ROLE %I NOSUPERUSER NOBYPASSRLS;', wanted.name);
  END LOOP;

  FOR wanted IN
    SELECT member, granted
    FROM unnest(ARRAY['hub_app', 'hub_relay']) AS member,
         unnest(ARRAY[current_user::text, 'hub_app', 'hub_relay', 'hub_publish_any']) AS granted
    WHERE (member <> granted OR granted = current_user) AND pg_has_role(member, granted, 'MEMBER')
  LOOP
    RAISE EXCEPTION 'role % holds the rights of %', wanted.member, wanted.granted
      USING HINT = 'Migrate as a role of its own (HUB_DATABASE_OWNER_URL), and REVOKE memberships between these roles.';
  END LOOP;
END
$roles$;

GRANT USAGE ON SCHEMA hub TO hub_app, hub_relay;
-- So that a node can tell whether the schema is as new as its code.
GRANT SELECT ON hub.migrations TO hub_app;

-- Every table with a column `org` is passed to this by the migration that creates it; a test walks the catalogue for
-- tables that were forgotten. FORCE holds the owner to the policy too.
CREATE PROCEDURE hub.isolate(target regclass)
LANGUAGE plpgsql
AS $body$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
  EXECUTE format(
    $policy$
      CREATE POLICY organisation ON %s
      USING (org = current_setting('hub.org', true)) WITH CHECK (org = current_setting('hub.org', true))
    $policy$, target);
END
$body$;
REVOKE ALL ON PROCEDURE hub.isolate(regclass) FROM PUBLIC;
