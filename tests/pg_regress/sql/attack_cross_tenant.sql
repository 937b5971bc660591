-- Attacks by operators who may cross to acme and beta, and not to gone: one to read, one to write. What each reads and writes of a third
-- tenant, what is written in a scope for reading, and what is not on record.
CREATE TABLE begun AS SELECT clock_timestamp() AS at;
\set VERBOSITY terse
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT tenancy.create_tenant(id) FROM unnest('{7701,7702,99999999999,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'::text[]) AS id;
CREATE TABLE ours (id integer PRIMARY KEY, tenant_id text, body text);
INSERT INTO ours SELECT n, t, 'of ' || t FROM generate_series(1, 9) AS n, LATERAL (SELECT (ARRAY['acme', 'beta', 'gone'])[1 + n % 3]) AS o(t);
CREATE TABLE shared (LIKE ours INCLUDING ALL);
INSERT INTO shared TABLE ours;
INSERT INTO shared VALUES (10, NULL, 'of all');
CREATE TABLE journal (LIKE ours INCLUDING ALL);
INSERT INTO journal TABLE ours;
CREATE TABLE system (id integer PRIMARY KEY, body text);
CREATE TABLE by_varchar (id integer PRIMARY KEY, tenant_id varchar(20) COLLATE "C", body text);
INSERT INTO by_varchar TABLE ours;
CREATE TABLE by_bigint (id integer PRIMARY KEY, tenant_id bigint);
INSERT INTO by_bigint VALUES (1, 7701), (2, 7702), (3, 99999999999);
CREATE TABLE by_integer (id integer PRIMARY KEY, tenant_id integer);
INSERT INTO by_integer VALUES (1, 7701), (2, 7702);
CREATE TABLE by_uuid (id integer PRIMARY KEY, tenant_id uuid);
INSERT INTO by_uuid VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (2, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
CREATE TABLE part (id integer, tenant_id text, body text) PARTITION BY LIST (tenant_id);
CREATE TABLE part_acme PARTITION OF part FOR VALUES IN ('acme');
CREATE TABLE part_gone PARTITION OF part FOR VALUES IN ('gone');
CREATE TABLE part_rest PARTITION OF part DEFAULT;
INSERT INTO part TABLE ours;
CREATE TABLE parent (id integer, tenant_id text, body text);
CREATE TABLE child () INHERITS (parent);
INSERT INTO child TABLE ours;
SELECT tenancy.protect(t) FROM unnest('{ours,by_varchar,by_bigint,by_integer,by_uuid,part,parent}'::regclass[]) AS t;
SELECT tenancy.protect('shared', 'shared'), tenancy.protect('journal', 'audit'), tenancy.protect('system', 'system');
CREATE TABLE plain (body text);
CREATE TABLE hand (LIKE ours INCLUDING ALL);
INSERT INTO hand TABLE ours;
ALTER TABLE hand ENABLE ROW LEVEL SECURITY;

CREATE ROLE regress_reads;
CREATE ROLE regress_writes;
CREATE ROLE regress_other;
GRANT CREATE ON SCHEMA public TO regress_reads;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO regress_reads, regress_writes, regress_other;
SELECT tenancy.grant_cross_tenant('regress_reads', '{acme,beta}', 'infinity'), tenancy.grant_cross_tenant('regress_writes', '{acme,beta}', 'infinity', false);
SELECT tenancy.grant_cross_tenant(role, '{7701,99999999999,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'infinity', role = 'regress_reads')
FROM unnest('{regress_reads,regress_writes}'::name[]) AS role;
RESET client_min_messages;

-- What the attackers can call.
CREATE FUNCTION enter(reason text, tenants text[] DEFAULT '{acme,beta}') RETURNS text LANGUAGE plpgsql AS
    $$BEGIN PERFORM tenancy.begin_cross_tenant(tenants, reason); RETURN 'in'; END$$;
CREATE FUNCTION read_ours() RETURNS text LANGUAGE plpgsql STABLE AS $$BEGIN RETURN string_agg(DISTINCT body, ', ') FROM ours; END$$;
CREATE FUNCTION fold_ours() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN read_ours(); END$$;
CREATE FUNCTION blurt_ours() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION '%', read_ours(); END$$;
CREATE FUNCTION rows_ours() RETURNS SETOF ours LANGUAGE sql STABLE AS 'SELECT * FROM ours';
CREATE FUNCTION atomic_ours() RETURNS SETOF text LANGUAGE sql STABLE BEGIN ATOMIC SELECT body FROM ours; END;
CREATE FUNCTION count_of(t text) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM ours WHERE tenant_id = t';
CREATE FUNCTION fold_count_of(t text) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT count(*) FROM ours WHERE tenant_id = t';
CREATE FUNCTION is_own(t text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT t = tenancy.current_tenant()';
CREATE FUNCTION as_writer() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT enter('of another') || read_ours()$$;
ALTER FUNCTION as_writer() OWNER TO regress_writes;
CREATE FUNCTION as_other() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT read_ours()';
ALTER FUNCTION as_other() OWNER TO regress_other;
CREATE VIEW view_other AS SELECT * FROM ours;
ALTER VIEW view_other OWNER TO regress_other;
CREATE VIEW view_invoker WITH (security_invoker, security_barrier) AS SELECT * FROM ours WHERE body IS NOT NULL WITH CHECK OPTION;
GRANT SELECT, INSERT, UPDATE ON view_other, view_invoker TO regress_reads, regress_writes;
-- What is on record of the scopes that were begun with a reason.
CREATE FUNCTION told(reason text) RETURNS TABLE (operation text, statement text, rows bigint) LANGUAGE sql SECURITY DEFINER AS $$
    SELECT e.operation, e.detail ->> 'statement', (e.detail ->> 'rows')::bigint FROM tenancy.audit_log e
    WHERE e.tenant_id IS NULL AND e.detail ->> 'scope' IN (
        SELECT b.detail ->> 'scope' FROM tenancy.audit_log b WHERE b.operation = 'BEGIN_CROSS_TENANT' AND b.detail ->> 'reason' = told.reason)
    ORDER BY e.recorded_at, e.number$$;

-- The parameter is nobody's to set, and what it said before is no key.
SET ROLE regress_reads;
SET tenancy.cross_tenant = '1 10 900000000000000000 w gone';                              -- SHOULD FAIL
SELECT set_config('tenancy.cross_tenant', '1 10 900000000000000000 w gone', true);        -- SHOULD FAIL
ALTER ROLE regress_reads SET tenancy.cross_tenant = '1 10 900000000000000000 w gone';     -- SHOULD FAIL
CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET tenancy.cross_tenant = '1 10 900000000000000000 w gone' AS 'SELECT read_ours()'; -- SHOULD FAIL
BEGIN; SELECT enter('again'); SELECT set_config('tenancy.cross_tenant', current_setting('tenancy.cross_tenant'), true); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT current_setting('tenancy.cross_tenant') AS scope \gset
ROLLBACK;
SET tenancy.cross_tenant = :'scope';                                                      -- SHOULD FAIL
SELECT _tenancy.in_scope(split_part(:'scope', ' ', 1)::bigint);                           -- SHOULD FAIL
BEGIN; SELECT enter('y'); SELECT _tenancy.in_scope(split_part(:'scope', ' ', 1)::bigint); ROLLBACK;   -- SHOULD FAIL
-- Leaving it by hand leads to no tenant.
CREATE FUNCTION pg_temp.out() RETURNS text LANGUAGE plpgsql SET tenancy.cross_tenant = '' AS $$BEGIN RETURN read_ours(); END$$;
BEGIN; SELECT enter('x'); SELECT pg_temp.out(); ROLLBACK;                                 -- SHOULD FAIL
BEGIN; SELECT enter('x'); RESET ALL; SELECT * FROM ours; ROLLBACK;                        -- SHOULD FAIL
BEGIN; SELECT enter('x'); SET LOCAL tenancy.cross_tenant = DEFAULT; SELECT * FROM ours; ROLLBACK;   -- SHOULD FAIL
BEGIN; SAVEPOINT s; SELECT enter('x'); ROLLBACK TO s; SELECT * FROM ours; ROLLBACK;       -- SHOULD FAIL
BEGIN; SELECT enter('x'); SAVEPOINT s; SELECT tenancy.end_cross_tenant(); ROLLBACK TO s; SELECT read_ours(); ROLLBACK;
BEGIN; SELECT enter('x'); SET ROLE regress_writes; SELECT read_ours(); ROLLBACK;          -- SHOULD FAIL
SET ROLE regress_reads;
-- Tenants that were not granted, under any spelling; a time that is none; a scope in a scope.
SELECT tenancy.begin_cross_tenant('{acme,gone}', 'x');                                    -- SHOULD FAIL
BEGIN; SELECT tenancy.begin_cross_tenant('{*}', 'x') IS NULL AS begun, tenancy.context() #>> '{cross_tenant,tenants}' AS tenants; ROLLBACK;   -- no more than it was granted
SET tenancy.cross_tenant = '0 10 9223372036854775807 w gone';                             -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{{acme,beta},{gone,acme}}', 'x');                      -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme,NULL}', 'x');                                    -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{"acme gone"}', 'x');                                  -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', E' \t\n');                                    -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', 'x', '-1 second');                            -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', 'x', '-100000000 years');                     -- SHOULD FAIL
SELECT tenancy.end_cross_tenant() AS was_in;
BEGIN; SELECT enter('x'); SELECT enter('x', '{acme}'); ROLLBACK;                          -- SHOULD FAIL
-- As another role: that of a function, or a member.
SELECT as_writer();                                                                       -- SHOULD FAIL
SET ROLE regress_other;
SELECT enter('x');                                                                        -- SHOULD FAIL
SET ROLE regress_reads;

-- A third tenant's rows: in each kind and type, addressed directly, through views and functions, planned before the scope.
BEGIN;
PREPARE p AS SELECT string_agg(DISTINCT body, ', ') FROM rows_ours();
SELECT enter('x', '{acme,beta,7701,99999999999,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}');
SELECT 'ours', string_agg(DISTINCT body, ', ') FROM ours
UNION ALL SELECT 'shared', string_agg(DISTINCT body, ', ') FROM shared
UNION ALL SELECT 'journal', string_agg(DISTINCT body, ', ') FROM journal
UNION ALL SELECT 'by_varchar', string_agg(DISTINCT body, ', ') FROM by_varchar
UNION ALL SELECT 'by_bigint', string_agg(tenant_id::text, ', ' ORDER BY id) FROM by_bigint
UNION ALL SELECT 'by_integer', string_agg(tenant_id::text, ', ' ORDER BY id) FROM by_integer
UNION ALL SELECT 'by_uuid', string_agg(tenant_id::text, ', ' ORDER BY id) FROM by_uuid
UNION ALL SELECT 'part', string_agg(DISTINCT body, ', ') FROM part
UNION ALL SELECT 'part_gone', string_agg(DISTINCT body, ', ') FROM part_gone
UNION ALL SELECT 'part_rest', string_agg(DISTINCT body, ', ') FROM part_rest
UNION ALL SELECT 'parent', string_agg(DISTINCT body, ', ') FROM parent
UNION ALL SELECT 'child', string_agg(DISTINCT body, ', ') FROM child
UNION ALL SELECT 'view_other', string_agg(DISTINCT body, ', ') FROM view_other
UNION ALL SELECT 'view_invoker', string_agg(DISTINCT body, ', ') FROM view_invoker
UNION ALL SELECT 'as_other', as_other()
UNION ALL SELECT 'read_ours', read_ours()
UNION ALL SELECT 'fold_ours', fold_ours()
UNION ALL SELECT 'rows_ours', string_agg(DISTINCT body, ', ') FROM rows_ours()
UNION ALL SELECT 'atomic_ours', string_agg(DISTINCT body, ', ') FROM atomic_ours() AS body;
SELECT count_of('beta'), count_of('gone'), fold_count_of('beta'), fold_count_of('gone');
SELECT count(*) FROM rows_ours() WHERE tenant_id = 'gone';
EXECUTE p;
SELECT b.id FROM shared a JOIN LATERAL (SELECT * FROM ours o WHERE o.tenant_id = 'gone' OR a.id = o.id) b ON b.tenant_id NOT IN ('acme', 'beta');
EXPLAIN (COSTS OFF) SELECT * FROM part WHERE tenant_id = 'gone';
COPY (SELECT DISTINCT body FROM ours ORDER BY 1) TO STDOUT;
COMMIT;
-- The same plans, kept: in another scope, and in none.
SET plan_cache_mode = force_generic_plan;
PREPARE q AS SELECT fold_ours(), count(*) FROM ours;
BEGIN; SELECT enter('x', '{beta}'); EXECUTE p; EXECUTE q; COMMIT;
BEGIN; SELECT enter('x', '{acme}'); EXECUTE p; EXECUTE q; COMMIT;
EXECUTE p;                                                                                -- SHOULD FAIL
EXECUTE q;                                                                                -- SHOULD FAIL
SET plan_cache_mode = force_custom_plan;
BEGIN; SELECT enter('x', '{beta}'); EXECUTE p; EXECUTE q; COMMIT;
EXECUTE q;                                                                                -- SHOULD FAIL
RESET plan_cache_mode;
DEALLOCATE ALL;
DO $$
DECLARE
    seen text;
BEGIN
    FOR step IN 1..4 LOOP
        IF step > 1 THEN PERFORM tenancy.end_cross_tenant(); END IF;
        IF step < 4 THEN PERFORM enter('x', CASE step WHEN 1 THEN '{acme,beta}' WHEN 2 THEN '{beta}' ELSE '{acme}' END::text[]); END IF;
        BEGIN
            seen := fold_ours();
            RAISE NOTICE '% % % %', step, seen, count_of('acme'), (SELECT count(*) FROM ours);
        EXCEPTION WHEN object_not_in_prerequisite_state THEN RAISE NOTICE '% %', step, SQLERRM;
        END;
    END LOOP;
END$$;
-- A change of the scope while a statement runs.
BEGIN; SELECT enter('x'); SELECT id, tenancy.end_cross_tenant() FROM ours; ROLLBACK;      -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT read_ours(), tenancy.end_cross_tenant(), enter('x', '{acme}'), read_ours(); ROLLBACK;   -- SHOULD FAIL
-- Cursors across its begin and its end, and past the transaction.
BEGIN; DECLARE c CURSOR FOR SELECT body FROM ours; ROLLBACK;
SET tenancy.missing_tenant = 'empty';
BEGIN; DECLARE c CURSOR FOR SELECT body FROM ours; FETCH 1 FROM c; SELECT enter('x'); FETCH 1 FROM c; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT enter('x'); DECLARE c CURSOR FOR SELECT body FROM ours; SELECT tenancy.end_cross_tenant(); FETCH 1 FROM c; ROLLBACK;   -- SHOULD FAIL
RESET tenancy.missing_tenant;
BEGIN; SELECT enter('x'); DECLARE c CURSOR FOR SELECT id FROM ours ORDER BY id; FETCH 1 FROM c; SELECT tenancy.end_cross_tenant(); FETCH 1 FROM c; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT enter('x'); DECLARE c SCROLL CURSOR FOR SELECT id FROM ours ORDER BY id; FETCH LAST FROM c; SELECT tenancy.end_cross_tenant(); FETCH FIRST FROM c; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT enter('x'); DECLARE c CURSOR FOR SELECT id FROM ours ORDER BY id; FETCH 1 FROM c; SELECT tenancy.end_cross_tenant(); SELECT enter('x', '{acme}'); FETCH 1 FROM c; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT enter('x'); DECLARE c CURSOR WITH HOLD FOR SELECT body FROM ours; ROLLBACK; -- SHOULD FAIL
BEGIN; SELECT enter('x'); DECLARE c CURSOR WITH HOLD FOR SELECT read_ours(); COMMIT;      -- SHOULD FAIL
-- What else asks for the current tenant does not get several.
BEGIN; SELECT enter('x'); SELECT tenancy.current_tenant(); ROLLBACK;                      -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT tenancy.seal(); ROLLBACK;                                -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT * FROM tenancy.members; ROLLBACK;                        -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT * FROM tenancy.quota_status; ROLLBACK;                   -- SHOULD FAIL
BEGIN; SELECT enter('x'); SELECT DISTINCT tenant_id FROM tenancy.audit_log WHERE operation <> 'x' ORDER BY 1; ROLLBACK;
BEGIN; SELECT enter('x'); SELECT tenancy.is_member('ann', 'acme'); ROLLBACK;              -- SHOULD FAIL
RESET ROLE;

-- Policies of users' own.
CREATE FUNCTION try(policy text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN DROP POLICY IF EXISTS p ON hand; EXECUTE 'CREATE POLICY p ON hand USING (' || policy || ')'; END$$;
CREATE FUNCTION see() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = warning;
    PERFORM tenancy.begin_cross_tenant('{acme,beta}', 'x');
    RETURN string_agg(DISTINCT body, ', ') FROM hand;
EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN SQLERRM;
END$$;
SET client_min_messages = warning;
\set by 'SELECT try(:''policy''); SET ROLE regress_reads; SELECT :''policy'' AS policy, see(); RESET ROLE;'
\pset tuples_only on
\set policy 'tenant_id = tenancy.current_tenant()'
:by
\set policy 'tenant_id = tenancy.current_tenant() AND id > 3 OR false'
:by
\set policy 'CASE WHEN tenant_id = tenancy.current_tenant() THEN id > 3 ELSE false END'
:by
\set policy 'tenancy.current_tenant() = tenant_id'
:by
\set policy 'tenant_id = (SELECT tenancy.current_tenant())'
:by
\set policy 'tenant_id IN (SELECT o.tenant_id FROM ours o)'
:by
\set policy 'EXISTS (SELECT FROM ours o WHERE o.tenant_id = hand.tenant_id AND o.tenant_id = tenancy.current_tenant())'
:by
\set policy '(SELECT max(o.tenant_id) FROM ours o WHERE o.tenant_id = hand.tenant_id) = tenancy.current_tenant()'
:by
\set policy 'is_own(tenant_id)'
:by
\set policy 'tenant_id >= tenancy.current_tenant()'
:by
\set policy 'tenant_id <> tenancy.current_tenant()'
:by
\set policy 'tenant_id = ANY (ARRAY[tenancy.current_tenant()])'
:by
\set policy 'tenant_id IS NOT DISTINCT FROM tenancy.current_tenant()'
:by
\set policy 'tenant_id LIKE tenancy.current_tenant() || ''%'''
:by
\pset tuples_only off
RESET client_min_messages;

-- Writing in a scope for reading, by any means.
SET ROLE regress_reads;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'writes', '1 day') IS NOT NULL AS begun;
INSERT INTO ours VALUES (20, 'acme', 'x');                                                -- SHOULD FAIL
UPDATE ours SET body = 'x';                                                               -- SHOULD FAIL
DELETE FROM ours;                                                                         -- SHOULD FAIL
MERGE INTO ours o USING (VALUES (1)) AS v(n) ON o.id = v.n WHEN MATCHED THEN DELETE;      -- SHOULD FAIL
SELECT * FROM ours FOR UPDATE;                                                            -- SHOULD FAIL
INSERT INTO plain SELECT body FROM ours;                                                  -- SHOULD FAIL
WITH w AS (INSERT INTO plain SELECT body FROM ours RETURNING *) SELECT * FROM w;          -- SHOULD FAIL
CREATE TABLE loot AS SELECT * FROM ours;                                                  -- SHOULD FAIL
SELECT * INTO loot FROM ours;                                                             -- SHOULD FAIL
CREATE TEMP TABLE loot (body text);                                                       -- SHOULD FAIL
CREATE MATERIALIZED VIEW loot AS SELECT * FROM ours;                                      -- SHOULD FAIL
EXPLAIN ANALYZE INSERT INTO plain SELECT body FROM ours;                                  -- SHOULD FAIL
PREPARE w AS INSERT INTO plain SELECT body FROM ours; EXECUTE w;                          -- SHOULD FAIL
BEGIN READ WRITE; INSERT INTO plain VALUES ('x'); ROLLBACK;                               -- SHOULD FAIL
BEGIN; SET TRANSACTION READ WRITE; INSERT INTO plain VALUES ('x'); ROLLBACK;              -- SHOULD FAIL
SET default_transaction_read_only = off; INSERT INTO plain VALUES ('x');                  -- SHOULD FAIL
DO $$BEGIN COMMIT; INSERT INTO plain SELECT read_ours(); END$$;                           -- SHOULD FAIL
DO $$BEGIN PERFORM set_config('transaction_read_only', 'off', false); END$$;              -- SHOULD FAIL
DO $$BEGIN BEGIN PERFORM 1; EXCEPTION WHEN others THEN END; INSERT INTO plain SELECT read_ours(); END$$;   -- SHOULD FAIL
SELECT tenancy.end_cross_tenant();
DEALLOCATE w;
-- What writes and what reads are one statement.
INSERT INTO plain SELECT enter('x') || read_ours();                                       -- SHOULD FAIL
CREATE TABLE loot AS SELECT enter('x') || read_ours();                                    -- SHOULD FAIL
-- Or one transaction: it stays read-only, past the end of the scope and of a savepoint.
BEGIN; SELECT enter('x'); SELECT tenancy.end_cross_tenant(); INSERT INTO plain VALUES ('x'); ROLLBACK;   -- SHOULD FAIL
BEGIN; SAVEPOINT s; SELECT enter('x'); SELECT read_ours() AS loot \gset
SELECT tenancy.end_cross_tenant(); RELEASE s; INSERT INTO plain VALUES (:'loot') RETURNING *; ROLLBACK;   -- SHOULD FAIL
BEGIN; SAVEPOINT s; SELECT enter('x'); SELECT read_ours() AS loot \gset
ROLLBACK TO s; INSERT INTO plain VALUES (:'loot') RETURNING *; ROLLBACK;                  -- SHOULD FAIL
BEGIN; SAVEPOINT s; SELECT enter('x'); SELECT tenancy.end_cross_tenant(); RELEASE s; CREATE TABLE loot (body text); ROLLBACK;   -- SHOULD FAIL
CREATE FUNCTION loot() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    loot text;
BEGIN
    BEGIN
        PERFORM enter('x');
        loot := read_ours();
        PERFORM tenancy.end_cross_tenant();
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    RETURN loot;
END$$;
BEGIN; INSERT INTO plain SELECT loot() RETURNING *; ROLLBACK;                             -- SHOULD FAIL
BEGIN; DO $$DECLARE loot text := loot(); BEGIN INSERT INTO plain VALUES (loot); END$$; TABLE plain; ROLLBACK;   -- SHOULD FAIL
-- A transaction that was not in one is as it was.
BEGIN; SELECT enter('x'); COMMIT; BEGIN; INSERT INTO plain VALUES ('free') RETURNING *; ROLLBACK;

-- Reading what is on no record: in the statement that begins the scope, while a statement is planned, after one that has failed.
SELECT enter('one statement'), read_ours();
SELECT count(*) > 0 AS is_told FROM told('one statement') WHERE statement LIKE '%ours%';
BEGIN; SELECT enter('blurted'); SELECT blurt_ours(); ROLLBACK;
SELECT count(*) > 0 AS is_told FROM told('blurted') WHERE statement LIKE '%ours%';
DO $$DECLARE seen text; BEGIN PERFORM enter('folded'); seen := fold_ours(); RAISE NOTICE '%', seen; END$$;
SELECT count(*) > 0 AS is_told FROM told('folded') WHERE statement LIKE '%ours%';
CREATE FUNCTION fail_now() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE division_by_zero; END$$;
CREATE FUNCTION look_ours() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN read_ours(); END$$;
DO $$
DECLARE
    failing refcursor;
    reading refcursor;
    seen text;
BEGIN
    FOR step IN 1..5 LOOP
        BEGIN
            PERFORM enter('failed'); OPEN failing FOR SELECT fail_now() ; FETCH failing INTO seen;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        OPEN reading FOR SELECT look_ours();
        PERFORM enter('took its place');
        FETCH reading INTO seen;
        CLOSE reading;
        SET LOCAL tenancy.cross_tenant = '';
    END LOOP;
END$$;
SELECT count(*) FILTER (WHERE statement LIKE '%ours%') AS told, sum(rows) AS rows FROM told('took its place');
-- What is on record: of each way to run a statement, with its rows, rolled back or not.
BEGIN;
SELECT enter(E'quotes '' " \\ and lines\nand \u00e4');
SELECT id FROM ours WHERE id < 4 ORDER BY id;
PREPARE p AS SELECT id FROM ours WHERE id > $1; EXECUTE p (7); DEALLOCATE p;
DECLARE c CURSOR FOR SELECT id FROM ours ORDER BY id; FETCH 2 FROM c; MOVE 1 FROM c; CLOSE c;
COPY (SELECT count(*) FROM ours) TO STDOUT;
DO $$BEGIN PERFORM id FROM ours; IF read_ours() IS NULL THEN RAISE NOTICE 'none'; END IF; END$$;
EXPLAIN (COSTS OFF) SELECT 'of a plan', read_ours();
SAVEPOINT s; SELECT 1 / (count(*) - count(*)) FROM ours; ROLLBACK TO s;
ROLLBACK;
SELECT * FROM told(E'quotes '' " \\ and lines\nand \u00e4');
RESET ROLE;

-- Writing for a third tenant in a scope for writing.
SET ROLE regress_writes;
SELECT tenancy.begin_cross_tenant('{acme,beta,7701,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'for writing', '1 day') IS NOT NULL AS begun;
INSERT INTO ours VALUES (20, 'gone', 'x');                                                -- SHOULD FAIL
INSERT INTO ours (id, body) VALUES (20, 'x');                                             -- SHOULD FAIL: of which?
INSERT INTO ours VALUES (2, 'acme', 'x') ON CONFLICT (id) DO UPDATE SET body = 'x';       -- SHOULD FAIL: of gone
INSERT INTO ours VALUES (3, 'acme', 'x') ON CONFLICT (id) DO UPDATE SET tenant_id = 'gone';   -- SHOULD FAIL
UPDATE ours SET tenant_id = 'gone';                                                       -- SHOULD FAIL
UPDATE ours SET body = 'x' WHERE tenant_id = 'gone' RETURNING *;
DELETE FROM ours WHERE tenant_id = 'gone' RETURNING *;
MERGE INTO ours o USING (VALUES (2)) AS v(n) ON o.id = v.n WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (21, 'gone', 'x');   -- SHOULD FAIL
MERGE INTO ours o USING (VALUES (3)) AS v(n) ON o.id = v.n WHEN MATCHED THEN UPDATE SET tenant_id = 'gone';   -- SHOULD FAIL
TRUNCATE ours;                                                                            -- SHOULD FAIL
INSERT INTO part VALUES (20, 'gone', 'x');                                                -- SHOULD FAIL
INSERT INTO part_gone VALUES (20, 'gone', 'x');                                           -- SHOULD FAIL
DELETE FROM part_gone RETURNING *;
UPDATE part SET tenant_id = 'gone';                                                       -- SHOULD FAIL
INSERT INTO child VALUES (20, 'gone', 'x');                                               -- SHOULD FAIL
UPDATE parent SET tenant_id = 'gone';                                                     -- SHOULD FAIL
INSERT INTO by_varchar VALUES (20, 'gone', 'x');                                          -- SHOULD FAIL
INSERT INTO by_bigint VALUES (20, 7702);                                                  -- SHOULD FAIL
INSERT INTO by_integer VALUES (20, 7702);                                                 -- SHOULD FAIL
INSERT INTO by_uuid VALUES (20, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');                  -- SHOULD FAIL
INSERT INTO view_invoker VALUES (20, 'gone', 'x');                                        -- SHOULD FAIL
UPDATE view_invoker SET tenant_id = 'gone';                                               -- SHOULD FAIL
INSERT INTO shared VALUES (20, NULL, 'x');                                                -- SHOULD FAIL: of all
UPDATE shared SET tenant_id = NULL;                                                       -- SHOULD FAIL
UPDATE shared SET body = 'x' WHERE tenant_id IS NULL RETURNING *;
INSERT INTO journal VALUES (20, 'gone', 'x');                                             -- SHOULD FAIL
UPDATE journal SET body = 'x';                                                            -- SHOULD FAIL
INSERT INTO system VALUES (1, 'x');                                                       -- SHOULD FAIL
-- What is of its tenants can be written, each in its own form.
INSERT INTO ours VALUES (20, 'acme', 'new'), (21, 'beta', 'new') RETURNING *;
UPDATE ours SET tenant_id = 'beta' WHERE id = 20 RETURNING *;
DELETE FROM ours WHERE id > 19 RETURNING *;
INSERT INTO by_bigint VALUES (20, 7701) RETURNING *;
INSERT INTO by_integer VALUES (20, 7701) RETURNING *;
INSERT INTO by_uuid VALUES (20, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11') RETURNING *;
SELECT tenancy.end_cross_tenant();
RESET ROLE;
SELECT body, count(*) FROM ours GROUP BY body ORDER BY 1;
SELECT body FROM plain;
SELECT v.problem FROM (SELECT id FROM _tenancy.tenants UNION SELECT NULL) AS t(id), tenancy.verify_audit(t.id) AS v
WHERE v.segment IN (SELECT h.segment FROM tenancy.audit_heads h WHERE h.opened_at >= (SELECT b.at FROM begun b));

-- Nothing is left when it is taken away.
SELECT tenancy.revoke_cross_tenant(role) > 0 AS revoked FROM unnest('{regress_reads,regress_writes}'::name[]) AS role;
SET ROLE regress_reads;
SELECT enter('x');                                                                        -- SHOULD FAIL
RESET ROLE;
SET client_min_messages = warning;
DROP TABLE begun, ours, shared, journal, system, by_varchar, by_bigint, by_integer, by_uuid, part, parent, plain, hand CASCADE;
DROP FUNCTION enter, read_ours, fold_ours, blurt_ours, count_of, fold_count_of, is_own, as_writer, as_other, told, try, see;
DELETE FROM _tenancy.tenants WHERE id ~ '^(7701|7702|99999999999|[ab]0eebc99.*)$';
DROP OWNED BY regress_reads, regress_writes, regress_other;
DROP ROLE regress_reads, regress_writes, regress_other;
