-- prove(): a self-test of one's own schema. It must find what is broken, not find what is not, and leave nothing behind.
\set VERBOSITY default
SET client_min_messages = warning;
-- What must not change: the tenants, the relations, the rows, the grants, the sequences.
CREATE VIEW traces AS
    SELECT (SELECT count(*) FROM tenancy.tenants) AS tenants, (SELECT count(*) FROM pg_class) AS relations,
           (SELECT count(*) FROM pg_auth_members) AS memberships, (SELECT count(*) FROM pg_policy) AS policies,
           (SELECT count(*) FROM _tenancy.protected) AS protected,
           -- What is refused elsewhere stays on record whatever becomes of the transaction.
           (SELECT count(*) FROM _tenancy.audit_entries WHERE operation = 'REFUSED') AS refusals;
CREATE TABLE before AS SELECT * FROM traces WITH NO DATA;
CREATE FUNCTION summary(role name, target regclass DEFAULT NULL) RETURNS TABLE (relation regclass, result text, checks bigint) LANGUAGE sql AS
    'SELECT relation, result, count(*) FROM tenancy.prove(role, target) WHERE relation IS NOT NULL GROUP BY 1, 2 ORDER BY relation::text COLLATE "C", 2';

-- Kind tenant: everything, check by check.
CREATE TABLE doc (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, body text NOT NULL CHECK (body <> ''));
INSERT INTO doc (tenant_id, body) VALUES ('acme', 'of acme'), ('beta', 'of beta');
GRANT SELECT, INSERT, UPDATE, DELETE ON doc TO regress_app;
SELECT tenancy.protect('doc');
INSERT INTO before SELECT * FROM traces;
SELECT * FROM tenancy.prove('regress_app', 'doc');
-- Also where what bypasses isolation is refused: the caller has said that all rows are meant.
SET tenancy.bypass_guard = 'refuse';
SELECT * FROM tenancy.prove('regress_app', 'doc') WHERE result <> 'held';
SELECT value FROM tenancy.explain_access('doc', 'regress_app') WHERE item = 'rows';
RESET tenancy.bypass_guard;

-- Every type of tenant column, every kind, weird names, empty tables and full ones; keys that begin with the tenant or do not.
CREATE TABLE of_uuid (tenant uuid, code text, n integer NOT NULL, stamp timestamptz NOT NULL, PRIMARY KEY (tenant, code));
CREATE TABLE "of bigint; --" ("The Tenant" bigint, "Key ""x""" text PRIMARY KEY, happy boolean NOT NULL, tags text[] NOT NULL, spent numeric(8,2) NOT NULL);
CREATE TABLE of_integer (tenant_id integer, mood text CHECK (mood IN ('good', 'bad')));
CREATE TABLE of_varchar (tenant_id varchar(4), day date UNIQUE);
CREATE TABLE plane (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text, seats smallint CHECK (seats > 0));
CREATE TABLE journal (id serial PRIMARY KEY, tenant_id text, what jsonb NOT NULL);
CREATE TABLE airport (code char(3) PRIMARY KEY, name text NOT NULL);
INSERT INTO plane (tenant_id, seats) VALUES (NULL, 100), ('acme', 200);
GRANT SELECT, INSERT, UPDATE, DELETE ON of_uuid, "of bigint; --", of_integer, of_varchar, plane, journal, airport TO regress_app;
SELECT tenancy.protect('of_uuid', tenant_column => 'tenant'), tenancy.protect('"of bigint; --"', tenant_column => 'The Tenant'),
       tenancy.protect('of_integer'), tenancy.protect('of_varchar'),
       tenancy.protect('plane', 'shared'), tenancy.protect('journal', 'audit'), tenancy.protect('airport', 'system');
SELECT check_name, result, detail FROM tenancy.prove('regress_app') WHERE relation IS NULL;
SELECT * FROM summary('regress_app');
-- What was refused is not on record. The same attempt outside of it is, so that the count can tell.
SELECT t.refusals - b.refusals AS refusals FROM traces t, before b;
BEGIN; SET LOCAL ROLE regress_app; SET LOCAL tenancy.tenant_id = 'acme'; INSERT INTO doc (tenant_id, body) VALUES ('beta', 'x'); ROLLBACK;   -- SHOULD FAIL
SELECT t.refusals - b.refusals AS refusals FROM traces t, before b;
SELECT * FROM tenancy.prove('regress_app') WHERE relation IS NOT NULL AND (result <> 'held' OR check_name ~ '^(shared|audit|system|unique)') ORDER BY relation::text COLLATE "C", check_name COLLATE "C";

-- Partitions, and a table where no row can be made for a tenant that has no partition: the rows that are there are played.
CREATE TABLE part (tenant_id text, id integer, note text, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
CREATE TABLE part_acme PARTITION OF part FOR VALUES IN ('acme');
CREATE TABLE part_beta PARTITION OF part FOR VALUES IN ('beta');
CREATE TABLE by_time (tenant_id text, at timestamptz NOT NULL, id integer, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE by_time_24 PARTITION OF by_time FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
GRANT SELECT, INSERT, UPDATE, DELETE ON part, part_acme, part_beta, by_time, by_time_24 TO regress_app;
SELECT tenancy.protect('part'), tenancy.protect('by_time');
SELECT * FROM tenancy.prove('regress_app', 'part') WHERE result <> 'held';
INSERT INTO part VALUES ('acme', 1, 'a'), ('beta', 1, 'b');
INSERT INTO by_time VALUES ('acme', '2024-05-05', 1);
SELECT * FROM summary('regress_app', 'part') UNION ALL SELECT * FROM summary('regress_app', 'by_time');
SELECT * FROM tenancy.prove('regress_app', 'by_time') WHERE result <> 'held';
-- A partition that is made later has no policies.
SET tenancy.restoring = on;                                     -- or it would be protected with its parent
CREATE TABLE part_gamma PARTITION OF part DEFAULT;
RESET tenancy.restoring;
GRANT SELECT ON part_gamma TO regress_app;
SELECT * FROM tenancy.prove('regress_app', 'part') WHERE result <> 'held';
-- One that has policies, and one of them opened: with rows of others in it, and without any.
SELECT tenancy.protect('part');
SELECT relation, result, count(*) FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'partitions' GROUP BY 1, 2;
SET tenancy.restoring = on;
ALTER POLICY tenancy_isolation ON part_gamma USING (true);
RESET tenancy.restoring;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'partitions';
BEGIN;
SET LOCAL tenancy.restoring = on;
ALTER TABLE part_gamma NO FORCE ROW LEVEL SECURITY;
ALTER POLICY tenancy_isolation ON part_gamma USING (tenant_id = tenancy.current_tenant());
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'partitions';
ROLLBACK;
-- Privileges and triggers are each partition's own.
BEGIN;
GRANT TRUNCATE ON part_acme, part_gamma TO regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'truncate';
SET LOCAL tenancy.restoring = on;
ALTER TABLE part_gamma DISABLE TRIGGER tenancy_guard;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'truncate';
-- A foreign key stands before the trigger, and would not if it were gone.
CREATE TABLE of_part (tenant_id text, id integer, FOREIGN KEY (tenant_id, id) REFERENCES part);
REVOKE TRUNCATE ON part_gamma FROM regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'truncate';
ALTER TABLE part_acme DISABLE TRIGGER tenancy_guard;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'truncate';
GRANT REFERENCES (id), TRIGGER ON part_beta TO regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'part') WHERE check_name = 'privileges';
ROLLBACK;
CREATE TABLE history (tenant_id text NOT NULL, id integer, PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
CREATE TABLE history_rest PARTITION OF history DEFAULT;
GRANT SELECT, INSERT ON history, history_rest TO regress_app;
SELECT tenancy.protect('history', 'audit');
SELECT * FROM summary('regress_app', 'history');
BEGIN;
SET LOCAL tenancy.restoring = on;
ALTER TABLE history_rest DISABLE TRIGGER tenancy_guard;
SELECT result, detail FROM tenancy.prove('regress_app', 'history') WHERE result <> 'held';
-- Whoever may delete and nothing else need not see what he deletes.
REVOKE ALL ON history_rest FROM regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'history') WHERE result <> 'held';
GRANT DELETE ON history_rest TO regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'history') WHERE result <> 'held';
ALTER TABLE history_rest ENABLE ALWAYS TRIGGER tenancy_guard;
ALTER TABLE history DISABLE TRIGGER tenancy_guard;
REVOKE ALL ON history, history_rest FROM regress_app;
GRANT DELETE ON history TO regress_app;
INSERT INTO history VALUES ('acme', 1);
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'history') WHERE result = 'leaked';
ROLLBACK;
-- A partition that is not protected, under a policy of somebody's own that lets nothing through yet.
BEGIN;
SET LOCAL tenancy.restoring = on;
CREATE TABLE history_own PARTITION OF history FOR VALUES IN ('gone');
ALTER TABLE history_own ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON history_own USING (tenant_id = current_user);
GRANT SELECT ON history_own TO regress_app;
SELECT result, detail FROM tenancy.prove('regress_app', 'history') WHERE check_name = 'partitions';
ROLLBACK;
DROP TABLE history;

-- Foreign keys, with the tenant and without.
CREATE TABLE project (tenant_id text, id integer, PRIMARY KEY (tenant_id, id), UNIQUE (id));
CREATE TABLE task (tenant_id text, id integer, project_id integer NOT NULL REFERENCES project (id), boss integer, PRIMARY KEY (tenant_id, id),
                   CONSTRAINT good FOREIGN KEY (tenant_id, project_id) REFERENCES project (tenant_id, id),
                   CONSTRAINT own FOREIGN KEY (tenant_id, boss) REFERENCES task (tenant_id, id));
GRANT SELECT, INSERT, UPDATE, DELETE ON project, task TO regress_app;
SELECT tenancy.protect('project'), tenancy.protect('task');
SELECT * FROM tenancy.prove('regress_app') WHERE relation IN ('project'::regclass, 'task'::regclass) AND (result <> 'held' OR check_name LIKE 'foreign%');
ALTER TABLE task DROP CONSTRAINT good, DROP CONSTRAINT task_project_id_fkey;
ALTER TABLE task ADD CONSTRAINT bad FOREIGN KEY (project_id) REFERENCES project (id);
SELECT * FROM tenancy.prove('regress_app', 'task') WHERE result <> 'held' OR check_name LIKE 'foreign%';

-- Views: of a superuser, with the rights of the caller, of the owner; through another view; one that shows nothing; materialized.
CREATE VIEW view_leaky AS SELECT id, body FROM doc;
CREATE VIEW view_of_view AS SELECT count(*) FROM view_leaky;
CREATE VIEW view_good WITH (security_invoker = true) AS SELECT * FROM doc;
CREATE VIEW view_blind WITH (security_invoker = true) AS SELECT body FROM doc WHERE body = 'never';
CREATE VIEW view_not_granted AS SELECT * FROM doc;
CREATE VIEW view_random WITH (security_invoker = true) AS SELECT random() AS r FROM doc;
CREATE MATERIALIZED VIEW view_kept AS SELECT tenant_id, body FROM doc;
CREATE MATERIALIZED VIEW view_sums AS SELECT count(*) FROM doc;
GRANT SELECT ON view_leaky, view_of_view, view_good, view_blind, view_random, view_kept, view_sums TO regress_app;
SELECT * FROM tenancy.prove('regress_app', 'doc') WHERE check_name LIKE '%view%';
DROP VIEW view_leaky CASCADE; DROP VIEW view_good, view_blind, view_not_granted, view_random; DROP MATERIALIZED VIEW view_kept, view_sums;

-- What is broken is found: row-level security switched off behind our back, a policy replaced, privileges given back.
SET tenancy.missing_tenant = 'empty';
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE pg_class SET relrowsecurity = false WHERE oid = 'doc'::regclass;
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'doc') WHERE relation IS NOT NULL;
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM pg_policy WHERE polrelid = 'doc'::regclass;
CREATE POLICY oops ON doc USING (true) WITH CHECK (true);
GRANT TRUNCATE, TRIGGER, REFERENCES ON doc TO regress_app;
GRANT UPDATE ON SEQUENCE doc_id_seq TO regress_app;
SELECT * FROM summary('regress_app', 'doc');
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'doc') WHERE relation IS NOT NULL AND result <> 'leaked';
ROLLBACK;
-- Only reading is narrowed, so that what does not read is not.
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM pg_policy WHERE polrelid = 'doc'::regclass;
CREATE POLICY all_of_it ON doc USING (true);
CREATE POLICY reading ON doc AS RESTRICTIVE FOR SELECT USING (tenant_id = tenancy.current_tenant());
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'doc') WHERE relation IS NOT NULL AND result <> 'held';
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
-- Only writing is open, and only of history and of what is everybody's.
DELETE FROM pg_trigger WHERE tgrelid = 'journal'::regclass;
DELETE FROM pg_policy WHERE polrelid = 'plane'::regclass AND polname IN ('tenancy_update', 'tenancy_insert');
DELETE FROM pg_trigger WHERE tgrelid = 'airport'::regclass;
UPDATE pg_class SET relname = relname WHERE oid IN ('journal'::regclass, 'plane'::regclass, 'airport'::regclass);   -- for the caches
SELECT relation, check_name, result, detail FROM tenancy.prove('regress_app')
WHERE relation IN ('journal'::regclass, 'plane'::regclass, 'airport'::regclass) AND result <> 'held' ORDER BY relation::text COLLATE "C", check_name COLLATE "C";
ROLLBACK;
RESET tenancy.missing_tenant;

-- A detector that has gone blind is noticed: here, one that is wrong about one check, and one that does not look at the rows.
\set VERBOSITY terse
BEGIN;
CREATE OR REPLACE FUNCTION _tenancy.finding(check_name text, result text, detail text DEFAULT NULL) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT jsonb_build_object('check', check_name, 'result', CASE check_name WHEN 'merge delete' THEN 'held' ELSE result END, 'detail', detail) $$;
SELECT * FROM tenancy.prove('regress_app', 'doc');             -- SHOULD FAIL
ROLLBACK;
BEGIN;
CREATE OR REPLACE FUNCTION _tenancy.harm_of(stage jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT NULL' $$;
SELECT * FROM tenancy.prove('regress_app', 'doc');             -- SHOULD FAIL
ROLLBACK;
\set VERBOSITY default

-- Roles: bound to a tenant, without any, that may read only, that row-level security does not reach, that owns.
GRANT SELECT ON doc TO regress_bound, regress_outsider;
SELECT * FROM summary('regress_bound', 'doc');
SELECT check_name, result, detail FROM tenancy.prove('regress_bound', 'doc') WHERE check_name IN ('control', 'select', 'insert', 'delete');
SELECT * FROM tenancy.prove('regress_outsider', 'doc');
SELECT result, count(*) FROM tenancy.prove(current_user::name, 'doc') WHERE relation IS NOT NULL GROUP BY 1 ORDER BY 1;
GRANT postgres TO regress_bound;
SELECT check_name, result, detail FROM tenancy.prove('regress_bound', 'doc') WHERE check_name = 'role';
REVOKE postgres FROM regress_bound;
ALTER ROLE regress_outsider SET tenancy.tenant_id = 'gone';
SELECT * FROM tenancy.prove('regress_outsider', 'doc');
ALTER ROLE regress_outsider RESET tenancy.tenant_id;
-- Privileges on some columns only.
CREATE TABLE partly (tenant_id text, a integer, b integer);
GRANT SELECT (a), INSERT (a, b), UPDATE (b) ON partly TO regress_app;
SELECT tenancy.protect('partly');
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'partly') WHERE relation IS NOT NULL AND (result <> 'held' OR detail IS NOT NULL);

-- A user's own triggers, defaults and policies: what they get in the way of could not be tested.
CREATE FUNCTION grumpy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not on a %', 'Wednesday'; END $$;
CREATE TRIGGER grumpy BEFORE UPDATE ON partly FOR EACH STATEMENT EXECUTE FUNCTION grumpy();
GRANT ALL ON partly TO regress_app;
SELECT tenancy.protect('partly');
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'partly') WHERE result = 'could not be tested';
DROP TABLE partly;
CREATE TABLE hidden (tenant_id text, a integer);
CREATE POLICY nothing ON hidden AS RESTRICTIVE USING (false);
GRANT SELECT, DELETE ON hidden TO regress_app;
SELECT tenancy.protect('hidden');
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'hidden') WHERE result = 'could not be tested';
DROP TABLE hidden;

-- Names that are like ours, types that rows must be made of, keys that are not to be copied.
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE TYPE pair AS (x integer, y text);
CREATE TABLE odd (tenant_id text, t time NOT NULL, r int4range NOT NULL, v json NOT NULL, s interval NOT NULL, m mood NOT NULL, p positive NOT NULL,
                  c pair NOT NULL, twice integer GENERATED ALWAYS AS (p * 2) STORED, at point NOT NULL, bits bit(3) NOT NULL, "a%b {} $1" text);
CREATE UNIQUE INDEX odd_lower ON odd (lower("a%b {} $1"));
CREATE TABLE booked (tenant_id text, during tsrange NOT NULL, EXCLUDE USING gist (during WITH &&));
INSERT INTO booked VALUES ('acme', '[2024-01-01,2024-01-02)'), ('beta', '[2024-01-02,2024-01-03)');
CREATE TABLE parent (tenant_id integer, id integer); CREATE TABLE child (extra integer NOT NULL DEFAULT 1) INHERITS (parent);
GRANT SELECT, INSERT, UPDATE, DELETE ON odd, booked, parent, child TO regress_app;
SELECT tenancy.protect('odd'), tenancy.protect('booked'), tenancy.protect('parent');
SELECT * FROM summary('regress_app', 'odd') UNION ALL SELECT * FROM summary('regress_app', 'booked') UNION ALL SELECT * FROM summary('regress_app', 'parent');
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'odd') WHERE result <> 'held' OR check_name ~ 'oracle|upsert';
SELECT check_name, result, detail FROM tenancy.prove('regress_app', 'booked') WHERE result <> 'held' OR check_name ~ 'oracle|upsert';
DROP TABLE odd, booked, child, parent; DROP TYPE mood, pair; DROP DOMAIN positive;

-- TAP.
SELECT * FROM tenancy.prove_tap('regress_app', 'task');
-- Where the role may be no tenant, nothing has been proved; nor where nothing is protected.
SELECT * FROM tenancy.prove_tap('regress_outsider', 'task');
-- A role that signs in is any tenant, where somebody's tokens are trusted and it may use them.
BEGIN;
SELECT tenancy.set_issuer('https://id.example', '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}');
GRANT SELECT, INSERT, UPDATE, DELETE ON doc TO regress_outsider;
SELECT result, detail FROM tenancy.prove('regress_outsider', 'doc') WHERE check_name IN ('control', 'role');
SELECT * FROM summary('regress_outsider', 'doc');
SELECT item, value FROM tenancy.explain_access('doc', 'regress_outsider') WHERE item IN ('may be', 'verdict');
ALTER ROLE regress_outsider SET tenancy.tenant_id = '';        -- is none
SELECT * FROM summary('regress_outsider', 'doc');
SELECT item, value FROM tenancy.explain_access('doc', 'regress_outsider') WHERE item IN ('may be', 'verdict');
SET LOCAL ROLE regress_outsider;
SELECT item, value FROM tenancy.explain_access('doc') WHERE item IN ('may be', 'verdict');
RESET ROLE;
SET LOCAL tenancy.restoring = on;
ALTER POLICY tenancy_isolation ON doc USING (true);
ALTER POLICY tenancy_access ON doc USING (true);
SELECT * FROM summary('regress_outsider', 'doc');
REVOKE EXECUTE ON FUNCTION tenancy.authenticate FROM PUBLIC;
SELECT result, detail FROM tenancy.prove('regress_outsider', 'doc') WHERE check_name = 'control';
SELECT value FROM tenancy.explain_access('doc', 'regress_outsider') WHERE item = 'may be';
ROLLBACK;
BEGIN;
DELETE FROM _tenancy.protected;
SELECT * FROM tenancy.prove_tap('regress_app');
ROLLBACK;

-- Metered tables and quotas.
SELECT tenancy.meter('doc', 'docs');
SELECT tenancy.set_default_quota('docs', 1);
SELECT * FROM summary('regress_app', 'doc');
SELECT tenancy.set_default_quota('docs', 0);
SELECT * FROM summary('regress_app', 'doc');
SELECT tenancy.reconcile('doc');
SELECT tenancy.remove_quota('default', '', 'docs'), tenancy.unmeter('doc', 'docs');

-- Arguments and rights.
BEGIN;
DO $$                                                          -- those of other tests
DECLARE
    other name;
BEGIN
    FOR other IN SELECT a.name FROM _tenancy.lint_applications a WHERE a.name NOT IN ('regress_app', 'regress_bound') LOOP
        EXECUTE format('REVOKE SET ON PARAMETER tenancy.tenant_id FROM %1$I; ALTER ROLE %1$I NOLOGIN; ALTER ROLE %1$I RESET tenancy.tenant_id', other);
    END LOOP;
END$$;
SAVEPOINT s;
SELECT tenancy.prove();                                        -- SHOULD FAIL: there are two
ROLLBACK TO s;
ALTER ROLE regress_bound RESET tenancy.tenant_id; ALTER ROLE regress_bound NOLOGIN;
SELECT count(*) > 0 AS checks, count(*) FILTER (WHERE result <> 'held') AS not_held FROM tenancy.prove(target => 'doc');   -- as the only one
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_app;
SELECT tenancy.prove();                                        -- SHOULD FAIL
ROLLBACK;
SELECT tenancy.prove('no such role');                          -- SHOULD FAIL
SELECT tenancy.prove('regress_app', 'before');                 -- SHOULD FAIL
SET ROLE regress_app;
SELECT tenancy.prove('regress_app');                           -- SHOULD FAIL
RESET ROLE;
GRANT EXECUTE ON FUNCTION tenancy.prove(name, regclass) TO regress_app;
SET ROLE regress_app;
SELECT tenancy.prove('regress_app');                           -- SHOULD FAIL
RESET ROLE;
REVOKE EXECUTE ON FUNCTION tenancy.prove(name, regclass) FROM regress_app;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SELECT tenancy.prove('regress_app'); ROLLBACK;   -- SHOULD FAIL
SELECT current_user = session_user AS same_role, current_setting('tenancy.tenant_id') AS tenant, current_setting('lock_timeout') AS lock_timeout,
       current_setting('session_replication_role') AS replication_role, current_setting('row_security') AS row_security;

-- Nothing is left behind.
DROP TABLE of_uuid, "of bigint; --", of_integer, of_varchar, plane, journal, airport, part, by_time, task, project;
SELECT (SELECT tenants FROM before) = tenants AS tenants, (SELECT relations FROM before) = relations AS relations,
       (SELECT memberships FROM before) = memberships AS memberships, (SELECT policies FROM before) = policies AS policies,
       (SELECT protected FROM before) = protected AS protected FROM traces;

SELECT id, tenant_id, body FROM doc ORDER BY id;
SELECT last_value FROM doc_id_seq;
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relname LIKE 'tenancy\_prove%';
DROP TABLE doc, before; DROP VIEW traces; DROP FUNCTION summary(name, regclass), grumpy();
