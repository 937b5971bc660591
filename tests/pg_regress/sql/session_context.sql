-- tenancy.session_context = 'refuse': a tenant that plain SET left behind is refused in the next transaction.
\set VERBOSITY default
SET tenancy.session_context = 'refuse';
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
SELECT tenancy.context();
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.current_tenant();
COMMIT;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: acme again
SELECT set_config('tenancy.tenant_id', 'beta', false);
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
BEGIN;
SET tenancy.tenant_id = 'beta';
SELECT tenancy.current_tenant();                               -- its own transaction still runs
COMMIT;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
SET tenancy.session_context = 'allow';                         -- SHOULD FAIL
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
ROLLBACK TO s;
SELECT tenancy.current_tenant();
ROLLBACK;
RESET ROLE;

-- A role's own setting and a function's are not left-overs.
\c - regress_bound
SELECT tenancy.current_tenant();
\c - postgres
SET tenancy.session_context = 'refuse';
CREATE FUNCTION tenant_in_function() RETURNS text LANGUAGE plpgsql SET tenancy.tenant_id = 'beta'
AS 'BEGIN RETURN tenancy.current_tenant(); END';
SELECT tenant_in_function();
SELECT tenant_in_function();
DROP FUNCTION tenant_in_function();

-- In parallel workers as well: the leader asks before it starts them.
CREATE TABLE big (tenant_id text, n integer);
INSERT INTO big SELECT CASE WHEN i % 10 = 0 THEN 'beta' ELSE 'acme' END, i FROM generate_series(1, 20000) i;
GRANT SELECT ON big TO regress_app;
SET client_min_messages = warning;
SELECT tenancy.protect('big', create_index => false);
RESET client_min_messages;
ANALYZE big;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
SET plan_cache_mode = force_generic_plan;
SET ROLE regress_app;
PREPARE p AS SELECT count(*) FROM big;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
EXPLAIN (COSTS OFF) EXECUTE p;
EXECUTE p;
COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; EXECUTE p; COMMIT;
SET tenancy.tenant_id = 'acme';
EXECUTE p;                                                     -- SHOULD FAIL
RESET ROLE;
SET tenancy.session_context = 'allow';
SET ROLE regress_app;
EXECUTE p;
RESET ROLE;
RESET ALL;
DROP TABLE big;
