-- index_advice(): each shape that is advised on stands next to twins that are not; what it says is typed, and nothing is left to say.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA index_advice;
SET search_path = index_advice, public;
-- Figures differ between versions of PostgreSQL: those that are no part of the set-up are not shown.
CREATE FUNCTION pg_temp.advice(the_tables text DEFAULT '') RETURNS TABLE (relation regclass, advice text, priority text, reason text) LANGUAGE sql AS $$
    SELECT a.relation, a.advice, a.priority, regexp_replace(regexp_replace(a.reason, '\d+ kB|\d+ times|once', '...', 'g'), 'since \S+ \S+:', 'since ...:')
    FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace WHERE a.relation::text ~ the_tables ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C" $$;
-- One line a statement: psql sends each by itself, so that CONCURRENTLY works.
CREATE FUNCTION pg_temp.lines(the_tables text DEFAULT '', the_advice text DEFAULT '') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.line FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace,
         string_to_table(a.statement, E'\n') WITH ORDINALITY AS s(line, place)
    WHERE a.relation::text ~ the_tables AND a.advice ~ the_advice ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C", s.place $$;
-- Rows of 1.5 kB, of ten tenants: a thousand of them are more than a megabyte.
CREATE FUNCTION pg_temp.fill(the_table text, how_many integer DEFAULT 1000) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %s (id, tenant_id, body) SELECT n, ''tenant-'' || n %% 10, repeat(''x'', 1450) FROM generate_series(1, %s) AS n', the_table, how_many);
END $$;
DO $$ BEGIN PERFORM tenancy.create_tenant('tenant-' || n) FROM generate_series(0, 9) AS n WHERE NOT EXISTS (SELECT FROM tenancy.tenants t WHERE t.id = 'tenant-' || n); END $$;

-- Which index leads with the tenant: a btree or hash of all rows. Not one of some rows, a BRIN, an expression, or with another collation.
CREATE TABLE lead_none (id bigint PRIMARY KEY, tenant_id text, body text);
CREATE TABLE lead_btree (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_btree (tenant_id DESC, id);
CREATE TABLE lead_unique (id bigint, tenant_id text, body text, PRIMARY KEY (tenant_id, id));
CREATE TABLE lead_hash (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_hash USING hash (tenant_id);
CREATE TABLE lead_partial (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_partial (tenant_id) WHERE id > 0;
CREATE TABLE lead_brin (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_brin USING brin (tenant_id);
CREATE TABLE lead_expression (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_expression (lower(tenant_id));
CREATE TABLE lead_collation (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_collation (tenant_id COLLATE "POSIX");
CREATE TABLE lead_second (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_second (id, tenant_id);
CREATE TABLE lead_included (LIKE lead_none INCLUDING ALL);
CREATE INDEX ON lead_included (id) INCLUDE (tenant_id);
CREATE TABLE lead_small (LIKE lead_none INCLUDING ALL);
CREATE TABLE lead_shared (LIKE lead_none INCLUDING DEFAULTS);
CREATE TABLE lead_audit (LIKE lead_none INCLUDING DEFAULTS);
CREATE TABLE lead_system (id bigint, body text);
CREATE TABLE lead_unprotected (LIKE lead_none INCLUDING ALL);
CREATE TABLE lead_one (LIKE lead_none INCLUDING ALL);
CREATE TABLE lead_unanalyzed (LIKE lead_none INCLUDING ALL) WITH (autovacuum_enabled = false);
SELECT pg_temp.fill('lead_' || name) FROM unnest('{none,btree,unique,hash,partial,brin,expression,collation,second,included,shared,audit,unprotected,unanalyzed}'::text[]) AS name;
SELECT pg_temp.fill('lead_small', 500);
INSERT INTO lead_system SELECT n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
INSERT INTO lead_one SELECT n, 'tenant-1', repeat('x', 1450) FROM generate_series(1, 1000) AS n;
SELECT count(tenancy.protect(c.oid, CASE c.relname WHEN 'lead_shared' THEN 'shared' WHEN 'lead_audit' THEN 'audit' WHEN 'lead_system' THEN 'system' ELSE 'tenant' END, create_index => false))
FROM pg_class c WHERE c.relnamespace = 'index_advice'::regnamespace AND c.relkind = 'r' AND c.relname <> 'lead_unprotected';
SELECT format('VACUUM ANALYZE %s', c.oid::regclass) FROM pg_class c WHERE c.relnamespace = 'index_advice'::regnamespace AND c.relkind = 'r' AND c.relname <> 'lead_unanalyzed' ORDER BY c.oid
\gexec
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
-- The hash of lead_hash is not missed; with a btree beside it it is not needed.
CREATE INDEX lead_hash_more ON lead_hash (tenant_id, id);
SELECT * FROM pg_temp.advice();
DROP TABLE lead_none, lead_btree, lead_unique, lead_hash, lead_partial, lead_brin, lead_expression, lead_collation, lead_second, lead_included, lead_small, lead_shared, lead_audit,
    lead_system, lead_unprotected, lead_one, lead_unanalyzed;

-- One table; who may ask, and what.
CREATE TABLE one (id bigint, tenant_id text, body text);
CREATE TABLE another (LIKE one);
CREATE TABLE other (code text);
SELECT pg_temp.fill('one'), pg_temp.fill('another'), tenancy.protect('one', create_index => false), tenancy.protect('another', create_index => false), tenancy.protect('other', 'system');
VACUUM ANALYZE one, another;
SELECT relation, advice FROM tenancy.index_advice('one');
SELECT relation, advice FROM tenancy.index_advice('other');
SELECT tenancy.index_advice('pg_class');                       -- SHOULD FAIL
SELECT tenancy.index_advice(unused_for => NULL);               -- SHOULD FAIL
SELECT tenancy.index_advice(unused_for => '-1 day');           -- SHOULD FAIL
SET ROLE regress_app;
SELECT tenancy.index_advice();                                 -- SHOULD FAIL
RESET ROLE;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.index_advice();                                 -- SHOULD FAIL
ROLLBACK;
CREATE ROLE regress_index_advice;
GRANT pg_monitor TO regress_index_advice;
SET ROLE regress_index_advice;
BEGIN READ ONLY;
SELECT relation, advice FROM tenancy.index_advice() WHERE relation::text ~ 'index_advice';
COMMIT;
RESET ROLE;
DROP ROLE regress_index_advice;
DROP TABLE one, another, other;

-- Foreign keys: the check of a deletion asks for the key, and for the tenant where that is part of it.
CREATE TABLE parent (tenant_id text, id bigint PRIMARY KEY, body text, UNIQUE (tenant_id, id));
CREATE TABLE fk_none (tenant_id text, id bigint, body text, parent_id bigint, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE TABLE fk_unscoped (tenant_id text, id bigint, body text, parent_id bigint REFERENCES parent);
CREATE TABLE fk_led (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_led (tenant_id, parent_id, id);
CREATE TABLE fk_turned (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_turned (parent_id, tenant_id);
CREATE TABLE fk_alone (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_alone USING hash (parent_id);
CREATE TABLE fk_not_null (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_not_null (parent_id) WHERE parent_id IS NOT NULL;
CREATE TABLE fk_partial (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_partial (parent_id) WHERE id > 10;
CREATE TABLE fk_brin (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE INDEX ON fk_brin USING brin (parent_id);
CREATE TABLE fk_extensible (LIKE fk_unscoped, FOREIGN KEY (parent_id) REFERENCES parent);
CREATE INDEX ON fk_extensible (tenant_id, parent_id);          -- right as soon as the key holds the tenant, which lint asks for
CREATE TABLE parent_shared (tenant_id text, id bigint PRIMARY KEY, body text);
CREATE TABLE fk_shared (tenant_id text, id bigint, body text, parent_id bigint REFERENCES parent_shared);
CREATE INDEX ON fk_shared (tenant_id, parent_id);              -- no help: that key can never hold the tenant
CREATE TABLE codes (code bigint PRIMARY KEY);
CREATE TABLE fk_code (tenant_id text, id bigint, body text, parent_id bigint REFERENCES codes);
CREATE TABLE fk_registry (tenant_id text, id bigint, body text);
CREATE TABLE fk_and_lead (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
CREATE TABLE fk_two (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id), FOREIGN KEY (parent_id) REFERENCES parent);
CREATE TABLE fk_few (LIKE fk_none, FOREIGN KEY (tenant_id, parent_id) REFERENCES parent (tenant_id, id));
SELECT count(pg_temp.fill(c.oid::regclass::text)) FROM pg_class c WHERE c.relnamespace = 'index_advice'::regnamespace AND c.relname ~ '^(fk_|parent$)' AND c.relkind = 'r';
-- A tenant of few rows is found quickly by the tenant alone.
SELECT format('UPDATE %s SET tenant_id = ''tenant-1''', c.oid::regclass) FROM pg_class c WHERE c.relname ~ '^fk_' AND c.relkind = 'r' AND c.relname <> 'fk_few' ORDER BY c.oid
\gexec
VACUUM FULL;
SELECT tenancy.protect('codes', 'system'), tenancy.protect('parent_shared', 'shared'), tenancy.protect('parent');
SELECT count(tenancy.protect(c.oid, foreign_keys => 'keep', reference => c.relname = 'fk_registry', create_index => c.relname <> 'fk_and_lead')) FROM pg_class c WHERE c.relnamespace = 'index_advice'::regnamespace AND c.relname ~ '^fk_' AND c.relkind = 'r';
VACUUM ANALYZE;
SELECT * FROM pg_temp.advice();
-- Somebody deletes.
INSERT INTO codes VALUES (1);
DELETE FROM codes;
DELETE FROM parent WHERE id <= 5;
SELECT pg_stat_force_next_flush();
SELECT relation, priority, reason FROM pg_temp.advice() WHERE relation IN ('fk_none'::regclass, 'fk_code');
SELECT pg_temp.lines();
SELECT pg_temp.lines() \gexec
-- The leading index that protect made is not needed beside a longer one.
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
-- The check of a deletion uses it.
CREATE FUNCTION pg_temp.scans(the_table regclass) RETURNS TABLE (index text, used boolean) LANGUAGE sql AS $$
    SELECT s.indexrelname, s.idx_scan > 0 FROM pg_stat_user_indexes s WHERE s.relid = the_table ORDER BY 1 $$;
DELETE FROM parent WHERE id = 6;
SELECT pg_stat_force_next_flush();
SELECT * FROM pg_temp.scans('fk_none');
SELECT * FROM pg_temp.scans('fk_unscoped');
DROP TABLE fk_and_lead, fk_two, fk_none, fk_unscoped, fk_led, fk_turned, fk_alone, fk_not_null, fk_partial, fk_brin, fk_extensible, fk_shared, fk_code, fk_registry, fk_few, parent, parent_shared, codes;
SET client_min_messages = error;
DROP SCHEMA index_advice CASCADE;
DELETE FROM _tenancy.tenants WHERE id LIKE 'tenant-_';
