-- Attacks by what the planner makes of a policy together with conditions of the query: by a role that may read and nothing else. Each is
-- made on a hand-made policy first, where it falls.
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT tenancy.create_tenant('00000000-0000-4000-8000-00000000000a'), tenancy.create_tenant('00000000-0000-4000-8000-00000000000b'),
       tenancy.create_tenant('1001'), tenancy.create_tenant('1002');

-- Tables with a tenant column of each type: by hand, and ours; partitioned, and with a child.
CREATE FUNCTION make(name text, type text, own text, other text, more text DEFAULT '') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['hand_' || name, 'ours_' || name] LOOP
        EXECUTE format('CREATE TABLE %I (id integer NOT NULL, tenant_id %s NOT NULL, item text, tags integer[]) %s', relation, type, more);
        IF name = 'parts' THEN
            EXECUTE format('CREATE TABLE %1$s_1 PARTITION OF %1$I FOR VALUES IN (1); CREATE TABLE %1$s_2 PARTITION OF %1$I FOR VALUES IN (0)', relation);
        ELSIF name = 'child' THEN
            EXECUTE format('CREATE TABLE %1$s_1 () INHERITS (%1$I)', relation);
        END IF;
        EXECUTE format('INSERT INTO %I SELECT n, (ARRAY[%L, %L])[1 + n %% 2]::%s, ''item '' || n, CASE n %% 2 WHEN 1 THEN ARRAY[n] ELSE ARRAY[n, n] END FROM generate_series(1, 40) AS n',
                       CASE name WHEN 'child' THEN relation || '_1' ELSE relation END, own, other, type);
    END LOOP;
    EXECUTE format('ALTER TABLE hand_%1$s ENABLE ROW LEVEL SECURITY;
                    CREATE POLICY isolation ON hand_%1$s USING (tenant_id = current_setting(''tenancy.tenant_id'')::%2$s)', name, type);
    PERFORM tenancy.protect(('ours_' || name)::regclass);
    EXECUTE format('GRANT SELECT, UPDATE, DELETE ON hand_%1$s, ours_%1$s TO regress_app', name);
    EXECUTE format('ANALYZE hand_%1$s, ours_%1$s', name);
END
$$;
SELECT make('text', 'text', 'acme', 'beta'), make('varchar', 'varchar(40)', 'acme', 'beta'),
       make('uuid', 'uuid', '00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000b'),
       make('bigint', 'bigint', '1001', '1002'), make('integer', 'integer', '1001', '1002'),
       make('parts', 'text', 'acme', 'beta', 'PARTITION BY LIST ((id / 2 % 2))'), make('child', 'text', 'acme', 'beta');
-- A view that runs as its caller, and one more level of query.
CREATE VIEW hand_view WITH (security_invoker) AS SELECT * FROM hand_text;
CREATE VIEW ours_view WITH (security_invoker) AS SELECT * FROM ours_text;
CREATE VIEW hand_text_ids AS SELECT id FROM hand_text;
CREATE VIEW ours_text_ids AS SELECT id FROM ours_text;
GRANT SELECT ON hand_view, ours_view, hand_text_ids, ours_text_ids TO regress_app;
CREATE TABLE kinds (tenant text, kind text);
INSERT INTO kinds VALUES ('acme', 'a'), ('beta', 'b');
GRANT SELECT ON kinds TO regress_app;
-- Kept from the planner's other ways.
CREATE INDEX ON hand_text (item);
CREATE INDEX ON ours_text (item);
CREATE UNIQUE INDEX ON hand_text (id);
CREATE UNIQUE INDEX ON ours_text (id);
SET ROLE regress_app;

-- A value that is the tenant when the plan is started, and another when rows are read. Returns how many rows are not the tenant's.
CREATE FUNCTION pg_temp.foreign_rows(query text, relation text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    own text := current_setting('tenancy.tenant_id');
    result bigint;
BEGIN
    PERFORM set_config('my.tenant', own, false);
    EXECUTE format('SELECT count(*) FROM (' || query || ') AS q WHERE q.tenant_id::text <> $1', relation,
                   CASE WHEN relation ~ '(uuid|bigint|integer)$' THEN '::' || substr(relation, 6) ELSE '' END)
        INTO result USING own;
    RETURN result;
END
$$;
CREATE FUNCTION pg_temp.try(query text, name text) RETURNS TABLE (by_hand boolean, ours bigint) LANGUAGE sql VOLATILE AS $$
    SELECT pg_temp.foreign_rows(query, 'hand_' || name) > 0, pg_temp.foreign_rows(query, 'ours_' || name)
$$;
\set flip 'tenant_id = current_setting(''my.tenant'')%2$s AND set_config(''my.tenant'', current_setting(''my.other''), false) IS NOT NULL'
SELECT format('SELECT tenant_id FROM %%1$s WHERE %s OFFSET 0', :'flip') AS plain \gset
SET tenancy.tenant_id = 'acme';
SET my.other = 'beta';
SELECT * FROM pg_temp.try(:'plain', 'text');
SELECT * FROM pg_temp.try(:'plain', 'varchar');
SELECT * FROM pg_temp.try(:'plain', 'parts');
SELECT * FROM pg_temp.try(:'plain', 'child');
SELECT * FROM pg_temp.try(:'plain', 'view');
SET tenancy.tenant_id = '00000000-0000-4000-8000-00000000000a';
SET my.other = '00000000-0000-4000-8000-00000000000b';
SELECT * FROM pg_temp.try(:'plain', 'uuid');
SET tenancy.tenant_id = '1001';
SET my.other = '1002';
SELECT * FROM pg_temp.try(:'plain', 'bigint');
SELECT * FROM pg_temp.try(:'plain', 'integer');
SET tenancy.tenant_id = 'acme';
SET my.other = 'beta';
-- By way of another table, of a query inside, of a join, and of a union.
SELECT * FROM pg_temp.try(format('SELECT h.tenant_id FROM %%1$s h JOIN kinds k ON k.tenant = h.tenant_id WHERE k.tenant = current_setting(''my.tenant'') AND %s OFFSET 0',
    replace(:'flip', 'tenant_id = current', 'h.tenant_id = current')), 'text');
SELECT * FROM pg_temp.try(format('SELECT h.tenant_id FROM %%1$s h, (SELECT current_setting(''my.tenant'') AS t) s WHERE h.tenant_id = s.t AND %s OFFSET 0',
    replace(:'flip', 'tenant_id = current', 's.t = current')), 'text');
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT * FROM pg_temp.try(format('SELECT h.tenant_id FROM %%1$s h JOIN %%1$s i ON i.tenant_id = h.tenant_id AND i.id = h.id WHERE %s OFFSET 0',
    replace(:'flip', 'tenant_id = current', 'h.tenant_id = current')), 'text');
RESET enable_hashjoin;
RESET enable_mergejoin;
-- By way of a view of somebody whom policies do not bind: 18 makes one table of both.
SET enable_nestloop = off;
SELECT * FROM pg_temp.try('SELECT h.tenant_id FROM %1$s_ids v JOIN %1$s h ON h.id = v.id
    WHERE h.tenant_id = current_setting(''my.tenant'') AND set_config(''my.tenant'', left(''beta'', h.id + 4), false) IS NOT NULL OFFSET 0', 'text');
RESET enable_nestloop;
SELECT * FROM pg_temp.try(format('SELECT tenant_id FROM %%1$s WHERE %s UNION ALL SELECT tenant_id FROM %%1$s WHERE false OFFSET 0', :'flip'), 'text');
-- By a function that is declared STABLE and is not.
CREATE TEMP SEQUENCE calls;
CREATE FUNCTION pg_temp.lie() RETURNS text STABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE WHEN nextval('pg_temp.calls') <= 2 THEN 'acme' ELSE 'beta' END;
END
$$;
SELECT count(*) FROM hand_text WHERE tenant_id = pg_temp.lie() AND item > '';
SELECT setval('pg_temp.calls', 1, false);
SELECT tenant_id, count(*) FROM ours_text WHERE tenant_id = pg_temp.lie() AND item > '' GROUP BY 1;
-- Rows that are written.
BEGIN;
SELECT set_config('my.tenant', 'acme', true);
DELETE FROM hand_text WHERE tenant_id = current_setting('my.tenant') AND set_config('my.tenant', 'beta', true) IS NOT NULL;
SELECT set_config('my.tenant', 'acme', true);
DELETE FROM ours_text WHERE tenant_id = current_setting('my.tenant') AND set_config('my.tenant', 'beta', true) IS NOT NULL;
RESET ROLE;
SELECT (SELECT count(*) FROM hand_text WHERE tenant_id = 'beta') AS hand, (SELECT count(*) FROM ours_text WHERE tenant_id = 'beta') AS ours;
ROLLBACK;
-- A plan that is made once, for whatever value.
SET ROLE regress_app;
SET plan_cache_mode = force_generic_plan;
PREPARE by_hand (text) AS SELECT count(*) FROM hand_text WHERE tenant_id = $1 || current_setting('my.tenant') AND set_config('my.tenant', 'beta', false) IS NOT NULL;
PREPARE of_ours (text) AS SELECT count(*) FILTER (WHERE tenant_id <> 'acme') FROM ours_text WHERE tenant_id = $1 || current_setting('my.tenant') AND set_config('my.tenant', 'beta', false) IS NOT NULL;
SELECT set_config('my.tenant', 'acme', false);
EXECUTE by_hand ('');
SELECT set_config('my.tenant', 'acme', false);
EXECUTE of_ours ('');
RESET plan_cache_mode;
-- What an application writes is as fast as before: the policy's comparison is there once, and is the index condition.
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM ours_text WHERE tenant_id = 'acme';
EXPLAIN (COSTS OFF) SELECT * FROM ours_text WHERE tenant_id = tenancy.current_tenant() AND id = 4;
EXPLAIN (COSTS OFF) SELECT * FROM ours_text WHERE tenant_id = current_setting('my.tenant') AND id = 4;
RESET enable_seqscan;

-- A condition that is cheap, and whose functions are given no column, comes before the policies: what it does tells that another tenant has a row
-- of which the conditions before it are true.
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM hand_text WHERE item >= 'item 3' AND item <= 'item 3' AND pg_try_advisory_lock(4711);
SELECT count(*) AS told FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711;
SELECT pg_advisory_unlock_all();
SELECT count(*) FROM ours_text WHERE item >= 'item 3' AND item <= 'item 3' AND pg_try_advisory_lock(4711);
SELECT count(*) AS told FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711;
CREATE FUNCTION pg_temp.hit() RETURNS text VOLATILE COST 0.0001 LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'there is a row'; RETURN 'item 3'; END$$;
SELECT count(*) FROM hand_text WHERE item = 'item 3' AND item = pg_temp.hit();
SELECT count(*) FROM ours_text WHERE item = 'item 3' AND item = pg_temp.hit();
SELECT count(*) FROM ours_text WHERE item = 'item 4' AND item = pg_temp.hit();           -- its own
CREATE TEMP SEQUENCE asked;
SELECT count(*) FROM hand_text WHERE item = 'item 3' AND id = (SELECT nextval('pg_temp.asked'));
SELECT is_called AS told FROM pg_temp.asked;
SELECT setval('pg_temp.asked', 1, false);
SELECT count(*) FROM ours_text WHERE item = 'item 3' AND id = (SELECT nextval('pg_temp.asked'));
SELECT is_called AS told FROM pg_temp.asked;
-- The same by what has taken the place of the policy's comparison.
CREATE FUNCTION pg_temp.acme() RETURNS text STABLE COST 0.0001 LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('pg_temp.asked'); RETURN 'acme'; END$$;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM hand_text WHERE item >= 'item 3' AND item <= 'item 3' AND tenant_id = pg_temp.acme();
SELECT last_value > 101 AS told FROM pg_temp.asked;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM ours_text WHERE item >= 'item 3' AND item <= 'item 3' AND tenant_id = pg_temp.acme();
SELECT last_value > 101 AS told FROM pg_temp.asked;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM ours_text WHERE tenant_id = pg_temp.acme();
SELECT last_value < 125 AS of_its_own FROM pg_temp.asked;
EXPLAIN (COSTS OFF) SELECT * FROM ours_text WHERE item >= 'item 3' AND item <= 'item 3' AND tenant_id = pg_temp.acme();
EXPLAIN (COSTS OFF) SELECT * FROM ours_parts WHERE item >= 'item 3' AND item <= 'item 3' AND tenant_id = pg_temp.acme();
-- A policy of the owner's, which is displaced in the same way, stays.
RESET ROLE;
CREATE FUNCTION of_owner() RETURNS text STABLE LANGUAGE sql SET search_path = pg_catalog AS 'SELECT ''acme''::text';
CREATE POLICY a_first ON ours_text AS RESTRICTIVE USING (tenant_id = public.of_owner());
SET ROLE regress_app;
EXPLAIN (COSTS OFF) SELECT * FROM ours_text WHERE item >= 'item 3' AND tenant_id = pg_temp.acme();
RESET ROLE;
DROP POLICY a_first ON ours_text;
DROP FUNCTION of_owner();
SET ROLE regress_app;
-- In a partition, a child, and a join that looks each row up by a value of the other table's.
SELECT count(*) FROM hand_parts WHERE item = 'item 3' AND item = pg_temp.hit();
SELECT count(*) FROM ours_parts WHERE item = 'item 3' AND item = pg_temp.hit();
SELECT count(*) FROM ours_child WHERE item = 'item 3' AND item = pg_temp.hit();
RESET enable_indexscan;
RESET enable_bitmapscan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
CREATE FUNCTION pg_temp.quiet_hit(integer) RETURNS integer STABLE COST 0.0001 LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('pg_temp.asked'); RETURN $1; END$$;
-- How often it is called, while the query is planned as well.
CREATE FUNCTION pg_temp.asked_for(relation text, item text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM setval('pg_temp.asked', 1000, false);
    EXECUTE format('SELECT count(*) FROM (VALUES (%L, NULL::integer), (''none'', NULL)) AS o (x, b)
                    JOIN %s h ON h.item = o.x AND h.id = CASE WHEN o.b IS NULL THEN pg_temp.quiet_hit(3) ELSE o.b END', item, relation);
    RETURN (SELECT last_value FROM pg_temp.asked);
END
$$;
RESET ROLE;
DROP INDEX hand_text_id_idx, ours_text_id_idx, tenancy_ours_text_tenant;
CREATE INDEX ON hand_child_1 (item); CREATE INDEX ON ours_child_1 (item); CREATE INDEX ON ours_parts (item); CREATE INDEX ON hand_parts (item);
SET ROLE regress_app;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT relation, pg_temp.asked_for(relation, 'item 3') > pg_temp.asked_for(relation, 'nowhere') AS told
FROM unnest('{hand_text,hand_parts,ours_text,ours_parts,ours_child}'::text[]) AS relation;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;
RESET enable_seqscan;
-- By an outer join, whose other side says what the tenant is equal to.
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM hand_text o LEFT JOIN hand_text t ON t.tenant_id = o.tenant_id AND t.item >= 'item 3' AND t.item <= 'item 3' WHERE o.tenant_id = pg_temp.acme() AND o.id = 2;
SELECT last_value AS asked FROM pg_temp.asked \gset
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM hand_text o LEFT JOIN hand_text t ON t.tenant_id = o.tenant_id AND t.item >= 'none' AND t.item <= 'none' WHERE o.tenant_id = pg_temp.acme() AND o.id = 2;
SELECT last_value <> :asked AS told FROM pg_temp.asked;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM ours_text o LEFT JOIN ours_text t ON t.tenant_id = o.tenant_id AND t.item >= 'item 3' AND t.item <= 'item 3' WHERE o.tenant_id = pg_temp.acme() AND o.id = 2;
SELECT last_value AS asked FROM pg_temp.asked \gset
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM ours_text o LEFT JOIN ours_text t ON t.tenant_id = o.tenant_id AND t.item >= 'none' AND t.item <= 'none' WHERE o.tenant_id = pg_temp.acme() AND o.id = 2;
SELECT last_value = :asked AS as_often_where_there_is_none FROM pg_temp.asked;
-- Where tables are put together, each has policies of its own.
CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$BEGIN RAISE WARNING 'told %', $1; RETURN true; END$$;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM (SELECT * FROM hand_text UNION ALL SELECT * FROM hand_parts UNION ALL SELECT * FROM hand_child) u WHERE item = 'item 3' AND id = (SELECT nextval('pg_temp.asked'));
SELECT is_called AS told FROM pg_temp.asked;
SELECT setval('pg_temp.asked', 100, false);
SELECT count(*) FROM (SELECT * FROM ours_text UNION ALL SELECT * FROM ours_parts UNION ALL SELECT * FROM ours_child) u WHERE item = 'item 3' AND id = (SELECT nextval('pg_temp.asked'));
SELECT is_called AS told FROM pg_temp.asked;
SELECT count(*) FROM (SELECT * FROM ours_text UNION ALL SELECT * FROM ours_parts UNION ALL SELECT * FROM ours_child) u WHERE item IN ('item 3', 'item 4') AND pg_temp.tell(item) AND id = pg_temp.quiet_hit(4);
SET my.tenant = 'acme';
SELECT count(*) FILTER (WHERE tenant_id <> 'acme') FROM (SELECT * FROM ours_text UNION ALL SELECT * FROM ours_parts) u
    WHERE tenant_id = current_setting('my.tenant') AND set_config('my.tenant', 'beta', false) IS NOT NULL;
SET my.tenant = 'acme';
-- What a view asks that is written through stands among the policies.
CREATE TEMP VIEW hand_through WITH (security_barrier) AS SELECT * FROM hand_text WHERE item = 'item 3' AND item = pg_temp.hit();
CREATE TEMP VIEW ours_through WITH (security_barrier) AS SELECT * FROM ours_text WHERE item = 'item 3' AND item = pg_temp.hit();
DELETE FROM hand_through;
DELETE FROM ours_through;
CREATE TEMP VIEW hand_acme WITH (security_barrier) AS SELECT * FROM hand_text WHERE item = 'item 3' AND tenant_id = pg_temp.acme();
SELECT setval('pg_temp.asked', 100, false);
DELETE FROM hand_acme;
SELECT last_value AS asked FROM pg_temp.asked \gset
CREATE OR REPLACE TEMP VIEW hand_acme WITH (security_barrier) AS SELECT * FROM hand_text WHERE item = 'none' AND tenant_id = pg_temp.acme();
SELECT setval('pg_temp.asked', 100, false);
DELETE FROM hand_acme;
SELECT last_value <> :asked AS told FROM pg_temp.asked;
CREATE TEMP VIEW ours_acme WITH (security_barrier) AS SELECT * FROM ours_text WHERE item = 'item 3' AND tenant_id = pg_temp.acme();
SELECT setval('pg_temp.asked', 100, false);
DELETE FROM ours_acme;
SELECT last_value AS asked FROM pg_temp.asked \gset
CREATE OR REPLACE TEMP VIEW ours_acme WITH (security_barrier) AS SELECT * FROM ours_text WHERE item = 'none' AND tenant_id = pg_temp.acme();
SELECT setval('pg_temp.asked', 100, false);
DELETE FROM ours_acme;
SELECT last_value = :asked AS as_often_where_there_is_none FROM pg_temp.asked;
-- Texts of two collations, which cannot be compared: an error, where there is a row.
SELECT count(*) FROM (SELECT item, item COLLATE "C" AS a, item COLLATE "POSIX" AS b FROM hand_text) q WHERE item >= 'item 3' AND item <= 'item 3' AND a <> b;   -- tells
SELECT count(*) FROM (SELECT item, item COLLATE "C" AS a, item COLLATE "POSIX" AS b FROM ours_text) q WHERE item >= 'item 3' AND item <= 'item 3' AND a <> b;
-- By the functions that policies ask for the tenant with, which raise errors.
SELECT count(*) FROM ours_text WHERE CASE WHEN item = 'item 3' THEN tenancy.current_tenant_uuid() IS NOT NULL ELSE false END;
SELECT count(*) FROM ours_text WHERE CASE WHEN item = 'item 4' THEN tenancy.current_tenant_uuid() IS NOT NULL ELSE false END;   -- SHOULD FAIL: its own row
-- By what raises errors and is no function: arrays of other dimensions.
SELECT count(*) FROM hand_text WHERE ARRAY[tags, '{1,2}'::integer[]] IS NOT NULL;                                                     -- tells
SELECT count(*) FROM ours_text WHERE ARRAY[tags, '{1,2}'::integer[]] IS NOT NULL;
-- In the alternatives of an OR, which each have an index.
RESET enable_indexscan;
RESET enable_bitmapscan;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM ours_text WHERE item = 'item 3' AND id = pg_temp.quiet_hit(3) AND lower(item) = 'item 3' OR item = 'zzz';
RESET enable_seqscan;
-- A query that looks a row up by a function's value still has its index, and still runs where nothing else was kept.
RESET ROLE;
RESET tenancy.tenant_id;
CREATE TABLE ours_large AS SELECT n AS id, (ARRAY['acme', 'beta'])[1 + n % 2] AS tenant_id, point(n, n) AS place, n % 100 AS part FROM generate_series(1, 20000) AS n;
CREATE INDEX ON ours_large (id);
CREATE INDEX ON ours_large USING gist (place);
SELECT tenancy.protect('ours_large');
GRANT SELECT ON ours_large TO regress_app;
ANALYZE ours_large;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
CREATE FUNCTION pg_temp.looked_up() RETURNS integer STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 4; END';
CREATE FUNCTION pg_temp.here() RETURNS point STABLE LANGUAGE plpgsql AS 'BEGIN RETURN point(4, 4); END';
EXPLAIN (COSTS OFF) SELECT * FROM ours_large WHERE id = pg_temp.looked_up();
SELECT id FROM ours_large WHERE id = pg_temp.looked_up();
SELECT id FROM ours_large ORDER BY place <-> pg_temp.here() LIMIT 1;
SELECT id FROM ours_large WHERE place <@ box(pg_temp.here(), pg_temp.here());
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SELECT id FROM ours_large WHERE id = pg_temp.looked_up();
RESET enable_indexscan;
RESET enable_indexonlyscan;

-- Views that stand in front of the extension's own tables, which are under no policy.
RESET ROLE;
RESET tenancy.tenant_id;
CREATE VIEW hand_barrier WITH (security_barrier) AS SELECT * FROM kinds WHERE tenant = (SELECT current_setting('tenancy.tenant_id'));
GRANT SELECT ON hand_barrier TO regress_app;
SELECT tenancy.add_user('planner-' || n, 'planner' || n || '@example.com') FROM generate_series(1, 2) n;
SELECT tenancy.add_member('acme', 'planner-1', 'viewer'), tenancy.add_member('beta', 'planner-2', 'viewer');
SELECT tenancy.set_quota(t, 'planned', 10) FROM unnest('{acme,beta}'::text[]) t;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SELECT tenancy.track_usage('planned', 1), tenancy.record_metric('planned', '{}', 1); COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; SELECT tenancy.track_usage('planned', 1), tenancy.record_metric('planned', '{}', 1); COMMIT;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT pg_temp.foreign_rows('SELECT tenant AS tenant_id FROM hand_barrier WHERE tenant = current_setting(''my.tenant'') AND set_config(''my.tenant'', ''beta'', false) IS NOT NULL OFFSET 0', '') > 0 AS by_hand;
SELECT v, pg_temp.foreign_rows(format('SELECT tenant_id FROM %s WHERE tenant_id = current_setting(''my.tenant'') AND set_config(''my.tenant'', ''beta'', false) IS NOT NULL OFFSET 0', v), '')
FROM unnest('{members,quota_status,usage_records,usage_hourly,usage_daily,metric_values,audit_log}'::text[]) n, format('tenancy.%s', n) v;
SET my.tenant = 'acme';
SELECT count(*) FROM hand_barrier WHERE kind >= 'b' AND kind <= 'b' AND pg_try_advisory_lock(4712);
SELECT count(*) FROM tenancy.members WHERE user_id >= 'planner-2' AND user_id <= 'planner-2' AND pg_try_advisory_lock(4713);
SELECT count(*) FROM tenancy.quota_status WHERE resource >= 'planned' AND resource <= 'planned' AND tenant_id >= 'beta' AND pg_try_advisory_lock(4714);
SELECT count(*) FROM tenancy.usage_hourly WHERE resource >= 'planned' AND resource <= 'planned' AND tenant_id >= 'beta' AND pg_try_advisory_lock(4715);
SELECT count(*) FROM tenancy.metric_values WHERE name >= 'planned' AND name <= 'planned' AND tenant_id >= 'beta' AND pg_try_advisory_lock(4716);
SELECT count(*) FROM tenancy.usage_records WHERE resource >= 'planned' AND resource <= 'planned' AND tenant_id >= 'beta' AND pg_try_advisory_lock(4717);
SELECT objid AS told FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid > 4711 ORDER BY 1;
RESET ROLE;
RESET tenancy.tenant_id;
DROP VIEW hand_barrier;
SELECT tenancy.remove_member('acme', 'planner-1'), tenancy.remove_member('beta', 'planner-2'), tenancy.remove_user('planner-1'), tenancy.remove_user('planner-2');
SELECT tenancy.remove_quota('tenant', t, 'planned') FROM unnest('{acme,beta}'::text[]) t;
RESET ROLE;
RESET ALL;
DROP VIEW hand_view, ours_view, hand_text_ids, ours_text_ids;
DROP TABLE ours_large, hand_text, hand_varchar, hand_uuid, hand_bigint, hand_integer, hand_parts, hand_child, ours_text, ours_varchar, ours_uuid,
    ours_bigint, ours_integer, ours_parts, ours_child, kinds CASCADE;
DROP FUNCTION make(text, text, text, text, text);
DELETE FROM _tenancy.tenants WHERE id IN ('00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000b', '1001', '1002');
