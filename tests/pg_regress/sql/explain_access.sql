-- "Why do I see no rows?"
\set VERBOSITY default
SET client_min_messages = warning;
CREATE TABLE doc (id integer PRIMARY KEY, tenant_id text, body text);
INSERT INTO doc VALUES (1, 'acme', 'x'), (2, 'beta', 'y'), (3, 'beta', 'z');

-- A table that nobody protected, that the role may not read, that it may.
SELECT * FROM tenancy.explain_access('doc', 'regress_app');
GRANT SELECT, INSERT (body) ON doc TO regress_app;
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item IN ('privileges', 'verdict');
GRANT SELECT ON doc TO regress_bound, regress_outsider;
SELECT tenancy.protect('doc');

-- As the superuser, about others.
SELECT * FROM tenancy.explain_access('doc', 'regress_app');
SELECT * FROM tenancy.explain_access('doc', 'regress_bound');
SELECT * FROM tenancy.explain_access('doc', 'regress_outsider') WHERE item IN ('may be', 'rows', 'verdict');
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('role', 'rows', 'verdict');
SELECT * FROM tenancy.explain_access('doc', 'regress_app', count_rows => false) WHERE item IN ('rows', 'verdict');
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item IN ('context', 'rows', 'verdict');
ROLLBACK;
SET tenancy.missing_tenant = 'empty';
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item IN ('context', 'rows', 'verdict');
RESET tenancy.missing_tenant;

-- As the application.
SET ROLE regress_app;
SELECT * FROM tenancy.explain_access('doc');
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('context', 'rows', 'verdict');
SELECT * FROM tenancy.explain_access('doc', 'regress_bound') WHERE item IN ('may be', 'rows');   -- not whose it is
SET LOCAL tenancy.tenant_id = 'gone';
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('context', 'verdict');
SET LOCAL tenancy.tenant_id = 'nobody';
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('context', 'verdict');
ROLLBACK;
RESET ROLE;

-- Who may know how much there is: BYPASSRLS outside of a tenant, not inside.
CREATE ROLE regress_bypass BYPASSRLS;
GRANT SELECT ON doc TO regress_bypass;
SET ROLE regress_bypass;
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('role', 'rows', 'verdict');
RESET ROLE;
ALTER ROLE regress_bypass SET tenancy.bypass_guard = 'refuse';
SELECT * FROM tenancy.explain_access('doc', 'regress_bypass') WHERE item = 'verdict';
ALTER ROLE regress_bypass RESET tenancy.bypass_guard;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL ROLE regress_bypass;
SELECT * FROM tenancy.explain_access('doc') WHERE item IN ('rows');
ROLLBACK;

-- No permissive policy; policies of the user's own, for others, that narrow.
SELECT tenancy.protect('doc', access_policy => false);
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item LIKE 'policy%' OR item = 'verdict';
SELECT tenancy.protect('doc', access_policy => true);
CREATE POLICY even ON doc AS RESTRICTIVE TO regress_app USING (id % 2 = 0);
CREATE POLICY other ON doc TO regress_bound USING (true);
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item LIKE 'policy%' OR item IN ('rows', 'verdict');
ROLLBACK;
-- Broken behind our back.
BEGIN;
UPDATE pg_class SET relrowsecurity = false WHERE oid = 'doc'::regclass;
SELECT * FROM tenancy.explain_access('doc', 'regress_app') WHERE item IN ('protection', 'row-level security', 'rows', 'verdict');
ROLLBACK;
BEGIN;
UPDATE pg_class SET relforcerowsecurity = false, relowner = 'regress_owner'::regrole WHERE oid = 'doc'::regclass;
SELECT * FROM tenancy.explain_access('doc', 'regress_owner') WHERE item IN ('role', 'verdict');
ROLLBACK;

-- By the role's own settings, before those of this session.
BEGIN;
ALTER ROLE regress_app SET tenancy.missing_tenant = 'empty';
SELECT value FROM tenancy.explain_access('doc', 'regress_app') WHERE item = 'verdict';
ALTER ROLE regress_app RESET tenancy.missing_tenant;
SET LOCAL tenancy.missing_tenant = 'empty';
SELECT value FROM tenancy.explain_access('doc', 'regress_app') WHERE item = 'verdict';
ROLLBACK;
BEGIN;
SET LOCAL tenancy.bypass_guard = 'refuse';
SELECT value FROM tenancy.explain_access('doc') WHERE item = 'verdict';
SELECT value FROM tenancy.explain_access('doc', 'regress_bypass') WHERE item = 'verdict';
ALTER ROLE regress_bypass SET tenancy.bypass_guard = 'refuse';
SELECT value FROM tenancy.explain_access('doc', 'regress_bypass') WHERE item = 'verdict';
ROLLBACK;
-- A role that is bound to a tenant that is suspended, or that there is none of.
BEGIN;
SELECT value FROM tenancy.explain_access('doc', 'regress_bound') WHERE item IN ('rows', 'verdict');
SELECT tenancy.suspend_tenant('acme', 'late');
SELECT value FROM tenancy.explain_access('doc', 'regress_bound') WHERE item IN ('rows', 'verdict');
ALTER ROLE regress_bound SET tenancy.tenant_id = 'nobody';
SELECT value FROM tenancy.explain_access('doc', 'regress_bound') WHERE item IN ('rows', 'verdict');
ROLLBACK;
-- To whom the registry is closed, nothing is told of it.
BEGIN;
GRANT regress_bound TO regress_outsider;
GRANT USAGE ON SCHEMA public TO regress_outsider;
SET LOCAL ROLE regress_outsider;
SELECT value FROM tenancy.explain_access('doc', 'regress_bound') WHERE item IN ('rows', 'verdict');
ROLLBACK;

-- Views, other kinds, names, schemas.
CREATE VIEW doc_owner AS SELECT * FROM doc;
CREATE VIEW doc_caller WITH (security_invoker = yes) AS SELECT * FROM doc;
CREATE MATERIALIZED VIEW doc_kept AS SELECT * FROM doc;
GRANT SELECT ON doc_owner, doc_caller, doc_kept TO regress_app;
SELECT * FROM tenancy.explain_access('doc_owner', 'regress_app');
SELECT * FROM tenancy.explain_access('doc_caller', 'regress_app') WHERE item IN ('rows', 'verdict');
SELECT * FROM tenancy.explain_access('doc_kept', 'regress_app') WHERE item IN ('rows', 'verdict');
DROP VIEW doc_owner, doc_caller; DROP MATERIALIZED VIEW doc_kept;
CREATE SCHEMA "Closed Shop";
CREATE TABLE "Closed Shop"."The ""Table""" ("Tenant Id" uuid, n integer);
CREATE TABLE airport (code text);
GRANT SELECT ON "Closed Shop"."The ""Table""", airport TO regress_app;
SELECT tenancy.protect('"Closed Shop"."The ""Table"""', 'shared', 'Tenant Id'), tenancy.protect('airport', 'system');
SELECT * FROM tenancy.explain_access('"Closed Shop"."The ""Table"""', 'regress_app');
SELECT * FROM tenancy.explain_access('airport', 'regress_app') WHERE item IN ('protection', 'verdict');

SELECT * FROM tenancy.explain_access('doc', 'no such role');   -- SHOULD FAIL
SELECT * FROM tenancy.explain_access('doc', NULL);             -- SHOULD FAIL
SELECT * FROM tenancy.explain_access(NULL);                    -- SHOULD FAIL
DROP TABLE doc, airport; DROP SCHEMA "Closed Shop" CASCADE; DROP ROLE regress_bypass;
