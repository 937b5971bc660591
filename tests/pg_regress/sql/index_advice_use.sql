-- index_advice(): what PostgreSQL has counted. Columns that rows are sorted by, indexes that isolation makes useless, and plans before and after.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA index_advice_use;
GRANT USAGE ON SCHEMA index_advice_use TO regress_app;
SET search_path = index_advice_use, public;
CREATE FUNCTION pg_temp.advice(the_tables text DEFAULT '') RETURNS TABLE (relation regclass, advice text, priority text, reason text) LANGUAGE sql AS $$
    SELECT a.relation, a.advice, a.priority, regexp_replace(regexp_replace(a.reason, '\d+ kB|\d+ times|once', '...', 'g'), 'since \S+ \S+:', 'since ...:')
    FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace WHERE a.relation::text ~ the_tables ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C" $$;
CREATE FUNCTION pg_temp.lines(the_tables text DEFAULT '', the_advice text DEFAULT '') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.line FROM tenancy.index_advice(unused_for => '0') a JOIN pg_class c ON c.oid = a.relation AND c.relnamespace = quote_ident(current_schema())::regnamespace,
         string_to_table(a.statement, E'\n') WITH ORDINALITY AS s(line, place)
    WHERE a.relation::text ~ the_tables AND a.advice ~ the_advice ORDER BY a.relation::text COLLATE "C", a.advice COLLATE "C", a.statement COLLATE "C", s.place $$;
-- Twenty scans of an index, each of so many entries.
CREATE FUNCTION pg_temp.scan(the_table text, the_condition text) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    FOR n IN 1..20 LOOP
        EXECUTE format('SELECT count(body) FROM %s WHERE %s', the_table, the_condition);
    END LOOP;
    PERFORM pg_stat_force_next_flush();
END $$;
DO $$ BEGIN PERFORM tenancy.create_tenant('tenant-' || n) FROM generate_series(0, 9) AS n WHERE NOT EXISTS (SELECT FROM tenancy.tenants t WHERE t.id = 'tenant-' || n); END $$;

-- Twelve thousand rows of ten tenants, 100 bytes each. sort_used has an index on at that much is read of; the others are twins of which
-- something is otherwise.
CREATE TABLE sort_used (tenant_id text, id bigint PRIMARY KEY, at timestamptz, n integer, word text, body text);
INSERT INTO sort_used SELECT 'tenant-' || n % 10, n, '2026-01-01'::timestamptz + n * 7919 % 12000 * interval '1 minute', n % 7, 'word' || n, repeat('x', 100) FROM generate_series(1, 12000) AS n;
SELECT format('CREATE TABLE sort_%s (LIKE sort_used INCLUDING INDEXES); INSERT INTO sort_%1$s TABLE sort_used', name)
FROM unnest('{unused,little,covered,longer,word,few,shared,options,partial,key,brin,reference}'::text[]) AS name
\gexec
UPDATE sort_few SET tenant_id = 'tenant-1';
VACUUM FULL sort_few;
CREATE INDEX ON sort_used (at);
CREATE INDEX ON sort_unused (at);
CREATE INDEX ON sort_little (at);
CREATE INDEX ON sort_covered (at);
CREATE INDEX ON sort_covered (tenant_id, at);
CREATE INDEX ON sort_longer (at);
CREATE INDEX ON sort_longer (tenant_id, n, at DESC);
CREATE INDEX ON sort_word (word);
CREATE INDEX ON sort_few (at);
CREATE INDEX ON sort_shared (at);
CREATE INDEX sort_options_at ON sort_options (at DESC NULLS LAST) INCLUDE (n) WITH (fillfactor = 70);
CREATE INDEX sort_partial_at ON sort_partial (at) WHERE n > 2;
CREATE INDEX ON sort_brin USING brin (at);
CREATE TABLE sort_times (at timestamptz PRIMARY KEY);
INSERT INTO sort_times SELECT at FROM sort_reference;
ALTER TABLE sort_reference ADD FOREIGN KEY (at) REFERENCES sort_times;
CREATE INDEX ON sort_reference (at);                           -- is for the check
SELECT count(tenancy.protect(c.oid, CASE c.relname WHEN 'sort_shared' THEN 'shared' ELSE 'tenant' END)) FROM pg_class c WHERE c.relnamespace = 'index_advice_use'::regnamespace AND c.relkind = 'r' AND c.relname <> 'sort_times';
SELECT format('VACUUM ANALYZE %s', c.oid::regclass) FROM pg_class c WHERE c.relnamespace = 'index_advice_use'::regnamespace AND c.relkind = 'r' ORDER BY c.oid
\gexec
SELECT count(pg_temp.scan('sort_' || name, 'at >= ''2026-01-05''' || CASE name WHEN 'partial' THEN ' AND n > 2' ELSE '' END))
FROM unnest('{used,covered,longer,few,shared,options,partial,brin,reference}'::text[]) AS name;
SELECT pg_temp.scan('sort_little', 'at = ''2026-01-05'''), pg_temp.scan('sort_word', 'word >= ''word3'''), pg_temp.scan('sort_key', 'id > 3000');
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines('', 'sort');
-- As the tenant, before and after.
CREATE TABLE lead (LIKE sort_used);
INSERT INTO lead SELECT CASE WHEN id % 100 = 3 THEN 'tenant-3' ELSE 'tenant-1' END, id, at, n, word, body FROM sort_used;
SELECT tenancy.protect('lead', create_index => false);
VACUUM ANALYZE lead;
GRANT SELECT ON ALL TABLES IN SCHEMA index_advice_use TO regress_app;
CREATE FUNCTION pg_temp.plan(the_query text) RETURNS SETOF text LANGUAGE plpgsql SET role = regress_app SET tenancy.tenant_id = 'tenant-3' AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || the_query;
END $$;
SELECT pg_temp.plan('SELECT * FROM lead');
SELECT pg_temp.plan('SELECT * FROM sort_used ORDER BY at DESC LIMIT 20');
SELECT pg_temp.plan('SELECT * FROM sort_options ORDER BY at DESC NULLS LAST LIMIT 20');
SELECT pg_temp.plan('SELECT * FROM sort_partial WHERE n > 2 ORDER BY at LIMIT 20');
SELECT pg_temp.lines() \gexec
SELECT pg_temp.plan('SELECT * FROM lead');
SELECT pg_temp.plan('SELECT * FROM sort_used ORDER BY at DESC LIMIT 20');
SELECT pg_temp.plan('SELECT * FROM sort_options ORDER BY at DESC NULLS LAST LIMIT 20');
SELECT pg_temp.plan('SELECT * FROM sort_partial WHERE n > 2 ORDER BY at LIMIT 20');
-- What protect made leads with the tenant alone, and is not needed any more; but where the other is of some rows.
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();

-- An index on at that is not scanned any more beside the new one. What PostgreSQL counted before stays counted, so the statistics begin anew here.
SELECT pg_stat_reset_single_table_counters(c.oid) IS NOT NULL AS reset FROM pg_class c WHERE c.relname = 'sort_used_at_idx';
SELECT pg_temp.scan('sort_used', 'tenant_id = ''tenant-3'' AND at >= ''2026-01-05''');
SELECT * FROM pg_temp.advice();
-- Not if it was seen for less than a week.
SELECT count(*) FROM tenancy.index_advice('sort_used');
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();

-- Indexes that nothing scans, of a table that tenants do read: what keeps an index from being called useless.
CREATE TABLE codes (code integer PRIMARY KEY);
INSERT INTO codes SELECT generate_series(0, 6);
CREATE TABLE spare (tenant_id text, id bigint PRIMARY KEY, n integer REFERENCES codes, a integer, b integer, c integer, d integer, e integer, f integer, g integer, body text);
CREATE INDEX spare_plain ON spare (a);
CREATE INDEX spare_hash ON spare USING hash (b);
CREATE UNIQUE INDEX spare_unique ON spare (c) WHERE c > 1000000000;
CREATE INDEX spare_partial ON spare (d) WHERE d > 0;
CREATE INDEX spare_expression ON spare ((e + 1));
CREATE INDEX spare_foreign_key ON spare (n);
CREATE INDEX spare_brin ON spare USING brin (f);
CREATE INDEX spare_two ON spare (f, g);
CREATE INDEX spare_clustered ON spare (g);
CREATE UNIQUE INDEX spare_replicated ON spare (id);
ALTER TABLE spare CLUSTER ON spare_clustered, REPLICA IDENTITY USING INDEX spare_replicated;
INSERT INTO spare SELECT 'tenant-' || n % 10, n, n % 7, n, n, n, n, n, n, n, repeat('x', 100) FROM generate_series(1, 12000) AS n;
SELECT tenancy.protect('spare');
VACUUM ANALYZE spare;
SELECT * FROM pg_temp.advice();
DO $$
BEGIN
    SET LOCAL enable_seqscan = off;
    FOR n IN 1..1000 LOOP
        PERFORM FROM spare WHERE tenant_id = 'tenant-1' LIMIT 1;
    END LOOP;
END $$;
SELECT pg_stat_force_next_flush();
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();

-- Indexes that begin alike.
CREATE TABLE alike (tenant_id text, id bigint, a integer, b integer, c text, body text);
INSERT INTO alike SELECT 'tenant-' || n % 10, n, n, n, n, repeat('x', 100) FROM generate_series(1, 12000) AS n;
SELECT tenancy.protect('alike', create_index => false);
CREATE INDEX alike_tenant ON alike (tenant_id);
CREATE INDEX alike_a ON alike (tenant_id, a);
CREATE INDEX alike_a_desc ON alike (tenant_id, a DESC);        -- in another order
CREATE INDEX alike_a_again ON alike (tenant_id, a);
CREATE INDEX alike_a_more ON alike (tenant_id, a) INCLUDE (b);
CREATE INDEX alike_a_b ON alike (tenant_id, a, b);
CREATE INDEX alike_c ON alike (tenant_id, c);
CREATE INDEX alike_c_pattern ON alike (tenant_id, c text_pattern_ops, b);   -- for other operators
CREATE INDEX alike_c_collate ON alike (tenant_id, c COLLATE "POSIX", b);
CREATE INDEX alike_partial ON alike (tenant_id) WHERE a > 5;
CREATE UNIQUE INDEX alike_unique ON alike (tenant_id, id);
ALTER TABLE alike ADD CONSTRAINT alike_constraint UNIQUE (tenant_id, id, a);
CREATE INDEX alike_id ON alike (tenant_id, id);
CREATE INDEX alike_expression ON alike (tenant_id, (a + 1));
SELECT * FROM pg_temp.advice();
SELECT pg_temp.lines() \gexec
SELECT * FROM pg_temp.advice();
SELECT relname FROM pg_class WHERE relname ~ '^alike_' ORDER BY 1;
-- An index of some rows, where a policy lets a tenant see no others: it is enough to lead, and for sorting; but not to take the place of a whole one, which
-- checks of foreign keys and whoever goes round policies scan.
CREATE TABLE active (tenant_id text, id bigint, at timestamptz, active boolean NOT NULL DEFAULT true, body text);
INSERT INTO active SELECT tenant_id, id, at, id % 7 > 1, body FROM sort_unused;
CREATE INDEX active_at ON active (at);
CREATE INDEX active_tenant_at ON active (tenant_id, at) WHERE active;
SELECT tenancy.protect('active', create_index => false);
VACUUM ANALYZE active;
SELECT pg_temp.scan('active', 'at >= ''2026-01-05''');
GRANT SELECT ON active TO regress_app;
SELECT * FROM pg_temp.advice() WHERE relation = 'active'::regclass;
CREATE POLICY active_only ON active AS RESTRICTIVE FOR SELECT USING (active);
SELECT * FROM pg_temp.advice() WHERE relation = 'active'::regclass;
SELECT pg_temp.plan('SELECT * FROM active ORDER BY at DESC LIMIT 20');
CREATE INDEX active_tenant ON active (tenant_id);
SELECT * FROM pg_temp.advice() WHERE relation = 'active'::regclass;
ALTER POLICY active_only ON active TO regress_app;             -- of some roles only
DROP INDEX active_tenant;
SELECT * FROM pg_temp.advice() WHERE relation = 'active'::regclass;
SET client_min_messages = error;
DROP SCHEMA index_advice_use CASCADE;
DELETE FROM _tenancy.tenants WHERE id LIKE 'tenant-_';
