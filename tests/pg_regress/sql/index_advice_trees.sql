-- index_advice(): partitioned tables, names that need quotes or are too long, and what an interrupted command leaves. Every line is typed as it is printed.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA "Index Advice";
SET search_path = "Index Advice", public;
CREATE FUNCTION pg_temp.advice() RETURNS TABLE (relation regclass, advice text, priority text, reason text) LANGUAGE sql AS $$
    SELECT a.relation, a.advice, a.priority, regexp_replace(regexp_replace(a.reason, '\d+ kB|\d+ times|once', '...', 'g'), 'tenancy_\d+_[0-9a-f]{8}', 'tenancy_<oid>_<hash>')
    FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C" $$;
-- The numbers of tables differ from run to run.
CREATE FUNCTION pg_temp.lines() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.line FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace,
         string_to_table(a.statement, E'\n') WITH ORDINALITY AS s(line, place)
    ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C", s.place $$;
CREATE FUNCTION pg_temp.shown() RETURNS SETOF text LANGUAGE sql AS $$ SELECT regexp_replace(l, 'tenancy_\d+_[0-9a-f]{8}', 'tenancy_<oid>_<hash>', 'g') FROM pg_temp.lines() AS l $$;
CREATE FUNCTION pg_temp.indexes(the_table regclass) RETURNS TABLE (relation regclass, index text, is_valid boolean, parent text) LANGUAGE sql AS $$
    SELECT i.indrelid::regclass, regexp_replace(c.relname, 'tenancy_\d+_[0-9a-f]{8}', 'tenancy_<oid>_<hash>'), i.indisvalid,
           (SELECT p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent WHERE h.inhrelid = i.indexrelid)
    FROM pg_partition_tree(the_table) t JOIN pg_index i ON i.indrelid = t.relid JOIN pg_class c ON c.oid = i.indexrelid ORDER BY t.level, 1::text, 2 $$;
DO $$ BEGIN PERFORM tenancy.create_tenant('tenant-' || n) FROM generate_series(0, 9) AS n WHERE NOT EXISTS (SELECT FROM tenancy.tenants t WHERE t.id = 'tenant-' || n); END $$;

-- A tree of two levels, partitions in another schema and of other columns; one has an index of its own already.
CREATE SCHEMA index_advice_parts;
CREATE TABLE tree ("The Tenant" text, id bigint, body text) PARTITION BY RANGE (id);
CREATE TABLE "Part;One" PARTITION OF tree FOR VALUES FROM (0) TO (1000);
CREATE TABLE index_advice_parts.branch PARTITION OF tree FOR VALUES FROM (1000) TO (9000) PARTITION BY HASH (id);
CREATE TABLE index_advice_parts.leaf PARTITION OF index_advice_parts.branch FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE leaf (gone integer, body text, id bigint, "The Tenant" text);
ALTER TABLE leaf DROP COLUMN gone;
ALTER TABLE index_advice_parts.branch ATTACH PARTITION leaf FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX own ON "Part;One" ("The Tenant");
INSERT INTO tree SELECT 'tenant-' || n % 10, n, repeat('x', 1450) FROM generate_series(1, 4000) AS n;
SELECT tenancy.protect('tree', tenant_column => 'The Tenant', create_index => false);
VACUUM ANALYZE tree;
SELECT * FROM pg_temp.advice();
SELECT relation, advice FROM tenancy.index_advice('leaf');
SELECT pg_temp.lines();
-- It is interrupted after the second line, goes on, and is interrupted while an index is built.
SELECT l FROM pg_temp.lines() AS l LIMIT 2 \gexec
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines();
SELECT l FROM pg_temp.lines() AS l LIMIT 3 \gexec
UPDATE pg_index SET indisvalid = false WHERE indrelid = 'leaf'::regclass OR indrelid = 'index_advice_parts.leaf'::regclass;
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
SELECT * FROM pg_temp.indexes('tree');
-- A longer index makes that of the whole tree useless.
CREATE INDEX tree_longer ON tree ("The Tenant", id);
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
DROP TABLE tree;

-- Partitions of one tenant each need no index for that; those of several, or of all others, do.
CREATE TABLE listed (tenant_id text, id bigint, body text) PARTITION BY LIST (tenant_id);
CREATE TABLE listed_1 PARTITION OF listed FOR VALUES IN ('tenant-1');
CREATE TABLE listed_2 PARTITION OF listed FOR VALUES IN ('it''s, two');
CREATE TABLE listed_34 PARTITION OF listed FOR VALUES IN ('tenant-3', 'tenant-4');
INSERT INTO listed SELECT 'tenant-1', n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
SELECT tenancy.protect('listed', create_index => false);
VACUUM ANALYZE listed;
SELECT * FROM pg_temp.advice();
INSERT INTO listed SELECT 'tenant-' || 3 + n % 2, n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
VACUUM ANALYZE listed;
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
DROP TABLE listed;

-- A foreign partition has no index.
CREATE FOREIGN DATA WRAPPER regress_index_advice;
CREATE SERVER regress_index_advice FOREIGN DATA WRAPPER regress_index_advice;
CREATE TABLE far (tenant_id text, id bigint, body text) PARTITION BY RANGE (id);
CREATE TABLE near PARTITION OF far FOR VALUES FROM (0) TO (5000);
INSERT INTO near SELECT 'tenant-' || n % 10, n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
SELECT tenancy.protect('far', create_index => false);
CREATE FOREIGN TABLE farther PARTITION OF far FOR VALUES FROM (5000) TO (6000) SERVER regress_index_advice;
VACUUM ANALYZE near;
SELECT pg_temp.lines();
CREATE INDEX never ON ONLY far (tenant_id);
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
SELECT * FROM pg_temp.indexes('far');
DROP TABLE far;
DROP FOREIGN DATA WRAPPER regress_index_advice CASCADE;

-- Children by inheritance are tables of their own.
CREATE TABLE mother (tenant_id text, id bigint, body text);
CREATE TABLE child () INHERITS (mother);
INSERT INTO child SELECT 'tenant-' || n % 10, n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
SELECT tenancy.protect('mother', create_index => false);
VACUUM ANALYZE mother, child;
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
DROP TABLE mother, child;

-- Names: of 63 bytes, of letters of several bytes, with everything in them; and taken ones, by a table and by one another.
CREATE TABLE a_name_of_a_table_that_is_so_long_that_no_more_can_be_added_to_ (tenant_id text, id bigint, body text);
CREATE TABLE "naïve ""Größe"" 'x'\; DROP TABLE y; --" ("t "" 't" text, id bigint, body text);
CREATE TABLE taken (tenant_id text, id bigint, body text);
CREATE VIEW tenancy_taken_tenant_id AS SELECT 1;
CREATE TABLE same ("b_c" text, id bigint, body text);
CREATE TABLE same_b (c text, id bigint, body text);
INSERT INTO a_name_of_a_table_that_is_so_long_that_no_more_can_be_added_to_ SELECT 'tenant-' || n % 10, n, repeat('x', 1450) FROM generate_series(1, 1000) AS n;
INSERT INTO "naïve ""Größe"" 'x'\; DROP TABLE y; --" TABLE a_name_of_a_table_that_is_so_long_that_no_more_can_be_added_to_;
INSERT INTO taken TABLE a_name_of_a_table_that_is_so_long_that_no_more_can_be_added_to_;
INSERT INTO same TABLE taken;
INSERT INTO same_b TABLE taken;
SELECT count(tenancy.protect(c.oid, tenant_column => (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = 1), create_index => false))
FROM pg_class c WHERE c.relnamespace = '"Index Advice"'::regnamespace AND c.relkind = 'r';
SELECT format('VACUUM ANALYZE %s', c.oid::regclass) FROM pg_class c WHERE c.relnamespace = '"Index Advice"'::regnamespace AND c.relkind = 'r' ORDER BY c.oid
\gexec
SELECT relation, advice FROM pg_temp.advice();
SELECT pg_temp.shown();
\set ECHO none
SELECT pg_temp.lines() \gexec
\set ECHO all
SELECT * FROM pg_temp.advice();

-- What a REINDEX CONCURRENTLY or CREATE INDEX CONCURRENTLY leaves that was interrupted.
CREATE UNIQUE INDEX taken_id ON taken (id);
CREATE INDEX taken_body_ccnew ON taken (id, tenant_id);
UPDATE pg_index SET indisvalid = false WHERE indrelid = 'taken'::regclass AND indexrelid <> 'taken_id'::regclass;
SELECT * FROM pg_temp.advice();
SELECT pg_temp.shown();
\set ECHO none
SELECT pg_temp.lines() \gexec
\set ECHO all
SELECT * FROM pg_temp.advice();
-- A name of several lines does not become lines.
DO $$ BEGIN
    EXECUTE format('CREATE TABLE %I AS TABLE same', E'a\n; SELECT ''never''; --');
    EXECUTE format('CREATE INDEX %I ON same (b_c, id)', E'b\n; SELECT ''never''; --');
    PERFORM tenancy.protect(format('%I', E'a\n; SELECT ''never''; --')::regclass, tenant_column => 'b_c', create_index => false);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = format('%I', E'b\n; SELECT ''never''; --')::regclass;
END $$;
SELECT pg_temp.lines();
SELECT pg_temp.lines() \gexec
SET client_min_messages = error;
DROP SCHEMA "Index Advice", index_advice_parts CASCADE;
DELETE FROM _tenancy.tenants WHERE id LIKE 'tenant-_';
