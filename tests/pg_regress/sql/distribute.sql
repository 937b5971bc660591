-- Tables that Citus distributes. Citus is in no registry, so what is called of it is a stand-in here, which notes how; tests/integration/distribute.py has the real one.
\set VERBOSITY default
\set SHOW_CONTEXT never
\set ON_ERROR_ROLLBACK on
CREATE TABLE bills (tenant_id text NOT NULL, id integer NOT NULL, item text, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id);
CREATE TABLE "Bills 1" PARTITION OF bills FOR VALUES FROM (0) TO (100);
CREATE TABLE notes (tenant_id uuid NOT NULL, id integer NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE words (tenant_id text, word text);
INSERT INTO bills VALUES ('acme', 1, 'one'), ('beta', 2, 'two');
ALTER TABLE bills OWNER TO regress_owner;
ALTER TABLE "Bills 1" OWNER TO regress_owner;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL: not protected
SET client_min_messages = warning;
SELECT tenancy.protect('bills'), tenancy.protect('notes'), tenancy.protect('words', 'shared');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON bills TO regress_app;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL: without Citus
SELECT tenancy.sync_nodes();                                   -- SHOULD FAIL
SELECT tenancy.distribute(NULL);                               -- SHOULD FAIL
SELECT tenancy.distribute('bills', NULL);                      -- SHOULD FAIL
SET tenancy.tenant_id = 'acme';
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL
SELECT tenancy.sync_nodes();                                   -- SHOULD FAIL
RESET tenancy.tenant_id;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL: others may have registered tenants since its snapshot
ROLLBACK;

BEGIN;
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_node (nodeid integer);
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partkey text);
GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC;
CREATE FUNCTION pg_catalog.citus_is_coordinator() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION pg_catalog.column_to_column_name(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
CREATE TABLE sent (number integer GENERATED ALWAYS AS IDENTITY, as_role name DEFAULT current_user, command text);
CREATE TABLE answer (success boolean, state text);
INSERT INTO answer SELECT true, 'version ' || extversion FROM pg_extension WHERE extname = 'tenancy';
GRANT ALL ON sent, answer TO PUBLIC;
CREATE FUNCTION pg_catalog.run_command_on_workers(command text, parallel boolean DEFAULT true)
    RETURNS TABLE (nodename text, nodeport integer, success boolean, result text) LANGUAGE sql AS $$
    INSERT INTO public.sent (command) VALUES (command);
    SELECT 'node1', 5432, a.success, CASE WHEN NOT a.success THEN E'ERROR:  could not connect\nto somewhere' WHEN command ~ 'node_state' THEN a.state END FROM public.answer a $$;
CREATE FUNCTION pg_catalog.create_distributed_table(table_name regclass, distribution_column text, distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'distributed % by %, as %, colocate_with %, shard_count %, triggers allowed: %, rows seen: %', table_name, distribution_column, current_user, colocate_with, shard_count,
        current_setting('citus.enable_unsafe_triggers'), (SELECT count(*) FROM public.bills);
    INSERT INTO pg_catalog.pg_dist_partition SELECT relation, distribution_column FROM _tenancy.tree(table_name);
END $$;
GRANT INSERT ON pg_catalog.pg_dist_partition TO PUBLIC;
RESET allow_system_table_mods;

SET citus.enable_unsafe_triggers = off;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL: SET LOCAL would stay here
SET citus.propagate_set_commands = 'local';
SET ROLE regress_app;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL
SET ROLE regress_owner;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL: the nodes are not the owner's
RESET ROLE;
GRANT EXECUTE ON FUNCTION tenancy.sync_nodes() TO regress_owner;
SAVEPOINT other;
\set VERBOSITY terse
UPDATE answer SET state = 'tenancy is not in its shared_preload_libraries';
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL
UPDATE answer SET state = 'version 0.1.0';
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL
\set VERBOSITY default
ROLLBACK TO other;
UPDATE answer SET success = false;
SELECT tenancy.distribute('bills');                            -- SHOULD FAIL
UPDATE answer SET success = true;
TRUNCATE sent;

-- By its owner, who sees all rows for that, and has no rights on the nodes.
CREATE VIEW written AS
    SELECT p.polrelid::regclass AS relation, p.polname, pg_get_expr(p.polwithcheck, p.polrelid) AS check, c.relforcerowsecurity AS forced
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relname ~ 'ills' ORDER BY p.polrelid::regclass::text COLLATE "C", p.polname;
SELECT * FROM written;
SET ROLE regress_owner;
SELECT tenancy.distribute('bills', shard_count => 4);
RESET ROLE;
SELECT * FROM written;
SHOW citus.enable_unsafe_triggers;
SELECT as_role = current_user AS as_superuser,
       regexp_replace(regexp_replace(command, '"(created_at|status_changed_at)": "[^"]*"', '"\1": "..."', 'g'), '\[\{"grant.*', '...') AS command FROM sent ORDER BY number;
SELECT tenancy.distribute('bills');                            -- nothing to do but to see to the nodes
SELECT tenancy.distribute('words');                            -- SHOULD FAIL: of another kind
CREATE POLICY mine ON notes USING (true);
SELECT tenancy.distribute('notes');                            -- SHOULD FAIL
DROP POLICY mine ON notes;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER mine BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note();
SELECT tenancy.distribute('notes');                            -- SHOULD FAIL
DROP TRIGGER mine ON notes;

-- What it has changed is as it should be, for those who look for what is not; a partition that comes later is like its parent.
SELECT rule, object, problem FROM tenancy.lint() WHERE object ~ 'bills|Bills';
SELECT tenancy.protect('bills');
CREATE TABLE "Bills 2" PARTITION OF bills FOR VALUES FROM (100) TO (200);
SELECT * FROM written WHERE relation = '"Bills 2"'::regclass;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO bills VALUES ('acme', 3, 'mine'), ('beta', 4, 'theirs');   -- SHOULD FAIL
INSERT INTO bills (id) VALUES (3) RETURNING *;
SELECT * FROM bills ORDER BY id;
RESET tenancy.tenant_id;
RESET ROLE;

-- The registry's changes are sent before they are made.
TRUNCATE sent;
SELECT tenancy.create_tenant('new');
SELECT tenancy.suspend_tenant('new', 'for a test');
UPDATE answer SET success = false;
SELECT tenancy.create_tenant('newer');                         -- SHOULD FAIL
UPDATE answer SET success = true;
DELETE FROM _tenancy.tenants WHERE id = 'new';
SELECT regexp_replace(command, '"(created_at|status_changed_at)": "[^"]*"', '"\1": "..."', 'g') AS command FROM sent ORDER BY number;

-- What was distributed by hand is found, where it is open.
INSERT INTO pg_dist_partition VALUES ('notes', 'id'), ('words', NULL);
SELECT rule, severity, object, problem, remedy FROM tenancy.lint() WHERE rule = 'distributed_open' ORDER BY object;
SELECT relation, check_name, result, detail FROM tenancy.prove('regress_app') WHERE relation::text ~ 'bills|notes|words';
SELECT tenancy.distribute('notes');                            -- SHOULD FAIL: by another column
UPDATE pg_dist_partition SET partkey = 'tenant_id' WHERE logicalrelid = 'notes'::regclass;
SELECT tenancy.distribute('notes');
SELECT object FROM tenancy.lint() WHERE rule = 'distributed_open' ORDER BY object;
-- It is not opened again.
ALTER POLICY tenancy_access ON notes WITH CHECK (true);        -- SHOULD FAIL
ALTER POLICY tenancy_access ON notes TO regress_owner;         -- SHOULD FAIL
CREATE POLICY mine ON bills USING (true);                      -- SHOULD FAIL
CREATE POLICY mine ON bills AS RESTRICTIVE USING (true);       -- SHOULD FAIL
SET tenancy.restoring = on;
ALTER POLICY tenancy_access ON notes WITH CHECK (true);
CREATE POLICY mine ON bills USING (true);
RESET tenancy.restoring;
SELECT object, problem FROM tenancy.lint() WHERE rule = 'distributed_open' ORDER BY object;
DROP POLICY mine ON bills;

-- What a node has set for everybody would be the tenant of Citus' own connections.
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET tenancy.tenant_id = %L', current_database(), 'acme'); END $$;
SELECT _tenancy.node_state();
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET tenancy.tenant_id', current_database()); END $$;

-- On a node: what is sent is there, and what is not is gone between two ids; the roles that hold SET are the same.
DROP FUNCTION pg_catalog.citus_is_coordinator();
CREATE FUNCTION pg_catalog.citus_is_coordinator() RETURNS boolean LANGUAGE sql AS 'SELECT false';
SELECT tenancy.sync_nodes();                                   -- SHOULD FAIL
SELECT _tenancy.receive_tenants('[{"id": "b1", "status": "active", "settings": {}, "created_at": "2020-01-01Z", "status_changed_at": "2020-01-01Z", "sso_required": false},
                                  {"id": "b2", "status": "suspended", "settings": {"a": 1}, "created_at": "2020-01-01Z", "status_changed_at": "2020-01-01Z", "sso_required": true}]');
SELECT id, status, settings, sso_required FROM tenancy.tenants WHERE id ~ '^b' ORDER BY id;
SELECT _tenancy.receive_tenants('[{"id": "b2", "status": "active", "settings": {}, "created_at": "2020-01-01Z", "status_changed_at": "2020-01-01Z", "sso_required": false}]', 'b', 'b2');
SELECT id, status, settings, sso_required FROM tenancy.tenants ORDER BY id;
SELECT _tenancy.receive_tenants('[]', '');
SELECT count(*) FROM tenancy.tenants;
SELECT * FROM _tenancy.parameter_grants() ORDER BY 1, 2;
SELECT _tenancy.receive_grants('[{"parameter": "tenancy.tenant_id", "grantee": "regress_owner", "grantable": true}, {"parameter": "tenancy.user_id", "grantee": "PUBLIC", "grantable": false}]');
SELECT * FROM _tenancy.parameter_grants() ORDER BY 1, 2;
ROLLBACK;
RESET citus.propagate_set_commands;
RESET citus.enable_unsafe_triggers;
DROP TABLE bills, notes, words;
SELECT id FROM tenancy.tenants ORDER BY id;
