-- DROP EXTENSION: what it leaves, what it says, and the way to leave everything as it was. In a database of its own.
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_drop;
CREATE DATABASE regress_drop;
\c regress_drop
SET client_min_messages = warning;
CREATE EXTENSION tenancy;
CREATE SCHEMA shop AUTHORIZATION regress_owner;
SET ROLE regress_owner;
CREATE TABLE shop."Weird Order" (id bigserial PRIMARY KEY, tenant_id text, item text);
CREATE TABLE shop.event (id bigint, tenant_id uuid NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE shop.event_2026 PARTITION OF shop.event FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE shop.country (code text PRIMARY KEY);
CREATE TABLE shop.own (tenant_id bigint, note text);
ALTER TABLE shop.own ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON shop.own USING (true);
GRANT ALL ON ALL TABLES IN SCHEMA shop TO regress_outsider;
GRANT USAGE ON SCHEMA shop TO regress_outsider;
RESET ROLE;
SELECT tenancy.create_tenant('acme'), tenancy.create_tenant('7'), tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO shop."Weird Order" (tenant_id, item) VALUES ('acme', 'anvil');
INSERT INTO shop.event VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-05-05');
INSERT INTO shop.own VALUES (7, 'seven');

-- All that can be seen of a table.
CREATE VIEW shape AS
    SELECT c.oid::regclass::text AS relation, c.relrowsecurity, c.relforcerowsecurity, c.relacl::text,
           ARRAY(SELECT p::text FROM pg_policies p WHERE format('%I.%I', p.schemaname, p.tablename)::regclass = c.oid ORDER BY 1) AS policies,
           ARRAY(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY 1) AS triggers,
           ARRAY(SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid ORDER BY 1) AS indexes,
           ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid ORDER BY 1) AS constraints,
           ARRAY(SELECT a.attname || a.attnotnull::text || coalesce(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a
                 LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) AS columns
    FROM pg_class c WHERE c.relnamespace = 'shop'::regnamespace AND c.relkind IN ('r', 'p');
CREATE TABLE before AS SELECT * FROM shape;

SELECT tenancy.protect('shop."Weird Order"'), tenancy.protect('shop.event'), tenancy.protect('shop.country', 'system'), tenancy.protect('shop.own', 'shared');
SELECT tenancy.protect_schema('shop'), tenancy.meter('shop."Weird Order"', 'orders'), tenancy.audit('shop."Weird Order"'), tenancy.cache_watch('shop.event', 'event');
SELECT relation FROM shape EXCEPT SELECT s.relation FROM shape s JOIN before b ON s = b ORDER BY 1;

-- Not while tables need it, and not for others than its owner.
RESET client_min_messages;
DROP EXTENSION tenancy;                                        -- SHOULD FAIL
SET ROLE regress_owner;
\set VERBOSITY terse
DROP EXTENSION tenancy;                                        -- SHOULD FAIL
\set VERBOSITY default
RESET ROLE;
DROP EXTENSION IF EXISTS btree_gist, no_such_extension;

-- The owner of the schema that it was installed in does not take it along.
GRANT regress_owner TO CURRENT_USER;
ALTER SCHEMA public OWNER TO regress_owner;
SET ROLE regress_owner;
BEGIN;
SET LOCAL client_min_messages = warning;
DROP SCHEMA public CASCADE;
SELECT extname FROM pg_extension WHERE extname = 'tenancy';
ROLLBACK;
RESET ROLE;

-- With CASCADE, tables are closed, and it says so; not where a policy of the user's own would open one.
DROP EXTENSION tenancy CASCADE;                                -- SHOULD FAIL
BEGIN;
SET LOCAL client_min_messages = warning;
DROP POLICY everybody ON shop.own;
DROP EXTENSION tenancy CASCADE;
SET LOCAL ROLE regress_outsider;
SELECT count(*) FROM shop."Weird Order";
SELECT count(*) FROM shop.event_2026;
SELECT count(*) FROM shop.own;
RESET ROLE;
SELECT count(*) FROM shop."Weird Order";                       -- a superuser
ALTER TABLE shop."Weird Order" NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
SET LOCAL ROLE regress_outsider;
SELECT item FROM shop."Weird Order";
ROLLBACK;

-- Everything as it was.
SET client_min_messages = warning;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.unprotect_all();                                -- SHOULD FAIL
RESET tenancy.tenant_id;
SELECT tenancy.unprotect_all();
SELECT tenancy.unprotect_all();
SELECT relation FROM (TABLE before EXCEPT TABLE shape) AS was;
SELECT relation FROM (TABLE shape EXCEPT TABLE before) AS became;
RESET client_min_messages;
DROP EXTENSION tenancy;
SET ROLE regress_outsider;
SELECT item FROM shop."Weird Order";
RESET ROLE;

-- And again.
CREATE EXTENSION tenancy;
SELECT count(*) FROM tenancy.tenants;
DROP EXTENSION tenancy;
\c regress
DROP DATABASE regress_drop;
