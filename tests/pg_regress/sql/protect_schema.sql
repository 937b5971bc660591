-- tenancy.protect_schema: tables that come later are protected as they come.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA "App Data" AUTHORIZATION regress_owner;
CREATE SCHEMA elsewhere AUTHORIZATION regress_owner;
SET ROLE regress_owner;
SET search_path = "App Data";
CREATE TABLE old (id integer, tenant_id text);
CREATE TABLE old_parts (id integer, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE old_part PARTITION OF old_parts FOR VALUES FROM (0) TO (10);
CREATE TABLE global (code text);
RESET client_min_messages;
SELECT tenancy.protect_schema('"App Data"');                   -- SHOULD FAIL: granted to nobody
RESET ROLE;
SELECT tenancy.protect_schema('_tenancy');                     -- SHOULD FAIL
SELECT tenancy.protect_schema(NULL);                           -- SHOULD FAIL
SET client_min_messages = warning;
SELECT tenancy.protect_schema('"App Data"'), tenancy.protect_schema('"App Data"');
RESET client_min_messages;
SELECT schema, tenant_column FROM tenancy.protected_schemas;
SET ROLE regress_owner;

CREATE TABLE plain (id integer, tenant_id text);
SET client_min_messages = warning;
CREATE TABLE "Weird Name" (id integer, tenant_id uuid NOT NULL);
CREATE TABLE IF NOT EXISTS plain (id integer, tenant_id text);
CREATE TABLE numbered (id integer, tenant_id bigint);
CREATE TABLE made AS SELECT 1 AS id, 'acme'::text AS tenant_id;
SELECT 1 AS id, 'acme'::text AS tenant_id INTO selected;
CREATE TABLE copied (LIKE old INCLUDING ALL);
CREATE TABLE parts (id integer, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE grown (id integer);
ALTER TABLE grown ADD COLUMN body text;
ALTER TABLE grown ADD COLUMN tenant_id text;
CREATE TABLE elsewhere.moved (id integer, tenant_id text);
ALTER TABLE elsewhere.moved SET SCHEMA "App Data";
CREATE TABLE elsewhere.renamed (id integer, org text);
CREATE TABLE other (id integer, org text);
ALTER TABLE other RENAME COLUMN org TO tenant_id;
CREATE TABLE catalogue (code text);
CREATE TEMP TABLE scratch (id integer, tenant_id text);
CREATE VIEW seen AS SELECT * FROM plain;
SELECT c.oid::regclass, p.kind, p.drift FROM pg_class c LEFT JOIN tenancy.protected_tables p ON p.relation = c.oid
WHERE c.relnamespace IN ('"App Data"'::regnamespace, 'elsewhere'::regnamespace, pg_my_temp_schema()) AND c.relkind IN ('r', 'p') ORDER BY c.relname;
-- What cannot be protected is not created.
CREATE TABLE wrong (id integer, tenant_id numeric);            -- SHOULD FAIL
CREATE TABLE strangers AS SELECT 'nobody'::text AS tenant_id;  -- SHOULD FAIL
CREATE TABLE nulls AS SELECT NULL::text AS tenant_id;          -- SHOULD FAIL
ALTER TABLE catalogue ADD COLUMN tenant_id text;               -- empty: fine
CREATE TABLE full_of (id integer);
INSERT INTO full_of VALUES (1);
ALTER TABLE full_of ADD COLUMN tenant_id text;                 -- SHOULD FAIL: a row of nobody
ALTER TABLE full_of ADD COLUMN tenant_id text DEFAULT 'acme';
RESET client_min_messages;
-- A table whose type gets the column, or another name for it.
SET client_min_messages = warning;
CREATE TYPE thing AS (id integer, body text);
CREATE TABLE typed OF thing;
CREATE TABLE elsewhere.typed OF thing;
ALTER TYPE thing ADD ATTRIBUTE tenant_id text CASCADE;
CREATE TABLE typed_later OF thing;
SELECT relation, tenant_column, drift FROM tenancy.protected_tables WHERE relation::text ~ 'typed' ORDER BY relation::text;
ALTER TYPE thing RENAME ATTRIBUTE tenant_id TO org CASCADE;
SELECT relation, tenant_column, drift FROM tenancy.protected_tables WHERE relation::text ~ 'typed' ORDER BY relation::text;
ALTER TYPE thing RENAME ATTRIBUTE org TO tenant_id CASCADE;
ALTER TYPE thing DROP ATTRIBUTE tenant_id CASCADE;             -- SHOULD FAIL
-- The foreign keys of a new table are extended as it is created.
CREATE TABLE parents (id integer PRIMARY KEY, tenant_id text);
RESET client_min_messages;
CREATE TABLE children (id integer PRIMARY KEY, parent integer REFERENCES parents ON DELETE CASCADE, next integer REFERENCES children, tenant_id text);
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'children'::regclass AND contype = 'f' ORDER BY conname;
SELECT name, is_scoped FROM tenancy.foreign_keys ORDER BY 1;
SET client_min_messages = warning;
DROP TABLE children;
DROP TYPE thing CASCADE;
RESET client_min_messages;
-- A table that was unprotected stays so when it gets a new name.
CREATE TABLE given_up (id integer, tenant_id text);
SELECT tenancy.unprotect('given_up');
ALTER TABLE given_up RENAME TO still_given_up;
ALTER TABLE still_given_up ADD CONSTRAINT positive CHECK (id > 0);
SELECT count(*) FROM tenancy.protected_tables WHERE relation = 'still_given_up'::regclass;
-- A temporary child is the session's own; it does not stand in the way.
CREATE TEMP TABLE passing () INHERITS (plain);
INSERT INTO passing VALUES (1, 'acme');
SELECT tenancy.protect('plain');
DROP TABLE passing;
-- A table of another kind is made so by another call.
CREATE TABLE trail (tenant_id text, what text);
SELECT tenancy.protect('trail', 'audit');
-- In the context of a tenant.
RESET ROLE;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_owner;
SET ROLE regress_owner;
SET search_path = "App Data";
SET tenancy.tenant_id = 'acme';
CREATE TABLE for_acme (id integer, tenant_id text);
INSERT INTO for_acme VALUES (1);
INSERT INTO for_acme VALUES (1, 'beta');                       -- SHOULD FAIL
CREATE TABLE refers (id integer REFERENCES parents, tenant_id text);
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'refers'::regclass AND contype = 'f';
RESET tenancy.tenant_id;
RESET ROLE;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_owner;
-- While a dump is restored, nothing is done.
SET tenancy.restoring = on;
CREATE TABLE "App Data".restored (id integer, tenant_id text);
RESET tenancy.restoring;
SELECT count(*) FROM tenancy.protected_tables WHERE relation = '"App Data".restored'::regclass;
SELECT tenancy.protect_schema('"App Data"');
ALTER SCHEMA "App Data" RENAME TO renamed;
CREATE TABLE renamed.later (id integer, tenant_id text);
SELECT tenancy.unprotect_schema('renamed');
SELECT tenancy.unprotect_schema('renamed');                    -- SHOULD FAIL
CREATE TABLE renamed.free (id integer, tenant_id text);
SELECT relation FROM tenancy.protected_tables WHERE relation IN ('renamed.free'::regclass, 'renamed.later'::regclass);
SET client_min_messages = warning;
SELECT tenancy.protect_schema('elsewhere', 'org');
DROP SCHEMA elsewhere, renamed CASCADE;
SELECT schema FROM tenancy.protected_schemas;
SELECT count(*) FROM _tenancy.protected;

-- A schema that is renamed stays protected, also where its number is that of another database, as after a restore.
CREATE SCHEMA renamed_once;
CREATE SCHEMA bystander;
SELECT tenancy.protect_schema('renamed_once');
UPDATE _tenancy.protected_schemas SET number = 'bystander'::regnamespace WHERE schema = 'renamed_once';
ALTER SCHEMA bystander RENAME TO "By Stander";
ALTER SCHEMA renamed_once RENAME TO "Renamed Twice";
SELECT schema FROM tenancy.protected_schemas;
CREATE TABLE "Renamed Twice".t (tenant_id text);
CREATE TABLE "By Stander".t (tenant_id text);
SELECT relation FROM tenancy.protected_tables WHERE relation::text ~ '(Twice|Stander)';
DROP SCHEMA "Renamed Twice", "By Stander" CASCADE;
SELECT schema FROM _tenancy.protected_schemas;

-- EXPLAIN ANALYZE makes the table and fires no event trigger.
CREATE SCHEMA explained;
SELECT tenancy.protect_schema('explained');
CREATE TABLE explained.made AS SELECT 'acme'::text AS tenant_id;
SELECT count(*) FROM tenancy.protected_tables WHERE relation = 'explained.made'::regclass;
EXPLAIN (ANALYZE, COSTS OFF) CREATE TABLE explained.by_as AS SELECT 'acme'::text AS tenant_id;   -- SHOULD FAIL
EXPLAIN (ANALYZE, COSTS OFF) SELECT 'acme'::text AS tenant_id INTO explained.by_into;            -- SHOULD FAIL
PREPARE q AS SELECT 'acme'::text AS tenant_id;
EXPLAIN (ANALYZE, COSTS OFF) CREATE TABLE explained.by_execute AS EXECUTE q;                     -- SHOULD FAIL
EXPLAIN (ANALYZE, COSTS OFF) CREATE TABLE IF NOT EXISTS explained.made AS SELECT 'acme'::text AS tenant_id;
EXPLAIN (COSTS OFF) CREATE TABLE explained.not_made AS SELECT 'acme'::text AS tenant_id;
DO $$BEGIN EXECUTE 'EXPLAIN ANALYZE CREATE TABLE explained.of_all AS SELECT ''x''::text AS code'; END$$;
DO $$BEGIN EXECUTE 'EXPLAIN ANALYZE CREATE TEMP TABLE by_as AS SELECT ''acme''::text AS tenant_id'; END$$;
SELECT relname FROM pg_class WHERE relnamespace = 'explained'::regnamespace AND relkind = 'r' ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA explained CASCADE;
DEALLOCATE q;
