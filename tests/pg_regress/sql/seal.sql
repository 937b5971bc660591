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
