-- Tables that are protected already and come to be a child of another: of one kind and by one column, or not at all, because a query on the
-- parent uses no policy of the child, and one on the child none of the parent. And what the owner does around the extension's own doors.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET ROLE regress_owner;
SET client_min_messages = warning;
CREATE TABLE tenants_of (id integer, tenant_id text NOT NULL);
CREATE TABLE codes (code text);
CREATE TABLE history (LIKE tenants_of);
CREATE TABLE other_column (id integer, tenant_id text NOT NULL, org_id text NOT NULL);
CREATE TABLE log (id integer, tenant_id text NOT NULL) PARTITION BY LIST (id);
CREATE TABLE log_1 (LIKE log);
CREATE TABLE same (LIKE tenants_of);
SELECT tenancy.protect('tenants_of'), tenancy.protect('codes', 'system'), tenancy.protect('history', 'audit'), tenancy.protect('other_column', tenant_column => 'org_id'),
       tenancy.protect('log', 'audit'), tenancy.protect('log_1'), tenancy.protect('same');
CREATE TABLE bare (id integer, tenant_id text NOT NULL);
CREATE TABLE staged (id integer);
SELECT tenancy.protect('staged', 'system');
RESET client_min_messages;
CREATE TABLE twofold () INHERITS (codes, tenants_of);             -- SHOULD FAIL: of which kind?
ALTER TABLE history INHERIT tenants_of;                        -- SHOULD FAIL: a DELETE on the parent would rewrite it
ALTER TABLE other_column INHERIT tenants_of;                   -- SHOULD FAIL
ALTER TABLE staged ADD COLUMN tenant_id text NOT NULL;
ALTER TABLE staged INHERIT tenants_of;                         -- SHOULD FAIL
ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES IN (1);      -- SHOULD FAIL
ALTER TABLE same INHERIT bare;                                 -- SHOULD FAIL
ALTER TABLE same INHERIT tenants_of;
ALTER TABLE bare INHERIT tenants_of;
SELECT relation, kind, tenant_column, drift FROM tenancy.protected_tables ORDER BY relation::text;
-- The way there.
SELECT tenancy.unprotect('log_1');
ALTER TABLE log ATTACH PARTITION log_1 FOR VALUES IN (1);
SELECT relation, kind, drift FROM tenancy.protected_tables WHERE relation = 'log_1'::regclass;
-- A superuser's repair may leave them apart: drift and lint tell.
RESET ROLE;
BEGIN;
SET LOCAL tenancy.restoring = on;
ALTER TABLE history INHERIT tenants_of;
SELECT relation, drift FROM tenancy.protected_tables WHERE cardinality(drift) > 0 ORDER BY relation::text;
SELECT severity, object, problem FROM tenancy.lint() WHERE rule = 'kind_differs' ORDER BY object;
ROLLBACK;
-- A child of two: neither is taken from it without the other.
SET ROLE regress_owner;
SET client_min_messages = warning;
CREATE TABLE second (id integer, tenant_id text NOT NULL);
SELECT tenancy.protect('second');
ALTER TABLE same INHERIT second;
RESET client_min_messages;
SELECT tenancy.unprotect('second');                            -- SHOULD FAIL
ALTER TABLE same NO INHERIT second;
SELECT tenancy.unprotect('second');
SELECT relation, drift FROM tenancy.protected_tables WHERE relation = 'same'::regclass;

-- By hand: a change that is open shows neither the parent, nor what a savepoint takes back.
CREATE TABLE parent (id integer, tenant_id text NOT NULL);
SET client_min_messages = warning;
CREATE TABLE child (LIKE parent);
SELECT tenancy.protect('child');
RESET client_min_messages;
BEGIN;
SELECT _tenancy.begin_change('parent');
ALTER TABLE child INHERIT parent;
SELECT _tenancy.end_change('parent'::regclass);                -- SHOULD FAIL
ROLLBACK;
BEGIN;
SELECT _tenancy.begin_change('child');
ALTER TABLE child DISABLE ROW LEVEL SECURITY;
SAVEPOINT s;
ROLLBACK TO s;
COMMIT;                                                        -- SHOULD FAIL
BEGIN;
SELECT _tenancy.begin_change('child');
ALTER TABLE child DISABLE ROW LEVEL SECURITY;
SAVEPOINT s;
ALTER TABLE child ENABLE ROW LEVEL SECURITY;
SELECT _tenancy.end_change('child'::regclass);
ROLLBACK TO s;
COMMIT;                                                        -- SHOULD FAIL
BEGIN;
SAVEPOINT s;
SELECT _tenancy.begin_change('child');
ALTER TABLE child DISABLE ROW LEVEL SECURITY;
RELEASE s;
COMMIT;                                                        -- SHOULD FAIL
BEGIN;
SAVEPOINT s;
SELECT _tenancy.begin_change('child');
SAVEPOINT t;
SELECT _tenancy.end_change('child'::regclass);
RELEASE s;
COMMIT;
SELECT relation, drift FROM tenancy.protected_tables WHERE relation = 'child'::regclass;

-- A protected table that comes to a metered one is counted from then on.
RESET ROLE;
SET client_min_messages = warning;
CREATE TABLE sale (id integer, tenant_id text NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE sale_1 (LIKE sale);
SELECT tenancy.protect('sale'), tenancy.protect('sale_1'), tenancy.meter('sale', 'sales');
ALTER TABLE sale ATTACH PARTITION sale_1 FOR VALUES FROM (0) TO (10);
SELECT resource, drift FROM tenancy.meters WHERE resource = 'sales';
INSERT INTO sale_1 VALUES (1, 'acme');
SELECT tenant_id, difference FROM tenancy.reconcile('sale');
CREATE TRIGGER mine BEFORE UPDATE ON sale_1 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
CREATE OR REPLACE TRIGGER mine BEFORE UPDATE ON sale_1 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
DROP TRIGGER mine ON sale_1;
-- A system table in a schema whose tables are protected does not get the tenant column by the way.
CREATE SCHEMA family;
SELECT tenancy.protect_schema('family');
CREATE TABLE family.rate (code text);
SELECT tenancy.protect('family.rate', 'system');
RESET client_min_messages;
ALTER TABLE family.rate ADD COLUMN tenant_id text;             -- SHOULD FAIL
ALTER TABLE family.rate RENAME code TO tenant_id;              -- SHOULD FAIL
-- A trigger of the user's under a name of ours.
CREATE TABLE named (id integer, tenant_id text NOT NULL);
CREATE TRIGGER "tenancy_my log" BEFORE UPDATE ON named FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT tenancy.protect('named');                               -- SHOULD FAIL
SET client_min_messages = warning;
DROP SCHEMA family CASCADE;
DROP TABLE sale, named;
DROP TABLE tenants_of, codes, history, other_column, log, same, bare, staged, second, parent, child CASCADE;
SELECT count(*) FROM _tenancy.protected;
