-- A statement for each tenant: in its context, one after another, in one transaction.
\set SHOW_CONTEXT never
CREATE ROLE regress_operator;
CREATE ROLE regress_exempt BYPASSRLS;
SELECT tenancy.create_tenant('1001');
-- What is on record of it since it was last asked for, without what differs from run to run.
CREATE FUNCTION told() RETURNS TABLE (tenant text, op text, role text, detail jsonb) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT a.tenant_id, a.operation, a.role, a.detail
                 FROM tenancy.audit_log a WHERE a.recorded_at > current_setting('regress.since', true)::timestamptz AND a.operation = 'FOR_EACH_TENANT'
                 ORDER BY a.recorded_at, a.number;
    PERFORM set_config('regress.since', statement_timestamp()::text, false);
END
$$;
SELECT * FROM told();
-- Of what is written here: other tests have tampered with what they wrote.
CREATE TABLE begun AS SELECT clock_timestamp() AS at;
CREATE VIEW problems AS
    SELECT t.id AS tenant, v.number, v.problem FROM (SELECT id FROM _tenancy.tenants UNION ALL SELECT NULL) AS t(id), tenancy.verify_audit(t.id) AS v
    WHERE v.segment IN (SELECT h.segment FROM tenancy.audit_heads h WHERE h.opened_at >= (SELECT b.at FROM begun b));
CREATE TABLE item (id int PRIMARY KEY, tenant_id text, name text, amount int, CONSTRAINT item_amount_check CHECK (amount < 1000));
INSERT INTO item VALUES (1, 'acme', 'a1', 10), (10, 'acme', 'new', 1), (20, 'acme', 'merged', 7), (3, 'beta', 'b1', 30), (11, 'beta', 'new', 5), (4, 'gone', 'g1', 40), (5, '1001', 'one', 50);
SET client_min_messages = warning;
SELECT tenancy.protect('item');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON item TO regress_operator, regress_exempt;
SELECT repeat('x', 1500) AS long \gset

-- For each tenant: those that are active.
CREATE ROLE regress_migrator;
GRANT regress_operator TO regress_migrator;
GRANT SELECT, INSERT, UPDATE, DELETE ON item TO regress_migrator;
SELECT * FROM tenancy.for_each_tenant('SELECT 1');             -- SHOULD FAIL: a superuser
SELECT tenant_id, rows, result FROM tenancy.for_each_tenant('SELECT id, name FROM item ORDER BY id', role => 'regress_operator') WHERE rows > 0;
SELECT count(*) AS active FROM tenancy.tenants WHERE status = 'active' \gset
SELECT count(*) = :active AS is_all, bool_or(tenant_id = 'gone') AS gone FROM tenancy.for_each_tenant('SELECT', role => 'regress_operator');
SET ROLE regress_migrator;
SELECT * FROM tenancy.for_each_tenant('SELECT 1');             -- SHOULD FAIL: granted to nobody
RESET ROLE;
GRANT EXECUTE ON FUNCTION tenancy.for_each_tenant(text, text[], name) TO regress_migrator;
SET ROLE regress_migrator;
SELECT * FROM tenancy.for_each_tenant('SELECT 1');             -- SHOULD FAIL: may not set a tenant
RESET ROLE;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_migrator;
SET ROLE regress_migrator;
-- Arguments.
SELECT * FROM tenancy.for_each_tenant(NULL);                   -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', '{}');       -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', '{acme,NULL}');                     -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', '{acme,nobody}');                   -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', '{acme,"no such"}');                -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', '{acme,gone}');                     -- SHOULD FAIL: suspended
SELECT * FROM tenancy.for_each_tenant('SELECT 1', NULL, 'nobody');                    -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT 1', NULL, 'regress_app');               -- SHOULD FAIL: no member of it
SELECT * FROM tenancy.for_each_tenant('SELECT 1 AS one', '{beta,acme,beta}');
SELECT count(*) = :active AS is_all FROM tenancy.for_each_tenant('SELECT 1', '{*}');
SELECT current_user, x.result FROM tenancy.for_each_tenant('SELECT current_user', '{acme}', 'regress_operator') AS x;
RESET ROLE;
SELECT * FROM tenancy.for_each_tenant('SELECT 1', NULL, 'regress_exempt');            -- SHOULD FAIL: has BYPASSRLS
SET ROLE regress_migrator;
-- Results: rows as objects, in order; nothing where nothing is returned.
SELECT * FROM tenancy.for_each_tenant('SELECT tenancy.current_tenant() AS tenant, 1.50 AS n, NULL AS "null", ''q"\'' AS text, ''{"a": [1, {"b": null}]}''::jsonb AS json, ''{}''::int[] AS list', '{acme,beta}');
SELECT * FROM tenancy.for_each_tenant('SELECT id FROM item WHERE id < 0', '{acme}');
SELECT * FROM tenancy.for_each_tenant('UPDATE item SET amount = amount + 1', '{acme,beta}');
SELECT * FROM tenancy.for_each_tenant('UPDATE item SET amount = amount - 1 RETURNING id, tenant_id', '{acme,beta}');
SELECT * FROM tenancy.for_each_tenant('INSERT INTO item (id, name) SELECT max(id) + 100, ''made'' FROM item', '{acme,beta}');
SELECT * FROM tenancy.for_each_tenant('DELETE FROM item WHERE name = ''made''', '{acme,beta}');
SELECT * FROM tenancy.for_each_tenant('CREATE TEMP TABLE made AS SELECT name FROM item', '{acme}');
SELECT * FROM tenancy.for_each_tenant('INSERT INTO made SELECT name FROM item; SELECT count(*) FROM made', '{beta}');
SELECT name FROM made ORDER BY 1;
SELECT * FROM tenancy.for_each_tenant('DO $do$ BEGIN UPDATE item SET name = upper(name); END $do$', '{acme,beta}');
SELECT tenant_id, rows > 0 AS some, result -> 0 ? 'QUERY PLAN' AS is_plan FROM tenancy.for_each_tenant('EXPLAIN SELECT * FROM item', '{acme}');
SELECT f.tenant_id, r.* FROM tenancy.for_each_tenant('SELECT id, amount FROM item', '{acme,beta}') AS f, jsonb_to_recordset(f.result) AS r(id int, amount numeric) ORDER BY 2;
-- Quotas, usage and the audit trail are those of the tenant that is visited; of all of them, or of none.
RESET ROLE;
SET client_min_messages = warning;
SELECT tenancy.audit('item'), tenancy.meter('item', 'items');
RESET client_min_messages;
SELECT tenancy.set_quota('acme', 'items', 4), tenancy.set_quota('beta', 'items', 3);
SELECT tenant_id, rows FROM tenancy.for_each_tenant('INSERT INTO item (id) SELECT 100 + max(id) FROM item', '{acme,beta}', 'regress_operator');
SELECT tenant_id, rows FROM tenancy.for_each_tenant('INSERT INTO item (id) SELECT 100 + max(id) FROM item', '{1001,acme,beta}', 'regress_operator');   -- SHOULD FAIL
BEGIN;
SELECT tenancy.set_default_quota('visits', 100, 'month');
SELECT tenant_id, result FROM tenancy.for_each_tenant('SELECT tenancy.track_usage(''visits'', 2) AS ok', '{acme,beta}', 'regress_operator');
SELECT tenant_id, result FROM tenancy.for_each_tenant('SELECT resource, used FROM tenancy.quota_status ORDER BY 1', '{acme,beta}', 'regress_operator');
ROLLBACK;
SELECT * FROM tenancy.reconcile('item');
SELECT a.tenant_id, a.operation, a.key FROM tenancy.audit_log a WHERE a.relation = 'public.item' AND a.recorded_at > current_setting('regress.since')::timestamptz
ORDER BY a.tenant_id, a.number;
SELECT tenant_id, rows FROM tenancy.for_each_tenant('DELETE FROM item WHERE id > 100', '{acme,beta}', 'regress_operator');
SET ROLE regress_migrator;
-- No transaction of its own, and no other tenant.
SELECT * FROM tenancy.for_each_tenant('COMMIT', '{acme}');     -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('DELETE FROM item; COMMIT', '{acme}');          -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('COPY item TO stdout', '{acme}');               -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('SELECT * FROM tenancy.for_each_tenant(''SELECT 1'')', '{acme}');   -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('INSERT INTO item (id, tenant_id) VALUES (60, ''beta'')', '{acme}'); -- SHOULD FAIL
SELECT i.id FROM item i, tenancy.for_each_tenant('SELECT 1') AS f;                    -- SHOULD FAIL: no tenant
SET tenancy.tenant_id = 'acme';
SELECT * FROM tenancy.for_each_tenant('SELECT 1');             -- SHOULD FAIL: in a context
RESET tenancy.tenant_id;
-- An error names the tenant, and is what it was.
\set SHOW_CONTEXT errors
SELECT * FROM tenancy.for_each_tenant('UPDATE item SET amount = amount + 965', '{acme,1001,beta}');       -- SHOULD FAIL: for the first, 1001
SELECT * FROM tenancy.for_each_tenant('SELECT no_such FROM item', '{acme}');          -- SHOULD FAIL
\set SHOW_CONTEXT never
DO $$
DECLARE
    violated text;
    violated_table text;
    place text;
BEGIN
    PERFORM * FROM tenancy.for_each_tenant($sql$UPDATE item SET amount = 5000 WHERE tenant_id = 'beta'$sql$, '{1001,acme,beta}');
EXCEPTION WHEN check_violation THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME, violated_table = TABLE_NAME, place = PG_EXCEPTION_CONTEXT;
    RAISE NOTICE '% of %, %', violated, violated_table, (regexp_match(place, 'tenant ".*?"'))[1];
END
$$;
SELECT f.tenant_id, f.result FROM tenancy.for_each_tenant('SELECT max(amount) FROM item', '{1001,acme,beta}') AS f;
-- What the context was it is again, whatever the statement does.
BEGIN;
SELECT count(*) FROM tenancy.for_each_tenant('SELECT 1', '{acme,beta}');
SELECT tenancy.context() ->> 'source' AS source;
SAVEPOINT s;
SELECT count(*) FROM tenancy.for_each_tenant('SET tenancy.tenant_id = ''beta''', '{acme}');               -- SHOULD FAIL: its result would be told of acme
ROLLBACK TO s;
SELECT tenancy.context() ->> 'source' AS source;
SELECT count(*) FROM tenancy.for_each_tenant('SELECT set_config(''tenancy.tenant_id'', ''beta'', true)', '{acme}');   -- SHOULD FAIL
ROLLBACK TO s;
SELECT count(*) FROM tenancy.for_each_tenant('SET work_mem = ''12345kB''', '{acme,beta}');
SHOW work_mem;                                                 -- as before
SELECT tenancy.context() ->> 'source' AS source;
COMMIT;
SELECT tenancy.context() ->> 'source' AS source;
-- So is the role.
SELECT * FROM tenancy.for_each_tenant('SET ROLE regress_operator', '{acme}');         -- SHOULD FAIL
SELECT * FROM tenancy.for_each_tenant('RESET ROLE; SELECT count(*) FROM item', '{acme}');                 -- SHOULD FAIL: it sees all
SELECT current_user, current_setting('role') AS role;
RESET ROLE;
-- In a scope it is not called.
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta}', 'infinity');
GRANT EXECUTE ON FUNCTION tenancy.for_each_tenant(text, text[], name) TO regress_operator;
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'each in a scope') AS until;
SELECT * FROM tenancy.for_each_tenant('SELECT 1');             -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SELECT count(*) > 20 AS many FROM told();
-- What was run is on record, whether it came to something or not; of a long statement all of it.
SET ROLE regress_migrator;
BEGIN;
SELECT tenant_id, rows FROM tenancy.for_each_tenant('DELETE FROM item', '{acme,beta}', 'regress_operator');
ROLLBACK;
SELECT * FROM tenancy.for_each_tenant('SELECT 1 / 0', '{acme,beta}');                 -- SHOULD FAIL
SELECT tenant_id, rows FROM tenancy.for_each_tenant(format('SELECT length(%L)', :'long'), '{acme}');
RESET ROLE;
SELECT tenant, op, role, left(detail::text, 70) AS detail FROM told();
TABLE problems;

-- No tenants, no rows.
BEGIN;
UPDATE _tenancy.tenants SET status = 'suspended' WHERE status = 'active';
SELECT * FROM tenancy.for_each_tenant('SELECT 1', role => 'regress_operator');
ROLLBACK;

SELECT tenancy.remove_quota('tenant', 'acme', 'items'), tenancy.remove_quota('tenant', 'beta', 'items');
SELECT tenancy.revoke_cross_tenant('regress_operator');
DROP TABLE made;
DROP VIEW problems;
DROP TABLE begun;
DROP TABLE item;
DROP FUNCTION told();
DELETE FROM _tenancy.tenants WHERE id = '1001';
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_migrator;
REVOKE EXECUTE ON FUNCTION tenancy.for_each_tenant(text, text[], name) FROM regress_operator, regress_migrator;
DROP ROLE regress_operator, regress_exempt, regress_migrator;
