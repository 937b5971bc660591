-- Attacks on the context by a role that was not granted it. The hand-made way first: it falls each time.
\set VERBOSITY default
CREATE TABLE secret (tenant_id text, what text);
INSERT INTO secret VALUES ('acme', 'of acme'), ('beta', 'of beta');
CREATE TABLE by_hand AS TABLE secret;
ALTER TABLE by_hand ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON by_hand USING (tenant_id = current_setting('app.tenant_id'));
GRANT SELECT ON secret, by_hand TO regress_bound, regress_outsider;
GRANT CREATE ON SCHEMA public TO regress_bound;
SET client_min_messages = warning;
SELECT tenancy.protect('secret');
RESET client_min_messages;

\c - regress_bound
SET app.tenant_id = 'beta';
SELECT what FROM by_hand;                                      -- the hand-made policy lets anybody be anybody
SELECT what FROM secret;                                       -- bound to acme
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
SET SESSION tenancy.tenant_id = 'beta';                        -- SHOULD FAIL
SELECT set_config('tenancy.tenant_id', 'beta', false);         -- SHOULD FAIL
SELECT set_config('tenancy.tenant_id', 'beta', true);          -- SHOULD FAIL
SELECT what FROM secret WHERE (SELECT set_config('tenancy.tenant_id', 'beta', true)) IS NOT NULL;   -- SHOULD FAIL
UPDATE pg_settings SET setting = 'beta' WHERE name = 'tenancy.tenant_id';   -- SHOULD FAIL
ALTER ROLE regress_bound SET tenancy.tenant_id = 'beta';       -- SHOULD FAIL
CREATE FUNCTION other() RETURNS SETOF secret LANGUAGE sql SET tenancy.tenant_id = 'beta' AS 'TABLE secret';   -- SHOULD FAIL
SET tenancy.mode = 'single';                                   -- SHOULD FAIL
SET tenancy.default_tenant = 'beta';                           -- SHOULD FAIL
SET tenancy.user_id = 'root';                                  -- SHOULD FAIL
SELECT tenancy.set_tenant('beta');                             -- SHOULD FAIL
SELECT tenancy.clear_tenant();                                 -- SHOULD FAIL
RESET tenancy.tenant_id;
SELECT what FROM secret;
RESET ALL;
SELECT what FROM secret;
DISCARD ALL;
SELECT what FROM secret;
SET ROLE NONE;
SELECT what FROM secret;
SET tenancy.missing_tenant = 'empty';
SELECT what FROM secret;
SET row_security = off;
SELECT what FROM secret;                                       -- SHOULD FAIL
RESET row_security;
-- Functions and operators of the attacker's own, in front of everything.
CREATE SCHEMA evil;                                            -- SHOULD FAIL: no right on the database; public will do
CREATE FUNCTION public.current_tenant() RETURNS text LANGUAGE sql AS $$SELECT 'beta'$$;
CREATE FUNCTION public.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR public.= (FUNCTION = public.always, LEFTARG = text, RIGHTARG = text);
SET search_path = public, pg_catalog;
SELECT what FROM secret;
-- A cheap function that tells what it sees is called after the policy.
CREATE FUNCTION public.tell(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''seen: %'', $1; RETURN true; END';
SELECT what FROM secret WHERE public.tell(what);
SELECT what FROM secret s WHERE s.what::integer = 1;           -- SHOULD FAIL: on its own row only
RESET search_path;
-- The trigger function of the registry, the functions behind the API.
SELECT _tenancy.unregistered('{beta,nobody}');                 -- SHOULD FAIL
SELECT _tenancy.set_status('acme', 'active', NULL);            -- SHOULD FAIL
SELECT * FROM _tenancy.protected;                              -- SHOULD FAIL
DELETE FROM _tenancy.protected;                                -- SHOULD FAIL
COPY _tenancy.tenants TO STDOUT;                               -- SHOULD FAIL
SELECT most_common_vals FROM pg_stats WHERE schemaname = '_tenancy';
SELECT tenancy.protect('secret');                              -- SHOULD FAIL
-- Switches: those of a hand-made policy are anybody's to set; ours stay as the role was given them.
\c - postgres
CREATE POLICY switch ON by_hand USING (current_setting('app.is_admin', true) = 'on');
ALTER ROLE regress_bound SET tenancy.seal = 'transaction';
ALTER ROLE regress_bound SET tenancy.require_membership = on;
ALTER ROLE regress_bound SET tenancy.bypass_guard = 'refuse';
ALTER ROLE regress_bound SET tenancy.session_context = 'refuse';
ALTER ROLE regress_bound SET tenancy.token_max_lifetime = '1h';
\c - regress_bound
SELECT tenancy.context() IS NOT NULL AS loaded;                -- a seal needs the library from the start of a transaction
SELECT what FROM secret;
SET app.tenant_id = 'acme';
SELECT what FROM by_hand;
SET app.is_admin = 'on';
SELECT what FROM by_hand;                                      -- everybody's rows
SET tenancy.mode = 'single';                                   -- SHOULD FAIL
SET tenancy.default_tenant = 'beta';                           -- SHOULD FAIL
SET tenancy.seal = 'off';                                      -- SHOULD FAIL
SET tenancy.bypass_guard = 'off';                              -- SHOULD FAIL
SET tenancy.restoring = on;                                    -- SHOULD FAIL
SET tenancy.require_membership = off;                          -- SHOULD FAIL
SET tenancy.audit_refusals = off;                              -- SHOULD FAIL
SET tenancy.token_max_lifetime = '10 years';                   -- SHOULD FAIL
SET tenancy.session_context = 'allow';                         -- SHOULD FAIL
-- In every way, with every one of them: none goes through.
DO $$
DECLARE
    item record;
    way text;
    tries integer := 0;
BEGIN
    FOR item IN SELECT name, boot_val FROM pg_settings WHERE name ~ '^tenancy\.' AND context = 'superuser' LOOP
        FOREACH way IN ARRAY '{SET %s = %L,SET LOCAL %s = %L,SET %s TO DEFAULT,RESET %s,"SELECT set_config(%1$L, %2$L, false)","SELECT set_config(%1$L, %2$L, true)",
            "UPDATE pg_settings SET setting = %2$L WHERE name = %1$L",ALTER ROLE regress_bound SET %s = %L,ALTER ROLE regress_bound RESET %s}'::text[] LOOP
            tries := tries + 1;
            BEGIN
                EXECUTE format(way, item.name, item.boot_val);
                RAISE WARNING 'went through: %', format(way, item.name, item.boot_val);
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END LOOP;
    END LOOP;
    RAISE NOTICE 'tried enough: %', tries > 9 * 10;
END$$;
RESET ALL;
DISCARD ALL;
ALTER ROLE regress_bound RESET ALL;                            -- leaves what it may not set
-- The same where nothing has loaded the library yet.
\c - regress_bound
ALTER ROLE regress_bound RESET ALL;
ALTER ROLE regress_bound RESET tenancy.seal;                   -- SHOULD FAIL
ALTER ROLE regress_bound SET tenancy.require_membership = off; -- SHOULD FAIL
\c - regress_bound
SELECT tenancy.context() IS NOT NULL AS loaded;                -- a seal needs the library from the start of a transaction
SELECT what FROM secret;
SELECT name, setting, unit FROM pg_settings
WHERE name ~ '^tenancy\.(mode|default_tenant|seal|bypass_guard|restoring|require_membership|audit_refusals|token_max_lifetime|session_context)$' ORDER BY name;
\c - postgres
ALTER ROLE regress_bound RESET tenancy.seal;
ALTER ROLE regress_bound RESET tenancy.require_membership;
ALTER ROLE regress_bound RESET tenancy.bypass_guard;
ALTER ROLE regress_bound RESET tenancy.session_context;
ALTER ROLE regress_bound RESET tenancy.token_max_lifetime;
SELECT tenancy.context() IS NOT NULL AS loaded;
-- What was only set in the session goes with RESET ALL, which asks nobody: not the way to give it.
SET tenancy.require_membership = on;
SET ROLE regress_outsider;
RESET tenancy.require_membership;                              -- SHOULD FAIL
RESET ALL;
SHOW tenancy.require_membership;
RESET ROLE;
SET client_min_messages = warning;
DROP TABLE secret, by_hand;
DROP OPERATOR public.= (text, text);
DROP FUNCTION public.always(text, text), public.current_tenant(), public.tell(text);
REVOKE CREATE ON SCHEMA public FROM regress_bound;
