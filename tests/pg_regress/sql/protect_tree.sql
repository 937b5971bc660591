-- Partitions and inheritance children are protected with their parent: policies are per relation.
\set VERBOSITY default
CREATE TABLE event (id integer, tenant_id text, at date) PARTITION BY RANGE (at);
CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (tenant_id);
CREATE TABLE event_2025_acme PARTITION OF event_2025 FOR VALUES IN ('acme');
CREATE TABLE event_2025_rest PARTITION OF event_2025 DEFAULT;
CREATE TABLE event_2026 PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
ALTER TABLE event_2026 ALTER COLUMN tenant_id SET NOT NULL;    -- of its own
INSERT INTO event VALUES (1, 'acme', '2025-05-05'), (2, 'beta', '2025-05-05'), (3, 'beta', '2026-05-05');
GRANT ALL ON event, event_2025, event_2025_acme, event_2025_rest, event_2026 TO regress_app;

-- The attack: without protection of the partitions, whoever names one sees everybody's rows.
BEGIN;
ALTER TABLE event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY by_hand ON event USING (tenant_id = 'acme');
SET LOCAL ROLE regress_app;
SELECT count(*) FROM event;
SELECT count(*) FROM event_2026;                               -- another tenant's rows
ROLLBACK;

SELECT tenancy.protect('event_2026');                          -- SHOULD FAIL: not on its own
SELECT tenancy.protect('event');
SELECT relation, kind, drift FROM tenancy.protected_tables ORDER BY relation::text;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT id FROM event;
SELECT id FROM event_2025_acme;
SELECT id FROM event_2025_rest;
SELECT id FROM event_2026;
INSERT INTO event (id, at) VALUES (4, '2026-06-06') RETURNING tableoid::regclass, tenant_id;
INSERT INTO event_2026 (id, at) VALUES (5, '2026-06-06') RETURNING tenant_id;
UPDATE event SET at = '2025-06-06' WHERE id = 4 RETURNING tableoid::regclass;   -- moved to another partition
SAVEPOINT s;
INSERT INTO event_2026 VALUES (6, 'beta', '2026-06-06');       -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO event VALUES (6, 'beta', '2026-06-06');            -- SHOULD FAIL
ROLLBACK TO s;
UPDATE event SET tenant_id = 'beta' WHERE id = 4;              -- SHOULD FAIL
ROLLBACK TO s;
TRUNCATE event_2026;                                           -- SHOULD FAIL
ROLLBACK;
-- Without a tenant, partitions are no way round.
SELECT count(*) FROM event_2025_rest;                          -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
SELECT count(*) FROM event_2025_rest;
DELETE FROM event;                                             -- SHOULD FAIL
RESET tenancy.missing_tenant;
RESET ROLE;

-- A partition that comes later is named until protect is called again.
CREATE TABLE event_2027 PARTITION OF event FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}';
SELECT tenancy.protect('event');
SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}';
-- One that leaves keeps its protection.
ALTER TABLE event DETACH PARTITION event_2026;
SET ROLE regress_app;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SELECT count(*) FROM event_2026; ROLLBACK;
RESET ROLE;
SELECT tenancy.unprotect('event_2026');
ALTER TABLE event ATTACH PARTITION event_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}';
SELECT tenancy.protect('event');
SELECT tenancy.unprotect('event_2025');                        -- SHOULD FAIL: not on its own
SELECT tenancy.unprotect('event');
SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, a.attnotnull, a.atthasdef,
       (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
       (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes,
       replace(replace(c.relacl::text, 'Dxtm', 'Dxt'), 'arwdm', 'arwd') AS acl
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE c.relname LIKE 'event%' ORDER BY 1;
SELECT count(*) FROM _tenancy.protected;
DROP TABLE event;

-- Inheritance.
CREATE TABLE base (id integer, tenant_id text);
CREATE TABLE derived (extra text) INHERITS (base);
CREATE TABLE second (id integer, tenant_id text NOT NULL);
ALTER TABLE second INHERIT base;
INSERT INTO base VALUES (1, 'acme');
INSERT INTO derived VALUES (2, 'acme', 'x'), (3, 'beta', 'y');
INSERT INTO second VALUES (4, 'beta');
GRANT ALL ON base, derived, second TO regress_app;
SELECT tenancy.protect('derived');                             -- SHOULD FAIL
SELECT tenancy.protect('base');
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT id FROM base ORDER BY id;
SELECT id FROM ONLY base;
SELECT id FROM derived;
SELECT id FROM second;
INSERT INTO derived (id) VALUES (5) RETURNING tenant_id;
INSERT INTO second VALUES (6, 'beta');                         -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SELECT tenancy.protect('base');
SELECT tenancy.unprotect('base');
SELECT c.relname, c.relrowsecurity, a.attnotnull, a.atthasdef,
       (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
WHERE c.relname IN ('base', 'derived', 'second') ORDER BY 1;

-- A system table with partitions: the guard is on each.
CREATE TABLE weather (at date) PARTITION BY RANGE (at);
CREATE TABLE weather_2025 PARTITION OF weather FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
GRANT ALL ON weather, weather_2025 TO regress_app;
SELECT tenancy.protect('weather', 'system');
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO weather_2025 VALUES ('2025-01-01');                -- SHOULD FAIL
INSERT INTO weather VALUES ('2025-01-01');                     -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
DROP TABLE base, derived, second, weather;

-- An index of a partition's own, attached to the parent's by PostgreSQL, is there again afterwards.
CREATE TABLE measure (tenant_id text, n integer) PARTITION BY LIST (n);
CREATE TABLE measure_1 PARTITION OF measure FOR VALUES IN (1);
CREATE TABLE measure_2 PARTITION OF measure FOR VALUES IN (2);
CREATE INDEX measure_1_own ON measure_1 (tenant_id);
SET client_min_messages = warning;
SELECT tenancy.protect('measure');
SELECT i.inhrelid::regclass AS index, i.inhparent::regclass AS parent FROM pg_inherits i
WHERE i.inhparent = 'tenancy_measure_tenant'::regclass ORDER BY 1;
SELECT tenancy.protect('measure');
SELECT tenancy.unprotect('measure');
SELECT indexrelid::regclass AS index, indrelid::regclass AS table FROM pg_index WHERE indrelid::regclass::text LIKE 'measure%' ORDER BY 1;
-- A table that goes with something else takes its protection along, too.
CREATE TYPE measured AS (tenant_id text, n integer);
CREATE TABLE typed OF measured;
SELECT tenancy.protect('typed');
DROP TYPE measured CASCADE;
SELECT count(*) FROM _tenancy.protected;
DROP TABLE measure;
