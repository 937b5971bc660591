-- A library that is not preloaded is loaded by the first call of one of its functions: what the session had set before must
-- not be a way round. (Expected output: late_load.out preloaded, late_load_1.out not preloaded.)
\set VERBOSITY default
SELECT current_setting('shared_preload_libraries') AS preloaded;
CREATE TABLE late (tenant_id text, body text);
INSERT INTO late VALUES ('acme', 'of acme'), ('beta', 'of beta');
GRANT SELECT ON late TO regress_app, regress_bound, regress_outsider;
SET client_min_messages = warning;
SELECT tenancy.protect('late');

-- A role without the privilege may fill the placeholder; it is dropped when the library arrives.
\c - regress_bound
SET tenancy.tenant_id = 'beta';
SELECT body FROM late;
\c - regress_bound
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT body FROM late;
ROLLBACK;
SELECT body FROM late;
\c - regress_bound
SET tenancy.mode = 'single';
SET tenancy.default_tenant = 'beta';
SET tenancy.tenant_id = '';
SELECT body FROM late;
-- With the privilege, what was set is in force.
\c - postgres
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SET LOCAL ROLE regress_app;
SELECT body FROM late;
COMMIT;
-- A tenant left over from an earlier transaction is told from one of this.
\c - postgres
SET tenancy.session_context = 'refuse';
SET tenancy.tenant_id = 'acme';
BEGIN;
SET LOCAL ROLE regress_app;
SELECT body FROM late;                                         -- SHOULD FAIL
ROLLBACK;
\c - postgres
SET tenancy.session_context = 'refuse';
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL ROLE regress_app;
SELECT body FROM late;
COMMIT;
-- A seal cannot know what came before the library.
\c - postgres
SET tenancy.seal = 'transaction';
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
SET LOCAL ROLE regress_app;
SELECT body FROM late;                                         -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL ROLE regress_app;
SELECT body FROM late;
COMMIT;
\c - postgres
SET tenancy.seal = 'transaction';
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
ROLLBACK TO s;
RESET tenancy.tenant_id;
SELECT tenancy.normalize_tenant_id('x') AS loaded;
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
SET LOCAL ROLE regress_app;
SELECT body FROM late;                                         -- SHOULD FAIL
ROLLBACK;
RESET tenancy.seal;
DROP TABLE late;
