-- Sealed transactions: the first tenant of a transaction is its last.
\set VERBOSITY default
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK TO s;
SELECT set_config('tenancy.tenant_id', 'beta', true);          -- SHOULD FAIL
ROLLBACK TO s;
SELECT set_config('tenancy.tenant_id', 'beta', false);         -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.set_tenant('beta');                             -- SHOULD FAIL
ROLLBACK TO s;
UPDATE pg_settings SET setting = 'beta' WHERE name = 'tenancy.tenant_id';   -- SHOULD FAIL
ROLLBACK TO s;
SET LOCAL tenancy.seal = 'off';                                -- SHOULD FAIL
ROLLBACK TO s;
-- To leave is allowed; to arrive elsewhere is not.
SELECT tenancy.clear_tenant();
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.context();
ROLLBACK;

-- The tenant that a savepoint took back was still the first.
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL ROLE regress_app;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'acme';
ROLLBACK TO s;
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK;

-- Neither does RESET lead to the session's tenant.
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
RESET ROLE;
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL ROLE regress_app;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'acme';                          -- the transaction's first, whatever the session had
SELECT tenancy.current_tenant();
ROLLBACK TO s;
SHOW tenancy.tenant_id;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL: rolled back to the session's tenant
ROLLBACK;

-- Used is as good as set.
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SELECT tenancy.current_tenant();
SET LOCAL tenancy.tenant_id = 'acme';                          -- SHOULD FAIL
ROLLBACK;
RESET tenancy.tenant_id;

-- The next transaction is another one.
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL tenancy.tenant_id = 'acme';
COMMIT;
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.current_tenant();
COMMIT;

-- seal() does it for one transaction.
SET ROLE regress_app;
SELECT tenancy.seal();                                         -- SHOULD FAIL: no tenant to seal to
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.seal();
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.current_tenant();
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();
SELECT tenancy.seal();                                         -- to the tenant it is called in
SELECT tenancy.current_tenant();
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK;
RESET ROLE;

-- Parallel workers do not know of the seal, so the leader does not hand them what it would refuse.
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
SET tenancy.tenant_id = 'beta';
SET ROLE regress_app;
PREPARE p AS SELECT count(*) FROM big;
EXECUTE p;
RESET ROLE;
BEGIN;
SET LOCAL tenancy.seal = 'transaction';
SET LOCAL ROLE regress_app;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'acme';
EXECUTE p;
ROLLBACK TO s;
SHOW tenancy.tenant_id;
EXECUTE p;                                                     -- SHOULD FAIL
ROLLBACK;
RESET ALL;
DROP TABLE big;
