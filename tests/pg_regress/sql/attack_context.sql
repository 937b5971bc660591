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
\c - postgres
SET client_min_messages = warning;
DROP TABLE secret, by_hand;
DROP OPERATOR public.= (text, text);
DROP FUNCTION public.always(text, text), public.current_tenant(), public.tell(text);
REVOKE CREATE ON SCHEMA public FROM regress_bound;
