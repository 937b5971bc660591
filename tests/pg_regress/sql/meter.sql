-- Metering: what tables hold is counted for each tenant, whatever changes it.
\set VERBOSITY default
CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, name text, size integer,
                   UNIQUE (tenant_id, name));
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'a', 10), ('acme', 'b', NULL), ('beta', 'c', 30);
SELECT tenancy.meter('item', 'items');                         -- SHOULD FAIL: not protected
SET client_min_messages = warning;
SELECT tenancy.protect('item');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON item TO regress_app;
SELECT tenancy.meter('item', 'items');
SELECT tenancy.meter('item', 'sizes', 'SUM( "size" )');
SELECT tenancy.meter('item', 'storage', 'bytes');
SELECT relation, resource, measure, tenant_column, drift FROM tenancy.meters ORDER BY resource;
-- What cannot be.
SELECT tenancy.meter('item', 'items');                         -- SHOULD FAIL: already
SELECT tenancy.meter('item', 'names', 'sum(name)');            -- SHOULD FAIL: no number
SELECT tenancy.meter('item', 'names', 'sum(nothing)');         -- SHOULD FAIL
SELECT tenancy.meter('item', 'names', 'average');              -- SHOULD FAIL
SELECT tenancy.meter('item', 'two words');                     -- SHOULD FAIL
SELECT tenancy.meter('item', NULL);                            -- SHOULD FAIL
SELECT tenancy.meter('pg_class', 'classes');                   -- SHOULD FAIL
SELECT tenancy.unmeter('item', 'other');                       -- SHOULD FAIL
SELECT tenancy.unprotect('item');                              -- SHOULD FAIL: metered
SET ROLE regress_owner;
SELECT tenancy.meter('item', 'mine');                          -- SHOULD FAIL: granted to nobody
SELECT * FROM tenancy.reconcile('item');                       -- SHOULD FAIL: granted to nobody
RESET ROLE;

-- What is used, in all. The bytes are compared with a count, not told.
CREATE VIEW used AS
    SELECT tenant_id, resource, sum(amount) AS used FROM tenancy.usage_records
    WHERE resource IN ('items', 'sizes', 'things', 'parts', 'sum', 'shared') GROUP BY tenant_id, resource HAVING sum(amount) <> 0 ORDER BY resource, tenant_id;
CREATE VIEW differences AS SELECT * FROM tenancy.reconcile('item');
TABLE used;
TABLE differences;

-- As an application.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO item (name, size) VALUES ('d', 1), ('e', 2);
INSERT INTO item (name, size) VALUES ('d', 5), ('f', 3) ON CONFLICT (tenant_id, name) DO NOTHING;
INSERT INTO item (name, size) VALUES ('d', 5), ('g', 4) ON CONFLICT (tenant_id, name) DO UPDATE SET size = excluded.size;
UPDATE item SET size = size + 100 WHERE name IN ('d', 'e');
DELETE FROM item WHERE name = 'f';
MERGE INTO item USING (VALUES ('e', 7), ('h', 8)) AS v(name, size) ON item.name = v.name
    WHEN MATCHED THEN UPDATE SET size = v.size
    WHEN NOT MATCHED THEN INSERT (name, size) VALUES (v.name, v.size);
WITH gone AS (DELETE FROM item WHERE name = 'h' RETURNING name) INSERT INTO item (name, size) SELECT name || '2', 9 FROM gone;
RESET tenancy.tenant_id;
RESET ROLE;
TABLE used;
TABLE differences;

-- What is rolled back was not used.
BEGIN;
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'x', 1);
ROLLBACK;
BEGIN;
SAVEPOINT one;
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'x', 1);
SAVEPOINT two;
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'y', 1);
RELEASE two;
SAVEPOINT three;
DELETE FROM item WHERE name = 'x';
ROLLBACK TO three;
INSERT INTO item (tenant_id, name, size) VALUES ('beta', 'z', 1);
ROLLBACK TO one;
INSERT INTO item (tenant_id, name, size) VALUES ('beta', 'kept', 1);
COMMIT;
DO $$
BEGIN
    BEGIN
        INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'caught', 1);
        RAISE 'no';
    EXCEPTION WHEN OTHERS THEN
        INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'instead', 2);
    END;
END
$$;
TABLE used;
TABLE differences;

-- A role that bypasses row-level security touches many tenants in a statement; a row changes its tenant.
INSERT INTO item (tenant_id, name, size)
    SELECT CASE WHEN i % 3 = 0 THEN 'beta' ELSE 'acme' END, 'n' || i, i FROM generate_series(1, 30) AS i;
UPDATE item SET tenant_id = 'beta' WHERE name IN ('n1', 'n2');
COPY item (tenant_id, name, size) FROM STDIN;
acme	copied	1000
beta	copied	2000
\.
TABLE used;
TABLE differences;
INSERT INTO item (tenant_id, name) VALUES ('not a tenant id', 'x');   -- SHOULD FAIL
-- Rows that come past the triggers are found by counting anew, and put right on request.
SET tenancy.restoring = on;
ALTER TABLE item DISABLE TRIGGER tenancy_meter_insert;
RESET tenancy.restoring;
SELECT drift FROM tenancy.meters WHERE resource = 'items';
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'unseen', 5);
ALTER TABLE item ENABLE ALWAYS TRIGGER tenancy_meter_insert;
SELECT resource, tenant_id, difference FROM differences WHERE resource <> 'storage';
SELECT resource, tenant_id, difference FROM tenancy.reconcile('item', true) WHERE resource <> 'storage';
TABLE differences;
-- Replication roles do not turn the triggers off.
SET session_replication_role = replica;
INSERT INTO item (tenant_id, name, size) VALUES ('beta', 'replica', 5);
RESET session_replication_role;
TABLE differences;

-- Triggers are not taken away, altered or replaced.
ALTER TRIGGER tenancy_meter_insert ON item RENAME TO zzz;      -- SHOULD FAIL
DROP TRIGGER tenancy_meter_delete ON item;                     -- SHOULD FAIL
ALTER TABLE item DISABLE TRIGGER tenancy_meter_update;         -- SHOULD FAIL
CREATE OR REPLACE TRIGGER tenancy_meter_insert AFTER INSERT ON item REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION _tenancy.meter_rows();   -- SHOULD FAIL
-- One that was renamed counts once; a column of another type, or that is gone, is no longer counted but refused.
SET tenancy.restoring = on;
ALTER TRIGGER tenancy_meter_insert ON item RENAME TO zzz;
RESET tenancy.restoring;
SELECT tenancy.meter('item', 'again');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname !~ 'Constraint' ORDER BY 1;
SELECT tenancy.unmeter('item', 'again');
BEGIN;
ALTER TABLE item ALTER size TYPE text;
INSERT INTO item (tenant_id, name, size) VALUES ('beta', 'odd', '5');   -- SHOULD FAIL
ROLLBACK;
BEGIN;
ALTER TABLE item RENAME size TO length;
SELECT * FROM tenancy.reconcile('item');                       -- SHOULD FAIL
ROLLBACK;
TABLE differences;

-- TRUNCATE gives all back; a table that is dropped, or no longer metered, as well.
TRUNCATE item;
TABLE used;
TABLE differences;
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'a', 1);
BEGIN;
INSERT INTO item (tenant_id, name, size) VALUES ('acme', 'b', 2);
TRUNCATE item;
INSERT INTO item (tenant_id, name, size) VALUES ('beta', 'c', 3);
COMMIT;
TABLE used;
TABLE differences;
SELECT tenancy.unmeter('item', 'sizes');
TABLE used;
DROP VIEW differences;
DROP TABLE item;
TABLE used;
SELECT * FROM tenancy.meters;

-- Two tables count for one resource; a foreign key cascades; the tenant column has a type and a name of its own.
CREATE TABLE "Parent Table" (id integer PRIMARY KEY, "Tenant" bigint);
CREATE TABLE child (parent integer REFERENCES "Parent Table" ON DELETE CASCADE, owner bigint);
SET client_min_messages = warning;
SELECT tenancy.create_tenant('70'), tenancy.create_tenant('80');
SELECT tenancy.protect('"Parent Table"', tenant_column => 'Tenant'), tenancy.protect('child', tenant_column => 'owner');
RESET client_min_messages;
SELECT tenancy.meter('"Parent Table"', 'things'), tenancy.meter('child', 'things');
INSERT INTO "Parent Table" VALUES (1, 70), (2, 70), (3, 80);
INSERT INTO child VALUES (1, 70), (1, 70), (3, 80);
TABLE used;
DELETE FROM "Parent Table" WHERE id = 1;
TABLE used;
SELECT * FROM tenancy.reconcile('child');
DROP TABLE child;
TABLE used;
DROP TABLE "Parent Table";
TABLE used;

-- Partitions: by their parent, and by name; a row moves from one to another; uuid.
CREATE TABLE part (tenant_id uuid, kind text, n smallint) PARTITION BY LIST (kind);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b (n smallint, kind text, tenant_id uuid);
ALTER TABLE part ATTACH PARTITION part_b DEFAULT;
SET client_min_messages = warning;
SELECT tenancy.create_tenant('c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT tenancy.protect('part');
RESET client_min_messages;
SELECT tenancy.meter('part', 'parts'), tenancy.meter('part', 'sum', 'sum(n)');
INSERT INTO part SELECT 'c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', k, 2 FROM unnest('{a,b,c}'::text[]) AS k;
INSERT INTO part_b (tenant_id, kind, n) VALUES ('c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'd', 5);
UPDATE part SET kind = 'b', n = 3 WHERE kind = 'a';
TABLE used;
UPDATE part_b SET n = n + 1;
DELETE FROM part_b WHERE kind = 'c';
TABLE used;
SELECT * FROM tenancy.reconcile('part');
TRUNCATE part_b;
TABLE used;
-- A partition that is added later drifts until the table is metered again.
CREATE TABLE part_e PARTITION OF part FOR VALUES IN ('e');
SELECT resource, drift FROM tenancy.meters ORDER BY resource;
-- One that is detached is counted no more, and what it held until the next count.
INSERT INTO part (tenant_id, kind) SELECT 'c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', k FROM unnest('{a,b,b}'::text[]) AS k;
ALTER TABLE part DETACH PARTITION part_b;
INSERT INTO part_b (tenant_id, kind) VALUES ('c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'b');
TABLE used;
SELECT * FROM tenancy.reconcile('part', true);
DELETE FROM part_b;
TABLE used;
DROP TABLE part_b, part;
TABLE used;

-- An empty table, rows for everybody, and counting later.
CREATE TABLE shared_item (tenant_id text, name text);
INSERT INTO shared_item VALUES (NULL, 'for all'), ('acme', 'own');
SET client_min_messages = warning;
SELECT tenancy.protect('shared_item', 'shared');
RESET client_min_messages;
SELECT tenancy.meter('shared_item', 'shared', count_existing => false);
TABLE used;
SELECT * FROM tenancy.reconcile('shared_item', true);
INSERT INTO shared_item VALUES (NULL, 'for all');
DELETE FROM shared_item WHERE tenant_id IS NULL;
TABLE used;
DROP TABLE shared_item;
DROP VIEW used;

-- Concurrently: the triggers first, then a count of what is there, in a transaction of its own.
SET client_min_messages = warning;
CREATE TABLE "Weird Item" (tenant_id text, size integer);
INSERT INTO "Weird Item" VALUES ('acme', 5), ('acme', 6), ('beta', 7);
SELECT tenancy.protect('"Weird Item"');
RESET client_min_messages;
BEGIN;
CALL tenancy.meter_concurrently('"Weird Item"', 'weird');      -- SHOULD FAIL: in a transaction
ROLLBACK;
SELECT count(*) FROM tenancy.meters WHERE resource = 'weird';
CALL tenancy.meter_concurrently('"Weird Item"', 'weird', 'sum(size)');
CALL tenancy.meter_concurrently('"Weird Item"', 'weird', 'sum(size)'); -- SHOULD FAIL: already
SELECT tenant_id, sum(amount) AS used FROM tenancy.usage_records WHERE resource = 'weird' GROUP BY tenant_id ORDER BY tenant_id;
SET ROLE regress_owner;
CALL tenancy.meter_concurrently('"Weird Item"', 'mine');       -- SHOULD FAIL: granted to nobody
RESET ROLE;
DROP TABLE "Weird Item";
