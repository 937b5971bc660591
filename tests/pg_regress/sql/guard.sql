-- What would weaken a protected table is refused, whoever does it; what comes later is protected as its parent is. The hand-made
-- way first: nothing keeps an owner from opening his table.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE FUNCTION public.state(t regclass) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', CASE WHEN relrowsecurity THEN 'rls' END, CASE WHEN relforcerowsecurity THEN 'forced' END, 'owner ' || relowner::regrole,
        (SELECT string_agg(p.polname, ',' ORDER BY p.polname) FROM pg_policy p WHERE p.polrelid = t),
        (SELECT string_agg(g.tgname || ' ' || g.tgenabled::text, ',' ORDER BY g.tgname) FROM pg_trigger g WHERE g.tgrelid = t AND NOT g.tgisinternal),
        (SELECT string_agg(unnest, '; ') FROM unnest((SELECT drift FROM tenancy.protected_tables WHERE relation = t))))
    FROM pg_class WHERE oid = t $$;
SET client_min_messages = warning;
CREATE ROLE regress_mighty SUPERUSER;
CREATE ROLE regress_peer;
GRANT regress_peer TO regress_owner;
GRANT CREATE ON SCHEMA public TO regress_peer;
SET ROLE regress_owner;
CREATE TABLE hand (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
ALTER TABLE hand ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON hand USING (tenant_id = current_setting('app.tenant_id'));
CREATE TABLE doc (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
CREATE TABLE "Price List" (id integer, tenant_id uuid, body text);
CREATE TABLE trail (tenant_id text, what text);
CREATE TABLE currency (code text);
SELECT tenancy.protect('doc'), tenancy.protect('"Price List"', 'shared'), tenancy.protect('trail', 'audit'), tenancy.protect('currency', 'system');
RESET client_min_messages;
ALTER TABLE hand NO FORCE ROW LEVEL SECURITY;
ALTER TABLE hand DISABLE ROW LEVEL SECURITY;
DROP POLICY isolation ON hand;

-- By the owner.
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;                    -- SHOULD FAIL
ALTER TABLE doc NO FORCE ROW LEVEL SECURITY;                   -- SHOULD FAIL
ALTER TABLE doc ADD COLUMN more text, NO FORCE ROW LEVEL SECURITY;   -- SHOULD FAIL
ALTER TABLE "Price List" DISABLE ROW LEVEL SECURITY;           -- SHOULD FAIL
DROP POLICY tenancy_isolation ON doc;                          -- SHOULD FAIL
DROP POLICY tenancy_access ON doc;                             -- SHOULD FAIL: nobody would see anything
DROP POLICY tenancy_update ON "Price List";                    -- SHOULD FAIL
ALTER POLICY tenancy_isolation ON doc USING (true);            -- SHOULD FAIL
ALTER POLICY tenancy_isolation ON doc WITH CHECK (true);       -- SHOULD FAIL
ALTER POLICY tenancy_isolation ON doc TO regress_app;          -- SHOULD FAIL
ALTER POLICY tenancy_isolation ON doc RENAME TO isolation;     -- SHOULD FAIL
ALTER TABLE doc ALTER COLUMN tenant_id DROP NOT NULL;          -- SHOULD FAIL
ALTER TABLE doc DROP COLUMN tenant_id;                         -- SHOULD FAIL: PostgreSQL's own
SET client_min_messages = warning;
ALTER TABLE doc DROP COLUMN tenant_id CASCADE;                 -- SHOULD FAIL
RESET client_min_messages;
ALTER TABLE doc ALTER COLUMN tenant_id TYPE varchar;           -- SHOULD FAIL: PostgreSQL's own
DROP TRIGGER tenancy_guard ON trail;                           -- SHOULD FAIL
ALTER TABLE trail DISABLE TRIGGER tenancy_guard;               -- SHOULD FAIL
ALTER TABLE trail DISABLE TRIGGER ALL;                         -- SHOULD FAIL
ALTER TABLE currency DISABLE TRIGGER USER;                     -- SHOULD FAIL
ALTER TABLE doc ENABLE REPLICA TRIGGER tenancy_guard;          -- SHOULD FAIL
ALTER TABLE doc ENABLE TRIGGER tenancy_guard;                  -- SHOULD FAIL
ALTER TRIGGER tenancy_guard ON currency RENAME TO other;       -- SHOULD FAIL
CREATE OR REPLACE TRIGGER tenancy_guard BEFORE UPDATE ON currency
    FOR EACH STATEMENT EXECUTE FUNCTION suppress_redundant_updates_trigger();   -- SHOULD FAIL
-- With a function of ours: it would let changes of history through, never fire, or not fire for a replication role.
CREATE OR REPLACE TRIGGER tenancy_guard BEFORE TRUNCATE ON trail
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_truncate();  -- SHOULD FAIL
CREATE OR REPLACE TRIGGER tenancy_guard BEFORE TRUNCATE ON doc
    FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION _tenancy.deny_truncate();   -- SHOULD FAIL
CREATE OR REPLACE TRIGGER tenancy_guard BEFORE TRUNCATE ON doc
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_truncate();  -- SHOULD FAIL
CREATE TRIGGER tenancy_other BEFORE TRUNCATE ON doc
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_truncate();  -- SHOULD FAIL: a name of ours
-- By the extension's own door.
BEGIN;
SELECT _tenancy.begin_change('doc');
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
SELECT _tenancy.end_change('doc'::regclass);                   -- SHOULD FAIL
COMMIT;
BEGIN;
SELECT _tenancy.begin_change('doc');
SELECT _tenancy.begin_change('doc');
ALTER TABLE doc NO FORCE ROW LEVEL SECURITY;
SELECT _tenancy.end_change('doc'::regclass);
COMMIT;                                                        -- SHOULD FAIL
DO $$BEGIN ALTER TABLE doc DISABLE ROW LEVEL SECURITY; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', sqlerrm; END$$;
SELECT t, state(t) FROM unnest(ARRAY['doc', '"Price List"', 'trail', 'currency']::regclass[]) t;
-- By a superuser.
RESET ROLE;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;                    -- SHOULD FAIL
ALTER TABLE doc OWNER TO regress_mighty;                       -- SHOULD FAIL
-- REASSIGN OWNED fires no event trigger; and a role that only has BYPASSRLS is exempt as well.
REASSIGN OWNED BY regress_owner TO regress_mighty;             -- SHOULD FAIL
CREATE ROLE regress_exempt BYPASSRLS;
ALTER TABLE doc OWNER TO regress_exempt;                       -- SHOULD FAIL
REASSIGN OWNED BY regress_peer, regress_owner TO regress_exempt;   -- SHOULD FAIL
GRANT regress_exempt TO regress_owner;
SET ROLE regress_owner;
REASSIGN OWNED BY regress_owner TO regress_exempt;             -- SHOULD FAIL: whoever does it
REASSIGN OWNED BY regress_nobody TO regress_exempt;            -- SHOULD FAIL: PostgreSQL's own
RESET ROLE;
REVOKE regress_exempt FROM regress_owner;
BEGIN; SET LOCAL tenancy.restoring = on; REASSIGN OWNED BY regress_owner TO regress_exempt; SELECT relowner::regrole FROM pg_class WHERE oid = 'doc'::regclass; ROLLBACK;
BEGIN; REASSIGN OWNED BY regress_owner TO regress_peer; SELECT relowner::regrole, state('doc') FROM pg_class WHERE oid = 'doc'::regclass; ROLLBACK;
DROP ROLE regress_exempt;
SET session_replication_role = replica;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;                    -- SHOULD FAIL
RESET session_replication_role;
-- What weakens nothing: columns, constraints, indexes, policies and triggers of the owner's, names, another owner.
SET ROLE regress_owner;
ALTER TABLE doc ADD COLUMN note text DEFAULT 'x', ADD CONSTRAINT positive CHECK (id > 0), ALTER COLUMN body SET NOT NULL;
ALTER TABLE doc ALTER COLUMN body DROP NOT NULL, DROP CONSTRAINT positive;
CREATE POLICY narrow ON doc AS RESTRICTIVE USING (id < 1000);
ALTER POLICY narrow ON doc USING (id < 2000);
DROP POLICY narrow ON doc;
CREATE TRIGGER own BEFORE UPDATE ON doc FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE doc DISABLE TRIGGER own;
DROP TRIGGER own ON doc;
ALTER TABLE doc RENAME COLUMN tenant_id TO org_id;
ALTER TABLE doc RENAME TO document;
SELECT relation, tenant_column, drift FROM tenancy.protected_tables WHERE relation = 'document'::regclass;
INSERT INTO document VALUES (1, 'acme');                       -- SHOULD FAIL: under its policies still
-- A decoy of the old name decides nothing.
ALTER TABLE document ADD COLUMN tenant_id text;
RESET ROLE;
INSERT INTO document (id, org_id, tenant_id) VALUES (1, 'acme', 'beta'), (2, 'beta', 'acme');
GRANT SELECT, INSERT, UPDATE ON document TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT id, org_id, tenant_id FROM document;
INSERT INTO document (id, tenant_id) VALUES (3, 'beta') RETURNING id, org_id, tenant_id;
INSERT INTO document (id, org_id, tenant_id) VALUES (4, 'beta', 'acme');   -- SHOULD FAIL
UPDATE document SET org_id = 'beta', tenant_id = 'acme';       -- SHOULD FAIL
RESET tenancy.tenant_id;
SET ROLE regress_owner;
SELECT tenant_column, drift FROM tenancy.protected_tables WHERE relation = 'document'::regclass;
-- Nor for protect, whose default the name is.
SELECT tenancy.protect('document');                            -- SHOULD FAIL
SELECT tenancy.protect('document', tenant_column => 'org_id');
SELECT tenant_column, drift FROM tenancy.protected_tables WHERE relation = 'document'::regclass;
ALTER TABLE document DROP COLUMN tenant_id;
RESET ROLE;
DELETE FROM document;
REVOKE ALL ON document FROM regress_app;
SET ROLE regress_owner;
ALTER TABLE document RENAME TO doc;
ALTER MATERIALIZED VIEW doc RENAME COLUMN org_id TO firm_id;
ALTER TABLE doc ALTER COLUMN firm_id DROP NOT NULL;            -- SHOULD FAIL
ALTER FOREIGN TABLE doc RENAME COLUMN firm_id TO tenant_id;
ALTER TABLE doc ALTER COLUMN tenant_id DROP NOT NULL;          -- SHOULD FAIL
ALTER TABLE doc OWNER TO regress_peer;
ALTER TABLE doc OWNER TO regress_owner;
SELECT state('doc');
-- The way to give it up; and a superuser's way to repair.
SET tenancy.restoring = on;                                    -- SHOULD FAIL
SELECT tenancy.unprotect('doc');
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
SELECT tenancy.protect('doc');
RESET ROLE;
BEGIN;
SET LOCAL tenancy.restoring = on;
ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
DROP POLICY tenancy_isolation ON doc;
SELECT state('doc');
SET LOCAL tenancy.restoring = off;
SELECT tenancy.protect('doc');
SELECT state('doc');
COMMIT;
-- An error in the middle of protect leaves nothing open.
DO $$
BEGIN
    PERFORM _tenancy.begin_change('doc');
    RAISE 'lost';
EXCEPTION WHEN raise_exception THEN
    ALTER TABLE doc DISABLE ROW LEVEL SECURITY;
END$$;                                                         -- SHOULD FAIL
SET ROLE regress_outsider;
SELECT _tenancy.begin_change('doc');                           -- SHOULD FAIL
SELECT _tenancy.add_protection('doc', 'system', NULL, '{}', '{}');   -- SHOULD FAIL
SELECT _tenancy.follow_column('doc');                          -- SHOULD FAIL
SELECT _tenancy.fit_meters('doc'::regclass);                   -- SHOULD FAIL
SELECT _tenancy.protect_new('hand');                           -- does nothing
RESET ROLE;
SELECT state('doc');

-- Partitions and children that come later. By hand each of them is open.
SET ROLE regress_owner;
CREATE TABLE event (id integer, tenant_id text NOT NULL, kind text) PARTITION BY LIST (kind);
CREATE TABLE base (id integer, tenant_id text NOT NULL);
CREATE TABLE sys (code text) PARTITION BY LIST (code);
SET client_min_messages = warning;
SELECT tenancy.protect('event'), tenancy.protect('base'), tenancy.protect('sys', 'system');
RESET ROLE;
SELECT tenancy.meter('event', 'events');
RESET client_min_messages;
SET ROLE regress_owner;
CREATE TABLE event_a PARTITION OF event FOR VALUES IN ('a');
CREATE TABLE event_b PARTITION OF event FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE event_b1 PARTITION OF event_b FOR VALUES FROM (0) TO (10);
CREATE TABLE event_c (LIKE event);
ALTER TABLE event ATTACH PARTITION event_c FOR VALUES IN ('c');
CREATE TABLE event_d (LIKE event) PARTITION BY RANGE (id);
CREATE TABLE event_d1 PARTITION OF event_d FOR VALUES FROM (0) TO (10);
SELECT relation FROM tenancy.protected_tables WHERE relation IN ('event_d'::regclass, 'event_d1'::regclass);
ALTER TABLE event ATTACH PARTITION event_d FOR VALUES IN ('d');
CREATE TABLE event_bad (LIKE event);
INSERT INTO event_bad VALUES (1, 'nobody', 'e');
ALTER TABLE event ATTACH PARTITION event_bad FOR VALUES IN ('e');   -- SHOULD FAIL: rows of no tenant
ALTER TABLE event_bad ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE event ATTACH PARTITION event_bad FOR VALUES IN ('e');   -- SHOULD FAIL: rows that are hidden from their owner
CREATE TABLE derived (more text) INHERITS (base);
CREATE TABLE later (id integer, tenant_id text NOT NULL);
ALTER TABLE later INHERIT base;
CREATE TABLE sys_a PARTITION OF sys FOR VALUES IN ('a');
SELECT t, state(t) FROM unnest('{event,event_a,event_b,event_b1,event_c,event_d,event_d1,base,derived,later,sys_a}'::regclass[]) t;
SELECT resource, drift FROM tenancy.meters WHERE resource = 'events';
-- In the context of a tenant as well, with rows of its own.
RESET ROLE;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_owner;
SET ROLE regress_owner;
SET tenancy.tenant_id = 'acme';
CREATE TABLE event_f PARTITION OF event FOR VALUES IN ('f');
INSERT INTO event_f VALUES (1, DEFAULT, 'f'), (2, 'acme', 'f');
INSERT INTO event_f VALUES (3, 'beta', 'f');                   -- SHOULD FAIL
CREATE TABLE event_g AS SELECT 1 AS id, 'acme'::text AS tenant_id, 'g'::text AS kind;
ALTER TABLE event_g ALTER COLUMN tenant_id SET NOT NULL;
ALTER TABLE event ATTACH PARTITION event_g FOR VALUES IN ('g');
CREATE TABLE event_h AS SELECT 1 AS id, 'beta'::text AS tenant_id, 'h'::text AS kind;
ALTER TABLE event_h ALTER COLUMN tenant_id SET NOT NULL;
ALTER TABLE event ATTACH PARTITION event_h FOR VALUES IN ('h');   -- SHOULD FAIL: tells a tenant nothing of another
RESET tenancy.tenant_id;
SELECT t, state(t) FROM unnest('{event_f,event_g}'::regclass[]) t;
-- What is detached stays protected, by itself.
ALTER TABLE event DETACH PARTITION event_a;
ALTER TABLE later NO INHERIT base;
SELECT t, state(t) FROM unnest('{event_a,later}'::regclass[]) t;
ALTER TABLE event_a DISABLE ROW LEVEL SECURITY;                -- SHOULD FAIL
ALTER TABLE event_b1 DISABLE ROW LEVEL SECURITY;               -- SHOULD FAIL
-- Nothing is left of it.
SET client_min_messages = warning;
DROP TABLE event, event_a, event_bad, event_h, base, derived, later, sys, hand, doc, "Price List", trail, currency;
RESET ROLE;
SELECT * FROM _tenancy.protected;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_owner;
REVOKE ALL ON SCHEMA public FROM regress_peer;
DROP ROLE regress_mighty, regress_peer;
DROP FUNCTION state(regclass);
