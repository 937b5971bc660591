-- From one tenant to many.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET ROLE regress_owner;
CREATE TABLE customer (id int PRIMARY KEY, name text, company text);
CREATE TABLE "Weird Order" (id int PRIMARY KEY, customer int REFERENCES customer, changed int DEFAULT 0);
CREATE TABLE part (id int, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (n);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part DEFAULT;
CREATE TABLE half (id int, tenant_id text);
CREATE TABLE nothing (id int);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.changed := NEW.changed + 1; RETURN NEW; END $$;
CREATE TRIGGER noting BEFORE UPDATE ON "Weird Order" FOR EACH ROW EXECUTE FUNCTION note_change();
INSERT INTO customer SELECT g, 'c' || g, CASE WHEN g % 3 = 0 THEN 'acme' WHEN g % 3 = 1 THEN 'beta' END FROM generate_series(1, 30) g;
INSERT INTO "Weird Order" SELECT g, g FROM generate_series(1, 30) g;
INSERT INTO part SELECT g, g FROM generate_series(1, 20) g;
INSERT INTO half SELECT g, CASE WHEN g < 5 THEN 'beta' END FROM generate_series(1, 20) g;
GRANT SELECT, INSERT, UPDATE, DELETE ON customer, "Weird Order", part, part_1, half, nothing TO regress_app, regress_outsider;
RESET ROLE;

-- What it would do.
CALL tenancy.migrate_to_multi_tenant('first', '{part,half}', dry_run => true);
SELECT count(*) FROM tenancy.tenants WHERE id = 'first';
CALL tenancy.migrate_table('"Weird Order"', 'acme', mapping => '(SELECT c.company FROM public.customer c WHERE c.id = d.customer)', dry_run => true);
SELECT count(*) FROM tenancy.migration_progress;
-- What is refused.
CALL tenancy.migrate_table('part', 'nobody');                  -- SHOULD FAIL
CALL tenancy.migrate_table('part', NULL);                      -- SHOULD FAIL
CALL tenancy.migrate_table('part', 'acme', kind => 'system');  -- SHOULD FAIL
CALL tenancy.migrate_table('part', 'acme', column_type => 'date');    -- SHOULD FAIL
CALL tenancy.migrate_table('part', 'acme', column_type => 'uuid');    -- SHOULD FAIL
CALL tenancy.migrate_table('part_1', 'acme');                  -- SHOULD FAIL
CALL tenancy.migrate_table('part', 'acme', batch => 0);        -- SHOULD FAIL
CALL tenancy.migrate_to_multi_tenant('acme', NULL);            -- SHOULD FAIL
CALL tenancy.migrate_to_multi_tenant('no good', '{part}');     -- SHOULD FAIL
CALL tenancy.finish_migration('half');                         -- SHOULD FAIL
CALL tenancy.undo_migration('half');                           -- SHOULD FAIL
BEGIN;
CALL tenancy.migrate_table('half', 'acme');                    -- SHOULD FAIL: it commits
ROLLBACK;
SET ROLE regress_app;
CALL tenancy.migrate_table('half', 'acme');                    -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'acme';
CALL tenancy.migrate_table('half', 'acme');                    -- SHOULD FAIL
RESET tenancy.tenant_id;


-- One tenant: not a row is written, partitions and tables that have the column, and an empty one.
SELECT sum(xmin::text::bigint) AS written FROM part \gset
CALL tenancy.migrate_to_multi_tenant('first', '{part,half,nothing}');
SELECT sum(xmin::text::bigint) = :written AS unwritten FROM part;
SELECT tenant_id, count(*) FROM part GROUP BY 1;
SELECT tenant_id, count(*) FROM half GROUP BY 1 ORDER BY 1;
SELECT relation, phase, tenant_id, percentage, to_do FROM tenancy.migration_progress ORDER BY relation::text;
SELECT relation, status FROM (SELECT c.relname AS relation, c.relrowsecurity AS status FROM pg_class c WHERE c.relname IN ('part', 'half', 'nothing')) AS s ORDER BY 1;
-- While it is observed, all goes on: for those who know of tenants, and for those who do not, who are counted.
SET ROLE regress_app;
INSERT INTO half VALUES (100);
SELECT count(*) FROM part;
SELECT count(*) FROM half, nothing;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
INSERT INTO half (id) VALUES (101);
SELECT count(*) FROM half;
COMMIT;
SET ROLE regress_outsider;
UPDATE half SET id = id WHERE false;
SELECT count(*) FROM part_1;                                   -- a partition by its name
RESET ROLE;
SELECT count(*) FROM half;                                     -- a superuser would not be refused
SELECT tenant_id, id FROM half WHERE id >= 100 ORDER BY 2;
SELECT relation, role, application, accesses FROM tenancy.migration_observations ORDER BY 1, 2;
-- Called again, it says the same.
CALL tenancy.migrate_to_multi_tenant('first', '{part}');
CALL tenancy.migrate_table('part', 'acme');                    -- SHOULD FAIL: otherwise than it was begun
-- Then it is enforced.
CREATE FUNCTION mode_of_database() RETURNS text LANGUAGE sql AS $$
    SELECT c FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c WHERE d.datname = current_database() AND s.setrole = 0 AND c ~ 'tenancy.mode' $$;
SELECT format('ALTER DATABASE %I SET tenancy.mode = ''single''', current_database()) \gexec
CALL tenancy.finish_migration('half');
SELECT mode_of_database();
CALL tenancy.finish_migration();
SELECT mode_of_database();
SELECT format('ALTER DATABASE %I RESET tenancy.mode', current_database()) \gexec
SELECT relation, kind, drift FROM tenancy.protected_tables WHERE relation IN ('part'::regclass, 'part_1', 'half', 'nothing') ORDER BY relation::text;
SELECT relation, phase, percentage, to_do FROM tenancy.migration_progress ORDER BY relation::text;
SET ROLE regress_app;
SELECT count(*) FROM half;                                     -- SHOULD FAIL
SET tenancy.tenant_id = 'first';
SELECT count(*) FROM half;
INSERT INTO half (id) VALUES (102) RETURNING tenant_id;
RESET tenancy.tenant_id;
RESET ROLE;
CALL tenancy.migrate_table('half', 'first');                   -- done
SELECT rule, object, problem FROM tenancy.lint() WHERE object ~ 'part|half|nothing';

-- The lines that make an index while others write: of each partition that lacks one, then of all.
CREATE TABLE lots (t text, n int) PARTITION BY LIST (n);
CREATE TABLE lots_1 PARTITION OF lots FOR VALUES IN (1) PARTITION BY LIST (t);
CREATE TABLE "Lots 1a" PARTITION OF lots_1 DEFAULT;
CREATE TABLE lots_2 PARTITION OF lots FOR VALUES IN (2);
CREATE TABLE lots_3 PARTITION OF lots FOR VALUES IN (3);
CREATE INDEX ON lots_2 (t);
CREATE INDEX ON lots_3 (t, n);
SELECT regexp_split_to_table(_tenancy.index_line(jsonb_populate_record(NULL::_tenancy.migrations, '{"relation": "lots", "tenant_column": "t"}')), ';\s') AS line \gexec
SELECT indrelid::regclass, count(*) FROM pg_index WHERE indrelid::regclass::text ~* 'lots' GROUP BY 1 ORDER BY 1;
SELECT _tenancy.has_leading_index('lots', 't');
DROP TABLE lots;

-- A mapping: each row has its own tenant, also those that come meanwhile, and no trigger of the table's owner is fired by what gives it to them.
CALL tenancy.migrate_table('"Weird Order"', NULL, mapping => '(SELECT c.company FROM public.customer c WHERE c.id = d.customer)', batch => 1);    -- SHOULD FAIL: some have none
SELECT relation, phase, rows_done FROM tenancy.migration_progress WHERE phase <> 'done';
-- It is not enforced by who ends the observation of others, nor are they while its mapping may read them.
CALL tenancy.finish_migration();
SELECT phase, rows_per_second > 0 AND time_left >= interval '0' AS is_told FROM tenancy.migration_progress WHERE relation = '"Weird Order"'::regclass;
SET ROLE regress_outsider;
INSERT INTO "Weird Order" VALUES (31, 3), (32, 4);
RESET ROLE;
SELECT id, tenant_id FROM "Weird Order" WHERE id > 30 ORDER BY id;
UPDATE "Weird Order" SET tenant_id = 'unheard-of' WHERE tenant_id IS NULL;
CALL tenancy.migrate_table('"Weird Order"', NULL, mapping => '(SELECT c.company FROM public.customer c WHERE c.id = d.customer)');    -- SHOULD FAIL: of no registered tenant
UPDATE "Weird Order" SET tenant_id = 'gone' WHERE tenant_id = 'unheard-of';
CALL tenancy.migrate_table('"Weird Order"', NULL, mapping => '(SELECT c.company FROM public.customer c WHERE c.id = d.customer)', observe => false);
SELECT o.tenant_id, count(*), max(o.changed) AS changed, bool_and(o.tenant_id = coalesce(c.company, 'gone')) AS is_right FROM "Weird Order" o JOIN customer c ON c.id = o.customer GROUP BY 1 ORDER BY 1;
SELECT tgname FROM pg_trigger WHERE tgrelid = '"Weird Order"'::regclass AND NOT tgisinternal ORDER BY 1;
SELECT count(*) FROM pg_proc WHERE proname ~ 'tenancy_map';
SELECT conname FROM pg_constraint WHERE conrelid = '"Weird Order"'::regclass AND contype <> 'n' ORDER BY 1;

-- The way back.
CALL tenancy.undo_migration('"Weird Order"');
\d "Weird Order"
CALL tenancy.undo_migration('half');
\d half
CALL tenancy.migrate_table('customer', 'acme', tenant_column => 'owner', column_type => 'varchar', kind => 'shared', observe => false);
ALTER TABLE customer ADD UNIQUE (owner, name);
CALL tenancy.undo_migration('customer');                       -- SHOULD FAIL: it would take the constraint along
ALTER TABLE customer DROP CONSTRAINT customer_owner_name_key;
CALL tenancy.undo_migration('customer');
CALL tenancy.undo_migration('part');
CALL tenancy.undo_migration('nothing');
\d part
SELECT count(*) FROM tenancy.migration_progress;
-- With the foreign key between two of them, which protect() extends.
CALL tenancy.migrate_to_multi_tenant('first', '{customer,"\"Weird Order\""}', observe => false);
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('customer'::regclass, '"Weird Order"'::regclass) AND contype <> 'n' ORDER BY conrelid::regclass::text, 2;
BEGIN;
SELECT _tenancy.take_back('customer');
SELECT _tenancy.take_back('"Weird Order"');
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('customer'::regclass, '"Weird Order"'::regclass) AND contype <> 'n' ORDER BY conrelid::regclass::text, 2;
ROLLBACK;
CALL tenancy.undo_migration('"Weird Order"');
CALL tenancy.undo_migration('customer');
SELECT conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid IN ('customer'::regclass, '"Weird Order"'::regclass) AND contype <> 'n' ORDER BY conrelid::regclass::text, 2;
-- In the middle of it, and one whose table goes.
CALL tenancy.migrate_table('"Weird Order"', 'acme', mapping => 'd.no_such_column');    -- SHOULD FAIL
CALL tenancy.migrate_table('"Weird Order"', 'acme', mapping => 'customer', column_type => 'uuid');    -- SHOULD FAIL
CALL tenancy.undo_migration('"Weird Order"');                 -- SHOULD FAIL: nothing was begun
CALL tenancy.migrate_table('"Weird Order"', 'acme', mapping => 'NULL');
CALL tenancy.undo_migration('"Weird Order"');
CALL tenancy.migrate_table('"Weird Order"', 'acme');
SET client_min_messages = warning;
DROP TABLE "Weird Order", customer, part, half, nothing;
SELECT count(*) FROM tenancy.migration_progress;
DROP FUNCTION note_change, mode_of_database;
SELECT tenancy.delete_tenant('first');
