-- What protect changed, unprotect puts back; and what somebody changed in between shows as drift.
\set VERBOSITY default
CREATE FUNCTION pg_temp.state(t regclass) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' | ', c.relrowsecurity, c.relforcerowsecurity, a.attnotnull,
        (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = t AND d.adnum = a.attnum),
        (SELECT string_agg(i.indexrelid::regclass::text, ',' ORDER BY 1) FROM pg_index i WHERE i.indrelid = t),
        (SELECT string_agg(p.polname, ',' ORDER BY 1) FROM pg_policy p WHERE p.polrelid = t),
        (SELECT string_agg(k.conname, ',' ORDER BY 1) FROM pg_constraint k WHERE k.conrelid = t AND k.contype <> 'n'),
        (SELECT string_agg(g.tgname, ',' ORDER BY 1) FROM pg_trigger g WHERE g.tgrelid = t AND NOT g.tgisinternal),
        (SELECT string_agg(replace(replace(x::text, 'Dxtm', 'Dxt'), 'arwdm', 'arwd'), ',' ORDER BY x::text) FROM unnest(c.relacl) x), a.attacl::text)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' WHERE c.oid = t
$$;
-- Nothing of its own; everything of its own.
CREATE TABLE bare (id integer, tenant_id text);
GRANT ALL ON bare TO regress_app;
GRANT TRIGGER ON bare TO regress_owner WITH GRANT OPTION;
GRANT REFERENCES (tenant_id) ON bare TO regress_outsider;
GRANT TRUNCATE ON bare TO PUBLIC;
CREATE TABLE rich (id integer, tenant_id text NOT NULL DEFAULT 'acme');
CREATE INDEX rich_tenant ON rich (tenant_id, id);
ALTER TABLE rich ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON rich USING (id > 0);
CREATE TEMP TABLE before AS SELECT t, pg_temp.state(t) FROM unnest('{bare,rich}'::regclass[]) t;
SET client_min_messages = warning;
SELECT tenancy.protect('bare', reference => true), tenancy.protect('rich', 'audit');
RESET client_min_messages;
SELECT t, pg_temp.state(t) FROM before;
SELECT tenancy.unprotect('bare'), tenancy.unprotect('rich');
SELECT t, pg_temp.state(t) = state AS as_before FROM before;
SELECT tenancy.unprotect('bare');                              -- SHOULD FAIL: not protected

-- It is transactional.
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT tenancy.protect('bare');
ROLLBACK;
SELECT t, pg_temp.state(t) = state AS as_before FROM before;
SELECT count(*) FROM _tenancy.protected;

-- Drift: everything that weakens the protection is named, and mended by another call. (guard.sql: it is refused, but for this.)
SET tenancy.restoring = on;
SET client_min_messages = warning;
SELECT tenancy.protect('bare', reference => true);
RESET client_min_messages;
ALTER TABLE bare NO FORCE ROW LEVEL SECURITY;
ALTER TABLE bare DISABLE ROW LEVEL SECURITY;
ALTER TABLE bare ALTER COLUMN tenant_id DROP NOT NULL;
ALTER TABLE bare ALTER COLUMN tenant_id DROP DEFAULT;
ALTER TABLE bare DROP CONSTRAINT tenancy_reference;
DROP INDEX tenancy_bare_tenant;
ALTER POLICY tenancy_isolation ON bare USING (true);
DROP POLICY tenancy_access ON bare;
GRANT TRUNCATE ON bare TO regress_app;
SELECT unnest(drift) FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
SELECT tenancy.protect('bare', reference => true);
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
ALTER POLICY tenancy_isolation ON bare TO regress_app;
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
SELECT tenancy.protect('bare', reference => true);
RESET tenancy.restoring;
-- What is renamed keeps its protection.
ALTER TABLE bare RENAME COLUMN tenant_id TO org_id;
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
ALTER TABLE bare RENAME COLUMN org_id TO tenant_id;
ALTER TABLE bare RENAME TO renamed;
SELECT relation, drift FROM tenancy.protected_tables;
ALTER TABLE renamed RENAME TO bare;
SET client_min_messages = warning;
SELECT tenancy.unprotect('bare');
SELECT t, pg_temp.state(t) = state AS as_before FROM before;
SELECT tenancy.protect('bare', 'audit');
SET tenancy.restoring = on;
ALTER TABLE bare DISABLE TRIGGER tenancy_guard;
RESET tenancy.restoring;
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
SELECT tenancy.protect('bare', 'audit');
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;

SET tenancy.restoring = on;
CREATE OR REPLACE TRIGGER tenancy_guard BEFORE TRUNCATE ON bare FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_audit_change();
RESET tenancy.restoring;
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;
SELECT tenancy.protect('bare', 'audit');
SELECT drift FROM tenancy.protected_tables WHERE relation = 'bare'::regclass;

-- A grantee that is gone is no reason to fail.
CREATE ROLE regress_leaving;
SELECT tenancy.unprotect('bare');
GRANT TRUNCATE ON bare TO regress_leaving;
SELECT tenancy.protect('bare');
DROP ROLE regress_leaving;
SELECT tenancy.unprotect('bare');
DROP TABLE bare, rich;

-- What the owner of a table saves by hand is not run by the superuser who unprotects it.
SET ROLE regress_owner;
CREATE TABLE trap (tenant_id text);
SELECT tenancy.protect('trap');
SELECT _tenancy.save_protection('trap', 'tenant', 'tenant_id',
    '{"reference": false, "create_index": true, "access_policy": null}',
    '{"row_security": false, "forced": false, "not_null": false, "own_not_null": false, "default": false, "reference": false,
      "access": true, "index": null, "own_index": null, "revoked": [
    {"grantee": "regress_owner; ALTER ROLE regress_owner SUPERUSER", "privilege": "TRIGGER", "grantable": false},
    {"grantee": "PUBLIC", "privilege": "TRIGGER ON trap TO regress_owner; ALTER ROLE regress_owner SUPERUSER; GRANT TRIGGER"}]}');
RESET ROLE;
-- By hand, with what is saved in the place of names, it is.
BEGIN;
DO $$
DECLARE
    item record;
BEGIN
    FOR item IN SELECT r.grantee, r.privilege FROM _tenancy.protection('trap') p, jsonb_to_recordset(p.undo -> 'revoked') AS r(grantee text, privilege text) LOOP
        EXECUTE format('GRANT %s ON trap TO %s', item.privilege, item.grantee);
    END LOOP;
END$$;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_owner';
ROLLBACK;
SELECT tenancy.unprotect('trap');
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_owner';
DROP TABLE trap;

-- The extension goes only when nothing needs it, or with CASCADE; and comes again.
CREATE TABLE kept (tenant_id text);
SELECT tenancy.protect('kept');
RESET client_min_messages;
\set VERBOSITY terse
DROP EXTENSION tenancy;                                        -- SHOULD FAIL
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION tenancy CASCADE;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK;
SELECT drift FROM tenancy.protected_tables;
DROP TABLE kept;
