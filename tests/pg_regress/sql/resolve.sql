-- Where the tenant comes from: claims, then header, then subdomain.
\set VERBOSITY default
SELECT tenancy.resolve_tenant('{"tenant_id": "acme"}', '{"X-Tenant-ID": "beta"}', 'beta.example.com');
SELECT tenancy.resolve_tenant('{"tenant_id": 42}', NULL, NULL);
SELECT tenancy.resolve_tenant('{}', '{"x-tenant-id": "beta"}', 'acme.example.com');
SELECT tenancy.resolve_tenant('{"tenant_id": ""}', '{"X-TENANT-ID": "beta"}', NULL);
SELECT tenancy.resolve_tenant('{"tenant_id": null}', '{}', 'acme.example.com');
SELECT tenancy.resolve_tenant(NULL, NULL, 'ACME.example.com:8080');
SELECT tenancy.resolve_tenant(NULL, NULL, 'acme.localhost');
SELECT tenancy.resolve_tenant(NULL, '{"x-tenant-id": ""}', 'beta.example.com.');
-- Nothing found.
SELECT tenancy.resolve_tenant(NULL, NULL, NULL);                                       -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{}', '{}', 'www.example.com');                          -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{}', '{}', 'unknown.example.com');                      -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{}', '{}', 'acme');                                     -- SHOULD FAIL: no subdomain
SELECT tenancy.resolve_tenant('{}', '{}', '127.0.0.1:5000');                           -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{}', '{}', '[::1]:5000');                               -- SHOULD FAIL
-- Even one that got into the registry some other way is none.
INSERT INTO _tenancy.tenants (id, subdomain) VALUES ('www', 'www');
SELECT tenancy.resolve_tenant('{}', '{}', 'www.example.com');                          -- SHOULD FAIL
DELETE FROM _tenancy.tenants WHERE id = 'www';
-- Confusion.
SELECT tenancy.resolve_tenant('{}', '{"X-Tenant-ID": "acme", "x-tenant-id": "beta"}', NULL);   -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{}', '{"X-Tenant-ID": "acme", "x-tenant-id": "acme"}', NULL);
SELECT tenancy.resolve_tenant('{"tenant_id": ["acme"]}', NULL, NULL);                  -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{"tenant_id": "a''; DROP"}', NULL, NULL);               -- SHOULD FAIL
SELECT tenancy.resolve_tenant('{"tenant_id": "acme, beta"}', NULL, NULL);              -- SHOULD FAIL
SELECT tenancy.resolve_tenant('[]', NULL, NULL);                                       -- SHOULD FAIL

-- PostgREST: db-pre-request = 'tenancy.pre_request'.
CREATE TABLE item (tenant_id text, what text);
INSERT INTO item VALUES ('acme', 'of acme'), ('beta', 'of beta');
GRANT SELECT ON item TO regress_app, regress_outsider;
SET client_min_messages = warning;
SELECT tenancy.protect('item');
RESET client_min_messages;
BEGIN;
SET LOCAL ROLE regress_app;
SELECT set_config('request.jwt.claims', '{"sub": "ann", "tenant_id": "acme"}', true) IS NOT NULL AS set;
SELECT set_config('request.headers', '{"host": "beta.example.com", "x-tenant-id": "beta"}', true) IS NOT NULL AS set;
SELECT set_config('response.headers', '[{"Cache-Control": "no-store"}]', true) IS NOT NULL AS set;
SELECT tenancy.pre_request();
SELECT what FROM item;
SELECT current_setting('response.headers');
SELECT tenancy.context() ->> 'user_id' AS user_id;             -- not granted
ROLLBACK;
GRANT SET ON PARAMETER tenancy.user_id TO regress_app;
BEGIN;
SET LOCAL ROLE regress_app;
SELECT set_config('request.jwt.claims', '{"sub": "ann"}', true) IS NOT NULL AS set;
SELECT set_config('request.headers', '{"host": "beta.example.com"}', true) IS NOT NULL AS set;
SELECT tenancy.pre_request();
SELECT what, tenancy.context() ->> 'user_id' AS user_id FROM item;
SELECT current_setting('response.headers');
COMMIT;
SELECT current_setting('tenancy.tenant_id') = '' AS left, current_setting('tenancy.user_id') = '' AS user_left;
REVOKE SET ON PARAMETER tenancy.user_id FROM regress_app;
BEGIN;
SET LOCAL ROLE regress_app;
SELECT tenancy.pre_request();                                  -- SHOULD FAIL: nothing sent
ROLLBACK;
-- Claims that anybody can set are no way in for a role without the privilege.
BEGIN;
SET LOCAL ROLE regress_outsider;
SELECT set_config('request.jwt.claims', '{"tenant_id": "acme"}', true) IS NOT NULL AS set;
SELECT tenancy.pre_request();                                  -- SHOULD FAIL
ROLLBACK;
DROP TABLE item;
