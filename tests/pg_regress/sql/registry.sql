-- The registry: what a tenant is, and its life.
\set VERBOSITY default
SELECT id, name, subdomain, plan, status, status_reason, settings FROM tenancy.tenants ORDER BY id;
SELECT tenancy.create_tenant('acme');                                  -- SHOULD FAIL
SELECT tenancy.create_tenant(NULL);                                    -- SHOULD FAIL
SELECT tenancy.create_tenant('');                                      -- SHOULD FAIL
SELECT tenancy.create_tenant('no spaces');                             -- SHOULD FAIL
SELECT tenancy.create_tenant(repeat('x', 129));                        -- SHOULD FAIL
SELECT tenancy.create_tenant('x', subdomain => 'ACME');                -- SHOULD FAIL: taken
SELECT tenancy.create_tenant('x', subdomain => 'www');                 -- SHOULD FAIL: reserved
SELECT tenancy.create_tenant('x', subdomain => 'not_a_label');         -- SHOULD FAIL
SELECT tenancy.create_tenant('x', subdomain => '-x');                  -- SHOULD FAIL
SELECT tenancy.create_tenant('x', settings => '[]');                   -- SHOULD FAIL
SELECT tenancy.create_tenant('x', settings => NULL);                   -- SHOULD FAIL
BEGIN;
SELECT tenancy.create_tenant('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'Upper', 'Upper-1');
SELECT id, subdomain FROM tenancy.tenants WHERE name = 'Upper';
SELECT tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');  -- SHOULD FAIL: the same tenant
ROLLBACK;

-- Suspended, resumed, archived.
BEGIN;
SELECT tenancy.suspend_tenant('acme', 'late');
SELECT tenancy.suspend_tenant('acme', 'later');
SELECT id, status, status_reason FROM tenancy.tenants WHERE id = 'acme';
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();                                       -- SHOULD FAIL
ROLLBACK;
BEGIN;
SELECT tenancy.archive_tenant('acme');
SELECT id, status FROM tenancy.tenants WHERE id = 'acme';
SELECT tenancy.resume_tenant('acme');
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();
ROLLBACK;
-- What a transaction does is in force for it at once, and undone by its rollback.
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();
SAVEPOINT s;
UPDATE _tenancy.tenants SET status = 'suspended' WHERE id = 'acme';
SELECT tenancy.current_tenant();                                       -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_tenant();
ROLLBACK;
SELECT tenancy.suspend_tenant('nobody');                               -- SHOULD FAIL
SELECT tenancy.resume_tenant(NULL);                                    -- SHOULD FAIL
SELECT tenancy.archive_tenant('no such');                              -- SHOULD FAIL

-- Nobody is granted the registry, and nobody reaches it from within a tenant.
SET ROLE regress_app;
SELECT * FROM tenancy.tenants;                                         -- SHOULD FAIL
SELECT * FROM _tenancy.tenants;                                        -- SHOULD FAIL
SELECT tenancy.create_tenant('mine');                                  -- SHOULD FAIL
SELECT tenancy.resume_tenant('gone');                                  -- SHOULD FAIL
RESET ROLE;
GRANT EXECUTE ON FUNCTION tenancy.suspend_tenant(text, text), tenancy.create_tenant(text, text, text, text, jsonb) TO regress_app;
SET ROLE regress_app;
BEGIN;
SELECT tenancy.create_tenant('mine');
ROLLBACK;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.suspend_tenant('beta');                                 -- SHOULD FAIL
SELECT tenancy.create_tenant('mine');                                  -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION tenancy.suspend_tenant(text, text), tenancy.create_tenant(text, text, text, text, jsonb) FROM regress_app;

-- The library reads these two columns by number.
SELECT attnum, attname FROM pg_attribute WHERE attrelid = '_tenancy.tenants'::regclass AND attnum IN (1, 2) ORDER BY 1;

-- A tenant whose registration was rolled back is forgotten.
BEGIN;
SELECT tenancy.create_tenant('ghost');
SET LOCAL tenancy.tenant_id = 'ghost';
SELECT tenancy.current_tenant();
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'ghost';
SELECT tenancy.current_tenant();                                       -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'ghost';
SAVEPOINT s;
INSERT INTO _tenancy.tenants (id) VALUES ('ghost');
SELECT tenancy.current_tenant();
ROLLBACK TO s;
SELECT tenancy.current_tenant();                                       -- SHOULD FAIL
ROLLBACK;
