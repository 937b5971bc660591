-- What every other file finds: the extension, three tenants and the roles that the trust model tells of.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_app, regress_bound, regress_outsider, regress_owner;
RESET client_min_messages;
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('acme', 'Acme', 'acme', 'gold', '{"colour": "red"}');
SELECT tenancy.create_tenant('beta', 'Beta', 'beta');
SELECT tenancy.create_tenant('gone', 'Gone');
SELECT tenancy.suspend_tenant('gone', 'did not pay');

CREATE ROLE regress_app;                                       -- may set any tenant
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_app;
CREATE ROLE regress_bound LOGIN;                               -- bound to one tenant
ALTER ROLE regress_bound SET tenancy.tenant_id = 'acme';
CREATE ROLE regress_outsider;                                  -- no tenant at all
CREATE ROLE regress_owner;                                     -- owns tables, no superuser
GRANT CREATE ON SCHEMA public TO regress_owner;
